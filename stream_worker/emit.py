"""Further events, emitted by a handler: written with its effects, published after them, neither lost nor doubled.

    from stream_worker import Event, Transaction, handler
    from stream_worker.emit import emit

    @handler(type="order_paid")
    async def ship(event: Event, tx: Transaction) -> None:
        await tx.execute("INSERT INTO paid (order_id) VALUES ($1)", event.data["order_id"])
        await emit(
            event, tx, type="parcel_ordered", source="shop.shipping", schema_version="1.0",
            payload={"order_id": event.data["order_id"]},
        )

The row in `emitted_events` commits with the handler's effects or not at all. After the commit the owner of the partition
publishes it to the events topic and deletes it once the broker has acknowledged. A crash in between publishes it again,
under the same key, `parent id:ordinal`, so that the copy is a duplicate like any other. What one partition's events emit
goes out in the order in which it was emitted; while Kafka does not take it, the partition waits.

Per source and idempotency key an event takes effect once, so a handler may emit to whatever source it likes, but nobody
may make up keys of this form for the same source. A handler that emits what it handles itself goes round for ever.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol
from uuid import UUID

import asyncpg
import msgspec
from pydantic import BaseModel

from infra.runtime.producer import NotAccepted, Receipt, Record, Result, Unknown
from infra.runtime.sql import statements
from schemas import event as events
from schemas import json_text
from schemas.errors import Permanent, Rejected, TooLarge
from schemas.event import Event
from schemas.headers import CONTENT_TYPE, JSON
from schemas.ids import event_id
from schemas.limits import EDGE

if TYPE_CHECKING:  # costs a second: only for handlers that ask for it
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

_SQL = statements("stream_worker", "emit.sql")
_PAGE: Final = 100
_HEADERS: Final = ((CONTENT_TYPE, JSON),)
_ENCODER: Final = msgspec.json.Encoder(decimal_format="number")


class Publisher(Protocol):
    """The port to Kafka: records in, one answer each."""

    async def publish(self, topic: str, records: Sequence[Record], timeout: float) -> list[Result]:
        """Publish within `timeout` seconds, in the given order within each partition."""
        ...


class EmittedHeld(Exception):
    """An emitted event was not acknowledged: the partition must wait. why: a fixed word."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


@dataclass(slots=True)
class Emitted:
    """How many events were emitted, whether or not what emitted them commits."""

    count: int = 0


_EMITTED: ContextVar[Emitted | None] = ContextVar("plutus_emitted", default=None)


@contextmanager
def counted() -> Iterator[Emitted]:
    """Count what is emitted inside, so that nobody asks Postgres after a batch that emitted nothing."""
    emitted = Emitted()
    token = _EMITTED.set(emitted)
    try:
        yield emitted
    finally:
        _EMITTED.reset(token)


async def emit(
    event: Event,
    tx: asyncpg.Connection | AsyncConnection | AsyncSession,
    *,
    type: str | None,
    source: str,
    payload: Any,
    schema_version: str,
    ordering_key: str | None = None,
) -> UUID:
    """Emit a further event from inside a handler, per event or in a batch; returns the id it will have.

    Args:
        event: the event that is being handled, its parent. tx: what the handler was given.
        type, source, schema_version: of the new event.
        payload: what becomes JSON: dict, list, text, numbers (Decimal to the last digit), dates, UUIDs; or a pydantic
            model. At most 256 KiB.
        ordering_key: the events of the source that share it keep their order, and the source is spread over partitions
            by it. Where the source also comes through a gateway, it must be in its GATEWAY_SPREAD_SOURCES.

    Raises:
        Permanent: a member breaks its rule (named, without its value): the parent is dead-lettered.
        RuntimeError: not inside a worker's transaction.
    """
    text = payload.model_dump_json(by_alias=True).encode() if isinstance(payload, BaseModel) else _encode(payload)
    new = _Emitted(event.id, 0, source, type, schema_version, ordering_key, text)
    try:
        new.check()
    except Rejected as refusal:
        raise Permanent(f"The emitted event cannot be sent. {refusal.message}") from None
    row = (event.id, source, type, schema_version, ordering_key, text.decode())
    ordinal = await _fetchval(tx, _SQL["emit"], *row)
    if ordinal is None:
        raise RuntimeError("emit() works inside a handler that a worker, or stream_worker.testing, runs.")
    noted = _EMITTED.get()
    if noted is not None:
        noted.count += 1
    return event_id(source, key_of(event.id, ordinal))


def key_of(parent_id: UUID, ordinal: int) -> str:
    """The idempotency key of the parent's n-th emitted event, counted from 0."""
    return f"{parent_id}:{ordinal}"


@dataclass(frozen=True, slots=True)
class _Emitted:
    """A row of the outbox. payload: JSON text."""

    parent_id: UUID
    ordinal: int
    source: str
    type: str | None
    schema_version: str
    ordering_key: str | None
    payload: bytes

    def event(self) -> Event:
        """The event that it will be.

        Raises:
            Rejected: it can be none.
        """
        return events.build(
            source=self.source,
            schema_version=self.schema_version,
            idempotency_key=key_of(self.parent_id, self.ordinal),
            payload=self.payload,
            document=json_text.load(self.payload),
            type=self.type,
            ordering_key=self.ordering_key,
        )

    def check(self) -> None:
        """Refuse what a gateway would refuse, so that nothing is in the outbox that Kafka never takes.

        Raises:
            Rejected: it breaks a rule of its members, or is too large.
        """
        if len(events.encode(self.event())) > EDGE.body_bytes:
            raise TooLarge(f"The event is larger than {EDGE.body_bytes} bytes.")


def _read(row: asyncpg.Record) -> _Emitted:
    return _Emitted(
        row["parent_id"],
        row["ordinal"],
        row["source"],
        row["type"],
        row["schema_version"],
        row["ordering_key"],
        row["payload"].encode(),
    )


def _encode(payload: Any) -> bytes:
    return bytes(_ENCODER.encode(payload))


async def _fetchval(tx: Any, statement: str, *arguments: Any) -> Any:
    if hasattr(tx, "fetchval"):
        return await tx.fetchval(statement, *arguments)
    from stream_worker.handlers import alchemy

    return await alchemy.fetchval(tx, statement, *arguments)


async def unpublished(db: asyncpg.Connection, topic: str, partition: int, most: int) -> list[tuple[int, Event]]:
    """The next events that wait to be published for a partition, with the numbers of their rows."""
    rows = await db.fetch(_SQL["unpublished"], topic, partition, most)
    return [(row["n"], _read(row).event()) for row in rows]


async def publish(db: asyncpg.Connection, sender: Publisher, topic: str, partition: int, *, timeout: float) -> int:
    """Publish what was emitted under the claims of a partition, in that order; returns how many were acknowledged.

    A crash between the acknowledgement and the deletion publishes again; the worker absorbs the copy.

    Args:
        db: a connection outside any transaction. timeout: seconds for a page of records.

    Raises:
        EmittedHeld: one was not acknowledged; it and what was not tried stay in the outbox.
    """
    sent = 0
    while waiting := await unpublished(db, topic, partition, _PAGE):
        records = [Record(event.partition_key(spread=True), events.encode(event), _HEADERS) for _, event in waiting]
        results = await sender.publish(topic, records, timeout)
        done = [n for (n, _), result in zip(waiting, results, strict=True) if isinstance(result, Receipt)]
        await db.execute(_SQL["forget_published"], topic, partition, done)
        sent += len(done)
        for result in results:
            match result:
                case NotAccepted(why) | Unknown(why):
                    raise EmittedHeld(why)
                case Receipt():
                    pass
    return sent
