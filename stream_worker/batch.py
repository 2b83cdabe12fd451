"""One batch of one partition: decided, claimed, run and written in one transaction, behind the partition's claim.

    read what is known  →  remember missing rows of gateway records (a short transaction of their own)
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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import asyncpg

from schemas.errors import Reason
from schemas.fingerprint import UnknownVersion
from stream_worker import store
from stream_worker.decide import EXHAUSTED, Decision, Known, Run, decide
from stream_worker.handlers import Registry
from stream_worker.outcomes import Dead, Duplicate, Outcome, Redelivered, Retry, Stored
from stream_worker.records import Item
from stream_worker.run import BrokenTransaction, Hold, Runner, Task
from stream_worker.store import Claim

_ROUNDS = 8


class Fenced(Exception):
    """Another epoch owns the partition: drop its work."""


@dataclass(frozen=True, slots=True)
class Result:
    """outcomes: of the items that are settled, in log order. next_offset: everything below is durable.

    retry: the first item that must wait, which cut the batch. unsent: records of this batch have failures rows whose dead
    letters may still have to be sent.
    """

    outcomes: list[tuple[Item, Outcome]]
    next_offset: int
    retry: Retry | None
    unsent: bool


@dataclass(slots=True)
class _Batch:
    """What one try at a transaction knows. Positions index `items`."""

    items: Sequence[Item]
    failures: Mapping[int, int]
    known: Known
    accepted_at: dict[UUID, datetime]
    replayed: set[UUID]
    over_limit: set[int]


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
        self, db: asyncpg.Connection, claim: Claim, items: Sequence[Item], failures: Mapping[int, int]
    ) -> Result:
        """Settle as many of `items` (one partition, log order) as can be settled now.

        Args:
            db: a connection outside any transaction.
            failures: how often the item at an offset has failed so far.

        Raises:
            Fenced: the claim is lost. Hold: wait and try the same again. asyncpg errors of our own statements likewise.
        """
        try:
            return await self._process(db, claim, items, failures)
        except UnknownVersion as error:
            raise Hold("fingerprint_version", alarm=True) from error

    async def _process(
        self, db: asyncpg.Connection, claim: Claim, items: Sequence[Item], failures: Mapping[int, int]
    ) -> Result:
        known = await self._read(db, items)
        await self._remember_missing(db, items, known)
        broken: dict[int, Dead] = {}
        careful = False
        while True:
            try:
                return await self._transaction(
                    db, claim, _Batch(items, failures, known, {}, set(), set()), broken, careful
                )
            except BrokenTransaction as error:
                if error.position is not None:
                    broken[error.position] = Dead(Reason.HANDLER_BROKE_TRANSACTION, "handle")
                elif careful:
                    raise Hold("transaction_lost") from error
                careful = True

    async def _read(self, db: asyncpg.Connection, items: Sequence[Item]) -> Known:
        first, last = items[0], items[-1]
        ids = {item.event.id for item in items if item.event}
        keys = await store.read_keys(db, ids)
        failed = await store.failed_coordinates(db, first.topic, first.partition, first.offset, last.offset)
        known = Known(keys, failed, {})
        await self._read_dead_letters(db, known, ids)
        return known

    async def _read_dead_letters(self, db: asyncpg.Connection, known: Known, ids: set[UUID]) -> None:
        failed_ids = {each for each in ids if each in known.keys and known.keys[each].state == "failed"}
        if failed_ids:
            known.dead_letter_ms.update(await store.dead_letter_times(db, failed_ids))

    async def _remember_missing(self, db: asyncpg.Connection, items: Sequence[Item], known: Known) -> None:
        """A gateway must not wait behind our handlers for a row of its own record (interleaving 16)."""
        missing = [
            item
            for item, decision in zip(items, decide(items, known), strict=True)
            if isinstance(decision, Run) and decision.kind == "new" and item.from_gateway
        ]
        if missing:
            await store.remember_keys(db, missing)
            known.keys.update(await store.read_keys(db, {item.event.id for item in missing if item.event}))

    async def _transaction(
        self, db: asyncpg.Connection, claim: Claim, batch: _Batch, broken: Mapping[int, Dead], careful: bool
    ) -> Result:
        async with db.transaction():
            now = await store.open_claim(db, claim)
            if now is None:
                raise Fenced
            decisions = await self._claim(db, batch)
            tasks = self._tasks(batch, decisions, broken)
            ran = await self.runner.run(db, tasks, careful=careful)
            cut = next((t.position for t in tasks if t.position not in ran or isinstance(ran[t.position], Retry)), None)
            settled = self._settle(batch, decisions, ran, cut)
            await self._release_rest(db, batch, tasks, cut)
            await self._write(db, batch, settled, now)
            next_offset = batch.items[-1].offset + 1 if cut is None else batch.items[cut].offset
            if not await store.close_claim(db, claim, next_offset):
                raise BrokenTransaction(None)
        last = ran.get(cut) if cut is not None else None
        return Result(
            [(batch.items[position], outcome) for position, outcome in settled.items()],
            next_offset,
            last if isinstance(last, Retry) else None,
            any(isinstance(outcome, Dead | Redelivered) for outcome in settled.values()),
        )

    async def _claim(self, db: asyncpg.Connection, batch: _Batch) -> list[Decision]:
        """Decisions in which every Run holds its id. A refused claim is read again and its id decided anew."""
        items, known = batch.items, batch.known
        for _ in range(_ROUNDS):
            decisions = decide(items, known)
            wanted = [
                (item, d)
                for item, d in zip(items, decisions, strict=True)
                if isinstance(d, Run) and _unclaimed(item, batch)
            ]
            if not wanted:
                await self._limit_repeats(db, batch, decisions)
                return decisions
            await self._claim_round(db, batch, wanted)
        raise Hold("claims_refused")

    async def _claim_round(self, db: asyncpg.Connection, batch: _Batch, wanted: list[tuple[Item, Run]]) -> None:
        fresh = [item for item, run in wanted if run.kind != "replay"]
        replays = {item.event.id for item, run in wanted if run.kind == "replay" and item.event}
        if fresh:
            batch.accepted_at.update(await store.claim_keys(db, fresh, batch.known.keys))
        if replays:
            returned = await store.claim_replays(db, replays, self.replay_limit)
            batch.accepted_at.update(returned)
            batch.replayed.update(returned)
            if returned:
                await store.close_failures(db, returned)
        refused = {item.event.id for item, _ in wanted if item.event and item.event.id not in batch.accepted_at}
        if refused:
            now = await store.read_keys(db, refused)
            for each in refused:
                batch.known.keys.pop(each, None)
            batch.known.keys.update(now)
            # Still failed, and not ours to run: it has run as often as one may.
            batch.known.exhausted.update(e for e in refused & replays if e in now and now[e].state == "failed")

    async def _limit_repeats(self, db: asyncpg.Connection, batch: _Batch, decisions: Sequence[Decision]) -> None:
        """The same refused bytes, again and again: recorded, but dead-lettered only so often, so that a loop of
        console tools ends (interleaving 2)."""
        refused = {
            position: (decision.reason.value, batch.items[position].content_hash)
            for position, decision in enumerate(decisions)
            if isinstance(decision, Dead)
        }
        if not refused:
            return
        seen = dict(await store.times_seen(db, set(refused.values())))
        for position, what in refused.items():
            seen[what] = seen.get(what, 0) + 1
            if seen[what] > self.replay_limit or decisions[position] == EXHAUSTED:
                batch.over_limit.add(position)

    def _tasks(self, batch: _Batch, decisions: Sequence[Decision], broken: Mapping[int, Dead]) -> list[Task]:
        tasks = []
        for position, (item, decision) in enumerate(zip(batch.items, decisions, strict=True)):
            if isinstance(decision, Run) and item.event is not None:
                handler = self.registry.find(item.event)
                settled = item.dead or broken.get(position)
                if settled is None and handler is None and self.dead_unhandled:
                    settled = Dead(Reason.NO_HANDLER, "handle")
                tasks.append(Task(position, item.event, handler, settled, batch.failures.get(item.offset, 0)))
        return tasks

    def _settle(
        self, batch: _Batch, decisions: Sequence[Decision], ran: Mapping[int, Outcome], cut: int | None
    ) -> dict[int, Outcome]:
        """Final outcomes of everything before the cut."""
        settled: dict[int, Outcome] = {}
        for position, decision in enumerate(decisions[:cut]):
            settled[position] = ran[position] if isinstance(decision, Run) else decision
        return settled

    async def _release_rest(
        self, db: asyncpg.Connection, batch: _Batch, tasks: Sequence[Task], cut: int | None
    ) -> None:
        if cut is None:
            return
        rest = {task.event.id for task in tasks if task.position >= cut}
        await store.release(db, rest - batch.replayed, rest & batch.replayed)

    async def _write(
        self, db: asyncpg.Connection, batch: _Batch, settled: Mapping[int, Outcome], now: datetime
    ) -> None:
        """The one place where outcomes become effects."""
        events, failed, keys = [], [], []
        for position, outcome in settled.items():
            item = batch.items[position]
            attempts = batch.failures.get(item.offset, 0) + 1
            match outcome:
                case Stored(handled_by):
                    row = await self._event(db, batch, item, now, handled_by=handled_by, attempts=attempts)
                    events.extend(row)
                case Dead():
                    quiet = position in batch.over_limit
                    failed.append(store.failure_row(item, _limited(outcome, quiet), attempts=attempts, quiet=quiet))
                    if item.event and item.event.id in batch.accepted_at and outcome.step != "decide":
                        keys.append(item.event.id)
                        events.extend(await self._event(db, batch, item, now, failed=True, attempts=attempts))
                case Duplicate() | Redelivered() | Retry():
                    pass
        if keys:
            await store.fail_keys(db, keys)
        if events:
            await store.copy_events(db, events)
        if failed:
            await store.insert_failures(db, failed)

    async def _event(
        self,
        db: asyncpg.Connection,
        batch: _Batch,
        item: Item,
        now: datetime,
        *,
        attempts: int,
        handled_by: str | None = None,
        failed: bool = False,
    ) -> list[tuple[object, ...]]:
        """The new events row, or none after updating the one that a replay already has."""
        assert item.event is not None  # noqa: S101
        accepted_at = batch.accepted_at[item.event.id]
        if item.event.id in batch.replayed:
            await store.update_replayed_event(
                db, item.event.id, accepted_at, handled_by=handled_by, failed=failed, attempts=attempts
            )
            return []
        return [
            store.event_row(
                item, item.event, accepted_at, handled_by=handled_by, failed=failed, now=now, attempts=attempts
            )
        ]


def _unclaimed(item: Item, batch: _Batch) -> bool:
    return item.event is not None and item.event.id not in batch.accepted_at


def _limited(dead: Dead, quiet: bool) -> Dead:
    return Dead(Reason.REPLAY_LIMIT, dead.step, dead.error_class) if quiet else dead
