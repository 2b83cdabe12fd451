"""Events that were stored without a handler, run later by one that takes them: each once.

A gateway may accept a type before any worker knows its handler; such an event is PROCESSED with `handled_by` null, and
nothing has happened (interleaving 20). Here it is run as a worker would run it: the row is locked, its handler runs, and
`handled_by` is written, in one transaction. So the effect comes once, killed and begun again, and beside others doing the
same; what nobody has handled is found again by the next run, which is all there is to resuming.

    SELECT what is wanted, once, in the order of the log (a cursor that the server keeps)
    for each page: BEGIN, open the claim, lock its rows, run the handlers, write `handled_by`, close the claim, COMMIT

The claim is one of its own, beside the workers': it refuses the COMMIT of a handler that ends the transaction, says which
partition publishes what is emitted, and fences: whoever begins a run over the same partition ends the one under way.

An event that fails stays as it was, and is told. One that asks for later holds back the later ones of its ordering key.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from typing import Any, Final, NamedTuple
from uuid import UUID

import asyncpg

from infra.runtime.sql import statements
from schemas import event as events
from schemas import json_text
from schemas.errors import Rejected
from schemas.event import Event
from schemas.limits import SAFETY
from stream_worker import store
from stream_worker.batch import Fenced, until_whole
from stream_worker.breaker import Breaker
from stream_worker.handlers import Registry
from stream_worker.outcomes import Dead, Outcome, Parked, Stored
from stream_worker.run import BrokenTransaction, Hold, Runner, Task
from stream_worker.store import Claim

GROUP: Final = "plutus events run"
_SQL = statements("stream_worker", "stored.sql")
_LOOK_TIMEOUT = 600.0
_SAMPLES = 5


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which stored events. since, until: received from then on, and before then."""

    type: str | None = None
    source: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    @property
    def arguments(self) -> tuple[object, ...]:
        """As the statements take them."""
        return self.type, self.source, self.since, self.until


class Kind(NamedTuple):
    """Stored events that find the same handler (None: none). example: one of them."""

    source: str
    type: str | None
    version: str
    events: int
    example: UUID
    handler: str | None


class Place(NamedTuple):
    """Where an events row is."""

    received_at: datetime
    event_id: UUID


@dataclass
class Tally:
    """What became of the events that a handler takes. waits: it asked for later. behind: an earlier one of the key waits.

    gone: somebody else handled them meanwhile. failed: by reason. examples: of those that failed or wait.
    """

    handled: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    waits: int = 0
    behind: int = 0
    gone: int = 0
    examples: list[dict[str, str]] = field(default_factory=list)

    @property
    def seen(self) -> int:
        """All of them."""
        return self.handled.total() + self.failed.total() + self.waits + self.behind + self.gone

    def note(self, event_id: UUID, outcome: Outcome) -> None:
        """One more; nothing of the event itself but its id."""
        match outcome:
            case Stored(handled_by):
                self.handled[handled_by or ""] += 1
            case Parked(None):
                self.behind += 1
            case Parked(retry) if retry is not None:
                self.waits += 1
                self._example(event_id, "asked for later", retry.error_class)
            case Dead(reason, _, error_class):
                self.failed[reason.value] += 1
                self._example(event_id, reason.value, error_class)

    def _example(self, event_id: UUID, why: str, error_class: str | None) -> None:
        if len(self.examples) < _SAMPLES:
            self.examples.append({"event_id": str(event_id), "why": why, "error_class": error_class or ""})

    def counts(self) -> dict[str, Any]:
        """The numbers, as JSON."""
        return {
            "read": self.seen,
            "handled": self.handled.total(),
            "by_handler": dict(sorted(self.handled.items())),
            "failed": dict(sorted(self.failed.items())),
            "waits": self.waits,
            "behind": self.behind,
            "handled_by_others": self.gone,
        }


class Tripped(Exception):
    """Too many events in a row failed: the handler is to be mended first."""


async def kinds(db: asyncpg.Connection, registry: Registry, wanted: Wanted) -> list[Kind]:
    """What there is to run, and what finds no handler either now."""
    rows = await db.fetch(_SQL["stored_kinds"], *wanted.arguments, timeout=_LOOK_TIMEOUT)
    return [
        Kind(source, type, version, count, example, _name(registry, source, type, version))
        for source, type, version, count, example in rows
    ]


def _name(registry: Registry, source: str, type: str | None, version: str) -> str | None:
    found = registry.match(source, type, version)
    return found.name if found else None


@dataclass
class Run:
    """One run. look: a connection that keeps the cursor. work: one with a worker's deadlines.

    runner: retries nothing in place. most: handle no more than so many. told: called after every page.
    stopping: asked before every page.
    """

    look: asyncpg.Connection
    work: asyncpg.Connection
    registry: Registry
    runner: Runner
    breaker: Breaker
    check: Callable[[Event], None]
    most: int | None = None
    tally: Tally = field(default_factory=Tally)
    told: Callable[[Tally], None] = lambda tally: None
    stopping: Callable[[], bool] = lambda: False
    _held: set[str] = field(default_factory=set)

    async def through(self, wanted: Wanted) -> bool:
        """Run what is wanted, in the order of the log; False: stopped before the end.

        Raises:
            Fenced: another run has taken over. Tripped: too many failed. Hold, asyncpg errors: the database, or the deploy,
                is at fault. What was handled until then is.
        """
        claim: Claim | None = None
        try:
            async for topic, partition, page in self._pages(wanted):
                if claim is None or (claim.topic, claim.partition) != (topic, partition):
                    claim = (await store.take_claim(self.work, GROUP, topic, partition)).claim
                left = page
                while left:
                    if self.stopping() or self._enough():
                        return False
                    left = await self._settle(claim, left)
            return True
        finally:
            if claim is not None and not self.work.is_closed():
                await store.release_claim(self.work, claim)

    def _enough(self) -> bool:
        return self.most is not None and self.tally.handled.total() >= self.most

    async def _pages(self, wanted: Wanted) -> AsyncIterator[tuple[str, int, list[Place]]]:
        """Pages of one partition each, of events that a handler takes."""
        await self.look.execute(_SQL["find_stored"], *wanted.arguments, timeout=_LOOK_TIMEOUT)
        while rows := await self.look.fetch(_SQL["next_stored"]):
            taken = [row for row in rows if _name(self.registry, *row[4:]) is not None]
            for (topic, partition), group in groupby(taken, key=lambda row: (row[0], row[1])):
                yield topic, partition, [Place(row[2], row[3]) for row in group]

    async def _settle(self, claim: Claim, page: Sequence[Place]) -> list[Place]:
        """One transaction; returns what of the page is left, because the budget cut it or `most` did."""
        room = len(page) if self.most is None else self.most - self.tally.handled.total()
        now, later = page[:room], list(page[room:])
        try:
            done = await self._once(claim, now)
        except Hold as hold:
            if not hold.conflict or len(now) == 1:
                raise
            # A deadlock with a worker, or among the events: one by one they find their way (interleaving 14).
            return [place for each in now for place in await self._settle(claim, [each])] + later
        self._held, self.breaker = done.held, done.breaker
        self.tally.gone += len(done.gone)
        for place, outcome in done.outcomes.items():
            self.tally.note(place.event_id, outcome)
        self.told(self.tally)
        if done.tripped:
            raise Tripped
        return [place for place in now if place not in done.outcomes and place not in done.gone] + later

    async def _once(self, claim: Claim, page: Sequence[Place]) -> _Done:
        return await until_whole(lambda broken, careful: self._transaction(claim, page, broken, careful))

    async def _transaction(
        self, claim: Claim, page: Sequence[Place], broken: Mapping[int, Dead], careful: bool
    ) -> _Done:
        held, breaker = set(self._held), self.breaker.copy()
        days = (min(place.received_at for place in page), max(place.received_at for place in page))
        async with self.work.transaction():
            if await store.open_claim(self.work, claim) is None:
                raise Fenced
            wanted = [place.received_at for place in page], [place.event_id for place in page]
            rows = {row["event_id"]: row for row in await self.work.fetch(_SQL["lock_stored"], *wanted, *days)}
            tasks = [
                self._task(position, rows[place.event_id], broken)
                for position, place in enumerate(page)
                if place.event_id in rows
            ]
            ran, tripped = await self.runner.run(self.work, tasks, careful=careful, blocked=held, breaker=breaker)
            outcomes = {page[position]: outcome for position, outcome in ran.items()}
            stored = [
                (*place, outcome.handled_by) for place, outcome in outcomes.items() if isinstance(outcome, Stored)
            ]
            if stored:
                await self.work.execute(_SQL["handled"], *map(list, zip(*stored, strict=True)), *days)
            if not await store.close_claim(self.work, claim, 0):
                raise BrokenTransaction(None)
        gone = {place for place in page if place.event_id not in rows}
        return _Done(outcomes, gone, held, breaker, tripped)

    def _task(self, position: int, row: asyncpg.Record, broken: Mapping[int, Dead]) -> Task:
        event = _event(row)
        return Task(
            position,
            event,
            event.order_key,
            self.registry.find(event),
            broken.get(position) or self._misfit(event),
            0,
        )

    def _misfit(self, event: Event) -> Dead | None:
        """The schema may have been registered after the event was stored."""
        try:
            self.check(event)
        except Rejected as refusal:
            return Dead(refusal.reason, "schema")
        return None


@dataclass(frozen=True, slots=True)
class _Done:
    """What one transaction did. gone: somebody else had handled them. held: ordering keys that wait from here on."""

    outcomes: dict[Place, Outcome]
    gone: set[Place]
    held: set[str]
    breaker: Breaker
    tripped: bool


def _event(row: asyncpg.Record) -> Event:
    """The event of an events row, as it was when it was processed: the rules of then let it pass."""
    payload = row["payload"].encode()
    return events.build(
        source=row["source"],
        schema_version=row["schema_version"],
        idempotency_key=row["idempotency_key"],
        payload=payload,
        document=json_text.load(payload, SAFETY),
        type=row["type"],
        ordering_key=row["ordering_key"],
        occurred_at=row["occurred_at"] and row["occurred_at"].isoformat(),
        payload_encoding=row["payload_encoding"],
        limits=SAFETY,
    )
