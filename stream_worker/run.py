"""Run handlers inside the batch's transaction, so that one bad event costs only itself.

Events run in chunks that share a handler, each chunk under a SAVEPOINT. The events of an ordering key run in log order,
always; between keys no order is promised, and where types are mixed the same handler's events of different keys are
brought together (`in_waves`), because a chunk costs what it costs. When an event of a chunk raises, the chunk is undone; those
before it run again, then it by itself, then the rest, so that only the bad one leaves. (Where it is not known which one it was, or
many raise, it goes event by event. A caller that can undo everything may try it without savepoints: `Unprotected` says
that something failed.) An event that must wait is first tried again in place, which cuts the run (nothing more runs), then
parked, and later events of its ordering key are parked behind it. The end of the time budget and the breaker cut the run
too. Wherever it is cut, what has run of a key are its first events.

What can go wrong beside an exception, and how it is seen:
- the handler swallowed an SQL error: the transaction is broken, and RELEASE SAVEPOINT says so (25P02)
- the handler committed or rolled back: there is no transaction, or no savepoint, any more; `BrokenTransaction`
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

import asyncpg
import msgspec

from schemas.errors import Permanent, Reason, Rejected, Retryable
from schemas.event import Event
from stream_worker import sqlstate
from stream_worker.backoff import Backoff
from stream_worker.breaker import Breaker
from stream_worker.handlers import Handler
from stream_worker.outcomes import Dead, Outcome, Parked, Retry, Stored
from stream_worker.sqlstate import Verdict

_CHUNK = 64
_RAISING = 3
"""Events of a chunk that raise, after which the rest goes event by event: then trying together costs more than it spares."""
_LONG_IN_PLACE = 1.0
_UNHANDLED = Stored(None)
_BEHIND = Parked(None)
_IN_FAILED_TRANSACTION = "25P02"
_FEW_GROUPS = 2
"""So many runs of neighbours are left as they are."""
_WHAT = attrgetter("handler", "settled")
"""What makes neighbours one chunk."""


class BrokenTransaction(Exception):
    """A handler ended the batch's transaction: all of it must run again.

    position: the item whose handler did it, None where only the chunk is known.
    """

    def __init__(self, position: int | None) -> None:
        super().__init__("a handler ended the transaction it was given")
        self.position = position


class Unprotected(Exception):
    """Something failed in a run without savepoints: all of it must be undone and run again with them. positions: of the events
    among which it failed."""

    def __init__(self, positions: Sequence[int]) -> None:
        super().__init__("a handler failed")
        self.positions = positions


class Hold(Exception):
    """The database, not an event, is at fault: the partition waits and runs the same batch again.

    why: a fixed word for logs and metrics. alarm: a person must act (a bad deploy). conflict: a deadlock or a
    serialization failure, which smaller batches make rare.
    """

    def __init__(self, why: str, *, alarm: bool = False, conflict: bool = False) -> None:
        super().__init__(why)
        self.why = why
        self.alarm = alarm
        self.conflict = conflict


class Task(msgspec.Struct, frozen=True, eq=False, gc=False):
    """One event to run: its place in the batch, its handler, and what is already decided about it. (A msgspec struct, as `Item`.)

    order_key: events that share it keep their order. settled: it must not run (a schema that does not fit, a handler
    that ended an earlier try). failures: how often it failed before.
    """

    position: int
    event: Event
    order_key: str
    handler: Handler | None
    settled: Dead | None
    failures: int


class Ran(NamedTuple):
    """outcomes: by position; what has none did not run. tripped: the breaker cut the batch at the next position."""

    outcomes: dict[int, Outcome]
    tripped: bool


class _Tried(NamedTuple):
    """What came of running a chunk under one savepoint. done: how many ran; 0: it is undone. raised: then, which one raised, where
    that is known."""

    done: int
    raised: int | None


@dataclass(slots=True)
class _Run:
    """One call of `Runner.run`, under way. end: when the budget is spent (loop time)."""

    tx: asyncpg.Connection
    blocked: set[str]
    breaker: Breaker
    careful: bool
    protected: bool
    alone: bool
    end: float
    outcomes: dict[int, Outcome]
    tripped: bool = False
    under_way: int | None = None
    """Of a chunk: the event that runs now, where they run one after the other."""

    def spent(self) -> bool:
        """The budget is used up, and something has been done."""
        return bool(self.outcomes) and asyncio.get_running_loop().time() > self.end

    def settle(self, task: Task, outcome: Outcome) -> bool:
        """Note an outcome; False: the batch is cut here."""
        if isinstance(outcome, Dead) and not self.breaker.died():
            self.tripped = True
            return False
        if isinstance(outcome, Parked):
            self.blocked.add(task.order_key)
        self.outcomes[task.position] = outcome
        return not isinstance(outcome, Retry)


@dataclass(frozen=True, slots=True)
class Runner:
    """How handlers are run.

    timeout: seconds one call of a handler may take. budget: seconds for all of a batch. backoff: when to give up.
    batch: how many events a batch handler gets at most. in_place: retries of an event that hold its partition, before it
    is parked; one that asks for a long wait is parked at once.
    """

    timeout: float
    budget: float
    backoff: Backoff
    batch: int
    in_place: int

    async def run(
        self,
        tx: asyncpg.Connection,
        tasks: Sequence[Task],
        *,
        careful: bool,
        blocked: set[str],
        breaker: Breaker,
        protected: bool = True,
    ) -> Ran:
        """Run them, given in log order, up to a cut: the end of the budget, a Retry (then the last outcome), or the breaker.

        Args:
            careful: event by event from the start, to find the one that breaks the transaction.
            blocked: ordering keys that are parked: their events are parked behind; grows with those parked here.
            breaker: fed in the order in which they run.
            protected: False, and nothing is undone here: the first failure ends it all.

        Raises:
            BrokenTransaction, Hold; Unprotected, where it was not `protected`.
        """
        end = asyncio.get_running_loop().time() + self.budget
        run = _Run(tx, blocked, breaker, careful, protected, len(tasks) == 1, end, {})
        for chunk in self._chunks(tasks):
            if run.spent() or not await self._run_chunk(run, chunk):
                break
        return Ran(run.outcomes, run.tripped)

    def _chunks(self, tasks: Sequence[Task]) -> Iterator[list[Task]]:
        """Neighbours that share a handler and what is settled about them, up to the size it takes."""
        groups = [(what, list(neighbours)) for what, neighbours in groupby(tasks, key=_WHAT)]
        if len(groups) > _FEW_GROUPS:
            groups = [(what, list(neighbours)) for what, neighbours in groupby(in_waves(tasks), key=_WHAT)]
        for (handler, settled), group in groups:
            size = len(group) if handler is None or settled else self.batch if handler.batch else _CHUNK
            for start in range(0, len(group), size):
                yield group[start : start + size]

    async def _run_chunk(self, run: _Run, chunk: list[Task]) -> bool:
        """False: the batch is cut within this chunk."""
        if chunk[0].settled is not None:
            return all(run.settle(task, chunk[0].settled) for task in chunk)
        chunk = _free(run, chunk)
        if not chunk:
            return True
        handler = chunk[0].handler
        if handler is None:
            run.outcomes.update(dict.fromkeys([task.position for task in chunk], _UNHANDLED))
            return True
        if not run.protected:
            return _stored(run, handler, chunk, await self._in_turn(run, handler, chunk))
        if run.careful or len(chunk) == 1:
            return await self._one_by_one(run, handler, chunk)
        return await self._around(run, handler, chunk)

    async def _around(self, run: _Run, handler: Handler, chunk: list[Task]) -> bool:
        """Run the chunk together, but for those that raise. False: the batch is cut within it."""
        for _ in range(_RAISING):
            tried = await self._together(run, handler, chunk)
            if tried.done:
                return _stored(run, handler, chunk, tried.done)
            if tried.raised is None:
                break
            before, rest = chunk[: tried.raised], chunk[tried.raised + 1 :]
            if before and not await self._again(run, handler, before):
                return False
            if not await self._one_by_one(run, handler, [chunk[tried.raised]]):
                return False
            chunk = _free(run, rest)
            if not chunk:
                return True
        return await self._one_by_one(run, handler, chunk)

    async def _again(self, run: _Run, handler: Handler, chunk: list[Task]) -> bool:
        """Run once more what ran well and was undone. (What an event did to the transaction may show in a later one.)"""
        tried = await self._together(run, handler, chunk)
        if tried.done:
            return _stored(run, handler, chunk, tried.done)
        return await self._one_by_one(run, handler, chunk)

    async def _together(self, run: _Run, handler: Handler, chunk: list[Task]) -> _Tried:
        """Run the chunk under one savepoint, up to the end of the budget."""
        await run.tx.execute("SAVEPOINT plutus_chunk")
        try:
            done = await self._in_turn(run, handler, chunk)
            await run.tx.execute("RELEASE SAVEPOINT plutus_chunk")
        except BaseException as error:
            _reraise_own_cancel(error)
            await _undo(run.tx, error, None)
            _hold_on_conflict(error)
            return _Tried(0, run.under_way)
        return _Tried(done, None)

    async def _in_turn(self, run: _Run, handler: Handler, chunk: list[Task]) -> int:
        """Run the chunk up to the end of the budget; returns how many ran, one at least.

        Raises:
            Unprotected, where the run is; or whatever the handler raises.
        """
        done = 0
        for tasks in [chunk] if handler.batch else [[task] for task in chunk]:
            if done and asyncio.get_running_loop().time() > run.end:
                break
            run.under_way = None if handler.batch else done
            try:
                async with asyncio.timeout(handler.timeout or self.timeout):
                    await handler.invoke([task.event for task in tasks], run.tx)
                _still_inside(run.tx, None)  # or the next handler would write outside any transaction
            except BaseException as error:
                if run.protected:
                    raise
                _reraise_own_cancel(error)
                raise Unprotected([task.position for task in tasks]) from error
            done += len(tasks)
        run.under_way = None
        return done

    async def _one_by_one(self, run: _Run, handler: Handler, chunk: list[Task]) -> bool:
        """False: the batch is cut within this chunk."""
        for task in chunk:
            if run.spent():
                return False
            if task.order_key in run.blocked:
                run.outcomes[task.position] = _BEHIND
                continue
            outcome = await self._single(run.tx, handler, task, alone=run.alone)
            if isinstance(outcome, Retry):
                outcome = self._after_failure(task, outcome)
            elif isinstance(outcome, Stored):
                run.breaker.well()
            if not run.settle(task, outcome):
                return False
        return True

    def _after_failure(self, task: Task, retry: Retry) -> Outcome:
        """First in place, then parked, then dead."""
        if self.backoff.exhausted(task.failures + 1):
            return Dead(retry.reason, "handle", retry.error_class)
        patient = retry.after is not None and retry.after > _LONG_IN_PLACE
        return Parked(retry) if task.failures >= self.in_place or patient else retry

    async def _single(self, tx: asyncpg.Connection, handler: Handler, task: Task, *, alone: bool) -> Outcome:
        await tx.execute("SAVEPOINT plutus_chunk")
        deadline = asyncio.timeout(handler.timeout or self.timeout)
        returned = False
        try:
            async with deadline:
                await handler.invoke([task.event], tx)
            _still_inside(tx, task.position)
            returned = True
            await tx.execute("RELEASE SAVEPOINT plutus_chunk")
        except BaseException as error:
            _reraise_own_cancel(error)
            await _undo(tx, error, task.position)
            if returned and sqlstate.sqlstate(error) == _IN_FAILED_TRANSACTION:
                return Dead(Reason.HANDLER_BROKE_TRANSACTION, "handle", _IN_FAILED_TRANSACTION)
            if not alone:
                _hold_on_conflict(error)
            return classify(error, timed_out=deadline.expired())
        return Stored(handler.name)


def _free(run: _Run, chunk: list[Task]) -> list[Task]:
    """Those that need not wait behind a parked one; the others are settled."""
    if not run.blocked:
        return chunk
    behind = [task for task in chunk if task.order_key in run.blocked]
    run.outcomes.update(dict.fromkeys([task.position for task in behind], _BEHIND))
    return [task for task in chunk if task.order_key not in run.blocked]


def _stored(run: _Run, handler: Handler, chunk: list[Task], done: int) -> bool:
    """Note that so many have run. False: the rest has not, and the batch is cut here."""
    run.outcomes.update(dict.fromkeys([task.position for task in chunk[:done]], Stored(handler.name)))
    run.breaker.well(done)
    return done == len(chunk)


def in_waves(tasks: Sequence[Task]) -> Sequence[Task]:
    """The tasks with those of one handler together, as far as the order within each ordering key allows.

    Handlers are ranked by their first appearance. A key's task runs in the wave of the task before it, or in the next one
    where that has a handler of a higher rank; a wave runs handler by handler.
    """
    stretches = sum(1 for _ in groupby(tasks, key=_WHAT))
    if stretches <= _FEW_GROUPS:
        return tasks
    ranks: dict[tuple[Handler | None, Dead | None], int] = {}
    latest: dict[str, tuple[int, int]] = {}
    places = []
    for task in tasks:
        rank = ranks.setdefault((task.handler, task.settled), len(ranks))
        wave, before = latest.get(task.order_key, (0, 0))
        place = latest[task.order_key] = (wave + (rank < before), rank)
        places.append(place)
    # Many waves can be worse than the log: then nothing is gained.
    return (
        tasks
        if len(set(places)) >= stretches
        else [tasks[n] for n in sorted(range(len(tasks)), key=places.__getitem__)]
    )


def classify(error: BaseException, *, timed_out: bool) -> Outcome:
    """The outcome of an event whose handler raised. The exception's text is dropped: it may hold the payload.

    Raises:
        Hold: the database is at fault, or the deploy.
    """
    name = sqlstate.sqlstate(error) or type(error).__name__
    match error:
        case Rejected():  # the payload did not fit the schema that the handler asked for
            return Dead(error.reason, "handle", name)
        case Permanent():
            return Dead(Reason.HANDLER_ERROR, "handle", name)
        case Retryable():
            return Retry(Reason.HANDLER_ERROR, name, error.after)
        case TimeoutError() if timed_out:
            return Retry(Reason.HANDLER_TIMEOUT, name)
    match sqlstate.in_handler(error):
        case Verdict.HOLD:
            raise Hold(name) from error
        case Verdict.HOLD_AND_ALARM:
            raise Hold(name, alarm=True) from error
        case Verdict.DEAD:
            return Dead(Reason.HANDLER_ERROR, "handle", name)
        case Verdict.RETRY:
            return Retry(Reason.HANDLER_ERROR, name)


def _hold_on_conflict(error: BaseException) -> None:
    """A deadlock among the locks of a whole batch is no event's fault, and one by one they would only meet it again,
    each after a second of waiting: all of it is undone and goes in small steps (interleaving 14). An event that meets one
    alone is Retryable like any other.

    Raises:
        Hold: it was one.
    """
    if sqlstate.is_conflict(error):
        raise Hold(sqlstate.sqlstate(error) or "", conflict=True) from error


def _still_inside(tx: asyncpg.Connection, position: int | None) -> None:
    """No round trip: the driver knows from the last answer whether a transaction is open."""
    if not tx.is_in_transaction():
        raise BrokenTransaction(position)


async def _undo(tx: asyncpg.Connection, error: BaseException, position: int | None) -> None:
    """Back to before the chunk.

    Raises:
        BrokenTransaction: there is nothing to go back to. Hold: the connection is gone.
    """
    if isinstance(error, BrokenTransaction):
        raise error
    if tx.is_closed():
        raise Hold("connection_lost") from error
    _still_inside(tx, position)
    try:
        await tx.execute("ROLLBACK TO SAVEPOINT plutus_chunk; RELEASE SAVEPOINT plutus_chunk")
    except asyncpg.InvalidSavepointSpecificationError:
        raise BrokenTransaction(position) from error
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as failure:
        if tx.is_closed() or sqlstate.lost_connection(failure):
            raise Hold("connection_lost") from failure
        raise BrokenTransaction(position) from failure


def _reraise_own_cancel(error: BaseException) -> None:
    """A cancellation of this very task is ours to obey; one that a handler raised is an error like any other."""
    task = asyncio.current_task()
    if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
        raise error
    if isinstance(error, KeyboardInterrupt | GeneratorExit):
        raise error
