"""kill -9 of real workers under load, again and again: every example's tables end as if nothing had happened."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from schemas.event import parse_envelope
from tests.conftest import MakeTopics
from tests.example_load import MAKERS, Sent, actual, differences, distinct, expected, fill_shelf, mixed, shelf
from tests.harness import Service, connected, consume, eventually, is_drained, produce, worker_process
from tests.stack import Stack

PARTITIONS = 4
SOURCES = 3
EVENTS = 150
KILLS = 6
DRAIN_SECONDS = 90


async def kill_at_random_moments(
    db: asyncpg.Connection, workers: list[Service], rng: random.Random, events: int
) -> None:
    """Kill one worker each time a random share of the events is stored, at a random moment of the batch then running."""
    for share in sorted(rng.uniform(0.02, 0.9) for _ in range(KILLS)):
        goal = round(share * events)

        async def stored(goal: int = goal) -> bool:
            return int(await db.fetchval("SELECT count(*) FROM events")) >= goal

        await eventually(stored, within=DRAIN_SECONDS, what=f"{goal} events are stored")
        await asyncio.sleep(rng.uniform(0, 0.1))
        victim = rng.choice(workers)
        victim.kill()
        await victim.start(ready=False)


@pytest.mark.timeout(240)
async def test_killed_workers_leave_exact_tables(
    stack: Stack, database: str, make_topics: MakeTopics, tmp_path: Path
) -> None:
    rng = random.Random(20260301)
    topics = await make_topics(PARTITIONS)
    sources = [(kind, f"{kind}-{n}") for kind in MAKERS for n in range(SOURCES)]
    events = [sent for kind, source in sources for sent in MAKERS[kind](rng, source, EVENTS)]
    deliveries: list[Sent] = mixed(rng, events, copies=3)
    on_hand = shelf(source for _, source in sources)
    settings: dict[str, Any] = {"WORKER_HANDLERS": "stream_worker.examples", "WORKER_BATCH_RECORDS": 100}
    async with (
        worker_process(stack, database, topics, tmp_path, **settings) as first,
        worker_process(stack, database, topics, tmp_path, **settings) as second,
        connected(database) as db,
    ):
        await fill_shelf(db, on_hand)
        load = asyncio.create_task(produce(stack, topics.events, [sent.record(rng) for sent in deliveries]))
        await kill_at_random_moments(db, [first, second], rng, len(events))
        await load
        await eventually(
            lambda: is_drained(stack, topics, first.group), within=DRAIN_SECONDS, every=0.3, what="the topic is drained"
        )
        wanted = expected(distinct(deliveries), on_hand)
        assert differences(await actual(db), wanted) == []
        dead = {row[0] for row in wanted["events"] if row[1] == "FAILED"}
        assert await db.fetchval("SELECT count(*) FROM failures WHERE dlq_offset IS NULL") == 0
        assert {row["event_id"] for row in await db.fetch("SELECT event_id FROM failures")} == dead
        assert {parse_envelope(letter.value).id for letter in await consume(stack, topics.dlq)} == dead
