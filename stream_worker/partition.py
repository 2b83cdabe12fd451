"""One assigned partition: a bounded buffer of records, and the loop that settles them in log order.

The loop never skips: a batch is settled (in Postgres, and its dead letters acknowledged) before `Progress` moves. What
holds it (a retry in place, the database, the dead-letter topic, the breaker) holds this partition only. Between batches it
drains parked keys that are due. `drain` ends it: the batch in flight is finished or, past the deadline, its connection is
cut, which rolls it back.

After the death of an earlier owner it is watchful for a while: event by event, each marked durably before it runs, so that
an event which kills its worker is found. Only a death with the mark on counts, and the third one makes it a dead letter. Who is
suspected runs while nobody else is marked (`marked_runs.py`).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import dropwhile, islice, takewhile
from typing import Protocol, TypeVar, cast

import asyncpg
from msgspec import structs

from infra.runtime import log
from infra.runtime.optimism import Optimism
from infra.runtime.postgres import borrowed
from schemas.errors import Reason
from stream_worker import dead_letter, sqlstate, store
from stream_worker.backoff import Backoff
from stream_worker.batch import Fenced, Processor, Result
from stream_worker.batch_size import BatchSize
from stream_worker.breaker import Breaker
from stream_worker.dead_letter import DeadLettersHeld, Sender
from stream_worker.emit import EmittedHeld, Publisher, counted, publish
from stream_worker.marked_runs import MarkedRuns
from stream_worker.metrics import Metrics
from stream_worker.observe import Observer
from stream_worker.outcomes import Dead, Parked, Retry, Stored
from stream_worker.parking import Drained, Drainer
from stream_worker.progress import Progress
from stream_worker.records import Item, KafkaRecord
from stream_worker.run import Hold
from stream_worker.store import Taken
from stream_worker.together import FEW, Share, Together

_LOG = log.get(__name__)
_RELEASE_TIMEOUT = 2.0
_IDLE = 10.0
_DUE_KEYS = 50
_DEATHS = 3
_ENOUGH_PROBES = 20
_HELD = 0.005
"""Seconds for which a retry in place holds its partition, where the handler asks for nothing: enough for a deadlock to be over, and
what needs longer does it parked, where it costs the other keys nothing."""
_RECORD = 440
"""Bytes that a record takes beside its key and value: the client's object, its numbers, its place in the buffer (measured)."""
T = TypeVar("T")


class Kafka(Sender, Publisher, Protocol):
    """The port to Kafka: dead letters one by one, emitted events by the page."""


@dataclass(frozen=True, slots=True)
class Shared:
    """What all partitions of a worker share.

    pool, slots: connections, and the places that bound how many batches run side by side, first come first served.
    read: turns a Kafka record into an Item. backoff: for holds and retries. probes: for the breaker. breaker: a fresh one.
    size: of all partitions' batches. together: for small ones. marked_runs: of watchful partitions.
    """

    pool: asyncpg.Pool
    slots: asyncio.Semaphore
    processor: Processor
    drainer: Drainer
    sender: Kafka
    read: Callable[[KafkaRecord], Item]
    observer: Observer
    metrics: Metrics
    backoff: Backoff
    probes: Backoff
    breaker: Breaker
    dlq_topic: str
    dialects: Sequence[str]
    size: BatchSize
    together: Together
    marked_runs: MarkedRuns
    batch_bytes: int
    produce_timeout: float


class Partition:
    """One partition under one claim.

    Args:
        taken: our claim, and how the owner before us ended. start: the offset its records begin at.
        on_fenced: called once when the claim turns out to be lost.
    """

    def __init__(self, shared: Shared, taken: Taken, start: int, on_fenced: Callable[[], None]) -> None:
        self.claim = taken.claim
        self.progress = Progress(start)
        self.buffered = 0
        self.failed: BaseException | None = None
        self._shared = shared
        self._taken = taken
        self._on_fenced = on_fenced
        self._records: deque[tuple[KafkaRecord, int]] = deque()
        self._arrived = asyncio.Event()
        self._stopping = asyncio.Event()
        self._failures: dict[int, int] = {}
        self._ahead: set[int] = set()  # offsets that were settled before those below them, and are still to pass
        self._watchful = shared.size.limit if taken.died else 0
        self._marked = False
        self._emitted = False  # events may wait in the outbox of emitted events
        self._breaker = shared.breaker.copy()
        self._optimism = Optimism()
        self._calm = Optimism()  # whether its next small batch may go with those of others
        self._share: Share | None = None
        self._trips, self._probed = 0, 0
        self._look_at = 0.0  # loop time at which parked keys and unsent dead letters are looked at next
        self._flush_at = 0.0  # loop time from which a look sends what is unsent, too
        self._fenced = False
        self._connection: asyncpg.Connection | None = None
        self._label = str(taken.claim.partition)
        self._task = asyncio.create_task(self._loop(), name=f"partition-{taken.claim.partition}")

    def feed(self, records: Sequence[KafkaRecord]) -> None:
        """Take fetched records, in log order, into the buffer; the caller bounds it."""
        receive = self.progress.receive
        fresh = list(dropwhile(lambda record: not receive(record.offset), records))  # a seek went back
        if fresh:
            sizes = [len(record.value or b"") + len(record.key or b"") + _RECORD for record in fresh]
            self._records.extend(zip(fresh, sizes, strict=True))
            self.buffered += sum(sizes)
            receive(fresh[-1].offset)
        self._arrived.set()
        self._note_oldest()

    @property
    def running(self) -> bool:
        """False once the loop has ended: drained, fenced or failed."""
        return not self._task.done()

    async def drain(self, deadline: float) -> None:
        """Stop after the batch in flight, by `deadline` (loop time) at the latest; nothing is written after this returns."""
        self._stopping.set()
        self._arrived.set()
        loop = asyncio.get_running_loop()
        await asyncio.wait([self._task], timeout=max(0.0, deadline - loop.time()))
        if self._task.done():
            await self._let_go()
        else:
            # Cutting the connection ends the transaction on the server at once; a cancelled query might not.
            connection = self._share.connection if self._share else self._connection
            if connection is not None:
                connection.terminate()
            self._task.cancel()
            await asyncio.wait([self._task], timeout=1.0)
        self._shared.metrics.forget(self.claim.partition)

    async def _let_go(self) -> None:
        """Tell the next owner that nobody died here; if that fails, it is only more watchful than it need be."""
        if self.failed is not None or self._fenced:
            return
        with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            connection = await self._shared.pool.acquire(timeout=_RELEASE_TIMEOUT)
            try:
                await store.release_claim(cast(asyncpg.Connection, connection), self.claim)
            finally:
                await self._shared.pool.release(connection, timeout=_RELEASE_TIMEOUT)

    async def _loop(self) -> None:
        try:
            await self._held(self._flush)
            while not self._stopping.is_set():
                if asyncio.get_running_loop().time() >= self._look_at and not self._trips:
                    await self._held(self._look)
                elif self._records:
                    await self._settle_next()
                else:
                    await self._rest()
        except Fenced:
            _LOG.warning(
                "Another worker owns this partition; its work is dropped here.",
                action="fenced",
                partition=self.claim.partition,
                epoch=self.claim.epoch,
            )
            self._fenced = True
            self._shared.metrics.fenced.inc()
            self._on_fenced()
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self.failed = error
            raise

    async def _rest(self) -> None:
        """Until records arrive, or it is time to look at what is parked."""
        self._arrived.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout_at(self._look_at):
                await self._arrived.wait()

    async def _look(self, db: asyncpg.Connection) -> None:
        """Drain the parked keys that are due, send what dead letters are left, and note when to look again.

        The other keys of the partition wait meanwhile, so nothing is asked for that the last answer has told.
        """
        now = asyncio.get_running_loop().time
        parked = await self._parked(db)
        drained = False
        for order_key, seconds in parked:
            if seconds > 0 or self._stopping.is_set():
                break
            drained = True
            if (await self._drain_key(db, order_key)).tripped:
                self._trip()
                break
        if now() >= self._flush_at:
            await self._flush(db)
        left = await self._parked(db) if drained else parked
        self._shared.metrics.parked_keys.labels(self._label).set(len(left))
        wait = min(_IDLE, max(0.0, left[0][1])) if left else _IDLE
        self._look_at = now() + wait

    async def _parked(self, db: asyncpg.Connection) -> list[tuple[str, float]]:
        """Keys that wait here, the most overdue first, and the seconds until each is due."""
        return await store.due_keys(db, self.claim.topic, self.claim.partition, _DUE_KEYS)

    async def _drain_key(self, db: asyncpg.Connection, order_key: str) -> Drained:
        began = time.monotonic()
        async with AsyncExitStack() as marked:
            beware = partial(self._beware, marked=marked) if self._watchful else None
            drained = await self._shared.drainer.drain(
                db, self.claim, self.progress.durable, order_key, self._breaker, beware
            )
        self._breaker = drained.breaker
        if drained.outcomes:  # dead letters of these, or what they emitted
            self._flush_at = 0.0
        self._shared.observer.drained(drained, time.monotonic() - began)
        return drained

    async def _settle_next(self) -> None:
        """Settle one batch: rows, then dead letters, then progress; then wait, if its end asked for that."""
        result = await self._with_others() or await self._alone()
        if result is None:
            return
        if (result.unsent or self._emitted) and await self._held(self._flush) is None:
            return
        self._emitted = False
        self._advance(result)
        if result.tripped:
            self._trip()
            await self._wait(self._shared.probes.delay(self._trips, random.random))
        elif result.retry is not None:
            await self._put_off(result.retry_offset, result.retry)

    async def _with_others(self) -> Result | None:
        """Settle a small batch in one transaction with those of other partitions; None: nothing is settled."""
        if len(self._records) >= FEW or self._watchful or self._trips or self._failures or not self._calm.allowed:
            return None
        self._share = Share(self.claim, self._take, self._breaker, self._calm)
        try:
            settled = await self._shared.together.settle(self._share)
        finally:
            self._share = None
        if settled is None:
            return None
        self._emitted = self._emitted or settled.emitted
        return self._noted(settled.items, settled.result, settled.seconds)

    async def _alone(self) -> Result | None:
        """Settle a batch in a transaction of its own; None: told to stop before that worked."""
        taken: list[Item] = []

        async def step(db: asyncpg.Connection) -> Result:
            if not taken:
                # Only now, with a connection: what arrived while it was waited for is in the same batch.
                taken.extend(self._take())
            return await self._process(taken, db)

        return await self._held(step)

    def _trip(self) -> None:
        """Too many died of what a deploy can cause: this partition waits, and goes on by single probes."""
        self._trips += 1
        self._breaker.strict = True
        self._shared.metrics.breaker_open.labels(self._label).set(1)
        self._shared.metrics.paused.labels(self._label).set(1)
        if self._trips == 1:
            self._shared.metrics.alarms.inc()
            _LOG.error(
                "Too many events die in a row; the partition waits and probes. Mend the handler, or the schema.",
                action="breaker_open",
                partition=self.claim.partition,
            )

    def _note_probe(self, result: Result) -> None:
        """A single event ran well: go on as if nothing had been. Events that no handler matches prove little."""
        for _, outcome in result.outcomes:
            if isinstance(outcome, Stored):
                self._probed += 1 if outcome.handled_by is None else _ENOUGH_PROBES
        if self._probed >= _ENOUGH_PROBES:
            self._trips, self._probed = 0, 0
            self._breaker = self._shared.breaker.copy()
            self._shared.metrics.breaker_open.labels(self._label).set(0)
            self._shared.metrics.paused.labels(self._label).set(0)
            _LOG.info("Events run well again.", action="breaker_closed", partition=self.claim.partition)

    async def _held(self, step: Callable[[asyncpg.Connection], Awaitable[T]]) -> T | None:
        """Run one step with a connection, again and again while the database or Kafka cannot take it.

        Returns what the step returned, None when told to stop before it worked. It is tried at least once.
        """
        failures = 0
        while True:
            try:
                done = await self._with_connection(step)
            except (Hold, DeadLettersHeld, EmittedHeld) as error:
                why, alarm = error.why, isinstance(error, Hold) and error.alarm
                await self._renew_if_stale(error.__cause__)
                if isinstance(error, Hold) and error.conflict:
                    self._shared.size.conflict()
            except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as error:
                why, alarm = sqlstate.sqlstate(error) or type(error).__name__, False
                await self._renew_if_stale(error)
                if sqlstate.is_conflict(error):
                    self._shared.size.conflict()
            else:
                if failures:
                    self._shared.metrics.paused.labels(self._label).set(0)
                return done
            if self._stopping.is_set():
                return None
            failures += 1
            self._note_hold(why, alarm, failures)
            await self._unmark()
            await self._wait(self._shared.backoff.delay(failures, random.random))

    async def _renew_if_stale(self, error: BaseException | None) -> None:
        """After a migration the next try gets a connection that knows nothing of the tables as they were."""
        if error is not None and sqlstate.is_stale(error):
            await self._shared.pool.expire_connections()

    async def _with_connection(self, step: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
        async with borrowed(self._shared.pool, self._shared.slots) as connection:
            self._connection = connection
            try:
                return await step(connection)
            finally:
                self._connection = None

    async def _flush(self, db: asyncpg.Connection) -> int:
        sent = await dead_letter.flush(
            db,
            self._shared.sender,
            self._shared.dlq_topic,
            topic=self.claim.topic,
            partition=self.claim.partition,
            timeout=self._shared.produce_timeout,
            dialects=self._shared.dialects,
        )
        self._shared.metrics.dead_letters_sent.inc(sent)
        timeout = self._shared.produce_timeout
        emitted = await publish(db, self._shared.sender, self.claim.topic, self.claim.partition, timeout=timeout)
        self._shared.metrics.emitted.inc(emitted)
        self._flush_at = asyncio.get_running_loop().time() + _IDLE
        return sent

    async def _process(self, taken: list[Item], db: asyncpg.Connection) -> Result:
        began = time.monotonic()
        items = taken[: self._most()]  # fewer than were taken, after a deadlock
        async with AsyncExitStack() as marked:
            if self._watchful:
                items = [await self._beware(db, items[0], marked)]
            with self._shared.observer.batch(items), counted() as emitted:
                result = await self._shared.processor.process(
                    db, self.claim, items, self._failures, self._breaker, self._optimism
                )
        self._emitted = self._emitted or emitted.count > 0
        kinds = Counter([type(outcome) for _, outcome in result.outcomes])
        self._calm.asked(kinds[Dead] + kinds[Parked] + kinds[Retry])
        return self._noted(items, result, time.monotonic() - began)

    def _noted(self, items: Sequence[Item], result: Result, seconds: float) -> Result:
        """Tell what became of a batch."""
        if self._ahead:  # they were told when they ran
            result = replace(result, outcomes=[each for each in result.outcomes if each[0].offset not in self._ahead])
        self._shared.observer.settled(items, result, seconds)
        return result

    async def _beware(self, db: asyncpg.Connection, item: Item, marked: AsyncExitStack) -> Item:
        """Mark an event durably before it runs alone; one that has killed too many workers does not run. `marked`: until it has run."""
        suspected = self._taken.suspect == item.offset
        if suspected and self._taken.deaths >= _DEATHS:
            return structs.replace(item, dead=Dead(Reason.CRASH_SUSPECT, "handle"))
        settled = self._taken.next_offset is not None and item.offset < self._taken.next_offset
        if settled:
            return item  # read again because Kafka's offset was behind; it would only push the mark back
        if item.event is not None and self._shared.processor.registry.find(item.event) is not None:
            runs = self._shared.marked_runs
            await marked.enter_async_context(runs.alone() if suspected else runs.beside_others())
            await store.mark(db, self.claim, item.offset)
            self._marked = True
        return item

    async def _unmark(self) -> None:
        """Before a wait: a worker that is ended meanwhile did not die of this event."""
        if self._marked:
            with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                await self._with_connection(partial(store.unmark, claim=self.claim))
                self._marked = False

    def _most(self) -> int:
        """Records in the next batch at most."""
        return 1 if self._watchful or self._trips else self._shared.size.now

    def _take(self, few: int | None = None) -> list[Item]:
        """The next records, or only so many of them, read; they stay in the buffer until they are settled."""
        taken: list[Item] = []
        total, most = 0, self._most() if few is None else min(few, self._most())
        read, bound = self._shared.read, self._shared.batch_bytes
        for record, size in islice(self._records, most):
            total += size
            if taken and total > bound:
                break
            taken.append(read(record))
        return taken

    def _advance(self, result: Result) -> None:
        records, next_offset = self._records, result.next_offset
        while records and records[0][0].offset < next_offset:
            self.buffered -= records.popleft()[1]
        for offset in [offset for offset in self._failures if offset < next_offset]:
            del self._failures[offset]
        beyond = takewhile(lambda each: each[0].offset >= result.next_offset, reversed(result.outcomes))
        self._ahead = {offset for offset in self._ahead if offset >= result.next_offset}
        self._ahead.update(item.offset for item, _ in beyond)
        self._shared.size.settled(len(result.outcomes))
        self._watchful = max(0, self._watchful - len(result.outcomes))
        self._breaker = result.breaker
        if self._trips:
            self._note_probe(result)
        if result.parked:
            self._look_at = 0.0
        self.progress.done(result.next_offset)
        self._note_oldest()

    async def _put_off(self, offset: int, retry: Retry) -> None:
        """Wait, holding no transaction, before the event at `offset` runs again."""
        failures = self._failures.get(offset, 0) + 1
        self._failures[offset] = failures
        self._shared.metrics.retries.labels(retry.reason.value).inc()
        self._shared.metrics.paused.labels(self._label).set(1)
        await self._unmark()
        # Everybody behind it waits too: what needs longer than that does it parked.
        most = _HELD if retry.after is None else retry.after
        await self._wait(min(most, self._shared.backoff.wait(failures, retry.after, random.random)))
        self._shared.metrics.paused.labels(self._label).set(0)

    async def _wait(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    def _note_hold(self, why: str, alarm: bool, failures: int) -> None:
        metrics = self._shared.metrics
        metrics.holds.inc()
        metrics.paused.labels(self._label).set(1)
        if alarm:
            metrics.alarms.inc()
        if alarm or failures in (1, 10) or failures % 100 == 0:
            _LOG.warning(
                "A partition is held and will be tried again.",
                action="partition_held",
                partition=self.claim.partition,
                why=why,
                failures=failures,
                needs_a_person=alarm,
            )

    def _note_oldest(self) -> None:
        oldest = self._records[0][0].timestamp / 1000 if self._records else 0
        self._shared.metrics.oldest.labels(self._label).set(oldest)
