"""A failures row and its dead letter are one fact with one failure id: finds the halves that are alone, and makes the other.

    row without a place, dead letter there      the place is written down (a worker died before it could)
    row whose place holds something else        the place is corrected, where another copy is in the topic
    open row whose dead letter is gone          it is sent again from the row's own bytes
    dead letter without a row                   the row is made from the dead letter's own bytes and headers

An open row that was never sent is left to the worker that owns its partition, and one that is settled needs no dead
letter any more. Every repair is a single statement that changes nothing if somebody else was first, so a reconciliation
may run beside workers, twice at once, or be cut short.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import and_, func, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert as insert_or_not
from sqlalchemy.ext.asyncio import AsyncConnection

from infra.cli.queries import OPEN, decode_headers
from infra.cli.reader import Reader
from infra.cli.replay import failure_id_of
from infra.runtime.producer import Receipt, Record
from infra.runtime.tables import failures
from schemas.dialects import origin
from schemas.errors import Reason, Rejected
from schemas.event import parse_envelope
from schemas.headers import DEAD_LETTER_PREFIX, dead_letter_headers, first, original_headers
from schemas.limits import SAFETY

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_MS = 253_402_300_799_999
_PAGE = 200

Place = tuple[int, int]
"""Partition and offset in the dead-letter topic."""


class Finding(StrEnum):
    """What is found of a dead letter or a row."""

    WHOLE = "whole"
    UNMARKED = "unmarked"
    MOVED = "moved"
    GONE = "gone"
    NO_ROW = "no_row"
    SECOND_COPY = "second_copy"
    FOREIGN = "foreign"
    CONTRADICTED = "contradicted"


EXPLAINED = {
    Finding.UNMARKED: "rows that did not know of their dead letter",
    Finding.MOVED: "rows whose dead letter is in another place",
    Finding.GONE: "open rows whose dead letter is gone",
    Finding.NO_ROW: "dead letters without a row",
    Finding.SECOND_COPY: "second copies of a dead letter, which do no harm",
    Finding.FOREIGN: "records that are no dead letter of ours, left alone",
    Finding.CONTRADICTED: "dead letters whose record has a row under another failure id, left alone",
}
REPAIRED = (Finding.UNMARKED, Finding.MOVED, Finding.GONE, Finding.NO_ROW)


@dataclass(frozen=True)
class Letter:
    """A record of the dead-letter topic. timestamp: the broker's, in milliseconds."""

    failure_id: UUID | None
    place: Place
    timestamp: int
    record: Record


@dataclass
class Reconciliation:
    """One pass. send: publishes to the dead-letter topic, or raises Failure; not called by a dry run.

    in_place: failures whose dead letter was seen where their row says. elsewhere: others that were seen, and where.
    """

    db: AsyncConnection
    dry_run: bool
    send: Callable[[Sequence[Record]], Awaitable[Sequence[Receipt]]]
    read: int = 0
    findings: Counter[Finding] = field(default_factory=Counter)
    in_place: set[UUID] = field(default_factory=set)
    elsewhere: dict[UUID, Letter] = field(default_factory=dict)

    @property
    def repaired(self) -> int:
        """How many halves were made whole, or would be."""
        return sum(self.findings[finding] for finding in REPAIRED)

    def counts(self) -> dict[str, Any]:
        """The numbers, as JSON."""
        found = {finding.value: self.findings[finding] for finding in (Finding.WHOLE, *EXPLAINED)}
        return {"read": self.read, "repaired": self.repaired, "found": found}

    async def topic(self, batches: AsyncIterator[list[Any]], progress: Callable[[int], None]) -> None:
        """From the dead letters to the rows."""
        async for records in batches:
            letters = [_letter(record) for record in records]
            known = await _places(self.db, {letter.failure_id for letter in letters if letter.failure_id})
            for letter in letters:
                self.findings[await self._of_letter(letter, known)] += 1
            self.read += len(letters)
            progress(self.read)

    async def _of_letter(self, letter: Letter, known: dict[UUID, Place | None]) -> Finding:
        failure_id = letter.failure_id
        if failure_id is None:
            return Finding.FOREIGN
        if failure_id not in known:
            return await self._make_row(failure_id, letter, known)
        place = known[failure_id]
        if place is None:
            known[failure_id] = letter.place
            self.in_place.add(failure_id)
            if not self.dry_run:
                await _mark(self.db, failure_id, None, letter.place, letter.timestamp)
            return Finding.UNMARKED
        if place == letter.place:
            self.in_place.add(failure_id)
            return Finding.WHOLE
        self.elsewhere.setdefault(failure_id, letter)
        return Finding.SECOND_COPY

    async def _make_row(self, failure_id: UUID, letter: Letter, known: dict[UUID, Place | None]) -> Finding:
        row = row_of(failure_id, letter)
        if row is None:
            return Finding.FOREIGN
        known[failure_id] = letter.place
        self.in_place.add(failure_id)
        if self.dry_run:
            return Finding.CONTRADICTED if await _has_row(self.db, row) else Finding.NO_ROW
        return Finding.NO_ROW if await _insert(self.db, row) else Finding.CONTRADICTED

    async def table(self, ends: Mapping[int, int], ends_now: Callable[[], Awaitable[Mapping[int, int]]]) -> None:
        """From the open rows to the dead letters: those whose place was read and holds something else, and those whose
        place is beyond the end (the topic was made anew). A place between the two ends is newer than what was read."""
        after: UUID | None = None
        while rows := await _placed(self.db, after):
            after = rows[-1]["failure_id"]
            last = await ends_now()  # later than the rows: whatever they name was in the topic by now
            for row in rows:
                partition, offset = row["dlq_partition"], row["dlq_offset"]
                is_newer = ends.get(partition, 0) <= offset < last.get(partition, 0)
                if not is_newer and row["failure_id"] not in self.in_place:
                    await self._of_row(row)

    async def _of_row(self, row: Mapping[str, Any]) -> None:
        failure_id, place = row["failure_id"], (row["dlq_partition"], row["dlq_offset"])
        letter = self.elsewhere.get(failure_id)
        if letter is not None:
            self.findings[Finding.MOVED] += 1
            self.findings[Finding.SECOND_COPY] -= 1
            if not self.dry_run:
                await _mark(self.db, failure_id, place, letter.place, letter.timestamp)
            return
        self.findings[Finding.GONE] += 1
        if not self.dry_run:
            [receipt] = await self.send([await _dead_letter(self.db, failure_id)])
            await _mark(self.db, failure_id, place, (receipt.partition, receipt.offset), receipt.timestamp)


async def run(
    reconciliation: Reconciliation,
    reader: Reader,
    starts: Mapping[int, int],
    ends: Mapping[int, int],
    progress: Callable[[int], None],
) -> None:
    """Both ways, over what was in the topic at the start."""
    await reconciliation.topic(reader.read(starts, ends), progress)
    await reconciliation.table(ends, reader.ends)


def row_of(failure_id: UUID, letter: Letter) -> dict[str, Any] | None:
    """The failures row that a dead letter tells of; None where its headers do not say enough."""
    headers, record = letter.record.headers, letter.record
    where, reason, step = origin(headers), _text(headers, "reason"), _text(headers, "step")
    if where is None or where.dialect != "plutus" or where.timestamp is None or step is None:
        return None
    if reason not in set(Reason):
        return None
    event_id, source = _event(record.value)
    attempts = _text(headers, "attempts") or "1"
    return {
        "failure_id": failure_id,
        "event_id": event_id,
        "source": source,
        "reason": reason,
        "step": step,
        "error_class": _text(headers, "error-class"),
        "topic": where.topic,
        "partition": where.partition,
        "offset": where.offset,
        "appended_at": _instant(where.timestamp),
        "attempts": int(attempts) if attempts.isdecimal() and len(attempts) < 10 else 1,
        "key": record.key,
        "value": record.value,
        "headers": encode_headers(original_headers(headers)),
        "dlq_partition": letter.place[0],
        "dlq_offset": letter.place[1],
        "dlq_at": _instant(letter.timestamp),
    }


def encode_headers(headers: Sequence[tuple[str, bytes | None]]) -> list[dict[str, Any]]:
    """Record headers as the table keeps them; `infra.cli.queries.decode_headers` reads them."""
    return [{"name": name.replace("\x00", "\ufffd"), **_header_value(value)} for name, value in headers]


def _header_value(value: bytes | None) -> dict[str, Any]:
    if value is None:
        return {"null": True}
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = "\x00"
    return {"base64": base64.b64encode(value).decode()} if "\x00" in text else {"text": text}


def _letter(record: Any) -> Letter:
    headers = list(record.headers)
    place = (record.partition, record.offset)
    return Letter(failure_id_of(headers), place, record.timestamp, Record(record.key, record.value, headers))


def _event(value: bytes | None) -> tuple[UUID | None, str | None]:
    try:
        event = parse_envelope(value or b"", SAFETY)
    except Rejected:
        return None, None
    return event.id, event.source


def _text(headers: Sequence[tuple[str, bytes | None]], name: str) -> str | None:
    value = first(headers, f"{DEAD_LETTER_PREFIX}{name}")
    return None if value is None else value.decode(errors="replace").replace("\x00", "\ufffd")


def _instant(milliseconds: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=min(max(milliseconds, 0), _LAST_MS))


async def _places(db: AsyncConnection, failure_ids: Collection[UUID]) -> dict[UUID, Place | None]:
    """Where the rows of these failures say that their dead letters are; None: not yet known."""
    query = select(failures.c.failure_id, failures.c.dlq_partition, failures.c.dlq_offset)
    rows = await db.execute(query.where(failures.c.failure_id.in_(failure_ids)))
    return {UUID(str(row[0])): None if row[2] is None else (row[1], row[2]) for row in rows}


async def _placed(db: AsyncConnection, after: UUID | None) -> list[Mapping[str, Any]]:
    """A page of the open failures that name a place."""
    columns = (failures.c.failure_id, failures.c.dlq_partition, failures.c.dlq_offset)
    query = select(*columns).where(failures.c.status == OPEN, failures.c.dlq_offset.is_not(None))
    if after is not None:
        query = query.where(failures.c.failure_id > after)
    rows = (await db.execute(query.order_by(failures.c.failure_id).limit(_PAGE))).mappings()
    return [
        {**{str(name): value for name, value in row.items()}, "failure_id": UUID(str(row["failure_id"]))}
        for row in rows
    ]


async def _mark(db: AsyncConnection, failure_id: UUID, before: Place | None, place: Place, timestamp: int) -> None:
    """Write down where a dead letter is, unless somebody changed the row meanwhile."""
    was = (
        failures.c.dlq_offset.is_(None)
        if before is None
        else tuple_(failures.c.dlq_partition, failures.c.dlq_offset) == before
    )
    values = {"dlq_partition": place[0], "dlq_offset": place[1], "dlq_at": _instant(timestamp)}
    await db.execute(update(failures).where(failures.c.failure_id == failure_id, was).values(values))


async def _insert(db: AsyncConnection, row: Mapping[str, Any]) -> bool:
    """Add a row; False: its record has one already."""
    query = insert_or_not(failures).values(dict(row)).on_conflict_do_nothing().returning(failures.c.failure_id)
    return (await db.execute(query)).first() is not None


async def _has_row(db: AsyncConnection, row: Mapping[str, Any]) -> bool:
    """Whether the record of this row has one already."""
    same = and_(*(failures.c[name] == row[name] for name in ("topic", "partition", "offset", "appended_at")))
    found = await db.execute(select(func.count()).select_from(failures).where(same))
    return bool(found.scalar_one())


async def _dead_letter(db: AsyncConnection, failure_id: UUID) -> Record:
    """The dead letter of a row, as the worker would send it."""
    row = (await db.execute(select(failures).where(failures.c.failure_id == failure_id))).mappings().one()
    about = {
        "failure-id": str(failure_id),
        "reason": row["reason"],
        "step": row["step"],
        "error-class": row["error_class"],
        "topic": row["topic"],
        "partition": row["partition"],
        "offset": row["offset"],
        "timestamp": (row["appended_at"] - _EPOCH) // timedelta(milliseconds=1),
        "attempts": row["attempts"],
    }
    return Record(row["key"], row["value"], dead_letter_headers(decode_headers(row["headers"]), about))
