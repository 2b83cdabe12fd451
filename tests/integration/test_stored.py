"""`plutus events run`: handlers over events that were stored without one, each once (interleaving 20)."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from schemas.errors import Permanent, Retryable
from schemas.event import Event
from stream_worker.backoff import Backoff
from stream_worker.batch import Fenced
from stream_worker.breaker import Breaker
from stream_worker.emit import emit
from stream_worker.handlers import Registry
from stream_worker.run import Runner
from stream_worker.stored import Run, Tally, Tripped, Wanted, kinds
from tests.cli_kit import environment, plutus
from tests.harness import eventually
from tests.stack import ROOT, Stack, Topics
from tests.worker_kit import Log, effects, envelope, make_effects, note, registry_of, rows, settle

pytestmark = pytest.mark.slow

MODULE = "tests.integration.stored_handlers"


@pytest.fixture
async def db(database: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to the test's own database, with an effects table."""
    connection = await asyncpg.connect(database, command_timeout=30)
    await make_effects(connection)
    yield connection
    await connection.close()


async def store(
    db: asyncpg.Connection, count: int, *, sources: int = 1, bad: tuple[int, ...] = (), **more: Any
) -> None:
    """Events that nobody handled: k0 of s0, k1 of s1, ..."""
    log = Log()
    for n in range(count):
        payload = "bad" if n in bad else None
        log.append(envelope(f"k{n}", payload, source=f"s{n % sources}", **{"type": "late", **more}))
    await settle(db, log.made)


async def run(
    database: str, registry: Registry, wanted: Wanted | None = None, *, budget: float = 10.0, **options: Any
) -> tuple[bool, Tally]:
    """One run over what is wanted, with two connections of its own."""
    look, work = [await asyncpg.connect(database, command_timeout=30) for _ in range(2)]
    runner = Runner(5.0, budget, Backoff(attempts=1 << 30), 500, 0)
    try:
        made = Run(look, work, registry, runner, Breaker(in_a_row=5), lambda event: None, **options)
        return await made.through(wanted or Wanted()), made.tally
    finally:
        look.terminate()
        work.terminate()


async def test_20_stored_events_are_run_once_each_in_the_order_of_the_log(
    db: asyncpg.Connection, database: str
) -> None:
    await store(db, 1_200, sources=3)
    await settle(db, [Log(partition=1).append(envelope("other", type="nobody's"))])
    before = await rows(db, "SELECT event_id, received_at FROM events ORDER BY 1")
    registry = registry_of(note, type="late")
    assert [(k.events, k.handler) for k in await kinds(db, registry, Wanted(type="late"))] == [(400, "note")] * 3
    done, tally = await run(database, registry)
    assert (done, tally.counts()["by_handler"]) == (True, {"note": 1_200})
    assert await effects(db) == [f"k{n}" for n in range(1_200)]
    assert await rows(db, "SELECT event_id, received_at FROM events ORDER BY 1") == before
    left = await rows(db, "SELECT idempotency_key FROM events WHERE handled_by IS NULL")
    assert left == [{"idempotency_key": "other"}]
    again, nothing = await run(database, registry)
    assert (again, nothing.seen) == (True, 0)
    assert len(await effects(db)) == 1_200


async def test_20_only_what_is_asked_for_and_no_more_than_so_many(db: asyncpg.Connection, database: str) -> None:
    await store(db, 10, sources=2)
    registry = registry_of(note, type="late")
    done, tally = await run(database, registry, Wanted(source="s1"), most=3)
    assert (done, tally.handled.total()) == (False, 3)
    assert await effects(db) == ["k1", "k3", "k5"]
    now = await db.fetchval("SELECT now()")
    for wanted in (Wanted(type="other"), Wanted(since=now), Wanted(until=now.replace(year=2020))):
        assert (await run(database, registry, wanted))[1].seen == 0, wanted
    assert (await run(database, registry, Wanted(source="s1")))[1].handled.total() == 2


async def test_20_what_fails_stays_as_it_was_and_holds_back_its_own_key_only(
    db: asyncpg.Connection, database: str
) -> None:
    mended = False

    async def fails(event: Event, tx: asyncpg.Connection) -> None:
        await note(event, tx)
        if not mended and event.idempotency_key == "k2":
            raise Retryable
        if not mended and event.idempotency_key == "k3":
            raise Permanent

    await store(db, 9, sources=3)
    registry = registry_of(fails, type="late")
    _, tally = await run(database, registry)
    assert await effects(db) == ["k0", "k1", "k4", "k6", "k7"]
    assert (tally.waits, tally.behind, dict(tally.failed)) == (1, 2, {"handler_error": 1})
    assert [each["why"] for each in tally.examples] == ["asked for later", "handler_error"]
    mended = True
    await run(database, registry)
    assert sorted(await effects(db)) == [f"k{n}" for n in range(9)]
    assert [k for k in await effects(db) if k in ("k2", "k5", "k8")] == ["k2", "k5", "k8"]


@pytest.mark.parametrize("statement", ["COMMIT", "ROLLBACK"])
async def test_20_a_handler_that_ends_the_transaction_marks_nobody_elses_event(
    db: asyncpg.Connection, database: str, statement: str
) -> None:
    async def ends_it(event: Event, tx: asyncpg.Connection) -> None:
        await note(event, tx)
        if event.data == "bad":
            await tx.execute(statement)

    await store(db, 5, bad=(2,))
    _, tally = await run(database, registry_of(ends_it, type="late"))
    assert await effects(db) == ["k0", "k1", "k3", "k4"]
    assert dict(tally.failed) == {"handler_broke_transaction": 1}
    unhandled = await rows(db, "SELECT idempotency_key FROM events WHERE handled_by IS NULL")
    assert unhandled == [{"idempotency_key": "k2"}]


async def test_20_too_many_failures_end_the_run(db: asyncpg.Connection, database: str) -> None:
    async def raises(event: Event, tx: asyncpg.Connection) -> None:
        raise ValueError("a payload")

    await store(db, 20)
    with pytest.raises(Tripped):
        await run(database, registry_of(raises, type="late"))
    assert await db.fetchval("SELECT count(*) FROM events WHERE handled_by IS NULL") == 20


async def test_20_a_second_run_takes_over_and_no_effect_comes_twice(db: asyncpg.Connection, database: str) -> None:
    """It looked before the first one's page was committed, so it meets events that are handled by now."""
    await store(db, 600, sources=5)
    inside, go_on = asyncio.Event(), asyncio.Event()

    async def waits(event: Event, tx: asyncpg.Connection) -> None:
        if event.idempotency_key == "k50":
            inside.set()
            await go_on.wait()
        await note(event, tx)

    registry = registry_of(waits, type="late")
    first = asyncio.create_task(run(database, registry))
    await asyncio.wait_for(inside.wait(), 30)
    second = asyncio.create_task(run(database, registry))
    blocked = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    await eventually(lambda: db.fetchval(blocked), what="the second run waits for the claim")
    go_on.set()
    with pytest.raises(Fenced):
        await first
    done, tally = await second
    assert (done, tally.gone, tally.handled.total()) == (True, 500, 100)
    assert await effects(db) == [f"k{n}" for n in range(600)]


async def test_20_what_it_emits_waits_for_the_owner_of_the_partition(db: asyncpg.Connection, database: str) -> None:
    async def emits(event: Event, tx: asyncpg.Connection) -> None:
        await emit(event, tx, type="next", source="other", schema_version="1.0", payload=1)

    await store(db, 2)
    await run(database, registry_of(emits, type="late"))
    emitted = await rows(db, 'SELECT topic, "partition", type FROM emitted_events')
    assert emitted == [{"topic": "events", "partition": 0, "type": "next"}] * 2


async def test_20_killed_on_the_way_and_run_again_each_takes_effect_once(
    stack: Stack, topics: Topics, db: asyncpg.Connection, database: str
) -> None:
    """By the command: the process that does the work is killed, then it is run to its end, and there is an audit."""
    await store(db, 700, sources=4, bad=(7,))
    env = environment(stack, database, topics)
    dry = await plutus("events", "run", MODULE, "--dry-run", "--json", env=env)
    assert (dry.code, sum(kind["events"] for kind in dry.rows[0]["kinds"])) == (0, 700)
    assert await effects(db) == []

    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "stream_worker.run_stored", json.dumps({"type": "late"})),
        env={**env, "WORKER_HANDLERS": MODULE},
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    async with asyncio.timeout(60):
        while b"counts" not in await process.stdout.readline():
            continue
    process.kill()
    await process.wait()
    begun = len(await effects(db))
    assert 0 < begun < 699

    ran = await plutus("events", "run", MODULE, "--type", "late", "--json", env=env)
    assert ran.code == 1, "one of them failed"
    assert ran.rows[0]["failed"] == {"handler_error": 1}
    assert ran.rows[0]["handled"] == 699 - begun
    assert sorted(await effects(db)) == sorted(f"k{n}" for n in range(700) if n != 7)
    job = (await plutus("dlq", "jobs", "--json", env=env)).rows[0]
    assert (job["kind"], job["status"], job["request"]["filter"]) == ("run", "done", {"type": "late"})
    assert job["counts"]["handled"] == 699 - begun
    nothing = await plutus("events", "run", MODULE, "--source", "s0", env=env)
    assert nothing.code == 4, nothing.err
