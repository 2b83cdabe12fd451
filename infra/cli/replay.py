"""The replay of dead letters: each is judged by its failures row, its original record goes back to the events topic.

A dead letter comes from the dead-letter topic, read up to the ends it had at the start, or from the failures table; both
hold the original bytes. Whatever is sent twice takes effect once, so a replay may be cut short and run again: what is
settled by then is not open any more. What comes back as a new failure is beyond the end of this run.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from infra.cli import queries
from infra.cli.output import UNREACHABLE, Failure
from infra.cli.queries import OPEN, Filter, Letter
from infra.cli.reader import Reader
from infra.runtime.producer import Producer, Receipt, Record
from schemas.headers import DEAD_LETTER_PREFIX, first, without_dead_letter_headers

FAILURE_ID = f"{DEAD_LETTER_PREFIX}failure-id"
_PUBLISH_SECONDS = 30.0
_PAGE = 200


class Verdict(StrEnum):
    """What to do with a dead letter."""

    REPLAY = "replayed"
    NOT_OPEN = "not_open"
    FILTERED = "filtered"
    SECOND_COPY = "second_copy"
    UNSETTLED = "unsettled"
    UNKNOWN = "unknown"


EXPLAINED = {
    Verdict.NOT_OPEN: "replayed or discarded before (--all sends them again)",
    Verdict.FILTERED: "not asked for",
    Verdict.SECOND_COPY: "second copies of a dead letter",
    Verdict.UNSETTLED: "still to be acknowledged by the broker",
    Verdict.UNKNOWN: "without a failures row (--all sends them)",
}


@dataclass(frozen=True)
class Request:
    """What to replay. any_id: a failure's or an event's id, None for all. anyway: whatever the status."""

    any_id: UUID | None = None
    wanted: Filter = field(default_factory=Filter)
    anyway: bool = False
    dry_run: bool = False


@dataclass(frozen=True)
class DeadLetter:
    """One dead letter with its original record. place: partition and offset in the dead-letter topic, where it was read."""

    failure_id: UUID | None
    record: Record
    place: tuple[int, int] | None


@dataclass
class Tally:
    """How many dead letters were read, what became of them, and the reasons of those replayed."""

    read: int = 0
    verdicts: Counter[Verdict] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def replayed(self) -> int:
        """How many went back, or would."""
        return self.verdicts[Verdict.REPLAY]


def judge(letter: DeadLetter, row: Letter | None, request: Request) -> Verdict:
    """What to do with a dead letter, given its failures row."""
    if row is None:
        only_some = request.wanted != Filter()
        return Verdict.REPLAY if request.anyway and not only_some else Verdict.UNKNOWN
    if row.dlq_offset is None:
        # A replay counts only after its dead letter; until that is marked, the copy would be taken for a duplicate.
        return Verdict.UNSETTLED
    if letter.place is not None and letter.place != (row.dlq_partition, row.dlq_offset):
        return Verdict.SECOND_COPY
    wanted = request.wanted
    if wanted.reason not in (None, row.reason) or wanted.source not in (None, row.source):
        return Verdict.FILTERED
    return Verdict.REPLAY if request.anyway or row.status == OPEN else Verdict.NOT_OPEN


def of_record(record: Any) -> DeadLetter:
    """The dead letter in a record of the dead-letter topic."""
    headers = list(record.headers)
    return DeadLetter(
        _uuid(first(headers, FAILURE_ID)),
        Record(record.key, record.value, without_dead_letter_headers(headers)),
        (record.partition, record.offset),
    )


async def from_topic(reader: Reader, starts: dict[int, int], ends: dict[int, int]) -> AsyncIterator[list[DeadLetter]]:
    """Every dead letter in that stretch of the topic."""
    async for records in reader.read(starts, ends):
        yield [of_record(record) for record in records]


async def at_places(reader: Reader, rows: Sequence[Letter]) -> AsyncIterator[list[DeadLetter]]:
    """The dead letters of these failures, each read from its place in the topic; one that is gone is left out."""
    for row in rows:
        if row.dlq_partition is not None and row.dlq_offset is not None:
            place = {row.dlq_partition: row.dlq_offset}
            async for records in reader.read(place, {row.dlq_partition: row.dlq_offset + 1}):
                yield [of_record(record) for record in records]


async def from_table(db: AsyncConnection, request: Request) -> AsyncIterator[list[DeadLetter]]:
    """The dead letters of the failures table, in the order of the log, those that are there now."""
    if request.any_id is not None:
        yield await _with_contents(db, await queries.letters_of(db, request.any_id))
        return
    until, after = await queries.now(db), None
    wanted = request.wanted if request.anyway else Filter(OPEN, request.wanted.reason, request.wanted.source)
    while rows := await queries.letters_page(db, wanted, until=until, after=after, most=_PAGE):
        yield await _with_contents(db, rows)
        after = rows[-1].failure_id


async def replay(
    db: AsyncConnection,
    batches: AsyncIterator[list[DeadLetter]],
    request: Request,
    *,
    publish: Callable[[Sequence[Record]], Any],
    stop: asyncio.Event,
    progress: Callable[[Tally], None],
) -> Tally:
    """Judge every dead letter and send those that are to go back, batch by batch, until the end or `stop`.

    Args:
        publish: sends records in order and raises Failure unless all were acknowledged; not called by a dry run.
        progress: told after every batch.
    """
    tally = Tally()
    async for batch in batches:
        rows = await queries.letters(db, {letter.failure_id for letter in batch if letter.failure_id})
        chosen = []
        for letter in batch:
            row = rows.get(letter.failure_id) if letter.failure_id else None
            verdict = judge(letter, row, request)
            tally.verdicts[verdict] += 1
            if verdict is Verdict.REPLAY:
                chosen.append(letter)
                tally.reasons[row.reason if row else "unknown"] += 1
        if chosen and not request.dry_run:
            await publish([letter.record for letter in chosen])
            await queries.mark_replayed(db, {letter.failure_id for letter in chosen if letter.failure_id})
        tally.read += len(batch)
        progress(tally)
        if stop.is_set():
            break
    return tally


async def publish_all(producer: Producer, topic: str, records: Sequence[Record]) -> None:
    """Publish to `topic`, in order, each to the partition of its key.

    Raises:
        Failure: not all were acknowledged; nothing is lost by running the replay again.
    """
    results = await producer.publish(topic, records, _PUBLISH_SECONDS)
    refused = [result for result in results if not isinstance(result, Receipt)]
    if refused:
        raise Failure(
            f"{len(refused)} of {len(results)} records were not acknowledged by Kafka.",
            cause=", ".join(sorted({result.why for result in refused})),
            advice="run it again: what was sent already is not open any more, or takes effect once",
            code=UNREACHABLE,
        )


async def _with_contents(db: AsyncConnection, rows: Sequence[Letter]) -> list[DeadLetter]:
    contents = await queries.contents(db, {row.failure_id for row in rows})
    return [DeadLetter(row.failure_id, _record(contents[row.failure_id]), None) for row in rows]


def _record(content: queries.Content) -> Record:
    return Record(content.key, content.value, without_dead_letter_headers(content.headers))


def _uuid(text: bytes | None) -> UUID | None:
    try:
        return UUID(text.decode()) if text else None
    except (UnicodeDecodeError, ValueError):
        return None
