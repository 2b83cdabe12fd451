"""The worker's scenarios: what each contestant does in one turn."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg
import orjson

from infra.bench import bodies, fill, latency, load, rivals
from infra.bench.contest import Asked, Contestants, Measured, Runner
from infra.bench.drain import Filled, drain, drain_by
from infra.bench.figures import flatness
from infra.bench.fill import Make
from infra.bench.gateway import INGEST
from infra.bench.ground import PYTHON, SQL, Ground, Topics
from schemas.ids import event_id

_PARTITIONS: Final = 12
_EFFECT: Final = "bench.effect"
_EFFECTS: Final = "bench.effects"
_HANDLERS: Final = "infra.bench.handlers"
_LEDGER: Final = "stream_worker.examples.ledger"
_LATENCY_RATE: Final = 1_000.0
_LATENCY_CONNECTIONS: Final = 64
_BROKER_WARMUP: Final = 30
"""Times the warm-up that others get."""
_CHUNK: Final = 1_000_000
_COPY_ROWS: Final = 2_000


@contextmanager
def contestants(scenario: str, ground: Ground, asked: Asked) -> Iterator[Contestants]:
    """Who competes in a scenario, and how; what they keep over the rounds is gone afterwards."""
    stand = _Stand(ground, asked)
    with ExitStack() as kept:
        match scenario:
            case "drain":
                yield stand.drains(2)
            case "drain-1":
                yield {who: run for who, run in stand.drains(1).items() if who in {"plutus", "bento"}}
            case "ledger":
                yield {"plutus": stand.turn(stand.filled(asked.events, _transfers), 2, _LEDGER)}
            case "each":
                yield stand.one_by_one()
            case "duplicates":
                half = stand.filled(asked.events, fill.half_duplicates, fill.distinct_of_half(asked.events))
                yield {"plutus": stand.clean(2), "plutus-duplicates": stand.turn(half, 2)}
            case "malformed":
                bad = stand.filled(asked.events, fill.malformed, asked.events - asked.events // 100)
                yield {"plutus": stand.clean(2), "plutus-malformed": stand.turn(bad, 2)}
            case "raising":
                yield stand.raising()
            case "growth":
                yield stand.growth(kept)
            case "latency":
                stand.warm_broker()
                yield {
                    "plutus": lambda: stand.latency(_EFFECT),
                    "plutus-batch": lambda: stand.latency(_EFFECTS),
                }
            case "memory":
                yield {"plutus": stand.memory}
            case _:
                raise ValueError(f"the worker has no scenario {scenario}")


@dataclass
class _Rounds:
    """The topic of each round, filled when it is first asked for: those who compare drain the same records."""

    make: Callable[[], Filled]
    made: list[Filled] = field(default_factory=list)

    def nth(self, n: int) -> Filled:
        while len(self.made) <= n:
            self.made.append(self.make())
        return self.made[n]


@dataclass(frozen=True)
class _Stand:
    """The contestants on this ground."""

    ground: Ground
    asked: Asked

    def filled(self, records: int, make: Callable[[str], Make], events: int | None = None) -> Filled:
        """A fresh topic with so many records."""
        topics = self.ground.topics(_PARTITIONS)
        self.ground.say(f"writing {records:,} records")
        fill.fill(self.ground, topics, records, make(_prefix()))
        return Filled(topics, records, records if events is None else events)

    def turn(self, filled: Filled, processes: int, handlers: str = "") -> Runner:
        """A fresh database and group drain the topic."""

        def run() -> Measured:
            with self.ground.database() as dsn:
                return drain(self.ground, dsn, filled, processes, handlers)

        return run

    def clean(self, processes: int) -> Runner:
        """Fresh orders, no handler."""
        return self.turn(self.filled(self.asked.events, fill.orders), processes)

    def drains(self, processes: int) -> Contestants:
        """All of them drain the same topic; with a folder of peers it holds that folder's records."""
        asked, ground = self.asked, self.ground
        if asked.peers is None:
            filled = self.filled(asked.events, fill.orders)
        else:
            filled = Filled(ground.topics(_PARTITIONS), asked.events, asked.events)
            ground.say(f"writing {asked.events:,} records, plain and for Kafka Connect")
            with ground.database() as dsn:
                rivals.fill(ground, asked, dsn, filled)
        return {
            "plutus": self.turn(filled, processes),
            "bento": rivals.bento_is_absent(asked) or self._peer(filled, "bento"),
            "debezium": rivals.debezium_is_absent(asked) or self._peer(filled, "debezium"),
            "copy": self._copy if asked.peers is None else self._peer(filled, "copy"),
        }

    def one_by_one(self) -> Contestants:
        """A call and a statement for each event."""
        filled = self.filled(self.asked.each_events, _effects)
        few = self.filled(max(1, self.asked.each_events // 20), _effects)
        return {
            "plutus": self.turn(filled, 1, _HANDLERS),
            "faststream": rivals.faststream_is_absent() or (lambda: self._faststream(few)),
        }

    def raising(self) -> Contestants:
        """One event in a hundred is refused by its handler for good."""
        few = self.asked.each_events
        return {
            "plutus": self.turn(self.filled(few, _effects), 1, _HANDLERS),
            "plutus-raising": self.turn(self.filled(few, _raising), 1, _HANDLERS),
        }

    def growth(self, kept: ExitStack) -> Contestants:
        """Two databases, kept over all rounds; both drain the same warm-up first, then the same records each round."""
        empty, grown = kept.enter_context(self.ground.database()), kept.enter_context(self.ground.database())
        self.ground.grow(grown, self.asked.grown, events=True)
        warmup = _Rounds(lambda: self.filled(self.asked.grown_warmup, fill.orders))
        rounds = _Rounds(lambda: self.filled(self.asked.events, fill.orders))
        return {
            "plutus": self._grown_turn(empty, warmup, rounds),
            "plutus-grown": self._grown_turn(grown, warmup, rounds),
        }

    def _grown_turn(self, dsn: str, warmup: _Rounds, rounds: _Rounds) -> Runner:
        cold: list[float] = []
        turns: list[float] = []

        def run() -> Measured:
            if not cold:
                cold.append(drain(self.ground, dsn, warmup.nth(0), 2, count_rows=False).values["rate"])
            filled = rounds.nth(len(turns))
            turns.append(time.monotonic())
            before = self.ground.wal_bytes()
            measured = drain(self.ground, dsn, filled, 2, count_rows=False)
            written = (self.ground.wal_bytes() - before) / filled.records
            return Measured({**measured.values, "cold_rate": cold[0], "wal_bytes": written})

        return run

    def memory(self) -> Measured:
        """One process over many events."""
        filled = self.filled(self.asked.long_events, fill.orders)
        with self.ground.database() as dsn:
            measured = drain(self.ground, dsn, filled, 1)
        return Measured({**measured.values, "flatness": flatness(measured.curve)}, measured.curve)

    def warm_broker(self) -> None:
        """For a minute after its start a broker compiles itself, a quarter of a core of the two that all share here; there is nobody
        in this contest whom that would slow down as much."""
        with self._whole_path() as (_, _, url):
            seconds = self.asked.warmup * _BROKER_WARMUP
            load.on_schedule(url, _LATENCY_CONNECTIONS, seconds, _LATENCY_RATE, _EFFECT, _prefix())

    @contextmanager
    def _whole_path(self) -> Iterator[tuple[str, Topics, str]]:
        """A gateway and a worker at work: their database and topics, and where to POST."""
        topics = self.ground.topics(_PARTITIONS)
        with (
            self.ground.database() as dsn,
            self.ground.gateway(dsn, topics) as gateway,
            self.ground.worker(1, dsn, topics, f"bench.{_prefix()}", WORKER_HANDLERS=_HANDLERS) as worker,
        ):
            self.ground.until_ready(worker)
            yield dsn, topics, gateway.url + INGEST

    def latency(self, kind: str) -> Measured:
        """POST to committed effect, with a handler of one statement: for each event, or for each batch, which `kind` says."""
        seconds, rate, prefix = self.asked.seconds, _LATENCY_RATE, _prefix()
        total = round(seconds * rate)
        with self._whole_path() as (dsn, topics, url):
            warmup = load.on_schedule(url, _LATENCY_CONNECTIONS, self.asked.warmup, rate, kind, _prefix())
            seen, commits = asyncio.run(
                latency.watched(
                    dsn,
                    topics.events,
                    lambda: load.on_schedule(url, _LATENCY_CONNECTIONS, seconds, rate, kind, prefix),
                    warmup.answered + total,
                )
            )
            rows = self.ground.ask(dsn, lambda db: db.fetch(SQL["coordinates"]))
        return latency.measured(seen, rate, prefix, rows, commits, total)

    def _peer(self, filled: Filled, peer: str) -> Runner:
        def run() -> Measured:
            with self.ground.database() as dsn:
                return rivals.drain(self.ground, self.asked, dsn, filled, peer)

        return run

    def _copy(self) -> Measured:
        """The limit: the same rows by COPY from memory; no Kafka, no parsing, no look at conflicts."""
        rows = list(_rows(self.asked.events))
        with self.ground.database() as dsn:
            seconds = self.ground.ask(dsn, lambda db: _copied(db, rows))
        return Measured({"rate": len(rows) / seconds})

    def _faststream(self, filled: Filled) -> Measured:
        with self.ground.database() as dsn:
            self.ground.ask(dsn, lambda db: db.execute(SQL["make_drained"]))
            env = {
                **self.ground.environment(dsn),
                "BOOTSTRAP": self.ground.bootstrap,
                "DSN": dsn,
                "TOPIC": filled.topics.events,
                "GROUP": f"bench.{_prefix()}",
            }
            argv = (*PYTHON, "infra.bench.peers.faststream_each")
            return drain_by(self.ground, dsn, filled, "faststream", argv, env)


def _prefix() -> str:
    """Keys that nobody has used."""
    return uuid.uuid4().hex[:12]


def _transfers(prefix: str) -> Make:
    return lambda n: bodies.transfer(prefix, n)


def _effects(prefix: str) -> Make:
    return fill.orders(prefix, _EFFECT)


def _raising(prefix: str) -> Make:
    return fill.one_in_hundred(_effects(prefix), lambda n: bodies.order(prefix, n, _EFFECT, amount=-1))


def _rows(count: int) -> Iterator[tuple[Any, ...]]:
    prefix = _prefix()
    for n in range(count):
        source, key = bodies.source(n), bodies.key(prefix, n)
        payload = orjson.dumps(orjson.loads(bodies.order(prefix, n))["payload"]).decode()
        yield event_id(source, key), source, key, "1.0", payload


async def _copied(db: asyncpg.Connection, rows: list[tuple[Any, ...]]) -> float:
    await db.execute(SQL["make_copied"])
    began = time.monotonic()
    for begin in range(0, len(rows), _COPY_ROWS):
        await db.copy_records_to_table("copied", records=rows[begin : begin + _COPY_ROWS])
    return time.monotonic() - began
