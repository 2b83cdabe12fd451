"""Reads a stretch of a topic as it is: no group, no commits, from given offsets to given ends, and never further.

The ends are taken before the reading begins, so that a topic which grows meanwhile is not read for ever. A broker that
falls silent ends the reading with an error.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from infra.cli.connect import reaching_kafka
from infra.cli.output import UNREACHABLE, Failure, Problem
from infra.runtime.kafka import connection
from infra.runtime.settings import RuntimeSettings

_START_SECONDS = 15.0
_REQUEST_SECONDS = 10.0
_SILENCE_SECONDS = 20.0
_CLOSE_SECONDS = 5.0
_POLL_MS = 500
_RECORDS = 500

Offsets = Mapping[int, int]
"""Offset by partition."""


class Reader:
    """A reader of one topic; `open_reader` makes it. What goes wrong on the way to the broker is a Failure."""

    def __init__(self, settings: RuntimeSettings, consumer: AIOKafkaConsumer, topic: str) -> None:
        self._settings = settings
        self._consumer = consumer
        self._partitions = sorted(tp.partition for tp in consumer.assignment())
        self._topic = topic

    async def beginnings(self) -> dict[int, int]:
        """The first offset that is still there, of every partition."""
        with reaching_kafka(self._settings):
            async with asyncio.timeout(_REQUEST_SECONDS):
                return _by_partition(await self._consumer.beginning_offsets(self._all))

    async def ends(self) -> dict[int, int]:
        """The offset after the last record that is there now, of every partition."""
        with reaching_kafka(self._settings):
            async with asyncio.timeout(_REQUEST_SECONDS):
                return _by_partition(await self._consumer.end_offsets(self._all))

    async def read(self, starts: Offsets, ends: Offsets) -> AsyncIterator[list[Any]]:
        """The records of these partitions from `starts` up to `ends`, some hundred at a time, in order within each.

        Raises:
            Failure: the broker fell silent, or a record cannot be decoded.
        """
        open_ends = {TopicPartition(self._topic, p): end for p, end in ends.items() if starts.get(p, 0) < end}
        if not open_ends:
            return  # assigning nothing would make the client forget the topic
        self._consumer.unsubscribe()
        self._consumer.assign(list(open_ends))
        for partition in open_ends:
            self._consumer.seek(partition, starts.get(partition.partition, 0))
        clock = asyncio.get_running_loop().time
        heard = clock()
        while open_ends:
            records = await self._poll()
            if records:
                heard = clock()
            elif clock() - heard > _SILENCE_SECONDS:
                raise Failure(f"Topic {self._topic} could not be read to its end.", code=UNREACHABLE)
            wanted = [record for tp, batch in records.items() for record in batch if record.offset < ends[tp.partition]]
            if wanted:
                yield wanted
            open_ends = await self._not_done(open_ends)

    async def _poll(self) -> dict[TopicPartition, list[Any]]:
        try:
            with reaching_kafka(self._settings):
                polled: dict[TopicPartition, list[Any]] = await self._consumer.getmany(
                    timeout_ms=_POLL_MS, max_records=_RECORDS
                )
        except UnicodeDecodeError:
            raise Failure(
                f"Topic {self._topic} holds a record with a header name that is not UTF-8.",
                cause="no client for Python can read past it",
                advice="plutus dlq replay --from table",
            ) from None
        return polled

    async def _not_done(self, ends: dict[TopicPartition, int]) -> dict[TopicPartition, int]:
        with reaching_kafka(self._settings):
            async with asyncio.timeout(_REQUEST_SECONDS):
                return {tp: end for tp, end in ends.items() if await self._consumer.position(tp) < end}

    @property
    def _all(self) -> list[TopicPartition]:
        return [TopicPartition(self._topic, number) for number in self._partitions]


@asynccontextmanager
async def open_reader(settings: RuntimeSettings, topic: str) -> AsyncIterator[Reader]:
    """A reader of a topic.

    Raises:
        Failure: no broker, or the topic does not exist.
    """
    consumer = AIOKafkaConsumer(
        topic,
        **connection(settings, "plutus-cli"),
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
    )
    try:
        with reaching_kafka(settings):
            async with asyncio.timeout(_START_SECONDS):
                await consumer.start()
        if not consumer.assignment():
            raise Failure(
                f"Topic {topic} does not exist.", advice="plutus topics create", problem=Problem.TOPIC_MISSING
            )
        yield Reader(settings, consumer, topic)
    finally:
        with suppress(TimeoutError, KafkaError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await consumer.stop()


def _by_partition(offsets: Mapping[TopicPartition, int]) -> dict[int, int]:
    return {tp.partition: offset for tp, offset in offsets.items()}
