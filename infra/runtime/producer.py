"""The one Kafka producer: idempotent, acks=all, a deadline on every wait, replaced when it is poisoned.

`publish` answers for each record with a value, never an exception:

    Receipt       the broker acknowledged it; topic, partition, offset and append time are known
    NotAccepted   nothing was enqueued: it is certain that the record is not in Kafka
    Unknown       it was enqueued and not acknowledged in time, or its batch failed: it may be in Kafka

aiokafka does not unsend a record whose wait was cancelled, so after the enqueueing nothing is ever "not accepted".
A batch that fails has spent its sequence number, and every later send to that partition would fail with
OutOfOrderSequenceNumber until the object is replaced (same symptom as aiokafka #1017): so a failed batch, a dead sender
task or a long silence swaps the producer. The old one is drained or failed under a deadline first, which keeps the order.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.partitioner import murmur2
from aiokafka.structs import TopicPartition

from infra.runtime import log, raw_producer
from infra.runtime.kafka import connection
from infra.runtime.settings import RuntimeSettings

Headers = Sequence[tuple[str, bytes | None]]

_LOG = log.get(__name__)
_BATCH_BYTES: Final = 512 * 1024
_BATCH_OVERHEAD: Final = 1024
"""Left free of a topic's largest message for the batch around a record."""
_RECORD_OVERHEAD: Final = 32
"""Most bytes of a record beside its key, value and headers: lengths, offset and time."""
_HEADER_OVERHEAD: Final = 10
_SILENCE: Final = 30.0
_DRAIN: Final = 5.0


class Record(msgspec.Struct, frozen=True, gc=False):
    """What to publish. `partition` None: murmur2 of the key, as Java's default partitioner does."""

    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    partition: int | None = None


class Receipt(msgspec.Struct, frozen=True, gc=False):
    """Acknowledged by all in-sync replicas. `timestamp` is the broker's append time, in milliseconds."""

    topic: str
    partition: int
    offset: int
    timestamp: int


@dataclass(frozen=True, slots=True)
class NotAccepted:
    """Certainly not in Kafka. `why` is a fixed word for logs and metrics."""

    why: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """Possibly in Kafka. `why` is a fixed word for logs and metrics."""

    why: str


Result = Receipt | NotAccepted | Unknown


@dataclass(slots=True)
class _Group:
    """What of one call goes to one partition: positions of its records, and their bytes in a batch at most."""

    positions: list[int] = field(default_factory=list)
    size: int = 0


class _Flight(NamedTuple):
    """A batch on its way: the positions of its records, and aiokafka's future of its ack."""

    positions: list[int]
    future: asyncio.Future[Any]


class _Work(NamedTuple):
    """One call of `publish`; `results` is filled in as answers come."""

    topic: str
    records: Sequence[Record]
    results: list[Result]
    deadline: float


class Producer:
    """One producer of this process; safe for concurrent use from one event loop.

    Args:
        settings: where the brokers are and how large a record may be.
        client_id: shown in the brokers' logs and metrics.
        on_swap: called with a fixed word each time the producer is replaced.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        settings: RuntimeSettings,
        client_id: str,
        *,
        on_swap: Callable[[str], None] = lambda why: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._batch_bytes = min(_BATCH_BYTES, settings.kafka_max_message_bytes)
        self._arguments = {
            **connection(settings, client_id),
            "acks": "all",
            "enable_idempotence": True,
            "linger_ms": 0,  # batches are built here; waiting for more would gain nothing
            "max_batch_size": self._batch_bytes,
            "max_request_size": settings.dead_letter_bytes,
        }
        self._attempt_timeout = settings.kafka_request_timeout
        # What a broker refuses has spent its sequence number and poisons its partition: refuse it here before that.
        self._largest = settings.kafka_max_message_bytes - _BATCH_OVERHEAD
        self._largest_of = {settings.kafka_dlq_topic: settings.dead_letter_bytes - _BATCH_OVERHEAD}
        self._on_swap = on_swap
        self._clock = clock
        self._producer: AIOKafkaProducer | None = None
        self._swapping: asyncio.Task[None] | None = None
        self._closing = False
        self._failing_since: float | None = None
        self._gates: dict[TopicPartition, asyncio.Lock] = {}
        self._queued: Counter[TopicPartition] = Counter()

    @property
    def healthy(self) -> bool:
        """True while there is a started producer whose sender task lives and no swap is under way."""
        return self._producer is not None and self._swapping is None and not raw_producer.sender_died(self._producer)

    async def start(self, timeout: float | None = None) -> None:
        """Connect, trying again until it works or `timeout` seconds have passed (None: for ever).

        Raises:
            TimeoutError: no broker answered in time.
        """
        async with asyncio.timeout(timeout):
            self._producer = await raw_producer.connect(self._arguments, self._attempt_timeout)

    async def partitions(self, topic: str, timeout: float) -> int:
        """How many partitions the topic has; 0 when it does not exist or no broker says so in time."""
        if self._producer is None:
            return 0
        try:
            async with asyncio.timeout(timeout):
                return len(await self._producer.partitions_for(topic))
        except (TimeoutError, KafkaError):
            return 0

    async def publish(self, topic: str, records: Sequence[Record], timeout: float) -> list[Result]:
        """Publish, grouped by partition and in the given order within each; answers stand in the order of `records`.

        Args:
            timeout: seconds from now until whatever is not acknowledged is Unknown.
        """
        deadline = asyncio.get_running_loop().time() + timeout
        producer, why = await self._ready(deadline)
        if producer is None:
            return [NotAccepted(why)] * len(records)
        work = _Work(topic, records, [NotAccepted("no_metadata")] * len(records), deadline)
        try:
            groups = await self._group(producer, work)
        except (TimeoutError, KafkaError):
            self._note_failure(producer, "metadata")
            return work.results
        flights = await self._enqueue_all(producer, work, groups)
        await self._await_acks(producer, work, flights)
        return work.results

    async def send(self, topic: str, record: Record, timeout: float) -> Result:
        """Publish one record through aiokafka's `send`, the call that the OpenTelemetry instrumentation traces.

        For what is rare: dead letters, replays. The hot path is `publish`.
        """
        if record.key is None and record.value is None:
            # aiokafka's `send` asserts that there is one of them; a dead letter may have neither.
            return (await self.publish(topic, [record], timeout))[0]
        deadline = asyncio.get_running_loop().time() + timeout
        producer, why = await self._ready(deadline)
        if producer is None:
            return NotAccepted(why)
        try:
            async with asyncio.timeout_at(deadline):
                if size_of(record) > self._largest_of.get(topic, self._largest):
                    return NotAccepted("too_large")
                if record.partition is not None and record.partition not in await producer.partitions_for(topic):
                    return NotAccepted("no_partition")
                future = await producer.send(
                    topic,
                    record.value,
                    key=record.key,
                    partition=record.partition,
                    headers=list(record.headers),
                )
        except (TimeoutError, KafkaError) as error:
            self._note_failure(producer, type(error).__name__)
            return NotAccepted(type(error).__name__)
        await asyncio.wait([future], timeout=max(0.0, deadline - asyncio.get_running_loop().time()))
        return self._acks(producer, topic, future, 1)[0]

    async def stop(self, timeout: float) -> None:
        """Flush and close within `timeout` seconds, or a second more where connections must be torn down; what could not
        be flushed by then is Unknown to its waiters."""
        self._closing = True
        if self._swapping is not None:
            self._swapping.cancel()
            await asyncio.gather(self._swapping, return_exceptions=True)
        if self._producer is not None:
            producer, self._producer = self._producer, None
            await raw_producer.close(producer, timeout)

    async def _ready(self, deadline: float) -> tuple[AIOKafkaProducer | None, str]:
        """The current producer, after waiting for a swap under way; or None and why."""
        if self._producer is not None and self._swapping is None and raw_producer.sender_died(self._producer):
            self._swap(self._producer, "sender_died")
        if self._swapping is not None:
            await asyncio.wait([self._swapping], timeout=max(0.0, deadline - asyncio.get_running_loop().time()))
        if self._closing:
            return None, "closing"
        if self._producer is None or self._swapping is not None:
            return None, "kafka_down"
        return self._producer, ""

    async def _group(self, producer: AIOKafkaProducer, work: _Work) -> dict[int, _Group]:
        """Positions in `work.records` by partition; what can be told to be refused is answered already."""
        async with asyncio.timeout_at(work.deadline):
            partitions = await producer.partitions_for(work.topic)
        largest = self._largest_of.get(work.topic, self._largest)
        groups: dict[int, _Group] = {}
        for position, record in enumerate(work.records):
            size, partition = size_of(record), record.partition
            if partition is None:
                partition = partition_of(record.key, len(partitions))
            if size > largest or partition not in partitions:
                work.results[position] = NotAccepted("too_large" if size > largest else "no_partition")
                continue
            group = groups.get(partition)
            if group is None:
                group = groups[partition] = _Group()
            group.positions.append(position)
            group.size += size
        return groups

    async def _enqueue_all(self, producer: AIOKafkaProducer, work: _Work, groups: dict[int, _Group]) -> list[_Flight]:
        """Enqueue every group, and only then look at acks. Where a partition is free, which it is unless the brokers are
        behind, enqueueing one batch does not wait and needs no task of its own. What may wait has one: were it awaited
        here, a later call could overtake this one in the partitions still to come."""
        flights: list[_Flight] = []
        waiting: list[asyncio.Task[list[_Flight]]] = []
        for partition, group in groups.items():
            where = TopicPartition(work.topic, partition)
            gate = self._gates.setdefault(where, asyncio.Lock())
            enqueue = self._enqueue(producer, work, partition, group.positions, gate)
            busy = self._queued[where] or gate.locked() or raw_producer.is_busy(producer, where)
            if busy or group.size > self._batch_bytes - _BATCH_OVERHEAD:
                # Counted from now on, not from its first step: a later call must not overtake it in between.
                self._queued[where] += 1
                task = asyncio.create_task(enqueue, name="kafka-enqueue")
                task.add_done_callback(functools.partial(self._dequeued, where))
                waiting.append(task)
            else:
                flights += await enqueue
        for late in await asyncio.gather(*waiting) if waiting else ():
            flights += late
        return flights

    def _dequeued(self, where: TopicPartition, _: object) -> None:
        self._queued[where] -= 1

    async def _enqueue(
        self, producer: AIOKafkaProducer, work: _Work, partition: int, positions: list[int], gate: asyncio.Lock
    ) -> list[_Flight]:
        """One partition's records, as few batches as fit. The gate is fair, so calls of `publish` keep their order."""
        flights: list[_Flight] = []
        done = 0
        try:
            async with asyncio.timeout_at(work.deadline), gate:
                while done < len(positions):
                    batch, taken = _fill(producer, work.records, positions, done)
                    future = await producer.send_batch(batch, work.topic, partition=partition)
                    flights.append(_Flight(positions[done : done + taken], future))
                    done += taken
        except (TimeoutError, KafkaError) as error:
            self._note_failure(producer, type(error).__name__)
            for position in positions[done:]:
                work.results[position] = NotAccepted(type(error).__name__)
        return flights

    async def _await_acks(self, producer: AIOKafkaProducer, work: _Work, flights: list[_Flight]) -> None:
        if not flights:
            return
        remaining = max(0.0, work.deadline - asyncio.get_running_loop().time())
        await asyncio.wait([flight.future for flight in flights], timeout=remaining)
        for flight in flights:
            acks = self._acks(producer, work.topic, flight.future, len(flight.positions))
            for position, result in zip(flight.positions, acks, strict=True):
                work.results[position] = result

    def _acks(
        self, producer: AIOKafkaProducer, topic: str, future: asyncio.Future[Any], count: int
    ) -> Sequence[Result]:
        """What a batch's future says now of each of its records."""
        if not future.done():
            # Not cancelled: the record is on its way whatever we do. Its late failure must not go unread either.
            future.add_done_callback(lambda late: late.cancelled() or late.exception())
            self._note_failure(producer, "ack_timeout")
            return [Unknown("ack_timeout")] * count
        error = future.exception()
        if error is not None:
            self._swap(producer, type(error).__name__)
            return [Unknown(type(error).__name__)] * count
        self._failing_since = None
        ack = future.result()
        if ack.offset < 0:
            # The broker has it already and no longer knows where (DUPLICATE_SEQUENCE_NUMBER).
            return [Unknown("no_offset")] * count
        partition, first, timestamp = ack.partition, ack.offset, ack.timestamp
        return [Receipt(topic, partition, offset, timestamp) for offset in range(first, first + count)]

    def _note_failure(self, producer: AIOKafkaProducer, why: str) -> None:
        """aiokafka never re-bootstraps once all brokers it knew have moved; a long silence replaces it."""
        now = self._clock()
        if self._failing_since is None:
            self._failing_since = now
        elif now - self._failing_since > _SILENCE:
            self._failing_since = now
            self._swap(producer, why)

    def _swap(self, producer: AIOKafkaProducer, why: str) -> None:
        if producer is not self._producer or self._swapping is not None or self._closing:
            return
        _LOG.warning("The Kafka producer is being replaced.", action="producer_swap", why=why)
        self._on_swap(why)
        self._swapping = asyncio.create_task(self._replace(producer), name="producer-swap")

    async def _replace(self, old: AIOKafkaProducer) -> None:
        self._producer = None
        try:
            await raw_producer.close(old, _DRAIN)
            self._producer = await raw_producer.connect(self._arguments, self._attempt_timeout)
        finally:
            self._swapping = None


def size_of(record: Record) -> int:
    """Bytes of the record in a batch, at most."""
    headers = record.headers
    more = _size_of_same(headers) if isinstance(headers, tuple) else _size_of(headers)
    return _RECORD_OVERHEAD + len(record.key or b"") + len(record.value or b"") + more


def _size_of(headers: Headers) -> int:
    return sum(
        _HEADER_OVERHEAD + (len(name) if name.isascii() else len(name.encode())) + len(value or b"")
        for name, value in headers
    )


_size_of_same = functools.lru_cache(maxsize=64)(_size_of)
"""For headers that come again: the gateway's records all have the same two."""


def partition_of(key: bytes | None, partitions: int) -> int:
    """The partition of a key among `partitions`, as Java's default partitioner and aiokafka's choose it (murmur2).

    A record without a key goes to a random one.
    """
    if key is None:
        return random.randrange(partitions)  # noqa: S311
    return _hash(key) % partitions


def _fill(producer: AIOKafkaProducer, records: Sequence[Record], positions: list[int], first: int) -> tuple[Any, int]:
    """A closed batch of the records at `positions[first:]`, as many as fit, and how many that are (at least one)."""
    batch = producer.create_batch()
    taken = 0
    shared: Headers = ()
    headers: list[tuple[str, bytes | None]] = []
    for position in itertools.islice(positions, first, None):
        record = records[position]
        if record.headers is not shared:  # most have the same ones, and the client takes a list alone
            shared, headers = record.headers, list(record.headers)
        if batch.append(timestamp=None, key=record.key, value=record.value, headers=headers) is None:
            break
        taken += 1
    batch.close()
    return batch, taken


@functools.lru_cache(maxsize=4096)
def _hash(key: bytes) -> int:
    # aiokafka's murmur2 is plain Python, ten microseconds a key; sources repeat.
    return int(murmur2(key)) & 0x7FFFFFFF
