"""Parts of a worker for tests that drive it batch by batch, on a real Postgres and without Kafka.

A `Log` stands for one partition: it makes records as the broker would, with offsets and append times that rise. Nothing
of the worker is replaced: records are read by its parser, batches settled by its `Processor`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import asyncpg

from infra.runtime.optimism import Optimism
from schemas.event import Event
from schemas.headers import gateway_headers
from stream_worker import records, store
from stream_worker.backoff import Backoff
from stream_worker.batch import Processor, Result
from stream_worker.handlers import Registry
from stream_worker.outcomes import Outcome
from stream_worker.records import Item
from stream_worker.run import Runner
from stream_worker.store import Claim

GROUP = "test"
TOPIC = "events"
START_MS = 1_700_000_000_000


@dataclass
class Raw:
    """A record as the consumer hands it over."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Any


def envelope(key: str, payload: Any = None, *, source: str = "src", **members: Any) -> bytes:
    """An envelope's JSON text."""
    made = {"source": source, "schema_version": "1.0", "idempotency_key": key, "payload": payload, **members}
    return json.dumps(made).encode()


@dataclass
class Log:
    """One partition of the events topic."""

    partition: int = 0
    offset: int = 0
    now_ms: int = START_MS
    made: list[Item] = field(default_factory=list)

    def append(self, value: bytes | None, *, gateway: bool = False, key: bytes | None = b"src") -> Item:
        """A record at the next offset."""
        headers = gateway_headers() if gateway else []
        raw = Raw(TOPIC, self.partition, self.offset, self.now_ms, key, value, headers)
        self.offset += 1
        self.now_ms += 1
        self.made.append(records.read(raw, lambda event: None))
        return self.made[-1]


def processor(
    registry: Registry | None = None, *, attempts: int = 3, replay_limit: int = 5, **limits: Any
) -> Processor:
    """A processor with short deadlines."""
    runner = Runner(
        timeout=limits.get("timeout", 5.0),
        budget=limits.get("budget", 10.0),
        backoff=Backoff(base=0.01, ceiling=0.05, attempts=attempts),
        batch=limits.get("batch", 500),
        in_place=limits.get("in_place", 1),
    )
    return Processor(registry or Registry(), runner, replay_limit, limits.get("dead_unhandled", False))


async def take(db: asyncpg.Connection, partition: int = 0) -> Claim:
    """Own a partition."""
    return (await store.take_claim(db, GROUP, TOPIC, partition)).claim


async def settle(
    db: asyncpg.Connection,
    items: Sequence[Item],
    using: Processor | None = None,
    claim: Claim | None = None,
    failures: Mapping[int, int] | None = None,
    optimism: Optimism | None = None,
) -> Result:
    """One batch."""
    owned = claim or await take(db, items[0].partition)
    return await (using or processor()).process(db, owned, items, failures or {}, optimism=optimism)


def outcomes(result: Result) -> list[Outcome]:
    """The outcomes of a batch, in log order."""
    return [outcome for _, outcome in result.outcomes]


async def acknowledge_dead_letters(db: asyncpg.Connection, log: Log) -> None:
    """What the owner does after a batch: every dead letter is appended, now."""
    for letter in await store.unsent_dead_letters(db, TOPIC, log.partition, 1000):
        await store.mark_dead_letter(db, letter.failure_id, 0, 0, records.instant(log.now_ms))
    log.now_ms += 1


async def rows(db: asyncpg.Connection, query: str, *arguments: Any) -> list[dict[str, Any]]:
    """A query's rows as dictionaries."""
    return [dict(row) for row in await db.fetch(query, *arguments)]


async def make_effects(db: asyncpg.Connection) -> None:
    """An insert-only table without any constraint: an effect that happened twice shows."""
    await db.execute("CREATE TABLE IF NOT EXISTS effects (n bigserial, event_id uuid, note text)")


async def effects(db: asyncpg.Connection) -> list[str]:
    """Notes of all effects, in the order they were made."""
    return [row["note"] for row in await db.fetch("SELECT note FROM effects ORDER BY n")]


def registry_of(*handlers: Any, batch: bool = False, **match: Any) -> Registry:
    """A registry with these handlers, by type or source."""
    registry = Registry()
    for each in handlers:
        registry.handler(batch=batch, **(match or {"source": "src"}))(each)
    return registry


async def note(event: Event, tx: asyncpg.Connection) -> None:
    """The plainest handler: one effect, noting the idempotency key."""
    await tx.execute("INSERT INTO effects (event_id, note) VALUES ($1, $2)", event.id, event.idempotency_key)


def connection(value: object) -> asyncpg.Connection:
    """asyncpg's pool hands out proxies; for the type checker they are connections."""
    return cast(asyncpg.Connection, value)
