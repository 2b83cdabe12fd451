"""One batch of one partition: decided, claimed, run and written in one transaction, behind the partition's claim.

    read what is known  →  remember missing rows of gateway records (a short transaction of their own); or, where the last
                           batch was all new, guess that this one is too (`optimism.py`): a wrong guess undoes it all
    BEGIN
      open the claim            no row: fenced, somebody else owns the partition
      claim the ids             what does not come back is read and decided anew
      run the handlers          see `run.py`
      write                     COPY events, failures rows, states
      close the claim           the offset reached; a COMMIT before this is refused by the deferred trigger
    COMMIT

After it, everything below `Result.next_offset` is durable, but for dead letters still to be sent (`dead_letter.py`).
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

import asyncpg

from infra.runtime.copy_format import MANY
from infra.runtime.optimism import Optimism
from schemas.errors import Reason
from schemas.fingerprint import UnknownVersion
from stream_worker import store
from stream_worker.breaker import Breaker
from stream_worker.decide import EXHAUSTED, NEW, REPLAY, Decision, Known, Run, decide
from stream_worker.event_rows import EventRows, Row
from stream_worker.handlers import Registry
from stream_worker.outcomes import Dead, Duplicate, Outcome, Parked, Redelivered, Retry, Stored
from stream_worker.records import Item
from stream_worker.run import BrokenTransaction, Hold, Runner, Task
from stream_worker.store import Claim

_ROUNDS = 8
T = TypeVar("T")


class Fenced(Exception):
    """Another epoch owns the partition: drop its work."""


class _NotNew(Exception):
    """It was guessed that no id of the batch is known, and one is. The transaction is undone."""


@dataclass(frozen=True, slots=True)
class Result:
    """outcomes: of the items that are settled, in log order. next_offset: everything below is durable.

    Some that are settled may lie beyond it: they ran before the cut, because their ordering key was free. Read again, they
    are duplicates of themselves.

    retry: why the item at `retry_offset` must wait, which cut the batch. unsent: records of this batch have failures rows whose dead
    letters may still have to be sent. parked: an ordering key begins to wait in Postgres. tripped: the breaker stopped before the
    next item. breaker: what it knows now.
    """

    outcomes: list[tuple[Item, Outcome]]
    next_offset: int
    retry: Retry | None
    unsent: bool
    parked: bool
    tripped: bool
    breaker: Breaker
    retry_offset: int = -1


@dataclass(slots=True)
class _Batch:
    """What one try at a transaction knows. Positions index `items`."""

    items: Sequence[Item]
    failures: Mapping[int, int]
    known: Known
    breaker: Breaker
    accepted_at: dict[bytes, datetime]
    replayed: set[bytes]
    over_limit: set[int]
    guessed: bool = False

    def attempts(self, item: Item) -> int:
        """Runs of this event by now, this one included."""
        return self.failures.get(item.offset, 0) + 1 if self.failures else 1


@dataclass(frozen=True, slots=True)
class Processor:
    """What a batch needs beside its records.

    replay_limit: how often one event may run, and how often the same unreadable bytes are dead-lettered.
    dead_unhandled: events without a handler are dead-lettered instead of stored.
    """

    registry: Registry
    runner: Runner
    replay_limit: int
    dead_unhandled: bool = False

    async def process(
        self,
        db: asyncpg.Connection,
        claim: Claim,
        items: Sequence[Item],
        failures: Mapping[int, int],
        breaker: Breaker | None = None,
        optimism: Optimism | None = None,
    ) -> Result:
        """Settle as many of `items` (one partition, log order) as can be settled now.

        Args:
            db: a connection outside any transaction.
            failures: how often the item at an offset has failed so far.
            breaker: what the partition's earlier batches left of it; `Result.breaker` is what this one leaves.
            optimism: the partition's own; told how this batch went.

        Raises:
            Fenced: the claim is lost. Hold: wait and try the same again. asyncpg errors of our own statements likewise.
        """
        try:
            return await self._process(db, claim, items, failures, breaker or Breaker(), optimism or Optimism())
        except UnknownVersion as error:
            raise Hold("fingerprint_version", alarm=True) from error

    async def _process(
        self,
        db: asyncpg.Connection,
        claim: Claim,
        items: Sequence[Item],
        failures: Mapping[int, int],
        breaker: Breaker,
        optimism: Optimism,
    ) -> Result:
        def settled(known: Known, guessed: bool) -> Awaitable[Result]:
            return until_whole(
                lambda broken, careful: self._transaction(
                    db,
                    claim,
                    _Batch(items, failures, known, breaker.copy(), {}, set(), set(), guessed),
                    broken,
                    careful,
                )
            )

        if optimism.allowed and len(items) >= MANY and not any(item.from_gateway for item in items):
            try:
                result = await settled(await self._read(db, items, set()), guessed=True)
            except _NotNew:
                optimism.wrong()
            else:
                optimism.right()
                return result
        known = await self._read(db, items, {item.id for item in items if item.event})
        optimism.asked(len(known.keys))
        await self._remember_missing(db, items, known)
        return await settled(known, guessed=False)

    async def _read(self, db: asyncpg.Connection, items: Sequence[Item], ids: set[bytes]) -> Known:
        """What is known of these ids, and of the records of these items."""
        first, last = items[0], items[-1]
        keys, failed_at = await store.read_known(db, ids, first.topic, first.partition, first.offset, last.offset)
        failed = [each for each, row in keys.items() if row.state == "failed"]
        return Known(keys, failed_at, await store.dead_letter_times(db, failed) if failed else {})

    async def _remember_missing(self, db: asyncpg.Connection, items: Sequence[Item], known: Known) -> None:
        """A gateway must not wait behind our handlers for a row of its own record (interleaving 16)."""
        if not any(item.from_gateway and item.id not in known.keys for item in items):
            return
        decided = zip(items, decide(items, known), strict=True)
        missing = [item for item, decision in decided if decision is NEW and item.from_gateway]
        if not missing:  # a copy of the same event that came first, past the gateway, is the one that runs
            return
        await store.remember_keys(db, missing)
        known.keys.update(await store.read_keys(db, [item.id for item in missing]))

    async def _transaction(
        self, db: asyncpg.Connection, claim: Claim, batch: _Batch, broken: Mapping[int, Dead], careful: bool
    ) -> Result:
        async with db.transaction():
            opened = await store.open_claim(db, claim)
            if opened is None:
                raise Fenced
            now, parked = opened
            decisions = await self._claim(db, batch, now)
            tasks = self._tasks(batch, decisions, broken)
            # In this transaction or before it: only who holds this claim parks keys of this partition.
            blocked = await store.lock_parked_keys(db, {t.order_key for t in tasks}) if tasks and parked else set()
            ran, tripped = await self.runner.run(db, tasks, careful=careful, blocked=blocked, breaker=batch.breaker)
            cut = _cut(tasks, ran)
            settled = _settled(decisions, ran, cut)
            if cut is not None:
                rest = {batch.items[task.position].id for task in tasks if task.position not in settled}
                await store.release(db, rest - batch.replayed, rest & batch.replayed)
            await self._write(db, batch, settled, now)
            next_offset = batch.items[-1].offset + 1 if cut is None else batch.items[cut].offset
            if not await store.close_claim(db, claim, next_offset):
                raise BrokenTransaction(None)
        waits, retry = _last(ran)
        kinds = set(map(type, settled.values()))
        return Result(
            list(zip(map(batch.items.__getitem__, settled), settled.values(), strict=True)),
            next_offset,
            retry,
            not kinds.isdisjoint((Dead, Redelivered)),
            Parked in kinds and _begins_to_wait(settled.values()),
            tripped,
            batch.breaker,
            batch.items[waits].offset if retry is not None else -1,
        )

    async def _claim(self, db: asyncpg.Connection, batch: _Batch, now: datetime) -> list[Decision]:
        """Decisions in which every Run holds its id. A refused claim is read again and its id decided anew."""
        for _ in range(_ROUNDS):
            decisions = decide(batch.items, batch.known)
            fresh, replays = _wanted(batch, decisions)
            if await self._take_ids(db, batch, fresh, replays, now):
                await self._limit_repeats(db, batch, decisions)
                return decisions
        raise Hold("claims_refused")

    async def _take_ids(
        self, db: asyncpg.Connection, batch: _Batch, fresh: Sequence[Item], replays: set[bytes], now: datetime
    ) -> bool:
        """Claim these ids; False: some were refused, and what is known of them was read again."""
        rows = batch.known.keys
        unknown = [item for item in fresh if item.id not in rows] if rows else fresh
        known = [item for item in fresh if item.id in rows] if rows else []
        if unknown and await self._insert(db, batch, unknown):
            batch.accepted_at.update(dict.fromkeys([item.id for item in unknown], now))
        else:
            known = list(fresh)
        if known:
            batch.accepted_at.update(await store.claim_keys(db, known, rows, now))
        if replays:
            returned = await store.claim_replays(db, replays, self.replay_limit)
            batch.accepted_at.update(returned)
            batch.replayed.update(returned)
            await store.close_failures(db, returned)
        refused = {each for each in (*(item.id for item in known), *replays) if each not in batch.accepted_at}
        if not refused:
            return True
        anew = await store.read_keys(db, refused)
        for each in refused:
            rows.pop(each, None)
        rows.update(anew)
        # Still failed, and not ours to run: it has run as often as one may.
        batch.known.exhausted.update(e for e in refused & replays if e in anew and anew[e].state == "failed")
        return False

    async def _insert(self, db: asyncpg.Connection, batch: _Batch, unknown: Sequence[Item]) -> bool:
        """Take many ids that had no row a moment ago; False: they are few, or somebody was quicker.

        Raises:
            _NotNew: it had only been guessed.
        """
        if batch.guessed:
            try:
                await store.insert_keys(db, unknown)
            except asyncpg.UniqueViolationError:
                raise _NotNew from None
            return True
        if len(unknown) < MANY:
            return False
        try:
            async with db.transaction():
                await store.insert_keys(db, unknown)
        except asyncpg.UniqueViolationError:
            return False
        return True

    async def _limit_repeats(self, db: asyncpg.Connection, batch: _Batch, decisions: Sequence[Decision]) -> None:
        """The same refused bytes, again and again: recorded, but dead-lettered only so often, so that a loop of
        console tools ends (interleaving 2)."""
        if Dead not in set(map(type, decisions)):
            return
        refused = {
            position: (decision.reason.value, batch.items[position].content_hash)
            for position, decision in enumerate(decisions)
            if isinstance(decision, Dead)
        }
        seen = dict(await store.times_seen(db, set(refused.values())))
        for position, what in refused.items():
            seen[what] = seen.get(what, 0) + 1
            if seen[what] > self.replay_limit or decisions[position] == EXHAUSTED:
                batch.over_limit.add(position)

    def _tasks(self, batch: _Batch, decisions: Sequence[Decision], broken: Mapping[int, Dead]) -> list[Task]:
        tasks = []
        find, dead_unhandled = self.registry.find, self.dead_unhandled
        for position, (item, decision) in enumerate(zip(batch.items, decisions, strict=True)):
            event = item.event
            if isinstance(decision, Run) and event is not None:
                handler = find(event)
                settled = item.dead or (broken.get(position) if broken else None)
                if settled is None and handler is None and dead_unhandled:
                    settled = Dead(Reason.NO_HANDLER, "handle")
                failures = batch.failures.get(item.offset, 0) if batch.failures else 0
                tasks.append(Task(position, event, event.order_key, handler, settled, failures))
        return tasks

    async def _write(
        self, db: asyncpg.Connection, batch: _Batch, settled: Mapping[int, Outcome], now: datetime
    ) -> None:
        """The one place where a batch's outcomes become effects."""
        rows: list[Row] = []
        failures: list[tuple[object, ...]] = []
        waiting: list[tuple[Item, Retry | None]] = []
        dead: list[bytes] = []
        items, accepted_at, attempts = batch.items, batch.accepted_at, batch.attempts
        for position, outcome in settled.items():
            item = items[position]
            match outcome:
                case Stored():
                    rows.append((item, accepted_at[item.id], "PROCESSED", outcome.handled_by, attempts(item)))
                case Parked():
                    rows.append((item, accepted_at[item.id], "RETRYING", None, attempts(item)))
                    waiting.append((item, outcome.retry))
                case Dead():
                    quiet = position in batch.over_limit
                    failures.append(store.failure_row(item, outcome, attempts=attempts(item), quiet=quiet))
                    if outcome.step != "decide" and item.id in accepted_at:
                        rows.append((item, accepted_at[item.id], "FAILED", None, attempts(item)))
                        dead.append(item.id)
                case Duplicate() | Redelivered() | Retry():
                    pass
        await self._write_events(db, batch.replayed, rows, now)
        if dead:
            await store.fail_keys(db, dead)
        if waiting:
            await self._park(db, batch, waiting)
        if failures:
            await store.insert_failures(db, failures)

    async def _write_events(
        self, db: asyncpg.Connection, replayed: AbstractSet[bytes], rows: Sequence[Row], now: datetime
    ) -> None:
        """New rows by COPY; the row of a replay is updated, for it has one."""
        new = EventRows(now)
        new.extend([row for row in rows if row[0].id not in replayed] if replayed else rows)
        if new.count:
            await store.copy_events(db, new)
        for item, accepted_at, status, handled_by, attempts in rows if replayed else ():
            if item.id in replayed:
                await store.update_event(db, item, accepted_at, status=status, handled_by=handled_by, attempts=attempts)

    async def _park(self, db: asyncpg.Connection, batch: _Batch, waiting: Sequence[tuple[Item, Retry | None]]) -> None:
        """Queue events behind their ordering keys; a key's first one says when the key is due."""
        rows = []
        for item, retry in waiting:
            assert item.event is not None  # noqa: S101
            attempts = batch.attempts(item) if retry else 0
            rows.append(store.parked_row(item.event.order_key, item, batch.accepted_at[item.id], attempts))
            if retry is not None:
                delay = self.runner.backoff.wait(attempts, retry.after, random.random)
                await store.park_key(db, item.event.order_key, item, attempts, delay)
        await store.park_events(db, rows)


async def until_whole(attempt: Callable[[Mapping[int, Dead], bool], Awaitable[T]]) -> T:
    """Try a transaction again for as long as handlers end it: once event by event, to find which, then without those.

    Args:
        attempt: one try, given the positions that must not run and whether to go event by event.

    Raises:
        Hold: the transaction is lost and no handler can be named.
    """
    broken: dict[int, Dead] = {}
    careful = False
    while True:
        try:
            return await attempt(broken, careful)
        except BrokenTransaction as error:
            if error.position is not None:
                broken[error.position] = Dead(Reason.HANDLER_BROKE_TRANSACTION, "handle")
            elif careful:
                raise Hold("transaction_lost") from error
            careful = True


def _wanted(batch: _Batch, decisions: Sequence[Decision]) -> tuple[Sequence[Item], set[bytes]]:
    """The items whose ids are to be claimed now, to run for the first time, and the ids of those that run again."""
    if not batch.accepted_at and all(decision is NEW for decision in decisions):
        return batch.items, set()
    wanted = [
        (item, decision)
        for item, decision in zip(batch.items, decisions, strict=True)
        if isinstance(decision, Run) and item.id not in batch.accepted_at
    ]
    return [item for item, run in wanted if run is not REPLAY], {item.id for item, run in wanted if run is REPLAY}


def _begins_to_wait(outcomes: Iterable[Outcome]) -> bool:
    """Whether an ordering key is parked by one of these; what queues behind one changes nothing about when it is due."""
    return any(isinstance(outcome, Parked) and outcome.retry is not None for outcome in outcomes)


def _last(ran: dict[int, Outcome]) -> tuple[int, Retry | None]:
    """The position that ran last, and why it must wait if it must: a Retry cuts the run."""
    position = next(reversed(ran), -1)
    last = ran.get(position)
    return position, last if isinstance(last, Retry) else None


def _cut(tasks: Sequence[Task], ran: dict[int, Outcome]) -> int | None:
    """The position of the first item that did not run or must wait; None: all ran."""
    waits, retry = _last(ran)
    if len(ran) == len(tasks) and retry is None:
        return None
    return next(t.position for t in tasks if t.position not in ran or (retry and t.position == waits))


def _settled(decisions: Sequence[Decision], ran: Mapping[int, Outcome], cut: int | None) -> dict[int, Outcome]:
    """What is settled, by position: everything before the cut, and what ran beyond it."""
    if len(ran) == len(decisions) and cut is None:
        return dict(sorted(ran.items()))
    settled = {
        position: ran[position] if isinstance(decision, Run) else decision
        for position, decision in enumerate(decisions[:cut])
    }
    if cut is not None:
        settled.update((n, ran[n]) for n in sorted(ran) if n > cut and not isinstance(ran[n], Retry))
    return settled
