"""Parked keys on a real Postgres: order under failure, releases that race with arrivals, limits (interleavings 1 and 13)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import asyncpg
import pytest

from schemas.errors import Reason, Retryable
from schemas.event import Event
from stream_worker import records, store
from stream_worker.batch import Fenced, Processor
from stream_worker.breaker import Breaker
from stream_worker.outcomes import Dead, Duplicate, Outcome, Parked, Retry, Stored
from stream_worker.parking import Drained, Drainer
from stream_worker.store import Claim
from tests.worker_kit import (
    TOPIC,
    Log,
    acknowledge_dead_letters,
    effects,
    envelope,
    make_effects,
    note,
    outcomes,
    processor,
    registry_of,
    rows,
    settle,
    take,
)

Connect = Callable[[], Awaitable[asyncpg.Connection]]
_PATIENCE = 10.0
WAIT = Retry(Reason.HANDLER_ERROR, "Retryable", None)


class Shop:
    """A handler that can be broken and mended: events whose payload is "later" must wait while it is broken."""

    broken = True

    async def handle(self, event: Event, tx: asyncpg.Connection) -> None:
        await note(event, tx)
        if self.broken and event.data == "later":
            raise Retryable

    def processor(self, **limits: Any) -> Processor:
        registry = registry_of(self.handle, source="src")
        registry.handler(source="other")(self.handle)
        return processor(registry, **{"in_place": 0, "attempts": 4, **limits})


@pytest.fixture
async def connect(database: str) -> AsyncIterator[Connect]:
    """Opens sessions on the test's own database."""
    opened: list[asyncpg.Connection] = []

    async def make() -> asyncpg.Connection:
        opened.append(await asyncpg.connect(database, command_timeout=_PATIENCE))
        return opened[-1]

    await make_effects(await make())
    yield make
    for connection in opened:
        connection.terminate()


@pytest.fixture
async def db(connect: Connect) -> asyncpg.Connection:
    """One of them."""
    return await connect()


async def drain(
    db: asyncpg.Connection, using: Processor, claim: Claim | None = None, key: str = "src", max_age: float = 3600.0
) -> Drained:
    """Make the key due, and drain it as its owner."""
    owner = claim or await take(db)
    read = partial(records.read, check=lambda event: None)
    return await Drainer(using, read, max_age, 0.0).drain(db, owner, 99, key, Breaker())


def drained(result: Drained) -> list[Outcome]:
    return [outcome for _, outcome in result.outcomes]


async def test_13_later_events_of_the_key_wait_behind_and_others_flow(db: asyncpg.Connection) -> None:
    """[k: e1 Retryable, x, k: e3]: if only the bad one left, e3 would run first."""
    shop = Shop()
    log = Log()
    batch = [
        log.append(envelope("e1", "later")),
        log.append(envelope("x", source="other")),
        log.append(envelope("e3")),
    ]
    result = await settle(db, batch, shop.processor())
    assert outcomes(result) == [Parked(WAIT), Stored("handle"), Parked(None)]
    assert (result.next_offset, result.parked) == (3, True)
    next_batch = await settle(db, [log.append(envelope("e4")), log.append(envelope("e1", "later"))], shop.processor())
    assert outcomes(next_batch) == [Parked(None), Duplicate()]
    assert await effects(db) == ["x"]
    status = "SELECT idempotency_key AS k, status, attempts FROM events WHERE source = 'src' ORDER BY 1"
    assert [tuple(row.values()) for row in await rows(db, status)] == [
        ("e1", "RETRYING", 1),
        ("e3", "RETRYING", 1),
        ("e4", "RETRYING", 1),
    ]
    shop.broken = False
    assert drained(await drain(db, shop.processor())) == [Stored("handle")] * 3
    assert await effects(db) == ["x", "e1", "e3", "e4"]
    assert [row["status"] for row in await rows(db, status)] == ["PROCESSED"] * 3
    assert await db.fetchval("SELECT count(*) FROM parked_keys") == 0
    assert await db.fetchval("SELECT count(*) FROM parked_events") == 0
    assert await db.fetchval("SELECT count(*) FROM event_keys WHERE state = 'stored'") == 4


async def test_13_who_adds_behind_a_key_waits_for_who_releases_it(connect: Connect) -> None:
    """X drains e1 while Y, on another partition, brings e2: Y waits, finds the key free, and runs e2 after e1."""
    x, y, watcher = await connect(), await connect(), await connect()
    shop = Shop()
    here, there = Log(partition=0), Log(partition=1)
    await settle(x, [here.append(envelope("e1", "later"))], shop.processor())
    shop.broken = False
    inside, go_on = asyncio.Event(), asyncio.Event()

    async def slow(event: Event, tx: asyncpg.Connection) -> None:
        await note(event, tx)
        inside.set()
        await go_on.wait()

    releasing = asyncio.create_task(drain(x, processor(registry_of(slow))))
    await inside.wait()
    arriving = asyncio.create_task(settle(y, [there.append(envelope("e2"))], shop.processor()))
    query = "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $1"
    async with asyncio.timeout(_PATIENCE):
        while not await watcher.fetchval(query, y.get_server_pid()):
            continue
    go_on.set()
    assert drained(await releasing) == [Stored("slow")]
    assert outcomes(await arriving) == [Stored("handle")]
    assert await effects(x) == ["e1", "e2"]
    assert await x.fetchval("SELECT count(*) FROM parked_events") == 0, "nothing is orphaned"


async def test_13_what_arrives_from_another_partition_queues_behind_and_its_owner_drains_it(connect: Connect) -> None:
    x, y = await connect(), await connect()
    shop = Shop()
    here, there = Log(partition=0), Log(partition=1, now_ms=Log().now_ms + 5)
    await settle(x, [here.append(envelope("e1", "later"))], shop.processor())
    assert outcomes(await settle(y, [there.append(envelope("e2"))], shop.processor())) == [Parked(None)]
    shop.broken = False
    assert drained(await drain(y, shop.processor(), claim=await take(y, 1))) == [], "not the owner of the head"
    assert drained(await drain(x, shop.processor())) == [Stored("handle")] * 2
    assert await effects(x) == ["e1", "e2"]


async def test_1_a_parked_event_that_dies_leaves_its_dead_letter_to_whoever_owns_the_partition(
    db: asyncpg.Connection,
) -> None:
    """Its offset was committed long ago and nothing will be redelivered: the failures row is the outbox."""
    shop = Shop()
    log = Log()
    record = log.append(envelope("e1", "later"))
    await settle(db, [record, log.append(envelope("e2"))], shop.processor(attempts=3))
    first = await drain(db, shop.processor(attempts=3))
    assert (drained(first), first.retry) == ([], WAIT)
    last = await drain(db, shop.processor(attempts=3))
    assert drained(last) == [Dead(Reason.HANDLER_ERROR, "handle", "Retryable"), Stored("handle")]
    assert last.unsent
    [letter] = await store.unsent_dead_letters(db, TOPIC, 0, 10)
    assert (letter.value, letter.about["offset"], letter.about["attempts"]) == (record.value, 0, 3)
    state = "SELECT status, attempts FROM events WHERE idempotency_key = 'e1'"
    assert await rows(db, state) == [{"status": "FAILED", "attempts": 3}]
    await acknowledge_dead_letters(db, log)
    shop.broken = False
    assert outcomes(await settle(db, [log.append(envelope("e1", "later"))], shop.processor())) == [Stored("handle")]
    assert await effects(db) == ["e2", "e1"]


async def test_the_head_moves_on_to_the_next_event_that_must_wait(db: asyncpg.Connection) -> None:
    shop = Shop()
    log = Log()
    keys = ["e1", "e2", "e3"]
    await settle(db, [log.append(envelope(k, "later" if k != "e2" else None)) for k in keys], shop.processor())
    waits = "SELECT attempts, next_at > parked_at AS later FROM parked_keys"
    assert await rows(db, waits) == [{"attempts": 1, "later": True}]
    await drain(db, shop.processor())
    assert await rows(db, waits) == [{"attempts": 2, "later": True}]
    await db.execute("UPDATE parked_events SET value = $1 WHERE value = $2", envelope("e1"), envelope("e1", "later"))
    result = await drain(db, shop.processor())
    assert (drained(result), result.retry) == ([Stored("handle")] * 2, WAIT)
    assert await rows(db, waits) == [{"attempts": 1, "later": True}]
    assert await effects(db) == ["e1", "e2"]


async def test_an_event_too_old_to_wait_is_dead(db: asyncpg.Connection) -> None:
    shop = Shop()
    log = Log()
    await settle(db, [log.append(envelope("e1", "later"))], shop.processor(attempts=1_000))
    result = await drain(db, shop.processor(attempts=1_000), max_age=0.0)
    assert drained(result) == [Dead(Reason.HANDLER_ERROR, "handle", "Retryable")]


async def test_a_long_queue_is_drained_page_by_page_in_order(db: asyncpg.Connection) -> None:
    shop = Shop()
    log = Log()
    batch = [log.append(envelope("e0", "later")), *(log.append(envelope(f"e{n}")) for n in range(1, 1_203))]
    await settle(db, batch, shop.processor())
    shop.broken = False
    assert [len(drained(await drain(db, shop.processor()))) for _ in range(3)] == [500, 500, 203]
    assert await effects(db) == [f"e{n}" for n in range(1_203)]
    assert await db.fetchval("SELECT count(*) FROM parked_keys") == 0


async def test_a_handler_that_ends_the_transaction_while_draining_is_named(db: asyncpg.Connection) -> None:
    shop = Shop()
    log = Log()
    await settle(db, [log.append(envelope(k, "later")) for k in ("e1", "e2", "e3")], shop.processor())

    async def commits(event: Event, tx: asyncpg.Connection) -> None:
        await note(event, tx)
        if event.idempotency_key == "e2":
            await tx.execute("COMMIT")

    result = await drain(db, processor(registry_of(commits)))
    assert drained(result) == [Stored("commits"), Dead(Reason.HANDLER_BROKE_TRANSACTION, "handle"), Stored("commits")]
    assert await effects(db) == ["e1", "e3"]


async def test_a_fenced_owner_drains_nothing(db: asyncpg.Connection) -> None:
    shop = Shop()
    old = await take(db)
    await settle(db, [Log().append(envelope("e1", "later"))], shop.processor(), claim=old)
    shop.broken = False
    await take(db)
    with pytest.raises(Fenced):
        await drain(db, shop.processor(), claim=old)
    assert await effects(db) == []


async def test_in_place_first_and_at_once_where_the_handler_asks_for_long(db: asyncpg.Connection) -> None:
    async def asks(event: Event, tx: asyncpg.Connection) -> None:
        raise Retryable(after=event.data)

    log = Log()
    using = processor(registry_of(asks), in_place=1)
    short, long = log.append(envelope("a", 0.1)), log.append(envelope("b", 60, source="src"))
    assert (await settle(db, [short], using)).retry == Retry(Reason.HANDLER_ERROR, "Retryable", 0.1)
    assert outcomes(await settle(db, [short, long], using, failures={0: 1})) == [
        Parked(Retry(Reason.HANDLER_ERROR, "Retryable", 0.1)),
        Parked(None),
    ]
    due = await db.fetchval("SELECT extract(epoch FROM next_at - now())::float8 FROM parked_keys")
    assert due < 0.2


async def test_the_breaker_stops_the_batch_before_one_death_too_many(db: asyncpg.Connection) -> None:
    async def always(event: Event, tx: asyncpg.Connection) -> None:
        raise ValueError

    log = Log()
    batch = [log.append(b"junk"), *(log.append(envelope(f"e{n}")) for n in range(20))]
    using = processor(registry_of(always))
    result = await using.process(db, await take(db), batch, {}, Breaker(in_a_row=5))
    assert [type(o) for o in outcomes(result)] == [Dead] * 6
    assert (result.tripped, result.next_offset) == (True, 6)
    assert await db.fetchval("SELECT count(*) FROM failures") == 6
    assert await db.fetchval("SELECT count(*) FROM event_keys WHERE state = 'accepted' AND runs = 0") == 15
