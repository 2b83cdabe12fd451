"""Parked keys: an event that must wait, waits in Postgres, and later events of its ordering key wait behind it, in order.

Parking happens in the batch (`batch.py`). Here a key is drained: by the owner of its head's partition only, between
batches, under the same claim, with the key's row held FOR UPDATE; whoever adds behind it holds that row too and reads it
anew, so nothing is added to a queue that has just been emptied (interleaving 13). The events of the queue run in order,
up to the first one that must wait again.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import asyncpg

from stream_worker import store
from stream_worker.batch import Fenced, Processor, until_whole
from stream_worker.breaker import Breaker
from stream_worker.outcomes import Dead, Outcome, Retry, Stored
from stream_worker.records import Item, KafkaRecord
from stream_worker.run import BrokenTransaction, Task
from stream_worker.store import Claim, ParkedRecord

_PAGE = 500
_NEVER = 1 << 30

Beware = Callable[[asyncpg.Connection, Item], Awaitable[Item]]


@dataclass(frozen=True, slots=True)
class Drained:
    """outcomes: of the events that left the queue. unsent: dead letters are to be sent. retry: why the head waits on.

    tripped: the breaker stopped the queue. breaker: what it knows now.
    """

    outcomes: list[tuple[Item, Outcome]]
    unsent: bool
    retry: Retry | None
    tripped: bool
    breaker: Breaker


@dataclass(frozen=True, slots=True)
class _Key:
    """The key to drain. head: only this one runs, None: the whole queue."""

    name: str
    head: Item | None


@dataclass(frozen=True, slots=True)
class _Queue:
    """The head of a key's queue. attempts: tries of its first event so far."""

    records: Sequence[ParkedRecord]
    items: Sequence[Item]
    attempts: int

    def failures(self, position: int) -> int:
        """Tries so far of the event at this position."""
        return self.attempts if position == 0 else self.records[position].attempts


@dataclass(frozen=True, slots=True)
class Drainer:
    """What draining a key needs beside the processor.

    read: as for any record. max_age: seconds after which an event that still fails is dead. hold: seconds a key waits
    after the breaker has stopped it.
    """

    processor: Processor
    read: Callable[[KafkaRecord], Item]
    max_age: float
    hold: float

    async def drain(
        self,
        db: asyncpg.Connection,
        claim: Claim,
        next_offset: int,
        order_key: str,
        breaker: Breaker,
        beware: Beware | None = None,
    ) -> Drained:
        """Run the queue of one key as far as it goes now.

        Args:
            db: a connection outside any transaction. next_offset: of the claim; it does not move.
            beware: only the head runs, and this marks it first.

        Raises:
            Fenced, Hold; asyncpg errors of our own statements.
        """
        head = None
        if beware is not None:
            first = await store.parked_queue(db, order_key, 1)
            head = await beware(db, self.read(first[0])) if first else None
        key = _Key(order_key, head)
        return await until_whole(
            lambda broken, careful: self._transaction(db, claim, next_offset, key, breaker.copy(), broken, careful)
        )

    async def _transaction(
        self,
        db: asyncpg.Connection,
        claim: Claim,
        next_offset: int,
        key: _Key,
        breaker: Breaker,
        broken: Mapping[int, Dead],
        careful: bool,
    ) -> Drained:
        async with db.transaction():
            if await store.open_claim(db, claim) is None:
                raise Fenced
            drained = await self._drain(db, claim, key, breaker, broken, careful)
            if not await store.close_claim(db, claim, next_offset):
                raise BrokenTransaction(None)
        return drained

    async def _drain(
        self,
        db: asyncpg.Connection,
        claim: Claim,
        key: _Key,
        breaker: Breaker,
        broken: Mapping[int, Dead],
        careful: bool,
    ) -> Drained:
        locked = await store.lock_parked_key(db, claim, key.name)
        if locked is None:
            return Drained([], False, None, False, breaker)
        attempts, age = locked
        page = 1 if key.head else _PAGE
        records = await store.parked_queue(db, key.name, page)
        items = [key.head] if key.head else [self.read(record) for record in records]
        queue = _Queue(records, items, attempts if age < self.max_age else _NEVER)
        tasks = [self._task(queue, position, key.name, broken) for position in range(len(records))]
        runner = replace(self.processor.runner, in_place=_NEVER)  # what fails again here waits on as the head
        ran, tripped = await runner.run(db, tasks, careful=careful, blocked=set(), breaker=breaker)
        left = next((n for n in range(len(records)) if isinstance(ran.get(n), Retry | None)), len(records))
        unsent = await self._write(db, queue, ran, left, attempts)
        retry = ran.get(left)
        waits = retry if isinstance(retry, Retry) else None
        await self._put_off(db, key.name, queue, left, page, attempts, waits, tripped)
        outcomes = [(queue.items[n], ran[n]) for n in range(left)]
        return Drained(outcomes, unsent, waits, tripped, breaker)

    def _task(self, queue: _Queue, position: int, order_key: str, broken: Mapping[int, Dead]) -> Task:
        item = queue.items[position]
        assert item.event is not None, "only events are parked"  # noqa: S101
        settled = item.dead or broken.get(position)
        handler = self.processor.registry.find(item.event)
        return Task(position, item.event, order_key, handler, settled, queue.failures(position))

    async def _write(
        self, db: asyncpg.Connection, queue: _Queue, ran: Mapping[int, Outcome], left: int, attempts: int
    ) -> bool:
        """Effects of what left the queue; True: dead letters are to be sent."""
        dead, failures = [], []
        for position in range(left):
            item, record, outcome = queue.items[position], queue.records[position], ran[position]
            total = (attempts if position == 0 else record.attempts) + 1
            handled_by = outcome.handled_by if isinstance(outcome, Stored) else None
            if isinstance(outcome, Dead):
                dead.append(item.id)
                failures.append(store.failure_row(item, outcome, attempts=total, quiet=False))
            await store.update_event(
                db,
                item,
                record.received_at,
                status="FAILED" if isinstance(outcome, Dead) else "PROCESSED",
                handled_by=handled_by,
                attempts=total - record.attempts,
            )
        if left:
            await store.unpark_events(db, [item.id for item in queue.items[:left]])
        if failures:
            await store.fail_keys(db, dead)
            await store.insert_failures(db, failures)
        return bool(failures)

    async def _put_off(
        self,
        db: asyncpg.Connection,
        order_key: str,
        queue: _Queue,
        left: int,
        page: int,
        attempts: int,
        retry: Retry | None,
        tripped: bool,
    ) -> None:
        """The key is free, or its head is due later."""
        if left == len(queue.records) and left < page:
            await store.unpark_key(db, order_key)
            return
        tried = 0 if left == len(queue.records) else attempts if left == 0 else queue.records[left].attempts
        delay = self.hold if tripped else 0.0
        if retry is not None:
            tried += 1
            delay = self.processor.runner.backoff.wait(tried, retry.after, random.random)
        await store.put_off_key(db, order_key, tried, delay, new_head=left > 0)
