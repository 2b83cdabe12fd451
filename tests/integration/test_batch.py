"""One batch of one partition on a real Postgres: outcomes, rows, savepoints, retries, dead letters."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from typing import Any

import asyncpg
import pytest

from infra.runtime.optimism import Optimism
from schemas.errors import Permanent, Reason, Retryable
from schemas.event import Event
from stream_worker import store
from stream_worker.handlers import Registry
from stream_worker.outcomes import Dead, Duplicate, Redelivered, Retry, Stored
from stream_worker.run import Hold
from tests.harness import connected
from tests.worker_kit import (
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


@pytest.fixture
async def db(database: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to the test's own database, with an effects table."""
    connection = await asyncpg.connect(database)
    await make_effects(connection)
    yield connection
    await connection.close()


async def states(db: asyncpg.Connection) -> list[tuple[str, int]]:
    found = await db.fetch("SELECT state, runs FROM event_keys ORDER BY record_offset")
    return [(row["state"], row["runs"]) for row in found]


async def test_a_new_event_is_stored_once_and_its_copies_are_absorbed(db: asyncpg.Connection) -> None:
    log = Log()
    items = [log.append(envelope("a", {"n": 1})), log.append(envelope("a", {"n": 1.0})), log.append(envelope("b"))]
    result = await settle(db, items, processor(registry_of(note)))
    assert outcomes(result) == [Stored("note"), Duplicate(), Stored("note")]
    assert (result.next_offset, result.retry, result.unsent) == (3, None, False)
    assert await effects(db) == ["a", "b"]
    again = await settle(db, [log.append(envelope("a", {"n": 1}))], processor(registry_of(note)))
    assert outcomes(again) == [Duplicate()]
    assert await effects(db) == ["a", "b"]


async def test_a_gateways_record_behind_a_direct_copy_of_its_event_is_absorbed(db: asyncpg.Connection) -> None:
    log = Log()
    items = [log.append(envelope("a")), log.append(envelope("a"), gateway=True)]
    result = await settle(db, items, processor(registry_of(note)))
    assert outcomes(result) == [Stored("note"), Duplicate()]
    assert await effects(db) == ["a"]


async def a_guessing_partition(db: asyncpg.Connection, log: Log, claim: store.Claim) -> Optimism:
    """A partition whose last batch, of the events b0 to b59, was all new."""
    optimism = Optimism()
    await settle(db, [log.append(envelope(f"b{n}")) for n in range(60)], claim=claim, optimism=optimism)
    assert optimism.allowed
    return optimism


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many ids each question before a batch was about."""
    counts: list[int] = []
    read_known = store.read_known

    async def counted(db: asyncpg.Connection, ids: Collection[bytes], *where: Any) -> Any:
        if where:
            counts.append(len(ids))
        return await read_known(db, ids, *where)

    monkeypatch.setattr(store, "read_known", counted)
    return counts


async def test_after_a_new_batch_the_next_is_taken_without_asking(db: asyncpg.Connection, asked: list[int]) -> None:
    log, claim = Log(), await take(db)
    optimism = await a_guessing_partition(db, log, claim)
    items = [log.append(envelope(f"c{n % 80}")) for n in range(81)] + [log.append(b"{")]
    result = await settle(db, items, processor(registry_of(note)), claim, optimism=optimism)
    assert outcomes(result) == [*[Stored("note")] * 80, Duplicate(), Dead(Reason.MALFORMED_JSON, "parse")]
    assert await effects(db) == [f"c{n}" for n in range(80)]
    assert (asked, optimism.allowed) == ([60, 0], True)


async def test_a_wrong_guess_changes_nothing_but_the_work(db: asyncpg.Connection, asked: list[int]) -> None:
    log, claim = Log(), await take(db)
    optimism = await a_guessing_partition(db, log, claim)
    new = [log.append(envelope(f"c{n}")) for n in range(60)]
    known = [log.append(envelope("b7")), log.append(envelope("b8", "another payload"))]
    result = await settle(db, new + known, processor(registry_of(note)), claim, optimism=optimism)
    assert outcomes(result) == [
        *[Stored("note")] * 60,
        Duplicate(),
        Dead(Reason.IDEMPOTENCY_CONFLICT, "decide"),
    ]
    assert await effects(db) == [f"c{n}" for n in range(60)]
    assert await states(db) == [("stored", 1)] * 120
    assert (asked, optimism.allowed) == ([60, 0, 62], False)


async def test_a_gateways_record_is_always_asked_for(db: asyncpg.Connection, asked: list[int]) -> None:
    """It has a row as a rule, and where it has none it gets one before the handlers run."""
    log, claim = Log(), await take(db)
    optimism = await a_guessing_partition(db, log, claim)
    items = [log.append(envelope(f"c{n}"), gateway=n == 59) for n in range(60)]
    result = await settle(db, items, claim=claim, optimism=optimism)
    assert outcomes(result) == [Stored(None)] * 60
    assert asked == [60, 60]


@pytest.mark.parametrize("count", [3, 60])
async def test_keys_that_appear_between_the_look_and_the_claim_are_decided_by_their_rows(
    db: asyncpg.Connection, database: str, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Few or many: what a gateway remembers meanwhile is claimed from it, what took effect meanwhile is a duplicate."""
    log = Log()
    items = [log.append(envelope(f"k{n}")) for n in range(count)]
    open_claim = store.open_claim

    async def late(db: asyncpg.Connection, claim: store.Claim) -> store.Opened | None:
        async with connected(database) as other:
            await store.remember_keys(other, items[:1])
            await settle(other, [Log(1).append(envelope("k1"))], claim=await take(other, 1))
        return await open_claim(db, claim)

    claim = await take(db)
    monkeypatch.setattr(store, "open_claim", lambda db, own: (late if own == claim else open_claim)(db, own))
    result = await settle(db, items, processor(registry_of(note)), claim)
    assert outcomes(result) == [Stored("note"), Duplicate(), *[Stored("note")] * (count - 2)]
    assert await effects(db) == [f"k{n}" for n in range(count) if n != 1]
    assert await db.fetchval("SELECT count(*) FROM event_keys WHERE state = 'stored' AND runs = 1") == count
    assert (
        await db.fetchval(
            "SELECT count(*) FROM events JOIN event_keys USING (event_id) WHERE received_at = accepted_at"
        )
        == count
    )


async def test_the_events_row_holds_what_was_sent(db: asyncpg.Connection) -> None:
    value = (
        b'{"source":"src","schema_version":"2","idempotency_key":"k","type":"t","payload":{"a": 1.10, "b":\n"\\u00e9"}}'
    )
    await settle(db, [Log().append(value)])
    (row,) = await rows(db, "SELECT *, payload::text AS text, received_at = now() AS same FROM events")
    assert row["text"] == '{"a": 1.10, "b": "\\u00e9"}'
    assert (row["status"], row["handled_by"], row["attempts"], row["type"]) == ("PROCESSED", None, 1, "t")
    assert (row["topic"], row["partition"], row["offset"], row["schema_version"]) == ("events", 0, 0, "2")
    keys = await rows(db, "SELECT accepted_at, state, runs FROM event_keys")
    assert keys == [{"accepted_at": row["received_at"], "state": "stored", "runs": 1}]


async def test_an_unreadable_record_is_kept_with_its_bytes_and_costs_nobody_else(db: asyncpg.Connection) -> None:
    log = Log()
    items = [log.append(envelope("a")), log.append(b"\xffnot json"), log.append(None), log.append(envelope("b"))]
    result = await settle(db, items)
    assert outcomes(result) == [
        Stored(None),
        Dead(Reason.MALFORMED_JSON, "parse"),
        Dead(Reason.NULL_VALUE, "parse"),
        Stored(None),
    ]
    assert result.unsent
    failures = await rows(db, 'SELECT reason, key, value, "offset", status FROM failures ORDER BY "offset"')
    assert failures == [
        {"reason": "malformed_json", "key": b"src", "value": b"\xffnot json", "offset": 1, "status": "open"},
        {"reason": "null_value", "key": b"src", "value": None, "offset": 2, "status": "open"},
    ]
    assert await db.fetchval("SELECT count(*) FROM events") == 2


async def test_the_same_key_with_another_payload_is_a_conflict_never_swallowed(db: asyncpg.Connection) -> None:
    log = Log()
    result = await settle(db, [log.append(envelope("a", 1)), log.append(envelope("a", 2))])
    assert outcomes(result) == [Stored(None), Dead(Reason.IDEMPOTENCY_CONFLICT, "decide")]
    assert await db.fetchval("SELECT count(*) FROM events") == 1
    assert [r["reason"] for r in await rows(db, "SELECT reason FROM failures")] == ["idempotency_conflict"]
    assert await states(db) == [("stored", 1)]


async def test_only_the_bad_event_leaves_the_batch(db: asyncpg.Connection) -> None:
    async def fragile(event: Event, tx: asyncpg.Connection) -> None:
        await note(event, tx)
        if event.data == "bad":
            raise Permanent("no")

    log = Log()
    items = [log.append(envelope(f"k{n}", "bad" if n == 70 else "good")) for n in range(150)]
    result = await settle(db, items, processor(registry_of(fragile)))
    assert outcomes(result)[70] == Dead(Reason.HANDLER_ERROR, "handle", "Permanent")
    assert [o for n, o in enumerate(outcomes(result)) if n != 70] == [Stored("fragile")] * 149
    assert await effects(db) == [f"k{n}" for n in range(150) if n != 70]
    assert await rows(db, "SELECT status, processed_at FROM events WHERE idempotency_key = 'k70'") == [
        {"status": "FAILED", "processed_at": None}
    ]
    assert (await states(db))[70] == ("failed", 1)


async def test_a_bad_event_costs_its_neighbours_no_savepoint_each(db: asyncpg.Connection) -> None:
    """Those before it run again, it runs by itself, and those behind it run once; a savepoint for each of these."""
    ran: Counter[str] = Counter()

    async def fragile(event: Event, tx: asyncpg.Connection) -> None:
        ran[event.idempotency_key] += 1
        await note(event, tx)
        if event.data == "bad":
            raise Permanent("no")

    log = Log()
    items = [log.append(envelope(f"k{n}", "bad" if n in (3, 40) else "good")) for n in range(60)]
    savepoints = []
    with db.query_logger(lambda query: savepoints.append(query.query.startswith("SAVEPOINT plutus_chunk"))):
        result = await settle(db, items, processor(registry_of(fragile)))
    assert [n for n, o in enumerate(outcomes(result)) if o != Stored("fragile")] == [3, 40]
    assert await effects(db) == [f"k{n}" for n in range(60) if n not in (3, 40)]
    assert ran == Counter({f"k{n}": 2 if n <= 40 else 1 for n in range(60)})
    assert sum(savepoints) == 3 + 3 + 1


async def test_a_poison_value_inside_sql_is_dead_and_a_bad_deploy_holds(db: asyncpg.Connection) -> None:
    async def divides(event: Event, tx: asyncpg.Connection) -> None:
        await tx.execute("SELECT 1 / $1::int", event.data)

    async def misspelt(event: Event, tx: asyncpg.Connection) -> None:
        await tx.execute("INSERT INTO no_such_table VALUES (1)")

    log = Log()
    result = await settle(
        db, [log.append(envelope("a", 1)), log.append(envelope("b", 0))], processor(registry_of(divides))
    )
    assert outcomes(result) == [Stored("divides"), Dead(Reason.HANDLER_ERROR, "handle", "22012")]
    with pytest.raises(Hold) as held:
        await settle(db, [log.append(envelope("c"))], processor(registry_of(misspelt)))
    assert (held.value.why, held.value.alarm) == ("42P01", True)
    assert await db.fetchval("SELECT count(*) FROM event_keys") == 2


async def test_a_plan_that_a_migration_made_useless_holds_once_and_nobody_is_called(db: asyncpg.Connection) -> None:
    async def reads(event: Event, tx: asyncpg.Connection) -> None:
        await tx.fetch("SELECT * FROM effects")
        await note(event, tx)

    log = Log()
    using = processor(registry_of(reads))
    await settle(db, [log.append(envelope("a"))], using)
    await db.execute("ALTER TABLE effects ADD COLUMN added int")
    later = log.append(envelope("b"))
    with pytest.raises(Hold) as held:
        await settle(db, [later], using)
    assert (held.value.why, held.value.alarm) == ("0A000", False)
    assert outcomes(await settle(db, [later], using)) == [Stored("reads")]
    assert await effects(db) == ["a", "b"]


async def test_a_retry_cuts_the_batch_and_gives_back_what_did_not_run(db: asyncpg.Connection) -> None:
    async def later(event: Event, tx: asyncpg.Connection) -> None:
        await note(event, tx)
        if event.data == "later":
            raise Retryable("busy", after=0.5)

    log = Log()
    items = [log.append(envelope(f"k{n}", "later" if n == 2 else "now")) for n in range(5)]
    using = processor(registry_of(later))
    result = await settle(db, items, using)
    assert outcomes(result) == [Stored("later")] * 2
    assert result.next_offset == 2
    assert result.retry == Retry(Reason.HANDLER_ERROR, "Retryable", 0.5)
    assert await effects(db) == ["k0", "k1"]
    assert await states(db) == [("stored", 1), ("stored", 1), ("accepted", 0), ("accepted", 0), ("accepted", 0)]
    given_up = await settle(db, items[2:], using, failures={2: 2})
    assert outcomes(given_up) == [Dead(Reason.HANDLER_ERROR, "handle", "Retryable"), *[Stored("later")] * 2]
    assert (await rows(db, "SELECT attempts FROM failures")) == [{"attempts": 3}]


async def test_18_the_budget_cuts_the_batch(db: asyncpg.Connection) -> None:
    async def slow(event: Event, tx: asyncpg.Connection) -> None:
        await tx.execute("SELECT pg_sleep(0.05)")
        await note(event, tx)

    log = Log()
    items = [log.append(envelope(f"k{n}")) for n in range(200)]
    result = await settle(db, items, processor(registry_of(slow), budget=0.1))
    assert 0 < result.next_offset < 200
    assert result.retry is None
    assert len(await effects(db)) == result.next_offset
    assert await db.fetchval("SELECT count(*) FROM event_keys WHERE state = 'stored'") == result.next_offset


async def test_18_the_budget_cuts_neighbours_of_one_handler_too(db: asyncpg.Connection) -> None:
    """They share a savepoint, and would else keep the transaction open for as long as all of them take."""
    ran: list[str] = []

    async def slow(event: Event, tx: asyncpg.Connection) -> None:
        ran.append(event.idempotency_key)
        await tx.execute("SELECT pg_sleep(0.06)")

    log = Log()
    items = [log.append(envelope(f"k{number}")) for number in range(20)]
    result = await settle(db, items, processor(registry_of(slow), budget=0.1))
    settled = [item.offset for item, outcome in result.outcomes if outcome == Stored("slow")]
    assert settled == list(range(len(ran)))
    assert 1 <= len(ran) < 20
    assert result.next_offset == len(ran)
    assert await db.fetchval("SELECT count(*) FROM events") == len(ran)


async def test_mixed_types_reach_a_batch_handler_in_large_calls(db: asyncpg.Connection) -> None:
    calls: list[int] = []

    async def many(events: Sequence[Event], tx: asyncpg.Connection) -> None:
        calls.append(len(events))

    log = Log()
    items = [log.append(envelope(f"k{n}", source=f"s{n}", type=f"t{n % 3}")) for n in range(300)]
    registry = Registry()
    for n in range(3):
        registry.handler(batch=True, type=f"t{n}", name=f"many{n}")(many)
    result = await settle(db, items, processor(registry))
    assert outcomes(result) == [Stored(f"many{n % 3}") for n in range(300)]
    assert calls == [100, 100, 100]


async def test_what_ran_beyond_a_cut_stays_done_and_the_cut_is_where_the_log_goes_on(db: asyncpg.Connection) -> None:
    """Handler by handler, the first type runs whole before the second one's event must wait."""

    async def first(event: Event, tx: asyncpg.Connection) -> None:
        await note(event, tx)

    async def second(event: Event, tx: asyncpg.Connection) -> None:
        if event.data == "later":
            raise Retryable("busy", after=0.5)
        await note(event, tx)

    log = Log()
    wanted = [("a", 1), ("b", 2), ("c", 1), ("d", 2), ("e", 1), ("f", 2)]
    items = [log.append(envelope(k, "later" if k == "d" else "", source=k, type=f"t{n}")) for k, n in wanted]
    registry = Registry()
    registry.handler(type="t1")(first)
    registry.handler(type="t2")(second)
    result = await settle(db, items, processor(registry))
    assert [(i.offset, o) for i, o in result.outcomes] == [
        (0, Stored("first")),
        (1, Stored("second")),
        (2, Stored("first")),
        (4, Stored("first")),
    ]
    assert (result.next_offset, result.retry_offset) == (3, 3)
    assert result.retry == Retry(Reason.HANDLER_ERROR, "Retryable", 0.5)
    assert await states(db) == [
        ("stored", 1),
        ("stored", 1),
        ("stored", 1),
        ("accepted", 0),
        ("stored", 1),
        ("accepted", 0),
    ]
    rest = await settle(db, items[3:], processor(registry), failures={3: 2})
    assert outcomes(rest) == [Dead(Reason.HANDLER_ERROR, "handle", "Retryable"), Duplicate(), Stored("second")]
    assert await effects(db) == ["a", "c", "e", "b", "f"]


@pytest.mark.parametrize("seed", range(5))
async def test_effects_of_a_key_come_in_log_order_whatever_cuts_the_batch(db: asyncpg.Connection, seed: int) -> None:
    """Types, keys, events that fail for good or for a while, and small budgets, at random; each effect comes once."""
    chance = random.Random(seed)
    waits: dict[str, int] = {}

    def handler(name: str) -> Callable[[Event, asyncpg.Connection], Awaitable[None]]:
        async def handle(event: Event, tx: asyncpg.Connection) -> None:
            await note(event, tx)
            if event.data == "dead":
                raise Permanent
            if waits.get(event.idempotency_key, 0):
                waits[event.idempotency_key] -= 1
                raise Retryable

        handle.__name__ = name
        return handle

    registry = Registry()
    for n in range(4):
        registry.handler(type=f"t{n}")(handler(f"h{n}"))
    log = Log()
    items, expected = [], dict[str, list[str]]()
    for n in range(120):
        source, dead = f"s{chance.randrange(6)}", chance.random() < 0.05
        key = f"{source}/{n}"
        waits[key] = 1 if chance.random() < 0.05 else 0
        items.append(log.append(envelope(key, "dead" if dead else "", source=source, type=f"t{chance.randrange(5)}")))
        event = items[-1].event
        if not dead and event is not None and event.type != "t4":  # t4 has no handler
            expected.setdefault(source, []).append(key)
    using = processor(registry, attempts=10, in_place=10, budget=chance.choice([0.0, 0.002, 10.0]))
    failures: dict[int, int] = {}
    left = items
    while left:
        result = await settle(db, left[: chance.randrange(1, 80)], using, failures=failures)
        if result.retry is not None:
            failures[result.retry_offset] = failures.get(result.retry_offset, 0) + 1
        left = [item for item in left if item.offset >= result.next_offset]
    seen: dict[str, list[str]] = {}
    for key in await effects(db):
        seen.setdefault(key.split("/")[0], []).append(key)
    assert seen == expected


async def test_a_handler_that_never_returns_is_timed_out(db: asyncpg.Connection) -> None:
    async def hangs(event: Event, tx: asyncpg.Connection) -> None:
        await asyncio.Event().wait()

    result = await settle(db, [Log().append(envelope("a"))], processor(registry_of(hangs), timeout=0.05, attempts=1))
    assert outcomes(result) == [Dead(Reason.HANDLER_TIMEOUT, "handle", "TimeoutError")]


async def test_a_handler_that_swallows_an_sql_error_is_caught(db: asyncpg.Connection) -> None:
    async def swallows(event: Event, tx: asyncpg.Connection) -> None:
        await note(event, tx)
        if event.data == "bad":
            try:
                await tx.execute("SELECT 1 / 0")
            except asyncpg.DivisionByZeroError:
                return

    log = Log()
    items = [log.append(envelope("a")), log.append(envelope("b", "bad")), log.append(envelope("c"))]
    result = await settle(db, items, processor(registry_of(swallows)))
    assert outcomes(result)[1] == Dead(Reason.HANDLER_BROKE_TRANSACTION, "handle", "25P02")
    assert await effects(db) == ["a", "c"]


async def test_a_cancellation_raised_by_a_handler_is_an_error_like_any_other(db: asyncpg.Connection) -> None:
    async def cancels(event: Event, tx: asyncpg.Connection) -> None:
        raise asyncio.CancelledError

    async def exits(event: Event, tx: asyncpg.Connection) -> None:
        raise SystemExit(3)

    log = Log()
    for handler, name in ((cancels, "CancelledError"), (exits, "SystemExit")):
        result = await settle(db, [log.append(envelope(name))], processor(registry_of(handler), attempts=2))
        assert result.retry == Retry(Reason.HANDLER_ERROR, name)


async def test_a_batch_handler_gets_neighbours_and_splits_on_an_error(db: asyncpg.Connection) -> None:
    calls: list[list[str]] = []

    async def many(events: Sequence[Event], tx: asyncpg.Connection) -> None:
        calls.append([event.idempotency_key for event in events])
        for event in events:
            if event.data == "bad":
                raise ValueError("a payload")
            await note(event, tx)

    log = Log()
    items = [log.append(envelope(k, "bad" if k == "b" else None)) for k in "abc"]
    items.insert(1, log.append(envelope("other", source="elsewhere")))
    result = await settle(
        db, sorted(items, key=lambda i: i.offset), processor(registry_of(many, batch=True), attempts=1)
    )
    assert [type(o) for o in outcomes(result)] == [Stored, Dead, Stored, Stored]
    assert calls == [["a", "b", "c"], ["a"], ["b"], ["c"]]
    assert sorted(await effects(db)) == ["a", "c"]


async def test_unhandled_events_are_dead_letters_where_asked_for(db: asyncpg.Connection) -> None:
    result = await settle(db, [Log().append(envelope("a"))], processor(Registry(), dead_unhandled=True))
    assert outcomes(result) == [Dead(Reason.NO_HANDLER, "handle")]


async def test_a_redelivered_failure_does_not_run_again(db: asyncpg.Connection) -> None:
    runs: list[str] = []

    async def fails(event: Event, tx: asyncpg.Connection) -> None:
        runs.append(event.idempotency_key)
        raise Permanent

    log = Log()
    items = [log.append(envelope("a")), log.append(b"{")]
    using = processor(registry_of(fails))
    await settle(db, items, using)
    result = await settle(db, items, using)
    assert outcomes(result) == [Redelivered(), Redelivered()]
    assert result.unsent
    assert runs == ["a"]
    assert await db.fetchval("SELECT count(*) FROM failures") == 2


async def test_a_replay_runs_once_and_updates_the_row(db: asyncpg.Connection) -> None:
    healthy = False

    async def mended(event: Event, tx: asyncpg.Connection) -> None:
        if not healthy:
            raise Permanent
        await note(event, tx)

    log = Log()
    using = processor(registry_of(mended))
    await settle(db, [log.append(envelope("a"))], using)
    copy_in_the_log = log.append(envelope("a"))
    await acknowledge_dead_letters(db, log)
    healthy = True
    assert outcomes(await settle(db, [copy_in_the_log], using)) == [Duplicate()], "it was there before the dead letter"
    replays = [log.append(envelope("a")), log.append(envelope("a"))]
    assert outcomes(await settle(db, replays, using)) == [Stored("mended"), Duplicate()]
    assert await effects(db) == ["a"]
    assert await rows(db, "SELECT status, attempts, handled_by FROM events") == [
        {"status": "PROCESSED", "attempts": 2, "handled_by": "mended"}
    ]
    assert await rows(db, "SELECT status FROM failures") == [{"status": "replayed"}]
    assert outcomes(await settle(db, [log.append(envelope("a"))], using)) == [Duplicate()]


async def test_replays_that_fail_again_end_at_the_limit(db: asyncpg.Connection) -> None:
    runs: list[str] = []

    async def fails(event: Event, tx: asyncpg.Connection) -> None:
        runs.append(event.idempotency_key)
        raise Permanent

    log = Log()
    using = processor(registry_of(fails), replay_limit=3)
    for _ in range(6):
        await settle(db, [log.append(envelope("a")), log.append(b"junk")], using)
        await acknowledge_dead_letters(db, log)
    assert len(runs) == 3
    found = await rows(db, "SELECT reason, status, count(*) AS n FROM failures GROUP BY 1, 2 ORDER BY 1, 2")
    assert found == [
        {"reason": "handler_error", "status": "open", "n": 1},
        {"reason": "handler_error", "status": "replayed", "n": 2},
        {"reason": "malformed_json", "status": "open", "n": 3},
        {"reason": "replay_limit", "status": "discarded", "n": 6},
    ]
    claim = await take(db)
    assert await db.fetchval("SELECT open FROM partition_claims") is False
    assert claim.epoch == 7
