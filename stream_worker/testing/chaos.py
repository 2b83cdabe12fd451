"""The same events with and without trouble: the tables must come out the same.

The trouble, each time with the database as it was before:

    duplicates   every event twice in a batch, the batch once more (its offsets were not committed), then copies of all
    crash        the worker dies before a statement, or after the handler has returned: for every such place in turn
    one by one   every event in a transaction of its own
    error        the same, and a statement fails with a lock time-out: for every statement in turn
    retry        every event is refused once, with `Retryable`, after the handler has done its work
    replay       every event is refused for ever, with `Permanent`, after the handler has done its work; then replayed

What Plutus absorbs by itself (duplicates) shows nothing about a handler alone; what shows something is effects that do not
go through the transaction: a second connection, a counter in memory, a swallowed error.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

import asyncpg

from infra.runtime.sql import statements
from schemas.errors import Permanent, Retryable
from schemas.event import Event
from stream_worker.handlers import Handler, Registry
from stream_worker.outcomes import Stored
from stream_worker.testing.bench import Bench, Fault, Given, given
from stream_worker.testing.copies import connected, copied, restore
from stream_worker.testing.tables import Reader, Tables, differences, reader

_SQL = statements("stream_worker.testing")


class NotIdempotent(AssertionError):
    """The tables differ from those of a clean run; the message says after what, and how."""


class Report(NamedTuple):
    """What the handler was put through. statements: of a clean run, in one batch. crashes, errors: that were planted."""

    events: int
    statements: int
    crashes: int
    errors: int


class _Killed(BaseException):
    """The worker is dead: no handler catches this."""


@dataclass(slots=True)
class _Counting(Fault):
    """Counts the places where something could happen: True for a statement, False for a return."""

    places: list[bool]

    async def before_statement(self, tx: asyncpg.Connection) -> None:
        self.places.append(True)

    async def returned(self, tx: asyncpg.Connection, given: Sequence[Event]) -> None:
        self.places.append(False)


@dataclass(slots=True)
class _At(Fault):
    """Something at one place, the first time that it is reached."""

    left: int
    happen: Callable[[asyncpg.Connection], Awaitable[None]]

    async def before_statement(self, tx: asyncpg.Connection) -> None:
        self.left -= 1
        if self.left == -1:
            await self.happen(tx)

    async def returned(self, tx: asyncpg.Connection, given: Sequence[Event]) -> None:
        await self.before_statement(tx)


@dataclass(slots=True)
class _Refusing(Fault):
    """Every event is refused once, alone, after the handler has done its work."""

    error: type[Exception]
    refused: set[UUID]

    async def returned(self, tx: asyncpg.Connection, given: Sequence[Event]) -> None:
        fresh = {event.id for event in given} - self.refused
        if fresh:
            if len(given) == 1:
                self.refused |= fresh
            raise self.error


async def _kill(tx: asyncpg.Connection) -> None:
    tx.terminate()
    raise _Killed


async def _fail(tx: asyncpg.Connection) -> None:
    await tx.execute(_SQL["lock_not_available"])


async def _once(bench: Bench, events: Sequence[Event]) -> None:
    await bench.deliver(bench.append(events))


async def _one_by_one(bench: Bench, events: Sequence[Event]) -> None:
    for event in events:
        await bench.deliver(bench.append([event]))


async def _with_duplicates(bench: Bench, events: Sequence[Event]) -> None:
    items = bench.append(event for event in events for _ in range(2))
    await bench.deliver(items)
    await bench.deliver(items)
    await bench.deliver(bench.append(events))


async def _replayed(bench: Bench, events: Sequence[Event]) -> None:
    await bench.deliver(bench.append(events))
    await bench.bury()
    await bench.deliver(bench.append(events))


Play = Callable[[Bench, Sequence[Event]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class _Chaos:
    """One handler, its events, and a copy of the database: its URL and a connection that is not the worker's."""

    given: Given
    events: Sequence[Event]
    timeout: float
    database_url: str
    db: asyncpg.Connection
    reader: Reader

    async def clean(self) -> tuple[Tables, list[bool]]:
        """The tables of a clean run, and the places where something could happen."""
        fault = _Counting([])
        async with self._bench(fault) as bench:
            outcomes = await bench.deliver(bench.append(self.events), patient=False)
            for item, outcome in outcomes:
                assert item.event is not None  # noqa: S101
                if not isinstance(outcome, Stored) or outcome.handled_by is None:
                    raise NotIdempotent(
                        f"A clean run must succeed, and {item.event} came out as {outcome}."
                    ) from bench.errors.get(item.event.id)
            return await self.reader.read(self.db), fault.places

    async def compare(self, after: str, expected: Tables, fault: Fault, play: Play = _once) -> None:
        """Run once more, with this fault.

        Raises:
            NotIdempotent: the tables differ.
        """
        async with self._bench(fault) as bench:
            await play(bench, self.events)
            told = list(differences(expected, await self.reader.read(self.db)))
            if told:
                lines = "\n  ".join(told)
                error = next(iter(bench.errors.values()), None)
                raise NotIdempotent(f"After {after} the tables differ from a clean run:\n  {lines}") from error

    @asynccontextmanager
    async def _bench(self, fault: Fault) -> AsyncIterator[Bench]:
        await restore(self.db)
        async with Bench(self.database_url, self.given, fault, self.timeout) as bench:
            yield bench

    async def all(self, expected: Tables, places: Sequence[bool]) -> Report:
        """Everything, in turn."""
        await self.compare("duplicates", expected, Fault(), _with_duplicates)
        await self.compare("a retry of every event", expected, _Refusing(Retryable, set()))
        await self.compare("a replay of every event", expected, _Refusing(Permanent, set()), _replayed)
        for place, where in enumerate(_named(places)):
            await self.compare(f"a crash {where}", expected, _At(place, _kill))
        alone = _Counting([])
        await self.compare("running one by one", expected, alone, _one_by_one)
        for place, where in enumerate(_named(alone.places)):
            if alone.places[place]:
                await self.compare(f"a lock time-out {where}", expected, _At(place, _fail), _one_by_one)
        return Report(len(self.events), sum(places), len(places), sum(alone.places))


def _named(places: Sequence[bool]) -> Iterator[str]:
    """What to call each place."""
    statements = 0
    for is_statement in places:
        statements += is_statement
        yield f"before statement {statements}" if is_statement else f"after statement {statements}, on return"


async def chaos(
    handler: Handler | Registry | Callable[..., Awaitable[None]],
    events: Event | Iterable[Event],
    *,
    database_url: str,
    ignore: Collection[str] = (),
    timeout: float = 5.0,
) -> Report:
    """Put a handler through everything that may happen to it, and compare the database with one clean run.

    Args:
        handler: a decorated function or a Handler, which gets every event; or a Registry.
        events: a few are enough: each statement costs two runs. A clean run of them must succeed.
        database_url: a migrated database of the test's own on a server where its role may create databases. It is
            copied and not written to; nobody else may be connected to it at the start.
        ignore: tables (`audit`) and columns (`audit.at`) that may differ. Columns whose default is the clock or chance are
            left out anyway, numbers from sequences are compared by their rank.
        timeout: seconds one call of the handler may take, where it does not say.

    Raises:
        NotIdempotent: a run left other rows than the clean one, or wrote to `database_url` outside its transaction.
        Hold: the database, or the deploy, is at fault (a table that is not there). RuntimeError: it cannot be copied.
    """
    sent = [events] if isinstance(events, Event) else list(events)
    under_test = given(handler)
    async with connected(database_url) as original:
        everything = await reader(original)
        before = await everything.read(original)
        async with copied(original, database_url, under_test.hooks) as copy, connected(copy) as db:
            runs = _Chaos(under_test, sent, timeout, copy, db, await reader(db, ignore))
            expected, places = await runs.clean()
            _untouched(before, await everything.read(original))
            report = await runs.all(expected, places)
            _untouched(before, await everything.read(original))
    return report


def _untouched(before: Tables, now: Tables) -> None:
    """Nobody may write where no transaction of ours was."""
    told = list(differences(before, now))
    if told:
        lines = "\n  ".join(told)
        raise NotIdempotent(f"The handler wrote outside its transaction, into the database of the test:\n  {lines}")
