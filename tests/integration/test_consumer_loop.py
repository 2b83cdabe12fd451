"""What watches the Kafka client: its background tasks can die unseen, and it can stop fetching; the worker then ends."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.consumer import fetcher
from aiokafka.protocol.group import LeaveGroupRequest
from pydantic import SecretStr

from infra.runtime import postgres
from infra.runtime.producer import Producer, Record
from infra.runtime.telemetry import Telemetry
from stream_worker import app
from stream_worker.consumer_loop import ConsumerDied, ConsumerLoop
from stream_worker.handlers import Registry
from stream_worker.metrics import Metrics
from stream_worker.observe import Observer
from stream_worker.settings import WorkerSettings
from tests import stack as real
from tests.harness import connected, envelope, eventually, produce
from tests.stack import Stack, Topics


@asynccontextmanager
async def running(
    stack: Stack, database: str, topics: Topics, watchdog: float, *, alone: bool = True
) -> AsyncIterator[tuple[AIOKafkaConsumer, asyncio.Task[None]]]:
    """The loop of a worker in this process, and its consumer: at work, or where it is not alone, joined."""
    settings = WorkerSettings(
        kafka_bootstrap_servers=stack.bootstrap,
        database_url=SecretStr(database),
        kafka_topic=topics.events,
        kafka_dlq_topic=topics.dlq,
        kafka_group=f"test.{topics.events}",
        worker_session_timeout=6,
        worker_handler_timeout=3,
    )
    metrics = Metrics()
    telemetry = Telemetry(settings, "test")
    async with AsyncExitStack() as at_the_end:
        pool = await postgres.pool(settings, name="test", size=4, deadlines=app.deadlines(settings))
        at_the_end.callback(pool.terminate)
        producer = Producer(settings, "test")
        await producer.start()
        at_the_end.push_async_callback(producer.stop, 5.0)
        consumer = app._consumer(settings)
        await consumer.start()
        shared = app._shared(
            settings, Registry(), pool, producer, Observer(metrics, telemetry, settings.kafka_group), metrics
        )
        loop = ConsumerLoop(
            consumer,
            shared,
            topic=topics.events,
            group=settings.kafka_group,
            buffer_bytes=1 << 20,
            drain_timeout=5.0,
            watchdog=watchdog,
        )
        stop = asyncio.Event()
        task = asyncio.create_task(loop.run(stop))
        try:
            if not alone:
                await eventually(lambda: loop.joined, what="it joined")
                yield consumer, task
                return
            await produce(stack, topics.events, [Record(b"s", envelope("s", "first", 1))])
            await eventually(lambda: metrics.success._value.get() == 1, what="the first event took effect")
            yield consumer, task
        finally:
            stop.set()
            await asyncio.wait([task], timeout=15)


def dead_fetcher(consumer: AIOKafkaConsumer) -> None:
    consumer._fetcher._fetch_task.cancel()


def dead_coordinator(consumer: AIOKafkaConsumer) -> None:
    consumer._coordinator._coordination_task.cancel()


@pytest.mark.parametrize("broken", [dead_fetcher, dead_coordinator])
async def test_a_dead_task_of_the_client_ends_the_worker(
    stack: Stack, database: str, topics: Topics, broken: Callable[[AIOKafkaConsumer], None]
) -> None:
    async with running(stack, database, topics, watchdog=60) as (consumer, task):
        broken(consumer)
        await asyncio.wait([task], timeout=20)
        assert task.done()
        assert isinstance(task.exception(), ConsumerDied)


async def test_records_that_wait_and_are_not_fetched_end_the_worker(
    stack: Stack, database: str, topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(stack, database, topics, watchdog=1.0) as (consumer, task):
        real: Callable[..., Awaitable[Any]] = consumer.getmany

        asked_anew = asyncio.Event()

        async def getmany(*partitions: TopicPartition, **asked: Any) -> dict[Any, Any]:
            asked_anew.set()
            fetched = await real(*partitions, **asked)
            for tp, records in fetched.items():
                consumer.seek(tp, records[0].offset)  # as if they had never come
            return {}

        monkeypatch.setattr(consumer, "getmany", getmany)
        await asyncio.wait_for(asked_anew.wait(), 10)
        await produce(stack, topics.events, [Record(b"s", envelope("s", "second", 1))])
        await asyncio.wait([task], timeout=20)
        assert task.done()
        assert isinstance(task.exception(), ConsumerDied)


async def test_what_finds_no_room_is_not_fetched_twice(
    stack: Stack, database: str, topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fifteen times as much as the buffer holds waits; the client throws away what it has of partitions that are paused."""
    fetched: list[tuple[TopicPartition, int]] = []

    class Noted(fetcher.PartitionRecords):  # type: ignore[misc]
        def __init__(self, tp: TopicPartition, records: Any, aborted: Any, fetch_offset: int, *more: Any) -> None:
            fetched.append((tp, fetch_offset))
            super().__init__(tp, records, aborted, fetch_offset, *more)

    monkeypatch.setattr(fetcher, "PartitionRecords", Noted)
    events = [envelope(f"s{n % 50}", f"k{n}", "x" * 1_000) for n in range(12_000)]
    async with running(stack, database, topics, watchdog=60) as (consumer, task), connected(database) as db:
        async with db.transaction():
            await db.execute("LOCK TABLE events")
            await produce(
                stack, topics.events, [Record(f"s{n % 50}".encode(), value) for n, value in enumerate(events)]
            )

            def full() -> bool:
                return len({*consumer._fetcher._records, *consumer.paused()}) == len(consumer.assignment())

            await eventually(full, what="every partition's next records wait in the client")

        async def stored() -> bool:
            return bool(task.done() or await db.fetchval("SELECT count(*) FROM events") == len(events) + 1)

        await eventually(stored, within=60, every=0.1, what="all are stored")
        assert not task.done()
    assert len(fetched) > len({tp for tp, _ in fetched})
    assert [each for each, times in Counter(fetched).items() if times > 1] == []


@asynccontextmanager
async def one_idle(stack: Stack, database: str) -> AsyncIterator[tuple[AIOKafkaConsumer, asyncio.Task[None]]]:
    """Two workers and one partition: the one that has none."""
    topics = await real.make_topics(stack, 1)
    async with (
        running(stack, database, topics, 2.0) as first,
        running(stack, database, topics, 2.0, alone=False) as second,
    ):

        def idle() -> list[tuple[AIOKafkaConsumer, asyncio.Task[None]]]:
            found = [one for one in (first, second) if not one[0].assignment()]
            return found if len(found) == 1 and found[0][0]._coordinator.generation >= 0 else []

        (one,) = await eventually(idle)
        yield one


async def test_who_has_no_partition_and_is_put_out_of_the_group_joins_again(stack: Stack, database: str) -> None:
    async with one_idle(stack, database) as (consumer, task):
        coordinator = consumer._coordinator
        member = coordinator.member_id
        # One that is cancelled before its first step takes aiokafka's coordination with it, which is another story.
        await eventually(lambda: (task := coordinator._heartbeat_task) and task.get_coro().cr_await is not None)
        coordinator._heartbeat_task.cancel()  # it will not hear of it
        left = await coordinator._send_req(LeaveGroupRequest(coordinator.group_id, member))
        assert left.error_code == 0
        await eventually(lambda: coordinator.generation >= 0 and coordinator.member_id not in ("", member))
        assert not task.done()


async def test_who_has_no_partition_and_cannot_join_again_ends(
    stack: Stack, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with one_idle(stack, database) as (consumer, task):
        coordinator = consumer._coordinator

        async def put_out() -> bool:
            coordinator.reset_generation()
            return False

        async def stuck(*_: Any) -> None:
            await asyncio.wait([coordinator._closing])

        monkeypatch.setattr(coordinator, "ensure_active_group", stuck)
        monkeypatch.setattr(coordinator, "_do_heartbeat", put_out)
        await asyncio.wait([task], timeout=20)
        assert task.done()
        assert isinstance(task.exception(), ConsumerDied)
