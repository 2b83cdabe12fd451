"""Groups of workers: named members restarted in turn, an idle one that takes over, a claim that is lost and taken again."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from infra.runtime.producer import Record
from tests.conftest import MakeTopics
from tests.harness import Service, connected, envelope, eventually, is_drained, produce, worker_process
from tests.stack import Stack, Topics

pytestmark = pytest.mark.slow

HANDLERS = "tests.effect_handlers"
_FEED = 50


def event(n: int) -> Record:
    source = f"s{n % 20}"
    return Record(source.encode(), envelope(source, f"k{n}", {}, type="effect"))


async def owned(worker: Service) -> int:
    """How many partitions a worker has."""
    return int((await worker.metrics()).get("plutus_worker_partitions_assigned", 0))


async def expect_in_order(database: str, count: int) -> None:
    """Each effect once, and those of a source in the order of the log."""
    async with connected(database) as db:
        rows = await db.fetch("SELECT source, substr(note, 2)::int AS number FROM effects ORDER BY n")
    seen: dict[str, list[int]] = {}
    for row in rows:
        seen.setdefault(row["source"], []).append(row["number"])
    assert sorted(number for numbers in seen.values() for number in numbers) == list(range(count))
    assert all(numbers == sorted(numbers) for numbers in seen.values())


class Feed:
    """Events that keep coming until it is told to stop."""

    def __init__(self, stack: Stack, topics: Topics) -> None:
        self.sent = 0
        self._stack, self._topics = stack, topics
        self._stop = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while not self._stop.is_set():
            batch = [event(n) for n in range(self.sent, self.sent + _FEED)]
            await produce(self._stack, self._topics.events, batch)
            self.sent += _FEED

    async def stop(self) -> int:
        """How many were sent."""
        self._stop.set()
        await self._task
        return self.sent


async def test_named_workers_are_restarted_in_turn_and_an_idle_one_takes_over(
    stack: Stack, database: str, make_topics: MakeTopics, tmp_path: Path
) -> None:
    """Three for two partitions. One of them has none until an owner is killed and does not come back."""
    topics = await make_topics(2)
    async with AsyncExitStack() as running:
        workers = []
        for name in ("one", "two", "three"):
            settings: dict[str, Any] = {
                "WORKER_HANDLERS": HANDLERS,
                "WORKER_INSTANCE_ID": name,
                "WORKER_BATCH_RECORDS": 50,
            }
            workers.append(
                await running.enter_async_context(worker_process(stack, database, topics, tmp_path, **settings))
            )
        feed = Feed(stack, topics)
        running.push_async_callback(feed.stop)
        for worker in workers:
            assert await worker.stop() == "exited with code 0"
            await worker.start()

        async def all_owned() -> bool:
            return sorted([await owned(worker) for worker in workers]) == [0, 1, 1]

        await eventually(all_owned, what="two of three own a partition each")
        victim, _ = [worker for worker in workers if await owned(worker) == 1]
        victim.kill()
        left = [worker for worker in workers if worker is not victim]

        async def taken_over() -> bool:
            return [await owned(worker) for worker in left] == [1, 1]

        await eventually(taken_over, within=60, what="the idle worker owns a partition")
        count = await feed.stop()
        await eventually(lambda: is_drained(stack, topics, left[0].group), within=60, every=0.1, what="drained")
    await expect_in_order(database, count)


async def test_17_a_worker_that_lost_its_claim_and_is_still_the_owner_takes_it_again(
    stack: Stack, database: str, make_topics: MakeTopics, tmp_path: Path
) -> None:
    """An evicted worker woke and claimed: its epoch is the newest, Kafka's owner is fenced, and nobody would work."""
    topics = await make_topics(1)
    async with (
        worker_process(stack, database, topics, tmp_path, WORKER_HANDLERS=HANDLERS) as worker,
        connected(database) as db,
    ):
        await produce(stack, topics.events, [event(n) for n in range(10)])
        await eventually(lambda: is_drained(stack, topics, worker.group), within=60, what="drained")
        stolen = await db.fetchval("UPDATE partition_claims SET epoch = epoch + 1 RETURNING epoch")
        await produce(stack, topics.events, [event(n) for n in range(10, 20)])
        await eventually(lambda: is_drained(stack, topics, worker.group), within=60, what="drained")
        assert await db.fetchval("SELECT epoch FROM partition_claims") == stolen + 1
        assert (await worker.metrics())["plutus_worker_fenced_total"] == 1
    await expect_in_order(database, 20)
