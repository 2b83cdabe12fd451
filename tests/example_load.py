"""Events for the example handlers, and what the tables must hold afterwards, worked out in plain Python.

A load is made from a seed. Each event is delivered several times, spelled differently, in mixed order; a source's events
then count in the order of their first deliveries. What sources share (accounts that may go below zero, products in
plenty, customers) comes out the same in any order between them; what is scarce belongs to one source. So the model need
not know how partitions interleave.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import asyncpg

from infra.runtime.producer import Record
from schemas.ids import event_id

START = datetime(2026, 3, 1, 8, tzinfo=UTC)
PLENTY = 1_000_000
SCARCE = 30

Tables = dict[str, Counter[tuple[Any, ...]]]
"""Rows of each table, and how often each is there."""

QUERIES = {
    "events": "SELECT event_id, status, handled_by FROM events",
    "example_accounts": "SELECT account, currency, balance FROM example_accounts",
    "example_postings": "SELECT event_id, account, currency, amount FROM example_postings",
    "example_refusals": "SELECT event_id, account, currency, amount FROM example_refusals",
    "example_stock": "SELECT sku, on_hand FROM example_stock",
    "example_order_lines": "SELECT event_id, order_id, sku, ordered, reserved, back_ordered FROM example_order_lines",
    "example_alerts": "SELECT patient_id, opened_by, closed_by, breaches FROM example_alerts",
    "example_alert_audit": "SELECT event_id, action, bpm FROM example_alert_audit",
    "example_vehicles": "SELECT vehicle_id, lat, lon, seen_at, event_id FROM example_vehicles",
    "example_usage": "SELECT customer_id, hour, uses FROM example_usage",
    "example_earthquakes": "SELECT event_id, source, magnitude, place, happened_at FROM example_earthquakes",
}


@dataclass(frozen=True)
class Sent:
    """One event as its producer means it."""

    source: str
    key: str
    type: str
    payload: dict[str, Any]
    at: datetime | None = None

    @property
    def id(self) -> UUID:
        """Its event id."""
        return event_id(self.source, self.key)

    def spelled(self, rng: random.Random) -> bytes:
        """One of its many spellings: another order of the members, other white space."""
        members: dict[str, Any] = {
            "source": self.source,
            "schema_version": "1.0",
            "idempotency_key": self.key,
            "type": self.type,
            "payload": _shuffled(rng, self.payload),
        }
        if self.at is not None:
            members["occurred_at"] = self.at.isoformat()
        return json.dumps(_shuffled(rng, members), indent=rng.choice((None, 1))).encode()

    def record(self, rng: random.Random) -> Record:
        """A record of it, keyed by its source."""
        return Record(self.source.encode(), self.spelled(rng))


def mixed(rng: random.Random, events: Iterable[Sent], copies: int = 3) -> list[Sent]:
    """Every event so many times, in mixed order."""
    deliveries = [event for event in events for _ in range(copies)]
    rng.shuffle(deliveries)
    return deliveries


def distinct(deliveries: Iterable[Sent]) -> list[Sent]:
    """The events in the order of their first deliveries."""
    found: dict[UUID, Sent] = {}
    for sent in deliveries:
        found.setdefault(sent.id, sent)
    return list(found.values())


# --- loads


def transfers(rng: random.Random, source: str, count: int) -> list[Sent]:
    """Of both kinds: among accounts that every source uses, and between two scarce ones of this source."""
    return [_transfer(rng, source, n) for n in range(count)]


def _transfer(rng: random.Random, source: str, n: int) -> Sent:
    own = [f"{source}:till-{i}" for i in range(2)]
    shared = [f"external:bank-{i}" for i in range(20)]
    debit, credit = rng.sample(shared, 2) if rng.random() < 0.5 else rng.choice(([own[0], own[1]], [shared[0], own[0]]))
    payload = {
        "debit_account": debit,
        "credit_account": credit,
        "amount": f"{rng.randint(1, 9_999) / 100:.2f}",
        "currency": rng.choice(("KES", "EUR")),
    }
    if n % 2:
        return Sent(source, f"tr-{n}", "transfer_requested", {**payload, "transfer_id": f"tr-{n}"})
    return Sent(source, f"tx-{n}", "transaction_initiated", {**payload, "transaction_id": f"tx-{n}"})


def shelf(sources: Iterable[str]) -> dict[str, int]:
    """What is on hand before any order: products that every source sells, and a scarce one of each."""
    return {**{f"SKU-{i}": PLENTY for i in range(20)}, **{f"{source}:RARE": SCARCE for source in sources}}


def orders(rng: random.Random, source: str, count: int) -> list[Sent]:
    """Paid orders of one to three products; one in fifty names a product that nobody has."""
    return [_order(rng, source, n) for n in range(count)]


def _order(rng: random.Random, source: str, n: int) -> Sent:
    skus = rng.sample([f"SKU-{i}" for i in range(20)], rng.randint(1, 2))
    if rng.random() < 0.3:
        skus.append(f"{source}:RARE")
    if n % 50 == 7:
        skus.append("SKU-UNKNOWN")
    payload = {
        "order_id": f"o-{n}",
        "items": [{"sku": sku, "quantity": rng.randint(1, 5)} for sku in rng.sample(skus, len(skus))],
        "amount": 10,
        "currency": "EUR",
    }
    return Sent(source, f"o-{n}", "payment_completed", payload)


def readings(rng: random.Random, source: str, count: int) -> list[Sent]:
    """Heart rates of three patients, about one in three out of range."""
    return [
        Sent(
            source,
            f"r-{n}",
            "heart_rate_reading",
            {"patient_id": f"{source}:p-{rng.randrange(3)}", "bpm": rng.choice((0, 39, 40, 72, 90, 99, 120, 130, 131))},
            START + timedelta(seconds=n),
        )
        for n in range(count)
    ]


def positions(rng: random.Random, source: str, count: int) -> list[Sent]:
    """Positions of three vehicles; one in fifty does not say when."""
    return [
        Sent(
            source,
            f"g-{n}",
            "gps_location_update",
            {
                "vehicle_id": f"{source}:v-{rng.randrange(3)}",
                "lat": rng.uniform(-90, 90),
                "lon": rng.uniform(-180, 180),
            },
            None if n % 50 == 7 else START + timedelta(milliseconds=n),
        )
        for n in range(count)
    ]


def uses(rng: random.Random, source: str, count: int) -> list[Sent]:
    """Uses by five customers, whom all sources share, over three hours."""
    kinds: tuple[tuple[str, dict[str, Any]], ...] = (
        ("feature_used", {"feature": "bulk_edit"}),
        ("user_invited", {"invitation_id": "inv-1", "role": "viewer"}),
        ("dashboard_viewed", {"dashboard_id": "sales"}),
        ("export_triggered", {"export_id": "ex-1", "format": "csv"}),
    )
    made = []
    for n in range(count):
        kind, payload = rng.choice(kinds)
        at = START + timedelta(seconds=rng.randrange(3 * 3600))
        made.append(Sent(source, f"u-{n}", kind, {"customer_id": f"c-{rng.randrange(5)}", **payload}, at))
    return made


def quakes(rng: random.Random, source: str, count: int) -> list[Sent]:
    """Earthquakes, some without a magnitude."""
    return [
        Sent(
            source,
            f"{source}{n}",
            "earthquake",
            {
                "id": f"{source}{n}",
                "properties": {
                    "mag": rng.choice((None, 2, round(rng.uniform(-1, 9), 2))),
                    "place": f"{n} km N of Nowhere",
                    "time": round(START.timestamp() * 1000) + n,
                },
            },
        )
        for n in range(count)
    ]


Maker = Callable[[random.Random, str, int], list[Sent]]
MAKERS: dict[str, Maker] = {
    "bank": transfers,
    "shop": orders,
    "ward": readings,
    "fleet": positions,
    "app": uses,
    "net": quakes,
}


# --- models


def expected(events: Iterable[Sent], on_hand: dict[str, int] | None = None) -> Tables:
    """Every table after these events, each having taken effect once. `on_hand`: the stock before."""
    world = _World(on_hand or {})
    for sent in events:
        handled_by = _MODELS[sent.type](world, sent)
        world.add("events", sent.id, "PROCESSED" if handled_by else "FAILED", handled_by)
    for (account, currency), balance in world.balances.items():
        world.add("example_accounts", account, currency, balance)
    for sku, left in world.on_hand.items():
        world.add("example_stock", sku, left)
    for alert in world.alerts:
        world.add("example_alerts", *alert)
    for vehicle, row in world.vehicles.items():
        world.add("example_vehicles", vehicle, *row)
    for (customer, hour), count in world.uses.items():
        world.add("example_usage", customer, hour, count)
    return world.tables


class _World:
    """State of the model: plain dictionaries."""

    def __init__(self, on_hand: dict[str, int]) -> None:
        self.tables: Tables = {name: Counter() for name in QUERIES}
        self.on_hand = dict(on_hand)
        self.balances: dict[tuple[str, str], Decimal] = {}
        self.alerts: list[list[Any]] = []
        self.vehicles: dict[str, tuple[Any, ...]] = {}
        self.uses: Counter[tuple[str, datetime]] = Counter()

    def add(self, table: str, *row: Any) -> None:
        self.tables[table][row] += 1


def _ledger(world: _World, sent: Sent) -> str:
    amount, currency = Decimal(sent.payload["amount"]), sent.payload["currency"]
    debit, credit = sent.payload["debit_account"], sent.payload["credit_account"]
    for account in (debit, credit):
        world.balances.setdefault((account, currency), Decimal(0))
    if world.balances[debit, currency] >= amount or debit.startswith("external:"):
        for account, change in ((debit, -amount), (credit, amount)):
            world.balances[account, currency] += change
            world.add("example_postings", sent.id, account, currency, change)
    else:
        world.add("example_refusals", sent.id, debit, currency, amount)
    return "post_transfers"


def _stock(world: _World, sent: Sent) -> str | None:
    items = sent.payload["items"]
    if any(item["sku"] not in world.on_hand for item in items):
        return None
    for item in items:
        sku, ordered = item["sku"], item["quantity"]
        left = max(0, world.on_hand[sku] - ordered)
        reserved, world.on_hand[sku] = world.on_hand[sku] - left, left
        world.add("example_order_lines", sent.id, sent.payload["order_id"], sku, ordered, reserved, ordered - reserved)
    return "reserve_stock"


def _alerts(world: _World, sent: Sent) -> str:
    patient, bpm = sent.payload["patient_id"], sent.payload["bpm"]
    open_alert = next((a for a in world.alerts if a[0] == patient and a[2] is None), None)
    if bpm < 40 or bpm > 130:
        if open_alert:
            open_alert[3] += 1
        else:
            world.alerts.append([patient, sent.id, None, 1])
            world.add("example_alert_audit", sent.id, "opened", bpm)
    elif open_alert:
        open_alert[2] = sent.id
        world.add("example_alert_audit", sent.id, "closed", bpm)
    return "watch_heart_rate"


def _vehicles(world: _World, sent: Sent) -> str | None:
    if sent.at is None:
        return None
    vehicle = sent.payload["vehicle_id"]
    if vehicle not in world.vehicles or world.vehicles[vehicle][2] < sent.at:
        world.vehicles[vehicle] = (sent.payload["lat"], sent.payload["lon"], sent.at, sent.id)
    return "track_vehicle"


def _usage(world: _World, sent: Sent) -> str:
    assert sent.at is not None
    world.uses[sent.payload["customer_id"], sent.at.replace(minute=0, second=0)] += 1
    return "count_usage"


def _earthquakes(world: _World, sent: Sent) -> str:
    quake = sent.payload["properties"]
    happened_at = datetime.fromtimestamp(quake["time"] / 1000, UTC)
    world.add("example_earthquakes", sent.id, sent.source, quake["mag"], quake["place"], happened_at)
    return "record_earthquake"


_MODELS: dict[str, Callable[[_World, Sent], str | None]] = {
    "transfer_requested": _ledger,
    "transaction_initiated": _ledger,
    "payment_completed": _stock,
    "heart_rate_reading": _alerts,
    "gps_location_update": _vehicles,
    "feature_used": _usage,
    "user_invited": _usage,
    "dashboard_viewed": _usage,
    "export_triggered": _usage,
    "earthquake": _earthquakes,
}


# --- the database


async def fill_shelf(db: asyncpg.Connection, on_hand: dict[str, int]) -> None:
    """What is on hand before any order."""
    await db.executemany("INSERT INTO example_stock (sku, on_hand) VALUES ($1, $2)", list(on_hand.items()))


async def actual(db: asyncpg.Connection) -> Tables:
    """What the tables hold."""
    return {table: Counter(tuple(row) for row in await db.fetch(query)) for table, query in QUERIES.items()}


def differences(found: Tables, wanted: Tables, most: int = 5) -> list[str]:
    """Rows that are missing, or there too often, some of each table; empty: all is as it should be."""
    lines = []
    for table, rows in wanted.items():
        for what, some in (("missing", rows - found[table]), ("too many", found[table] - rows)):
            lines += [f"{table}: {what} {count} x {row}" for row, count in list(some.items())[:most]]
    return lines


def _shuffled(rng: random.Random, members: dict[str, Any]) -> dict[str, Any]:
    return dict(rng.sample(sorted(members.items(), key=lambda member: member[0]), len(members)))
