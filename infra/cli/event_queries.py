"""What operators ask of the events: pages of them, and those of many ids at once. Rows in, values out.

A page is read along the primary key of `events`, the latest first, and times cut it to their day partitions. Source and
key together are an id, which `event_keys` finds. Payloads are never read here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, and_, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from infra.runtime.tables import event_keys, events, failures
from schemas.ids import event_id

_COLUMNS = tuple(column for column in events.c if column is not events.c.payload)
_OF_ITS_KEY = and_(events.c.received_at == event_keys.c.accepted_at, events.c.event_id == event_keys.c.event_id)


@dataclass(frozen=True)
class EventFilter:
    """Which events; None asks for nothing. since, until: received from then on, and before then."""

    status: str | None = None
    source: str | None = None
    type: str | None = None
    key: str | None = None
    handled_by: str | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True)
class EventCursor:
    """The last row of a page: the next page begins after it."""

    received_at: datetime
    event_id: UUID

    @classmethod
    def parse(cls, text: str) -> EventCursor:
        """The cursor that `str` wrote.

        Raises:
            ValueError: it did not.
        """
        moment, _, found = text.partition("/")
        return cls(datetime.fromisoformat(moment), UUID(found))

    def __str__(self) -> str:
        return f"{self.received_at.isoformat()}/{self.event_id}"


async def list_events(
    db: AsyncConnection, wanted: EventFilter, *, limit: int, after: EventCursor | None = None
) -> list[dict[str, Any]]:
    """A page of events, the latest received first, without their payloads. None of them is RECEIVED: those have no row."""
    query = select(*_COLUMNS).where(*_matching(wanted))
    if after is not None:
        # The first condition alone lets Postgres leave out the day partitions that come after.
        query = query.where(events.c.received_at <= after.received_at)
        query = query.where(tuple_(events.c.received_at, events.c.event_id) < (after.received_at, after.event_id))
    query = query.order_by(events.c.received_at.desc(), events.c.event_id.desc()).limit(limit)
    return [_named(row) for row in (await db.execute(query)).mappings()]


def _matching(wanted: EventFilter) -> list[ColumnElement[bool]]:
    asked = (
        (events.c.status, wanted.status),
        (events.c.source, wanted.source),
        (events.c.type, wanted.type),
        (events.c.idempotency_key, wanted.key),
        (events.c.handled_by, wanted.handled_by),
    )
    found: list[ColumnElement[bool]] = [column == value for column, value in asked if value is not None]
    if wanted.since is not None:
        found.append(events.c.received_at >= wanted.since)
    if wanted.until is not None:
        found.append(events.c.received_at < wanted.until)
    if wanted.source is not None and wanted.key is not None:
        mine = event_id(wanted.source, wanted.key)
        accepted = select(event_keys.c.accepted_at).where(event_keys.c.event_id == mine).scalar_subquery()
        found += [events.c.event_id == mine, events.c.received_at == accepted]
    return found


async def states(db: AsyncConnection, ids: Collection[UUID]) -> dict[UUID, dict[str, Any]]:
    """How these events stand: the key's state, and the row of those that have one."""
    names = ("source", "idempotency_key", "type", "status", "handled_by", "attempts", "partition", "offset")
    query = (
        select(
            event_keys.c.event_id,
            event_keys.c.partition.label("accepted_partition"),
            event_keys.c.record_offset.label("accepted_offset"),
            *(events.c[name] for name in names),
        )
        .select_from(event_keys.outerjoin(events, _OF_ITS_KEY))
        .where(event_keys.c.event_id.in_(ids))
    )
    return {row["event_id"]: _named(row) for row in (await db.execute(query)).mappings()}


async def failures_at(
    db: AsyncConnection, topic: str, places: Collection[tuple[int, int]]
) -> dict[tuple[int, int], dict[str, Any]]:
    """The latest failure of each of these records, by partition and offset."""
    names = ("failure_id", "event_id", "partition", "offset", "reason", "step", "error_class", "attempts")
    query = (
        select(*(failures.c[name] for name in names))
        .where(failures.c.topic == topic, tuple_(failures.c.partition, failures.c.offset).in_(places))
        .order_by(failures.c.appended_at)
    )
    return {(row["partition"], row["offset"]): _named(row) for row in (await db.execute(query)).mappings()}


def _named(row: Mapping[Any, Any]) -> dict[str, Any]:
    """Plain names: those that SQL must quote are a kind of str of their own."""
    return {str(name): value for name, value in row.items()}
