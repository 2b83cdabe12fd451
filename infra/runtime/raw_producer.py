"""One aiokafka producer object: start it, look into it, close it, each under a deadline that aiokafka does not have.

The only module that touches aiokafka's insides on the producing side.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Final

import stamina
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from infra.runtime import log
from infra.runtime.kafka import pace_metadata

_LOG = log.get(__name__)
_TEAR_DOWN: Final = 0.3


async def connect(arguments: dict[str, Any], timeout: float) -> AIOKafkaProducer:
    """A started producer, however long that takes; each try takes at most `timeout` seconds.

    aiokafka's `start` fails at once when no broker answers, and may wait for ever for a producer id.
    """
    async for attempt in stamina.retry_context(
        on=(KafkaError, TimeoutError, OSError), attempts=None, timeout=None, wait_max=5.0
    ):
        with attempt:
            producer = AIOKafkaProducer(**arguments)
            pace_metadata(producer.client)
            try:
                async with asyncio.timeout(timeout):
                    await producer.start()
            except BaseException:
                await _tear_down(producer)
                raise
    return producer


async def close(producer: AIOKafkaProducer, timeout: float) -> None:
    """Flush and close within `timeout` seconds. Past them, or when cancelled, what is pending fails and the connections
    are torn down, which takes a second at most."""
    flushed = False
    try:
        async with asyncio.timeout(timeout):
            await producer.stop()
        flushed = True
    except (TimeoutError, KafkaError, OSError):
        pass
    finally:
        if not flushed:
            await _tear_down(producer)


def sender_died(producer: AIOKafkaProducer) -> bool:
    """Whether the task that sends has ended, after which every send fails."""
    task = producer._sender.sender_task
    return task is not None and task.done()


def is_busy(producer: AIOKafkaProducer, where: TopicPartition) -> bool:
    """Whether a batch waits to be sent there; the next one has to wait for it."""
    return bool(producer._message_accumulator._batches.get(where))


async def _tear_down(producer: AIOKafkaProducer) -> None:
    producer._closed = True
    producer._message_accumulator.fail_all(KafkaError("the producer was closed before the broker answered"))
    for batches in producer._message_accumulator._batches.values():
        for batch in batches:
            batch._drain_waiter.exception()  # else asyncio reports that nobody asked
    with suppress(TimeoutError, KafkaError):
        # It waits for its requests, and they for a broker that may be frozen; past the time-out they are cancelled.
        async with asyncio.timeout(_TEAR_DOWN):
            await producer._sender.close()
    try:
        async with asyncio.timeout(_TEAR_DOWN):
            await producer.client.close()
    except (TimeoutError, KafkaError, OSError):
        _LOG.warning("A Kafka connection could not be closed in time.", action="producer_close_failed")
