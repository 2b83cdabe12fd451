"""`plutus tail`: events as they are stored, or fail, until Ctrl-C.

What is settled is what `partition_claims` says: its next offset moves with the transaction that holds the effects. The
records up to there are read from Kafka and looked up in Postgres, so a line tells what became of a record and never what
might. An event that waits for a retry is told again once it is settled.

It is a look, not an account: of a stretch longer than a screen the latest are shown and the others counted, and no more
retries are watched than memory has room for. It reads the events topic; give it a system that can bear one more reader.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from infra.cli.filters import BySource, ByType
from infra.cli.output import DONE, INTERRUPTED, AsJson, plural, run, say, show, show_json

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from infra.cli.reader import Reader
    from infra.runtime.settings import RuntimeSettings

_POLL = 0.25
_SCREEN = 200
_WATCHED = 10_000


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @app.command("tail", epilog="Example: plutus tail --failed --source shop")
    def command(
        source: BySource = None,
        of_type: ByType = None,
        failed: Annotated[bool, typer.Option("--failed", help="Only what failed or waits for a retry.")] = False,
        most: Annotated[int | None, typer.Option("--max", min=1, help="End after so many lines.")] = None,
        seconds: Annotated[float | None, typer.Option("--for", min=0.1, help="End after so many seconds.")] = None,
        last: Annotated[
            int, typer.Option(min=0, max=1000, help="Begin with the latest records of each partition.")
        ] = 0,
        as_json: AsJson = False,
    ) -> None:
        """Follow events as they are stored, or fail, until Ctrl-C.

        Duplicates are told as such. A long stretch is shown by its end, with how many were left out.
        """
        wanted = Wanted(source, of_type, failed)
        run(lambda: _tail(wanted, most, seconds, last, as_json))


@dataclass(frozen=True)
class Wanted:
    """Which lines."""

    source: str | None
    type: str | None
    failed: bool

    def takes(self, line: Line) -> bool:
        """Whether the line is one of them."""
        return (
            self.source in (None, line.source)
            and self.type in (None, line.type)
            and (not self.failed or line.status in ("FAILED", "RETRYING"))
        )


@dataclass(frozen=True)
class Line:
    """What became of one record. status: also `duplicate`. why: reason and step of a failure."""

    at: datetime
    status: str
    event_id: UUID | None
    source: str | None
    key: str | None
    type: str | None
    handled_by: str | None
    why: str | None
    partition: int
    offset: int

    def as_object(self) -> dict[str, Any]:
        """For --json."""
        return {
            "appended_at": self.at,
            "status": self.status,
            "event_id": self.event_id,
            "source": self.source,
            "idempotency_key": self.key,
            "type": self.type,
            "handled_by": self.handled_by,
            "why": self.why,
            "partition": self.partition,
            "offset": self.offset,
        }

    def text(self) -> str:
        """For people."""
        what = " ".join(filter(None, (self.source or "(unreadable)", self.key, self.type)))
        by = self.why or (f"by {self.handled_by}" if self.handled_by else "")
        when = self.at.strftime("%H:%M:%S.%f")[:-3]
        return f"{when}  {self.status:<9}  {self.partition}:{self.offset}  {what}  {by}".rstrip()


@dataclass
class Follower:
    """Where in the topic the lines have come to, and which events still wait for a retry."""

    settings: RuntimeSettings
    db: AsyncConnection
    reader: Reader
    reached: dict[int, int] = field(default_factory=dict)
    waiting: OrderedDict[UUID, Line] = field(default_factory=OrderedDict)
    left_out: int = 0

    async def begin(self, last: int) -> None:
        """Start at what is settled now, or so many records before it."""
        begins = await self.reader.beginnings()
        settled = await self._settled()
        # Where nothing was settled yet, all that will be is new.
        self.reached = {p: max(begin, settled.get(p, begin) - last) for p, begin in begins.items()}

    async def more(self) -> list[Line]:
        """What was settled since, in the order of the log within each partition; then those that no longer wait."""
        settled = await self._settled()
        found = []
        for p, offset in settled.items():
            start = self.reached.setdefault(p, offset)
            if start < offset:
                shown = max(start, offset - _SCREEN)
                self.left_out += shown - start
                found += await self._stretch(p, shown, offset)
            self.reached[p] = offset
        return found + await self._no_longer_waiting()

    async def _settled(self) -> dict[int, int]:
        from infra.cli.queries import next_offsets

        return await next_offsets(self.db, self.settings.kafka_group, self.settings.kafka_topic)

    async def _stretch(self, partition: int, start: int, end: int) -> list[Line]:
        from infra.cli.event_queries import failures_at, states

        records = [r async for batch in self.reader.read({partition: start}, {partition: end}) for r in batch]
        ids = {record.offset: identified(record) for record in records}
        known = await states(self.db, {each for each in ids.values() if each is not None})
        places = [(partition, record.offset) for record in records]
        failed = await failures_at(self.db, self.settings.kafka_topic, places)
        found = []
        for record in records:
            place = (partition, record.offset)
            event_id = ids[record.offset]
            found.append(line_of(record, event_id, known.get(event_id) if event_id else None, failed.get(place)))
        self._watch(found)
        return found

    def _watch(self, lines: Iterable[Line]) -> None:
        for line in lines:
            if line.status == "RETRYING" and line.event_id is not None:
                self.waiting[line.event_id] = line
        while len(self.waiting) > _WATCHED:
            self.waiting.popitem(last=False)

    async def _no_longer_waiting(self) -> list[Line]:
        from infra.cli.event_queries import states
        from infra.cli.queries import failures_of

        found = []
        for event_id, row in (await states(self.db, list(self.waiting)) if self.waiting else {}).items():
            if row["status"] in ("PROCESSED", "FAILED"):
                before = self.waiting.pop(event_id)
                failed = (await failures_of(self.db, event_id))[-1:] if row["status"] == "FAILED" else []
                why = f"{failed[0]['reason']} at {failed[0]['step']}" if failed else None
                found.append(replace(before, status=row["status"], handled_by=row["handled_by"], why=why))
        return found


def identified(record: Any) -> UUID | None:
    """The id of the event in a record; None where it is none."""
    from schemas.errors import Rejected
    from schemas.record import event_of_record

    try:
        return None if record.value is None else event_of_record(record.value, record.headers).id
    except Rejected:
        return None


def line_of(
    record: Any, event_id: UUID | None, known: Mapping[str, Any] | None, failed: Mapping[str, Any] | None
) -> Line:
    """What became of a record.

    Args:
        known: how its event stands; None: it is none, or not known. failed: the failure of this very record.
    """
    row = known or {}
    place = (record.partition, record.offset)
    own = (("accepted_partition", "accepted_offset"), ("partition", "offset"))  # created it, or ran it: a replay
    ran = any((row.get(partition), row.get(offset)) == place for partition, offset in own)
    if failed is not None:
        status = "FAILED"
    elif known is None:
        status = "settled"  # no envelope, or its key has expired: which it was, this record does not tell
    else:
        status = (row["status"] or "RECEIVED") if ran else "duplicate"
    return Line(
        at=datetime.fromtimestamp(max(record.timestamp, 0) / 1000, UTC),
        status=status,
        event_id=event_id,
        source=row.get("source"),
        key=row.get("idempotency_key"),
        type=row.get("type"),
        handled_by=row.get("handled_by") if status == "PROCESSED" else None,
        why=None if failed is None else f"{failed['reason']} at {failed['step']}",
        partition=record.partition,
        offset=record.offset,
    )


async def _tail(wanted: Wanted, most: int | None, seconds: float | None, last: int, as_json: bool) -> int:
    from infra.cli.connect import database, operator_settings
    from infra.cli.reader import open_reader
    from infra.cli.sending import stopping_on_signals

    settings = operator_settings(kafka=True, postgres=True)
    stop = asyncio.Event()
    clock = asyncio.get_running_loop().time
    until = None if seconds is None else clock() + seconds
    with stopping_on_signals(stop, ""):
        async with database(settings) as db, open_reader(settings, settings.kafka_topic) as reader:
            follower = Follower(settings, db, reader)
            await follower.begin(last)
            say(f"following {plural(len(follower.reached), 'partition')} of {settings.kafka_topic}; Ctrl-C ends")
            shown = 0
            while not stop.is_set() and (until is None or clock() < until) and (most is None or shown < most):
                lines = [line for line in await follower.more() if wanted.takes(line)]
                for line in lines[: None if most is None else most - shown]:
                    show_json(line.as_object()) if as_json else show(line.text())
                    shown += 1
                if follower.left_out:
                    say(f"{follower.left_out:,} more were settled and are not shown")
                    follower.left_out = 0
                await _pause(stop)
    return INTERRUPTED if stop.is_set() else DONE


async def _pause(stop: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(_POLL):
            await stop.wait()
    except TimeoutError:
        return
