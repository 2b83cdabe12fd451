"""Each example under duplicates on a real Postgres: every event three times in mixed order, in batches of any size.

What is compared is every table of the example, with a model in plain Python that sees each event once.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator

import asyncpg
import pytest

import stream_worker.examples  # noqa: F401 - registers the handlers
from stream_worker.handlers import REGISTRY
from tests.example_load import MAKERS, Sent, actual, differences, distinct, expected, fill_shelf, mixed, shelf
from tests.worker_kit import Log, processor, settle, take

EVENTS = 120


@pytest.fixture
async def db(database: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to a database with the examples' tables."""
    connection = await asyncpg.connect(database)
    async with connection.transaction():
        for hook in REGISTRY.hooks:
            await hook(connection)
    yield connection
    await connection.close()


async def deliver(db: asyncpg.Connection, deliveries: list[Sent], rng: random.Random) -> None:
    """Settle these deliveries as one partition's log, in batches of random size."""
    log, claim = Log(), await take(db)
    items = [log.append(sent.spelled(rng)) for sent in deliveries]
    while items:
        result = await settle(db, items[: rng.randint(1, 80)], processor(REGISTRY), claim)
        assert result.retry is None
        items = [item for item in items if item.offset >= result.next_offset]


@pytest.mark.parametrize("kind", MAKERS)
async def test_three_deliveries_have_one_effect(db: asyncpg.Connection, kind: str) -> None:
    rng = random.Random(kind)
    sources = [f"{kind}-{n}" for n in range(2)]
    events = [sent for source in sources for sent in MAKERS[kind](rng, source, EVENTS)]
    on_hand = shelf(sources)
    await fill_shelf(db, on_hand)
    deliveries = mixed(rng, events)
    await deliver(db, deliveries, rng)
    assert differences(await actual(db), expected(distinct(deliveries), on_hand)) == []
    # A crash before the offsets are committed: all of it comes again.
    await deliver(db, deliveries, rng)
    assert differences(await actual(db), expected(distinct(deliveries), on_hand)) == []
