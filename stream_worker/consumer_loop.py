"""The only module that touches the Kafka consumer: it polls, feeds partitions, claims them, and commits their offsets.

What aiokafka does and this module answers for:
- it revokes all partitions at every rebalance, awaits the listener beside the poll, and swallows its exceptions: the
  listener only calls `drain` and one commit, and shares no lock with the poll
- `commit` without offsets commits what was returned, not what was processed, and has no deadline: always a dict, always
  a deadline, one commit in flight
- a member that was evicted can commit once more unfenced: the fence is the claim in Postgres, taken only after a
  heartbeat of ours has succeeded since the assignment (interleaving 17)
- its fetch and coordination tasks can die unseen: both are watched, and their death ends the process
- what it has fetched of a partition that is paused it throws away, and fetches again: a partition without room is not paused but left
  out of what is asked for, and its next records, a fetch at most, wait in the client
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any, cast

import asyncpg
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, OffsetAndMetadata, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError

from infra.runtime import log
from stream_worker import lenient, store
from stream_worker.partition import Partition, Shared
from stream_worker.store import Taken

_LOG = log.get(__name__)
_POLL = 0.25
_POLL_FULL = 0.05
"""Seconds of one poll; and while some partition has no room, after which it may have."""
_NOWHERE = -1
"""A partition that no topic has."""
_COMMIT_EVERY = 0.2
_COMMIT_TIMEOUT = 10.0
_CLAIM_RETRY = 0.5
_FETCH_RECORDS = 5_000


class ConsumerDied(Exception):
    """A background task of the Kafka client ended: nothing is lost, the process must start anew."""


class ConsumerLoop(ConsumerRebalanceListener):  # type: ignore[misc]
    """Runs one consumer until told to stop.

    Args:
        consumer: not started; manual commits, earliest reset, read_committed.
        buffer_bytes: fetched and unprocessed bytes over all partitions, beyond which no more are asked for.
        drain_timeout: seconds for what is in flight when partitions are revoked or the worker stops.
        watchdog: seconds without a record, while records wait, after which the client counts as stuck.
    """

    def __init__(
        self,
        consumer: AIOKafkaConsumer,
        shared: Shared,
        *,
        topic: str,
        group: str,
        buffer_bytes: int,
        drain_timeout: float,
        watchdog: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._consumer = consumer
        self._shared = shared
        self._topic = topic
        self._group = group
        self._buffer_bytes = buffer_bytes
        self._drain_timeout = drain_timeout
        self._clock = clock
        self._partitions: dict[int, Partition] = {}
        self._claims: dict[int, asyncio.Task[None]] = {}
        self._committing: asyncio.Task[None] | None = None
        self._last_commit = 0.0
        self._watchdog = watchdog
        self._last_record = clock()
        self._last_member = clock()
        self._last_asked = clock()
        self._asking: asyncio.Task[None] | None = None
        self.last_tick = clock()
        self.joined = False

    async def run(self, stop: asyncio.Event) -> None:
        """Poll until `stop` is set, then drain, commit and leave the group.

        Raises:
            ConsumerDied, or whatever ended a partition's loop unasked.
        """
        self._consumer.subscribe([self._topic], listener=self)
        stopped = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                await self._poll(stopped)
                self._check()
                self._commit_soon()
                self._note()
        finally:
            stopped.cancel()
            await self._finish()

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        """Called by aiokafka before it rejoins: after this, nothing of ours may be written."""
        await self._drain({tp.partition for tp in revoked})
        self.joined = False

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """Called by aiokafka after it joined: the partitions stay paused until they are claimed."""
        self.joined = True
        self._shared.metrics.rebalances.inc()
        _LOG.info("Partitions are assigned.", action="assigned", partitions=sorted(tp.partition for tp in assigned))
        for tp in assigned:
            self._consumer.pause(tp)
            self._start_claim(tp.partition)

    def _start_claim(self, partition: int) -> None:
        self._claims[partition] = asyncio.create_task(self._claim(partition), name=f"claim-{partition}")

    async def _claim(self, partition: int) -> None:
        """Heartbeat, claim, seek, start; again until it works or the partition is taken away."""
        tp = TopicPartition(self._topic, partition)
        while True:
            try:
                if await self._heartbeat():
                    taken, start = await self._take(tp)
                    self._consumer.seek(tp, start)
                    self._partitions[partition] = Partition(
                        self._shared, taken, start, on_fenced=lambda: self._lost(partition)
                    )
                    self._consumer.resume(tp)
                    del self._claims[partition]
                    return
            except IllegalStateError:
                return  # revoked meanwhile
            except (asyncpg.PostgresError, asyncpg.InterfaceError, KafkaError, OSError, TimeoutError) as error:
                self._shared.metrics.holds.inc()
                _LOG.warning(
                    "A partition could not be claimed yet.",
                    action="claim_failed",
                    partition=partition,
                    why=type(error).__name__,
                )
            await asyncio.sleep(_CLAIM_RETRY)

    async def _heartbeat(self) -> bool:
        """True when the coordinator knows us as a member of the current generation, asked just now.

        aiokafka has no public call for it; the version is pinned and a test holds this one.
        """
        async with asyncio.timeout(_COMMIT_TIMEOUT):
            return bool(await self._consumer._coordinator._do_heartbeat())

    async def _take(self, tp: TopicPartition) -> tuple[Taken, int]:
        """The claim, and the offset to start at: the smaller of what Kafka and Postgres know (interleaving 10).

        Without a committed offset the log's beginning is taken, which at worst reads duplicates.
        """
        async with asyncio.timeout(_COMMIT_TIMEOUT):
            committed = await self._consumer.committed(tp)
            beginning = (await self._consumer.beginning_offsets([tp]))[tp]
        # Outside the time-out: asyncpg's acquire and commands have their own, and cancelling them can leak a session.
        async with self._shared.pool.acquire(timeout=_COMMIT_TIMEOUT) as connection:
            taken = await store.take_claim(cast(asyncpg.Connection, connection), self._group, tp.topic, tp.partition)
        known = taken.next_offset
        offsets = [offset for offset in (committed, known) if offset is not None]
        start = min(offsets) if committed is not None else beginning
        if known is not None and known != committed:
            self._shared.metrics.offset_differences.inc()
            _LOG.info(
                "Kafka and Postgres name different offsets; the smaller one is taken.",
                action="offsets_differ",
                partition=tp.partition,
                kafka=committed,
                postgres=known,
            )
        self._report_gap(tp, start, beginning)
        return taken, max(start, beginning)

    def _report_gap(self, tp: TopicPartition, start: int, beginning: int) -> None:
        """Retention has passed what was not processed yet: the loss is counted and told, never silent."""
        if start < beginning:
            self._shared.metrics.lost_records.inc(beginning - start)
            _LOG.error(
                "Kafka has deleted records before they were processed.",
                action="records_lost",
                partition=tp.partition,
                first_offset=start,
                next_offset=beginning,
            )

    def _lost(self, partition: int) -> None:
        """A claim was lost: if the coordinator still knows us as the owner, claim again; else the rebalance comes."""
        self._partitions.pop(partition, None)
        tp = TopicPartition(self._topic, partition)
        if tp in self._consumer.assignment():
            self._consumer.pause(tp)
            self._start_claim(partition)

    async def _poll(self, stopped: asyncio.Task[Any]) -> None:
        """One getmany, also where there is nothing to ask for: who does not poll is put out of the group. It may ignore its time-out
        during a rebalance, so the stop races it; records win."""
        room = [number for number, partition in self._partitions.items() if self._has_room(partition)]
        asked = [TopicPartition(self._topic, number) for number in room or (_NOWHERE,)]
        seconds = _POLL if len(room) == len(self._partitions) else _POLL_FULL
        fetch = asyncio.create_task(
            self._consumer.getmany(*asked, timeout_ms=round(seconds * 1000), max_records=_FETCH_RECORDS)
        )
        await asyncio.wait([fetch, stopped], return_when=asyncio.FIRST_COMPLETED)
        if not fetch.done():
            fetch.cancel()
            with suppress(asyncio.CancelledError):
                await fetch
            return
        try:
            fetched = fetch.result()
        except Exception as error:
            self._read_leniently(error)
            return
        for tp, records in fetched.items():
            partition = self._partitions.get(tp.partition)
            if partition is not None:
                partition.feed(records)
                self._last_record = self._clock()
        self.last_tick = self._clock()
        self._shared.metrics.loop_tick.set_to_current_time()

    def _read_leniently(self, error: Exception) -> None:
        """A record that the client cannot decode: the first time ask it to keep its bytes, the second time read them.

        Records that it had in hand, of any partition, are dropped by it: every partition goes back to where it stands.

        Raises:
            the error: where no such record is to blame.
        """
        stopped = {tp: lenient.read(tp, fetched) for tp, fetched in lenient.dead(self._consumer)}
        if not stopped:
            raise error
        _LOG.error(
            "A record cannot be decoded; its batch is read another way.",
            action="undecodable_record",
            partitions=sorted(tp.partition for tp in stopped),
            why=type(error).__name__,
        )
        lenient.keep_bytes(None in stopped.values())
        for tp, records in stopped.items():
            partition = self._partitions.get(tp.partition)
            if partition is not None and records is not None:
                partition.feed(records)
        for number, partition in self._partitions.items():
            self._consumer.seek(TopicPartition(self._topic, number), partition.progress.position)
        self._consumer._subscription._fetch_count = 0  # it leaks one for each exception, and idle time reads 0 for ever

    def _check(self) -> None:
        """Crash rather than skip: an end that nobody asked for ends the process."""
        for partition in self._partitions.values():
            if partition.failed is not None:
                raise partition.failed
        for claim in self._claims.values():
            if claim.done() and not claim.cancelled():
                claim.result()
        fetcher, coordinator = self._consumer._fetcher, self._consumer._coordinator
        for task in (fetcher._fetch_task, getattr(coordinator, "_coordination_task", None)):
            if task is not None and task.done():
                raise ConsumerDied("a background task of the Kafka consumer ended; the worker starts anew")
        if self._committing is not None and self._committing.done():
            self._committing.result()
        if not self._waiting():
            self._last_record = self._clock()
        elif self._clock() - self._last_record > self._watchdog:
            raise ConsumerDied("records wait and none is fetched; the worker starts anew")
        self._check_membership()

    def _check_membership(self) -> None:
        """Who has no partition must at least be a member of the group. A client that was put out of it while it had none may
        never notice (aiokafka issue 1187): asking makes it join again; where that does not help, the worker ends."""
        now, member = self._clock(), self._consumer._coordinator.generation >= 0
        if self._partitions or self._claims or member:
            self._last_member = now
        elif now - self._last_member > self._watchdog:
            raise ConsumerDied("the worker is no member of its group and does not join; it starts anew")
        if self._partitions or self._claims or not member:
            self._last_asked = now
        elif now - self._last_asked > self._watchdog / 4 and (self._asking is None or self._asking.done()):
            self._last_asked = now
            self._asking = asyncio.create_task(self._ask(), name="membership")

    async def _ask(self) -> None:
        with suppress(KafkaError, TimeoutError, OSError):  # Kafka is away: that is not this client's fault
            await self._heartbeat()

    def _waiting(self) -> bool:
        """Records wait for a partition that has room, going by what the last fetch said of its end."""
        for number, partition in self._partitions.items():
            end = self._consumer.highwater(TopicPartition(self._topic, number))
            if end is not None and self._has_room(partition) and end > partition.progress.position:
                return True
        return False

    def _has_room(self, partition: Partition) -> bool:
        """Every partition has its fair part of the bound."""
        return partition.buffered <= self._buffer_bytes // len(self._partitions)

    def _commit_soon(self) -> None:
        if self._committing is not None and not self._committing.done():
            return
        if self._clock() - self._last_commit >= _COMMIT_EVERY and any(
            p.progress.to_commit() is not None for p in self._partitions.values()
        ):
            self._last_commit = self._clock()
            self._committing = asyncio.create_task(self._commit(dict(self._partitions)), name="commit")

    async def _commit(self, partitions: dict[int, Partition]) -> None:
        """Commit processed + 1 of these partitions. A failure is counted: Postgres knows the offset too."""
        offsets = {n: offset for n, p in partitions.items() if (offset := p.progress.to_commit()) is not None}
        if not offsets:
            return
        began = self._clock()
        try:
            async with asyncio.timeout(_COMMIT_TIMEOUT):
                await self._consumer.commit(
                    {TopicPartition(self._topic, n): OffsetAndMetadata(offset, "") for n, offset in offsets.items()}
                )
        except (CommitFailedError, IllegalStateError, KafkaError, TimeoutError) as error:
            self._shared.metrics.commit_failures.inc()
            _LOG.warning("Offsets could not be committed.", action="commit_failed", why=type(error).__name__)
            return
        for number, offset in offsets.items():
            partitions[number].progress.committed(offset)
        self._shared.metrics.commit_seconds.observe(self._clock() - began)

    async def _drain(self, numbers: Collection[int]) -> None:
        """The one way in which work on partitions ends, at a rebalance and at a stop alike: one deadline for all of it."""
        deadline = asyncio.get_running_loop().time() + self._drain_timeout
        for number in numbers:
            claim = self._claims.pop(number, None)
            if claim is not None:
                claim.cancel()
                await asyncio.gather(claim, return_exceptions=True)
        leaving = {n: p for n in numbers if (p := self._partitions.pop(n, None)) is not None}
        if not leaving:
            return
        await asyncio.gather(*(partition.drain(deadline) for partition in leaving.values()))
        if self._committing is not None:
            await asyncio.gather(self._committing, return_exceptions=True)
            self._committing = None
        await self._commit(leaving)
        _LOG.info("Partitions are drained.", action="drained", partitions=sorted(leaving))

    async def _finish(self) -> None:
        await self._drain(set(self._partitions) | set(self._claims))
        if self._asking is not None:
            self._asking.cancel()
        try:
            async with asyncio.timeout(_COMMIT_TIMEOUT):
                await self._consumer.stop()
        except (TimeoutError, KafkaError, OSError) as error:
            _LOG.warning(
                "The Kafka consumer did not stop in time.", action="consumer_stop_failed", why=type(error).__name__
            )

    def _note(self) -> None:
        metrics = self._shared.metrics
        metrics.assigned.set(len(self._partitions))
        metrics.buffered_bytes.set(sum(p.buffered for p in self._partitions.values()))
        for number, partition in self._partitions.items():
            end = self._consumer.highwater(TopicPartition(self._topic, number))
            if end is not None:
                metrics.lag.labels(str(number)).set(max(0, end - (partition.progress.durable)))
