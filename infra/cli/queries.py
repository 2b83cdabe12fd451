"""What operators ask of Postgres, in SQLAlchemy Core over the recorded schema. Rows in, values out; nothing is printed.

An event is found by its id through `event_keys` alone: that row's `accepted_at` names the day partition of `events`.
Payloads, keys, values and headers are read only where they were asked for.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, RowMapping, Text, and_, cast, false, func, or_, select, true, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from infra.runtime.tables import event_keys, events, failures, partition_claims
from schemas.errors import Reason

OPEN = "open"
_CONTENT = (failures.c.key, failures.c.value, failures.c.headers)
_SUMMARY = tuple(column for column in failures.c if column not in (*_CONTENT, failures.c.content_hash))
_SIZES = (
    func.octet_length(failures.c.key).label("key_bytes"),
    func.octet_length(failures.c.value).label("value_bytes"),
    func.jsonb_array_length(failures.c.headers).label("header_count"),
)


@dataclass(frozen=True)
class Filter:
    """Which failures; None asks for nothing.

    any_id: of this failure, or of this event. type, key: of the event, as far as the record could be read and is no
    conflict's loser. since, until: failed from then on, and before then.
    """

    status: str | None = None
    reason: str | None = None
    source: str | None = None
    any_id: UUID | None = None
    type: str | None = None
    key: str | None = None
    error_class: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def as_json(self) -> dict[str, Any]:
        """What is asked for, for the audit."""
        return {name: str(value) for name, value in asdict(self).items() if value is not None}

    @classmethod
    def of_json(cls, stored: Mapping[str, Any]) -> Filter:
        """What `as_json` wrote."""
        read: dict[str, Callable[[str], Any]] = {
            "any_id": UUID,
            "since": datetime.fromisoformat,
            "until": datetime.fromisoformat,
        }
        return cls(**{name: read.get(name, str)(value) for name, value in stored.items()})


@dataclass(frozen=True)
class Cursor:
    """The last row of a page: the next page begins after it."""

    last_at: datetime
    failure_id: UUID

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """The cursor that `str` wrote.

        Raises:
            ValueError: it did not.
        """
        moment, _, failure_id = text.partition("/")
        return cls(datetime.fromisoformat(moment), UUID(failure_id))

    def __str__(self) -> str:
        return f"{self.last_at.isoformat()}/{self.failure_id}"


async def event(db: AsyncConnection, event_id: UUID, *, payload: bool = False) -> dict[str, Any] | None:
    """What is known of an event, its payload's text as `payload` if asked for; None: no such id.

    An event that was accepted and not yet processed has no row in `events`: only its id, its status RECEIVED, its time
    and the coordinates of the record that created it are known then.
    """
    known = [column for column in events.c if column not in (events.c.event_id, events.c.payload, events.c.received_at)]
    columns: list[ColumnElement[Any]] = [
        event_keys.c.event_id,
        event_keys.c.state,
        event_keys.c.runs,
        event_keys.c.accepted_at.label("received_at"),
        event_keys.c.partition.label("accepted_partition"),
        event_keys.c.record_offset.label("accepted_offset"),
        *known,
    ]
    if payload:
        columns.append(cast(events.c.payload, Text).label("payload"))
    same = and_(events.c.received_at == event_keys.c.accepted_at, events.c.event_id == event_keys.c.event_id)
    query = select(*columns).select_from(event_keys.outerjoin(events, same)).where(event_keys.c.event_id == event_id)
    row = (await db.execute(query)).mappings().one_or_none()
    return None if row is None else {**_named(row), "status": row["status"] or "RECEIVED"}


async def failures_of(db: AsyncConnection, event_id: UUID) -> list[dict[str, Any]]:
    """The failures of one event, oldest first, without their bytes."""
    query = select(*_SUMMARY).where(failures.c.event_id == event_id).order_by(failures.c.first_at)
    return [_named(row) for row in (await db.execute(query)).mappings()]


async def failure(db: AsyncConnection, failure_id: UUID, *, content: bool = False) -> dict[str, Any] | None:
    """One failure; `content` adds key, value and headers."""
    query = select(*_SUMMARY, *_SIZES, *(_CONTENT if content else ())).where(failures.c.failure_id == failure_id)
    row = (await db.execute(query)).mappings().one_or_none()
    return None if row is None else _named(row)


async def list_failures(
    db: AsyncConnection, wanted: Filter, *, limit: int, after: Cursor | None = None
) -> list[dict[str, Any]]:
    """A page of failures, the latest first, without their bytes."""
    query = select(*_SUMMARY, *_SIZES).where(*_matching(wanted))
    if after is not None:
        query = query.where(tuple_(failures.c.last_at, failures.c.failure_id) < (after.last_at, after.failure_id))
    query = query.order_by(failures.c.last_at.desc(), failures.c.failure_id.desc()).limit(limit)
    return [_named(row) for row in (await db.execute(query)).mappings()]


def _named(row: RowMapping) -> dict[str, Any]:
    """Plain names: those that SQL must quote are a kind of str of their own."""
    return {str(name): value for name, value in row.items()}


def _matching(wanted: Filter) -> list[ColumnElement[bool]]:
    """The conditions of a filter: all of them must hold."""
    asked = (
        (failures.c.status, wanted.status),
        (failures.c.reason, wanted.reason),
        (failures.c.source, wanted.source),
        (failures.c.error_class, wanted.error_class),
    )
    found: list[ColumnElement[bool]] = [column == value for column, value in asked if value is not None]
    if wanted.any_id is not None:
        found.append(or_(failures.c.failure_id == wanted.any_id, failures.c.event_id == wanted.any_id))
    if wanted.since is not None:
        found.append(failures.c.first_at >= wanted.since)
    if wanted.until is not None:
        found.append(failures.c.first_at < wanted.until)
    if wanted.type is not None or wanted.key is not None:
        found.append(_of_event(wanted))
    return found


def _of_event(wanted: Filter) -> ColumnElement[bool]:
    """Type and key stand in `events`, which is found by way of `event_keys`. The failure of a conflict bears the id of the
    event that was first, and not its type."""
    here = (
        event_keys.c.event_id == failures.c.event_id,
        events.c.event_id == event_keys.c.event_id,
        events.c.received_at == event_keys.c.accepted_at,
    )
    asked = ((events.c.type, wanted.type), (events.c.idempotency_key, wanted.key))
    same = [column == value for column, value in asked if value is not None]
    loses_its_type = wanted.type is not None
    found = select(events.c.event_id).where(*here, *same).correlate(failures).exists()
    return and_(found, failures.c.reason != Reason.IDEMPOTENCY_CONFLICT.value) if loses_its_type else found


@dataclass(frozen=True)
class Letter:
    """What a failures row says about its dead letter.

    dlq_partition, dlq_offset: where the dead letter is that counts; None while it is still to be sent. A crash between
    the broker's answer and the mark leaves a second copy elsewhere in the topic. wanted: the filter asks for it, whatever
    its status.
    """

    failure_id: UUID
    status: str
    reason: str
    source: str | None
    dlq_partition: int | None
    dlq_offset: int | None
    wanted: bool = True


@dataclass(frozen=True)
class Content:
    """The record of a failure as it was."""

    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


_LETTER = (
    failures.c.failure_id,
    failures.c.status,
    failures.c.reason,
    failures.c.source,
    failures.c.dlq_partition,
    failures.c.dlq_offset,
)
_LOG_ORDER = (failures.c.topic, failures.c.partition, failures.c.offset, failures.c.appended_at)


async def letters(db: AsyncConnection, failure_ids: Collection[UUID], wanted: Filter) -> dict[UUID, Letter]:
    """The rows of these failures, each with whether the filter asks for it."""
    # A comparison with a missing source is neither true nor false in SQL.
    asked = func.coalesce(and_(true(), *_matching(replace(wanted, status=None))), false()).label("wanted")
    query = select(*_LETTER, asked).where(failures.c.failure_id.in_(failure_ids))
    return {row.failure_id: Letter(*row) for row in await db.execute(query)}


async def letters_of(db: AsyncConnection, any_id: UUID) -> list[Letter]:
    """The failure of this id, or the failures of the event of this id, in the order of the log."""
    named = or_(failures.c.failure_id == any_id, failures.c.event_id == any_id)
    return [Letter(*row) for row in await db.execute(select(*_LETTER).where(named).order_by(*_LOG_ORDER))]


async def letters_page(
    db: AsyncConnection, wanted: Filter, *, until: datetime, after: UUID | None, most: int
) -> list[Letter]:
    """Failures first seen before `until`, in the order of the log, after the one named. `until` makes an end: what a
    replay brings back as a new failure is not read again."""
    query = select(*_LETTER).where(failures.c.first_at <= until, *_matching(wanted))
    if after is not None:
        last = select(*_LOG_ORDER).where(failures.c.failure_id == after).scalar_subquery()
        query = query.where(tuple_(*_LOG_ORDER) > last)
    return [Letter(*row) for row in await db.execute(query.order_by(*_LOG_ORDER).limit(most))]


async def count_failures(db: AsyncConnection, wanted: Filter) -> int:
    """How many failures there are."""
    number: int = (await db.execute(select(func.count()).select_from(failures).where(*_matching(wanted)))).scalar_one()
    return number


async def next_offsets(db: AsyncConnection, group: str, topic: str) -> dict[int, int]:
    """By partition, the first offset whose effects are not in this database; those that were never worked on are left out."""
    claims = partition_claims.c
    query = select(claims.partition, claims.next_offset).where(
        claims.group == group, claims.topic == topic, claims.next_offset.is_not(None)
    )
    return {row.partition: row.next_offset for row in await db.execute(query)}


async def now(db: AsyncConnection) -> datetime:
    """The database's clock."""
    moment: datetime = (await db.execute(select(func.now()))).scalar_one()
    return moment


async def contents(db: AsyncConnection, failure_ids: Collection[UUID]) -> dict[UUID, Content]:
    """The records of these failures, byte for byte."""
    query = select(failures.c.failure_id, *_CONTENT).where(failures.c.failure_id.in_(failure_ids))
    return {row.failure_id: Content(row.key, row.value, decode_headers(row.headers)) for row in await db.execute(query)}


async def mark_replayed(db: AsyncConnection, failure_ids: Collection[UUID]) -> None:
    """Settle the replayed failures that no worker will: it closes those of an event when that runs again, and here there
    is no event, or none that may run. One whose dead letter is still to be sent stays in the outbox."""
    nobody_closes = or_(failures.c.event_id.is_(None), failures.c.reason == Reason.IDEMPOTENCY_CONFLICT.value)
    mine = and_(failures.c.failure_id.in_(failure_ids), failures.c.status == OPEN, failures.c.dlq_offset.is_not(None))
    await db.execute(update(failures).where(mine, nobody_closes).values(status="replayed", last_at=func.now()))


async def discard(db: AsyncConnection, wanted: Filter, *, until: datetime, most: int) -> int:
    """Mark open failures, first seen before `until`, as discarded, at most `most`; returns how many. One whose dead letter
    is still to be sent stays open: it must come to be in the topic first."""
    chosen = (
        select(failures.c.failure_id)
        .where(
            failures.c.status == OPEN,
            failures.c.dlq_offset.is_not(None),
            failures.c.first_at <= until,
            *_matching(replace(wanted, status=None)),
        )
        .order_by(*_LOG_ORDER)
        .limit(most)
        .with_for_update(skip_locked=True)
    )
    done = await db.execute(
        update(failures)
        .where(failures.c.failure_id.in_(chosen), failures.c.status == OPEN)
        .values(status="discarded", last_at=func.now())
    )
    return int(done.rowcount)


def decode_headers(stored: Sequence[Mapping[str, Any]]) -> list[tuple[str, bytes | None]]:
    """Record headers as the worker writes them down: each with `text`, or `base64` where that is no text, or `null`."""
    return [(header["name"], _header_value(header)) for header in stored]


def _header_value(header: Mapping[str, Any]) -> bytes | None:
    if "base64" in header:
        return base64.b64decode(header["base64"])
    return header["text"].encode() if "text" in header else None
