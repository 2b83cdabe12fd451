"""One assigned partition: a bounded buffer of records, and the loop that settles them in log order.

The loop never skips: a batch is settled (in Postgres, and its dead letters acknowledged) before `Progress` moves. What
holds it (a retry, the database, the dead-letter topic) holds this partition only. `drain` ends it: the batch in flight
is finished or, past the deadline, its connection is cut, which rolls it back.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeVar, cast

import asyncpg

from infra.runtime import log
from stream_worker import dead_letter, sqlstate
from stream_worker.backoff import Backoff
from stream_worker.batch import Fenced, Processor, Result
from stream_worker.batch_size import BatchSize
from stream_worker.dead_letter import DeadLettersHeld, Sender
from stream_worker.metrics import Metrics
from stream_worker.observe import Observer
from stream_worker.outcomes import Retry
from stream_worker.progress import Progress
from stream_worker.records import Item, KafkaRecord
from stream_worker.run import Hold
from stream_worker.store import Claim

_LOG = log.get(__name__)
_ACQUIRE_TIMEOUT = 10.0
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Shared:
    """What all partitions of a worker share.

    pool, slots: connections, and the places that bound how many batches run side by side, first come first served.
    read: turns a Kafka record into an Item. backoff: for holds and retries. size: of all partitions' batches.
    """

    pool: asyncpg.Pool
    slots: asyncio.Semaphore
    processor: Processor
    sender: Sender
    read: Callable[[KafkaRecord], Item]
    observer: Observer
    metrics: Metrics
    backoff: Backoff
    dlq_topic: str
    size: BatchSize
    batch_bytes: int
    produce_timeout: float


class Partition:
    """One partition under one claim.

    Args:
        claim: our ownership. start: the offset its records begin at.
        on_fenced: called once when the claim turns out to be lost.
    """

    def __init__(self, shared: Shared, claim: Claim, start: int, on_fenced: Callable[[], None]) -> None:
        self.claim = claim
        self.progress = Progress(start)
        self.buffered = 0
        self.failed: BaseException | None = None
        self._shared = shared
        self._on_fenced = on_fenced
        self._records: deque[tuple[KafkaRecord, int]] = deque()
        self._arrived = asyncio.Event()
        self._stopping = asyncio.Event()
        self._failures: dict[int, int] = {}
        self._connection: asyncpg.Connection | None = None
        self._label = str(claim.partition)
        self._task = asyncio.create_task(self._loop(), name=f"partition-{claim.partition}")

    def feed(self, records: Sequence[KafkaRecord]) -> None:
        """Take fetched records into the buffer; the caller bounds it by pausing."""
        for record in records:
            if self.progress.receive(record.offset):
                size = _size(record)
                self._records.append((record, size))
                self.buffered += size
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
        if not self._task.done():
            # Cutting the connection ends the transaction on the server at once; a cancelled query might not.
            if self._connection is not None:
                self._connection.terminate()
            self._task.cancel()
            await asyncio.wait([self._task], timeout=1.0)
        self._shared.metrics.forget(self.claim.partition)

    async def _loop(self) -> None:
        try:
            await self._held(self._flush)
            while not self._stopping.is_set():
                if self._records:
                    await self._settle_next()
                else:
                    self._arrived.clear()
                    await self._arrived.wait()
        except Fenced:
            _LOG.warning(
                "Another worker owns this partition; its work is dropped here.",
                action="fenced",
                partition=self.claim.partition,
                epoch=self.claim.epoch,
            )
            self._shared.metrics.fenced.inc()
            self._on_fenced()
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self.failed = error
            raise

    async def _settle_next(self) -> None:
        """Settle one batch: rows, then dead letters, then progress; then wait, if its end asked for that."""
        items = self._take()
        result = await self._held(partial(self._process, items))
        if result is None:
            return
        if result.unsent and await self._held(self._flush) is None:
            return
        self._advance(result)
        if result.retry is not None:
            await self._put_off(result.next_offset, result.retry)

    async def _held(self, step: Callable[[asyncpg.Connection], Awaitable[T]]) -> T | None:
        """Run one step with a connection, again and again while the database or Kafka cannot take it.

        Returns what the step returned, None when told to stop before it worked. It is tried at least once.
        """
        failures = 0
        while True:
            try:
                done = await self._with_connection(step)
            except (Hold, DeadLettersHeld) as error:
                why, alarm = error.why, isinstance(error, Hold) and error.alarm
                if isinstance(error, Hold) and error.conflict:
                    self._shared.size.conflict()
            except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as error:
                why, alarm = sqlstate.sqlstate(error) or type(error).__name__, False
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
            await self._wait(self._shared.backoff.delay(failures, random.random))

    async def _with_connection(self, step: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
        async with self._shared.slots:
            acquired = await self._shared.pool.acquire(timeout=_ACQUIRE_TIMEOUT)
            connection = cast(asyncpg.Connection, acquired)
            self._connection = connection
            try:
                return await step(connection)
            finally:
                self._connection = None
                # `release` is shielded and resets the session; a broken connection is dropped by the pool.
                with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                    await self._shared.pool.release(acquired, timeout=_ACQUIRE_TIMEOUT)

    async def _flush(self, db: asyncpg.Connection) -> int:
        sent = await dead_letter.flush(
            db,
            self._shared.sender,
            self._shared.dlq_topic,
            topic=self.claim.topic,
            partition=self.claim.partition,
            timeout=self._shared.produce_timeout,
        )
        self._shared.metrics.dead_letters_sent.inc(sent)
        return sent

    async def _process(self, taken: list[Item], db: asyncpg.Connection) -> Result:
        began = time.monotonic()
        items = taken[: self._shared.size.now]  # fewer than were taken, after a deadlock
        with self._shared.observer.batch(items):
            result = await self._shared.processor.process(db, self.claim, items, self._failures)
        self._shared.observer.settled(items, result, time.monotonic() - began)
        return result

    def _take(self) -> list[Item]:
        """The next records, read; they stay in the buffer until they are settled."""
        taken: list[Item] = []
        total = 0
        for record, size in self._records:
            total += size
            if taken and (len(taken) >= self._shared.size.now or total > self._shared.batch_bytes):
                break
            taken.append(self._shared.read(record))
        return taken

    def _advance(self, result: Result) -> None:
        records = self._records
        while records and records[0][0].offset < result.next_offset:
            record, size = records.popleft()
            self.buffered -= size
            self._failures.pop(record.offset, None)
        self._shared.size.settled(len(result.outcomes))
        self.progress.done(result.next_offset)
        self._note_oldest()

    async def _put_off(self, offset: int, retry: Retry) -> None:
        """Wait, holding no transaction, before the event at `offset` runs again."""
        failures = self._failures.get(offset, 0) + 1
        self._failures[offset] = failures
        self._shared.metrics.retries.labels(retry.reason.value).inc()
        self._shared.metrics.paused.labels(self._label).set(1)
        delay = retry.after if retry.after is not None else self._shared.backoff.delay(failures, random.random)
        await self._wait(min(delay, self._shared.backoff.ceiling))
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


def _size(record: KafkaRecord) -> int:
    return len(record.value or b"") + len(record.key or b"") + 64
