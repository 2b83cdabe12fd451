"""kill -9 of real workers under load, again and again: every example's tables end as if nothing had happened."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from schemas.event import parse_envelope
from tests.conftest import MakeTopics
from tests.example_load import MAKERS, Sent, actual, differences, distinct, expected, fill_shelf, mixed, shelf
from tests.harness import Service, connected, consume, eventually, is_drained, produce, worker_process
from tests.stack import Stack

pytestmark = pytest.mark.slow

PARTITIONS = 4
SOURCES = 3
EVENTS = 150
DRAIN_SECONDS = 90


async def kill_at_random_moments(
    db: asyncpg.Connection, workers: list[Service], rng: random.Random, kills: int, events: int
) -> None:
    """Kill one worker each time a random share of the events is stored, at a random moment of the batch then running."""
    for share in sorted(rng.uniform(0.02, 0.9) for _ in range(kills)):
        goal = round(share * events)

        async def stored(goal: int = goal) -> bool:
            return int(await db.fetchval("SELECT count(*) FROM events")) >= goal

        await eventually(stored, within=DRAIN_SECONDS, what=f"{goal} events are stored")
        await asyncio.sleep(rng.uniform(0, 0.1))
        victim = rng.choice(workers)
        victim.kill()
        await victim.start(ready=False)


@pytest.mark.timeout(240)
@pytest.mark.parametrize(("names", "kills"), [((None, None), 2), (("left", "right"), 8)], ids=["anonymous", "named"])
async def test_killed_workers_leave_exact_tables(
    stack: Stack, database: str, make_topics: MakeTopics, tmp_path: Path, names: tuple[str | None, ...], kills: int
) -> None:
    """A worker without a name leaves its partitions to the other one once its session is over; one with a name (static
    membership) has them back as soon as it is up."""
    rng = random.Random(20260301)
    topics = await make_topics(PARTITIONS)
    sources = [(kind, f"{kind}-{n}") for kind in MAKERS for n in range(SOURCES)]
    events = [sent for kind, source in sources for sent in MAKERS[kind](rng, source, EVENTS)]
    deliveries: list[Sent] = mixed(rng, events, copies=3)
    on_hand = shelf(source for _, source in sources)
    async with AsyncExitStack() as running, connected(database) as db:
        workers = []
        for name in names:
            settings: dict[str, Any] = {"WORKER_HANDLERS": "stream_worker.examples", "WORKER_BATCH_RECORDS": 100}
            settings |= {"WORKER_INSTANCE_ID": name} if name else {}
            worker = await running.enter_async_context(worker_process(stack, database, topics, tmp_path, **settings))
            workers.append(worker)
        await fill_shelf(db, on_hand)
        load = asyncio.create_task(produce(stack, topics.events, [sent.record(rng) for sent in deliveries]))
        await kill_at_random_moments(db, workers, rng, kills, len(events))
        await load
        await eventually(
            lambda: is_drained(stack, topics, workers[0].group),
            within=DRAIN_SECONDS,
            every=0.3,
            what="the topic is drained",
        )
        wanted = expected(distinct(deliveries), on_hand)
        assert differences(await actual(db), wanted) == []
        dead = {row[0] for row in wanted["events"] if row[1] == "FAILED"}
        assert await db.fetchval("SELECT count(*) FROM failures WHERE dlq_offset IS NULL") == 0
        assert {row["event_id"] for row in await db.fetch("SELECT event_id FROM failures")} == dead
        assert {parse_envelope(letter.value).id for letter in await consume(stack, topics.dlq)} == dead
