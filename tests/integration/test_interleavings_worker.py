"""The races and crashes behind the worker's rules, on a real Postgres: each was seen failing without its rule.

The numbers are those of ARCHITECTURE.md, "Interleavings". Concurrency here is real: two sessions, one of them stopped at
a known statement, never a sleep.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable

import asyncpg
import pytest

from schemas import fingerprint
from schemas.errors import Permanent, Reason
from schemas.event import Event
from schemas.json_text import Document, canonical
from stream_worker import store
from stream_worker.batch import Fenced
from stream_worker.breaker import Breaker
from stream_worker.outcomes import Dead, Duplicate, Stored
from stream_worker.run import Hold
from tests.worker_kit import (
    GROUP,
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
REMEMBER = """
    INSERT INTO event_keys (event_id, fingerprint, "partition", record_offset)
    SELECT $1, $2, $3, $4 WHERE NOT EXISTS (SELECT 1 FROM event_keys WHERE event_id = $1) ON CONFLICT DO NOTHING
"""


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


async def blocked(watcher: asyncpg.Connection, pid: int) -> None:
    """Return once the session `pid` waits for a lock."""
    query = "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $1"
    async with asyncio.timeout(_PATIENCE):
        while not await watcher.fetchval(query, pid):  # each look is a round trip, which paces the loop
            continue


async def test_3_the_remembered_payload_wins_whatever_the_log_says_first(connect: Connect) -> None:
    """G1 published A, G2 published B and remembered first: B was acknowledged, so B runs and A is the conflict."""
    db, gateway = await connect(), await connect()
    log = Log()
    a, b = log.append(envelope("k", "A"), gateway=True), log.append(envelope("k", "B"), gateway=True)
    assert b.event is not None
    await gateway.execute(REMEMBER, b.event.id, b.event.fingerprint, b.partition, b.offset)
    result = await settle(db, [a, b], processor(registry_of(note)))
    assert outcomes(result) == [Dead(Reason.IDEMPOTENCY_CONFLICT, "decide"), Stored("note")]
    assert await db.fetchval("SELECT payload #>> '{}' FROM events") == "B"


async def test_3_a_row_that_appears_during_the_claim_is_decided_anew(connect: Connect) -> None:
    """The same, with the gateway's row still uncommitted when the worker reads: its claim of A waits, then is refused."""
    db, gateway, watcher = await connect(), await connect(), await connect()
    log = Log()
    a, b = log.append(envelope("k", "A")), log.append(envelope("k", "B"))
    assert b.event is not None
    async with gateway.transaction():
        await gateway.execute(REMEMBER, b.event.id, b.event.fingerprint, b.partition, b.offset)
        batch = asyncio.create_task(settle(db, [a, b], processor(registry_of(note))))
        await blocked(watcher, db.get_server_pid())
    assert outcomes(await batch) == [Dead(Reason.IDEMPOTENCY_CONFLICT, "decide"), Stored("note")]
    assert await effects(db) == ["k"]


async def test_4_a_successor_waits_for_the_batch_in_flight_and_fences_what_comes_after(connect: Connect) -> None:
    zombie, successor, watcher = await connect(), await connect(), await connect()
    inside, go_on = asyncio.Event(), asyncio.Event()

    async def stopped(event: Event, tx: asyncpg.Connection) -> None:
        await note(event, tx)
        inside.set()
        await go_on.wait()

    log = Log()
    first, second = log.append(envelope("a")), log.append(envelope("b"))
    old = await take(zombie)
    using = processor(registry_of(stopped))
    in_flight = asyncio.create_task(settle(zombie, [first], using, claim=old))
    await inside.wait()
    taking = asyncio.create_task(take(successor))
    await blocked(watcher, successor.get_server_pid())
    go_on.set()
    await in_flight
    new = await taking
    assert new.epoch == old.epoch + 1
    with pytest.raises(Fenced):
        await settle(zombie, [second], using, claim=old)
    assert outcomes(await settle(successor, [first, second], using, claim=new)) == [Duplicate(), Stored("stopped")]
    assert await effects(successor) == ["a", "b"]


async def test_4_a_zombie_cannot_run_a_replay_its_successor_has_run(connect: Connect) -> None:
    zombie, successor = await connect(), await connect()
    healthy = False

    async def mended(event: Event, tx: asyncpg.Connection) -> None:
        if not healthy:
            raise Permanent
        await note(event, tx)

    log = Log()
    using = processor(registry_of(mended))
    old = await take(zombie)
    await settle(zombie, [log.append(envelope("a"))], using, claim=old)
    await acknowledge_dead_letters(zombie, log)
    healthy = True
    replay = log.append(envelope("a"))
    new = await take(successor)
    assert outcomes(await settle(successor, [replay], using, claim=new)) == [Stored("mended")]
    with pytest.raises(Fenced):
        await settle(zombie, [replay], using, claim=old)
    assert await effects(zombie) == ["a"]


async def test_5_fingerprints_are_compared_in_the_stored_version(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway of another release remembered the event with its version; the worker must not see a conflict."""

    def other(payload: bytes, document: Document) -> bytes:
        return b"\x63" + hashlib.sha256(canonical(payload, document)).digest()[:16]

    db = await connect()
    log = Log()
    item, changed = log.append(envelope("k", [1, 2])), log.append(envelope("k", [2, 1]))
    assert item.event is not None
    stored = hashlib.sha256(b"[1,2]").digest()[:16]
    await db.execute(REMEMBER, item.event.id, b"\x63" + stored, 0, 0)
    with pytest.raises(Hold) as held:
        await settle(db, [item])
    assert held.value.alarm, "an unknown version is for a person to mend, not a conflict"
    monkeypatch.setitem(fingerprint._VERSIONS, 0x63, other)
    result = await settle(db, [item, changed])
    assert outcomes(result) == [Stored(None), Dead(Reason.IDEMPOTENCY_CONFLICT, "decide")]


@pytest.mark.parametrize("statement", ["COMMIT", "ROLLBACK", "COMMIT AND CHAIN"])
async def test_6_a_handler_that_ends_the_transaction_leaves_no_half_batch(connect: Connect, statement: str) -> None:
    db = await connect()

    async def ends_it(event: Event, tx: asyncpg.Connection) -> None:
        await note(event, tx)
        if event.data == "bad":
            await tx.execute(statement)

    log = Log()
    items = [log.append(envelope(f"k{n}", "bad" if n == 2 else None)) for n in range(5)]
    result = await settle(db, items, processor(registry_of(ends_it)))
    assert outcomes(result)[2] == Dead(Reason.HANDLER_BROKE_TRANSACTION, "handle")
    assert await effects(db) == ["k0", "k1", "k3", "k4"]
    assert await db.fetchval("SELECT count(*) FROM events WHERE status = 'PROCESSED'") == 4
    assert await rows(db, "SELECT open, next_offset FROM partition_claims") == [{"open": False, "next_offset": 5}]


async def test_6_a_handler_that_hides_its_commit_is_caught_all_the_same(connect: Connect) -> None:
    db = await connect()

    async def hides_it(event: Event, tx: asyncpg.Connection) -> None:
        await note(event, tx)
        if event.data == "bad":
            try:
                await tx.execute("COMMIT")
            except asyncpg.PostgresError:
                await tx.execute("BEGIN")

    log = Log()
    items = [log.append(envelope(f"k{n}", "bad" if n == 1 else None)) for n in range(3)]
    result = await settle(db, items, processor(registry_of(hides_it)))
    assert outcomes(result)[1] == Dead(Reason.HANDLER_BROKE_TRANSACTION, "handle")
    assert await effects(db) == ["k0", "k2"]


async def test_6_a_commit_past_an_open_claim_is_refused_by_the_database(connect: Connect) -> None:
    db = await connect()
    claim = await take(db)
    await db.execute("BEGIN")
    assert await store.open_claim(db, claim)
    await db.execute("INSERT INTO effects (note) VALUES ('half')")
    with pytest.raises(asyncpg.PostgresError) as refused:
        await db.execute("COMMIT")
    assert refused.value.sqlstate == "PL001"
    assert await effects(db) == []


async def test_14_the_same_ids_in_opposite_order_never_deadlock(connect: Connect) -> None:
    one, two = await connect(), await connect()
    for round_number in range(5):
        keys = [f"r{round_number}-{n}" for n in range(2_000)]
        forwards, backwards = Log(partition=0), Log(partition=1)
        there = [forwards.append(envelope(key)) for key in keys]
        back = [backwards.append(envelope(key)) for key in reversed(keys)]
        results = await asyncio.gather(settle(one, there), settle(two, back))
        stored = [o for result in results for o in outcomes(result) if isinstance(o, Stored)]
        assert len(stored) == 2_000
    assert await one.fetchval("SELECT count(*) FROM events") == 10_000
    assert await one.fetchval("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == 0


@pytest.mark.parametrize("statement", ["SELECT 1 FROM shared WHERE id = 1 FOR UPDATE", "SELECT pg_sleep(5)"])
async def test_15_a_lock_or_a_slow_statement_in_a_handler_costs_its_own_key_only(
    connect: Connect, statement: str
) -> None:
    """A lock time-out (55P03) or a cancelled statement (57014): others flow, and it is no poison either."""
    db, holder = await connect(), await connect()
    await db.execute("CREATE TABLE shared (id int); INSERT INTO shared VALUES (1)")
    await db.execute("SET lock_timeout = '50ms'; SET statement_timeout = '200ms'")

    async def waits(event: Event, tx: asyncpg.Connection) -> None:
        if event.data == "slow":
            await tx.execute(statement)
        await note(event, tx)

    log = Log()
    registry = registry_of(waits, type="t")
    items = [log.append(envelope(k, "slow" if k == "b" else "", source=f"of-{k}", type="t")) for k in "abc"]
    async with holder.transaction():
        await holder.execute("SELECT 1 FROM shared WHERE id = 1 FOR UPDATE")
        result = await settle(db, items, processor(registry, in_place=0))
    assert [type(outcome).__name__ for outcome in outcomes(result)] == ["Stored", "Parked", "Stored"]
    assert await effects(db) == ["a", "c"]


async def test_15_conflicts_of_a_producer_never_trip_the_breaker(connect: Connect) -> None:
    """Not even beside a death that does count."""

    async def fails(event: Event, tx: asyncpg.Connection) -> None:
        if event.idempotency_key == "dies":
            raise Permanent
        await note(event, tx)

    db = await connect()
    log = Log()
    items = [
        *(log.append(envelope("k", n)) for n in range(40)),
        log.append(envelope("dies")),
        log.append(envelope("z")),
    ]
    using = processor(registry_of(fails))
    result = await using.process(db, await take(db), items, {}, Breaker(in_a_row=50, share=0.15, window=10))
    assert not result.tripped
    assert [type(outcome).__name__ for outcome in outcomes(result)] == ["Stored", *["Dead"] * 40, "Stored"]


async def test_16_a_gateway_never_waits_behind_a_handler(connect: Connect) -> None:
    """The gateway remembers its record while the worker's handler is running on it: no wait, and the row is its own."""
    db, gateway = await connect(), await connect()
    inside, go_on = asyncio.Event(), asyncio.Event()

    async def slow(event: Event, tx: asyncpg.Connection) -> None:
        inside.set()
        await go_on.wait()

    item = Log().append(envelope("k"), gateway=True)
    assert item.event is not None
    batch = asyncio.create_task(settle(db, [item], processor(registry_of(slow))))
    await inside.wait()
    await gateway.execute("SET lock_timeout = '50ms'")
    assert await gateway.execute(REMEMBER, item.event.id, item.event.fingerprint, 0, 0) == "INSERT 0 0"
    row = await gateway.fetchrow('SELECT "partition", record_offset, state FROM event_keys')
    assert row is not None
    assert tuple(row) == (0, 0, "accepted"), "the worker has said whose record it is, outside its transaction"
    go_on.set()
    assert outcomes(await batch) == [Stored("slow")]


async def test_2_redelivery_copy_and_replay_of_a_failed_event_are_told_apart(connect: Connect) -> None:
    """(a) redelivery: only its dead letter is finished. (b) a copy from before the dead letter: absorbed. (c) a replay: runs."""
    db = await connect()
    runs: list[int] = []

    async def fails(event: Event, tx: asyncpg.Connection) -> None:
        runs.append(1)
        raise Permanent

    log = Log()
    using = processor(registry_of(fails))
    original, copy = log.append(envelope("a")), log.append(envelope("a"))
    await settle(db, [original], using)
    early = log.append(envelope("a"))
    assert outcomes(await settle(db, [early], using)) == [Duplicate()], "its dead letter is not acknowledged yet"
    await acknowledge_dead_letters(db, log)
    again = await settle(db, [original, copy], using)
    assert [type(o).__name__ for o in outcomes(again)] == ["Redelivered", "Duplicate"]
    assert len(runs) == 1
    replay = log.append(envelope("a"))
    assert outcomes(await settle(db, [replay], using)) == [Dead(Reason.HANDLER_ERROR, "handle", "Permanent")]
    assert len(runs) == 2


async def test_the_owner_is_found_by_group_topic_and_partition(connect: Connect) -> None:
    db = await connect()
    first = await store.take_claim(db, GROUP, TOPIC, 0)
    elsewhere = await store.take_claim(db, "another group", TOPIC, 0)
    assert (first.claim.epoch, elsewhere.claim.epoch) == (1, 1)
    await settle(db, [Log().append(envelope("a"))], claim=first.claim)
    assert (await store.take_claim(db, GROUP, TOPIC, 0)).next_offset == 1
