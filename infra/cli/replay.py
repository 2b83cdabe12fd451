"""The replay of dead letters: each is judged by its failures row, its original record goes back to the events topic.

A dead letter comes from the dead-letter topic, read up to the ends it had at the start, or from the failures table; both
hold the original bytes. Whatever is sent twice takes effect once, so a replay may be cut short at any moment, and go on
from the position that was saved last. What comes back as a new failure is beyond the end of this run.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from infra.cli import queries
from infra.cli.output import UNREACHABLE, Failure
from infra.cli.queries import OPEN, Filter, Letter
from infra.cli.reader import Reader
from infra.runtime.producer import Producer, Receipt, Record
from schemas.headers import DEAD_LETTER_PREFIX, RecordHeaders, first, original_headers, without_dead_letter_headers

FAILURE_ID = f"{DEAD_LETTER_PREFIX}failure-id"
_PUBLISH_SECONDS = 30.0
_PAGE = 200
_SAMPLES = 5


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
    """What to replay. anyway: whatever the status. most: send no more than so many. rate: no more than so many a second."""

    wanted: Filter = field(default_factory=Filter)
    anyway: bool = False
    dry_run: bool = False
    most: int | None = None
    rate: float | None = None

    @property
    def chosen(self) -> Filter:
        """The filter, with the status that counts."""
        return self.wanted if self.anyway else replace(self.wanted, status=OPEN)


@dataclass(frozen=True)
class DeadLetter:
    """One dead letter with its original record. place: partition and offset in the dead-letter topic, where it was read."""

    failure_id: UUID | None
    record: Record
    place: tuple[int, int] | None


@dataclass
class Tally:
    """How many dead letters were read, what became of them, the reasons of those replayed, and some of them."""

    read: int = 0
    verdicts: Counter[Verdict] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    samples: list[dict[str, Any]] = field(default_factory=list)

    @property
    def replayed(self) -> int:
        """How many went back, or would."""
        return self.verdicts[Verdict.REPLAY]

    def add(self, letter: DeadLetter, row: Letter | None, verdict: Verdict) -> None:
        """One more, without a byte of it."""
        self.read += 1
        self.verdicts[verdict] += 1
        if verdict is Verdict.REPLAY:
            reason = row.reason if row else "unknown"
            self.reasons[reason] += 1
            if len(self.samples) < _SAMPLES:
                self.samples.append(
                    {
                        "failure_id": letter.failure_id,
                        "reason": reason,
                        "source": row.source if row else None,
                        "key_bytes": _length(letter.record.key),
                        "value_bytes": _length(letter.record.value),
                    }
                )

    def counts(self) -> dict[str, Any]:
        """The numbers, as JSON."""
        return {
            "read": self.read,
            "replayed": self.replayed,
            "by_reason": dict(sorted(self.reasons.items())),
            "skipped": {verdict.value: self.verdicts[verdict] for verdict in EXPLAINED},
        }

    @classmethod
    def of_counts(cls, counts: Mapping[str, Any]) -> Tally:
        """What `counts` wrote, to count on."""
        verdicts = Counter({Verdict(name): number for name, number in counts.get("skipped", {}).items()})
        verdicts[Verdict.REPLAY] = counts.get("replayed", 0)
        return cls(counts.get("read", 0), verdicts, Counter(counts.get("by_reason", {})))


@dataclass
class Position:
    """How far a replay is: the next offset of each partition of the topic up to its end, or the last failure of the table
    among those first seen until then."""

    starts: dict[int, int] = field(default_factory=dict)
    ends: dict[int, int] = field(default_factory=dict)
    after: UUID | None = None
    until: datetime | None = None

    def passed(self, letter: DeadLetter) -> None:
        """This one is done."""
        if letter.place is not None:
            self.starts[letter.place[0]] = letter.place[1] + 1
        else:
            self.after = letter.failure_id

    def as_json(self) -> dict[str, Any]:
        """For the job's row."""
        if self.until is not None:
            return {"after": self.after and str(self.after), "until": self.until.isoformat()}
        return {"next": {str(p): n for p, n in self.starts.items()}, "ends": {str(p): n for p, n in self.ends.items()}}

    @classmethod
    def of_json(cls, stored: Mapping[str, Any]) -> Position:
        """What `as_json` wrote."""
        if "until" in stored:
            after = stored["after"]
            return cls(after=after and UUID(after), until=datetime.fromisoformat(stored["until"]))
        starts, ends = ({int(p): n for p, n in stored[name].items()} for name in ("next", "ends"))
        return cls(starts, ends)


class Pace:
    """At most `rate` records a second; None: as fast as can be.

    Args:
        stop: ends the wait. clock: seconds that only grow.
    """

    def __init__(self, rate: float | None, stop: asyncio.Event, clock: Callable[[], float]) -> None:
        self._rate, self._stop, self._clock = rate, stop, clock
        self._due = clock()

    @property
    def step(self) -> int:
        """Records to send at once: of about a second."""
        return _PAGE if self._rate is None else max(1, min(_PAGE, int(self._rate)))

    @property
    def pause(self) -> float:
        """Seconds until the next may be sent."""
        return max(0.0, self._due - self._clock())

    async def wait(self, count: int) -> None:
        """Until `count` more may be sent, or the stop."""
        if self._rate is None:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(self.pause):
                await self._stop.wait()
        self._due = max(self._due, self._clock()) + count / self._rate


def judge(letter: DeadLetter, row: Letter | None, request: Request) -> Verdict:
    """What to do with a dead letter, given its failures row."""
    if row is None:
        only_some = request.wanted != Filter()
        return Verdict.REPLAY if request.anyway and not only_some else Verdict.UNKNOWN
    if not row.wanted:
        return Verdict.FILTERED
    if row.dlq_offset is None:
        # A replay counts only after its dead letter; until that is marked, the copy would be taken for a duplicate.
        return Verdict.UNSETTLED
    if letter.place is not None and letter.place != (row.dlq_partition, row.dlq_offset):
        return Verdict.SECOND_COPY
    return Verdict.REPLAY if request.anyway or row.status == OPEN else Verdict.NOT_OPEN


def of_record(record: Any) -> DeadLetter:
    """The dead letter in a record of the dead-letter topic."""
    headers = list(record.headers)
    return DeadLetter(
        failure_id_of(headers),
        Record(record.key, record.value, original_headers(headers)),
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


async def from_table(db: AsyncConnection, request: Request, position: Position) -> AsyncIterator[list[DeadLetter]]:
    """The dead letters of the failures table after that position, in the order of the log."""
    assert position.until is not None  # noqa: S101
    wanted = request.chosen
    after = position.after
    while rows := await queries.letters_page(db, wanted, until=position.until, after=after, most=_PAGE):
        yield await _with_contents(db, rows)
        after = rows[-1].failure_id


@dataclass
class Run:
    """One replay. position, tally: move on as it does.

    publish: sends records in order and raises Failure unless all were acknowledged; not called by a dry run.
    saved: told after every batch. before: sent by earlier runs of the same job.
    """

    request: Request
    position: Position
    tally: Tally
    publish: Callable[[Sequence[Record]], Awaitable[None]]
    saved: Callable[[], Awaitable[None]]
    stop: asyncio.Event
    pace: Pace
    before: int = 0

    def __post_init__(self) -> None:
        self.before = self.tally.replayed

    async def through(self, db: AsyncConnection, batches: AsyncIterator[list[DeadLetter]]) -> bool:
        """Judge every dead letter and send those that are to go back, batch by batch; False: stopped before the end."""
        async for batch in batches:
            for part in _slices(batch, self.pace.step):
                if self.stop.is_set() or not await self._part(db, part):
                    return False
        return True

    async def _part(self, db: AsyncConnection, part: Sequence[DeadLetter]) -> bool:
        rows = await queries.letters(
            db, {letter.failure_id for letter in part if letter.failure_id}, self.request.wanted
        )
        judged = [
            (letter, row := rows.get(letter.failure_id or UUID(int=0)), judge(letter, row, self.request))
            for letter in part
        ]
        judged, enough = self._up_to_the_most(judged)
        chosen = [letter for letter, _, verdict in judged if verdict is Verdict.REPLAY]
        if chosen and not self.request.dry_run:
            await self.pace.wait(len(chosen))
            if self.stop.is_set():
                return False
            await self.publish([letter.record for letter in chosen])
            await queries.mark_replayed(db, {letter.failure_id for letter in chosen if letter.failure_id})
        for letter, row, verdict in judged:
            self.tally.add(letter, row, verdict)
            self.position.passed(letter)
        await self.saved()
        return not enough

    def _up_to_the_most(self, judged: list[_Judged]) -> tuple[list[_Judged], bool]:
        """Those before the first that is one too many, and whether there was one."""
        left = None if self.request.most is None else self.request.most - (self.tally.replayed - self.before)
        for place, (_, _, verdict) in enumerate(judged):
            if left is not None and verdict is Verdict.REPLAY:
                if left == 0:
                    return judged[:place], True
                left -= 1
        return judged, False


_Judged = tuple[DeadLetter, Letter | None, Verdict]


def _slices(batch: Sequence[DeadLetter], size: int) -> Iterator[Sequence[DeadLetter]]:
    return (batch[start : start + size] for start in range(0, len(batch), size))


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
            advice="go on with --resume: what was sent already takes effect once",
            code=UNREACHABLE,
        )


async def _with_contents(db: AsyncConnection, rows: Sequence[Letter]) -> list[DeadLetter]:
    contents = await queries.contents(db, {row.failure_id for row in rows})
    return [DeadLetter(row.failure_id, _record(contents[row.failure_id]), None) for row in rows]


def _record(content: queries.Content) -> Record:
    return Record(content.key, content.value, without_dead_letter_headers(content.headers))


def failure_id_of(headers: RecordHeaders) -> UUID | None:
    """The failure that a dead letter names, None where it names none."""
    text = first(headers, FAILURE_ID)
    try:
        return UUID(text.decode()) if text else None
    except (UnicodeDecodeError, ValueError):
        return None


def _length(content: bytes | None) -> int | None:
    return None if content is None else len(content)
