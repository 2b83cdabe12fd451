"""Small batches of several partitions in one transaction, on a real Postgres: what is settled, and what is left to each alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest

from infra.runtime import postgres
from infra.runtime.optimism import Optimism
from infra.runtime.telemetry import Telemetry
from schemas.errors import Permanent, Reason, Retryable
from schemas.event import Event
from stream_worker import app, emit, store, together
from stream_worker.batch import Processor
from stream_worker.breaker import Breaker
from stream_worker.metrics import Metrics
from stream_worker.observe import Observer
from stream_worker.outcomes import Dead, Duplicate, Parked, Stored
from stream_worker.settings import WorkerSettings
from stream_worker.together import FEW, Settled, Share, Together
from tests.harness import connected
from tests.worker_kit import (
    Log,
    connection,
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

NOTE = Stored("note")


@dataclass
class Place:
    """A database, a worker's pool on it, and partitions that hand in what their logs hold."""

    database: str
    db: asyncpg.Connection
    pool: asyncpg.Pool
    places: asyncio.Semaphore
    settings: WorkerSettings

    def together(self, using: Processor | None = None, most: int = 2_000) -> Together:
        observer = Observer(Metrics(), Telemetry(self.settings, "worker"), "test")
        return Together(self.pool, self.places, using or processor(registry_of(note)), observer, most)

    async def share(self, log: Log) -> Share:
        """What this partition's log holds, or what has been added when it is taken."""
        claim = await take(self.db, log.partition)
        return Share(claim, lambda most: log.made[:most], Breaker(), Optimism())

    async def settle(self, *logs: Log, using: Processor | None = None) -> tuple[list[Share], list[Settled | None]]:
        """All of them at once."""
        shares = [await self.share(log) for log in logs]
        each = self.together(using)
        return shares, list(await asyncio.gather(*(each.settle(share) for share in shares)))

    async def written(self) -> tuple[int, int, int]:
        """Rows of events, keys that are taken, effects."""
        taken = await self.db.fetchval("SELECT count(*) FROM event_keys WHERE state <> 'accepted'")
        return await self.db.fetchval("SELECT count(*) FROM events"), taken, len(await effects(self.db))


@pytest.fixture
async def place(database: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Place]:
    monkeypatch.setattr(together, "_LONG", 60.0)  # how quick this machine is decides nothing here
    settings = WorkerSettings(kafka_bootstrap_servers="127.0.0.1:1", database_url=database)
    pool = await postgres.pool(settings, name="test", size=4, deadlines=app.deadlines(settings))
    async with connected(database) as db:
        await make_effects(db)
        yield Place(database, db, pool, asyncio.Semaphore(4), settings)
    await pool.close()


def log_of(partition: int, *keys: str, gateway: bool = False, **members: Any) -> Log:
    """A partition with an event for each key."""
    log = Log(partition)
    for key in keys:
        log.append(envelope(key, **members), gateway=gateway)
    return log


def told(settled: Settled | None) -> list[Any]:
    assert settled is not None
    return outcomes(settled.result)


async def test_batches_of_several_partitions_are_one_transaction(place: Place) -> None:
    logs = [log_of(0, "a", "b"), log_of(1, "c", "c"), log_of(2, "d", "a")]
    _, settled = await place.settle(*logs)
    assert [told(each) for each in settled] == [[NOTE, NOTE], [NOTE, Duplicate()], [NOTE, Duplicate()]]
    assert await effects(place.db) == ["a", "b", "c", "d"]
    assert await place.db.fetchval("SELECT count(DISTINCT xmin::text) FROM events") == 1
    assert await place.db.fetchval("SELECT count(*) FROM events JOIN event_keys USING (event_id) WHERE runs = 1") == 4
    claims = await rows(place.db, 'SELECT "partition", next_offset, open FROM partition_claims ORDER BY 1')
    assert claims == [{"partition": n, "next_offset": 2, "open": False} for n in range(3)]
    assert [each.result.next_offset for each in settled if each] == [2, 2, 2]
    again = await place.settle(*logs)
    assert [told(each) for each in again[1]] == [[Duplicate()] * 2] * 3
    assert len(await effects(place.db)) == 4


async def test_who_comes_while_a_transaction_runs_is_in_the_next(place: Place) -> None:
    """With all that its partition has got by then."""
    running, finish = asyncio.Event(), asyncio.Event()

    async def slow(event: Event, tx: asyncpg.Connection) -> None:
        running.set()
        await finish.wait()
        await note(event, tx)

    each = place.together(processor(registry_of(slow)))
    first = asyncio.create_task(each.settle(await place.share(log_of(0, "a"))))
    await running.wait()
    logs = [log_of(1, "b"), log_of(2, "c")]
    others = [asyncio.create_task(each.settle(await place.share(log))) for log in logs]
    await asyncio.sleep(0)  # they are handed in
    logs[0].append(envelope("d"))
    finish.set()
    settled = [told(await task) for task in (first, *others)]
    assert settled == [[Stored("slow")], [Stored("slow")] * 2, [Stored("slow")]]
    assert await place.db.fetchval("SELECT count(DISTINCT xmin::text) FROM events") == 2


async def test_a_row_is_what_a_batch_alone_would_write(place: Place) -> None:
    def made(partition: int, key: str) -> Log:
        log: Log = Log(partition)
        ways: list[Any] = [None, "x", {"n": 1.10, "t": '\u00e4\x7f\n"\\'}, [], 2**70]
        for n, payload in enumerate(ways):
            log.append(
                envelope(
                    f"{key}{n}", payload, type="t", ordering_key=f"o{n}", occurred_at="2026-02-01T03:04:05.678+05:30"
                )
            )
        text = b'{"source":"src","schema_version":"1.0","idempotency_key":"%s","payload": {"z" : "\\u00e4 \\\\u0000", "a":1e2} }'
        log.append(text % key.encode())
        return log

    await place.settle(made(0, "a"))
    alone = made(1, "b")
    await settle(place.db, alone.made, processor(registry_of(note)))
    columns = "source, schema_version, type, ordering_key, occurred_at, payload::text, payload_encoding, status, handled_by, attempts"
    query = f'SELECT {columns}, topic, "offset", received_at = processed_at FROM events WHERE "partition" = $1 ORDER BY "offset"'
    assert await rows(place.db, query, 0) == await rows(place.db, query, 1)
    keys = "SELECT idempotency_key FROM events ORDER BY 1"
    assert [row["idempotency_key"] for row in await rows(place.db, keys)] == sorted(
        ["a", "b", *(f"{key}{n}" for key in "ab" for n in range(5))]
    )


async def test_a_gateways_key_keeps_the_time_it_was_accepted(place: Place) -> None:
    log = log_of(0, "a", gateway=True)
    await store.remember_keys(place.db, log.made)
    await place.db.execute("UPDATE event_keys SET accepted_at = accepted_at - interval '1 hour'")
    _, settled = await place.settle(log)
    assert told(settled[0]) == [NOTE]
    assert await place.db.fetchval("SELECT count(*) FROM events JOIN event_keys ON received_at = accepted_at") == 1
    assert await place.db.fetchval("SELECT count(*) FROM events WHERE received_at < now() - interval '59 minutes'") == 1


async def test_16_a_gateway_does_not_wait_for_the_handlers(place: Place) -> None:
    """Its records have rows before their transaction begins; a record past it has none."""
    seen = []

    async def look(event: Event, tx: asyncpg.Connection) -> None:
        async with connected(place.database) as other:
            seen.append(await other.fetch('SELECT state, "partition", record_offset FROM event_keys'))

    _, settled = await place.settle(
        log_of(0, "a"), log_of(1, "x", "b", gateway=True), using=processor(registry_of(look))
    )
    assert [len(told(each)) for each in settled] == [1, 2]
    assert [[tuple(row) for row in rows] for rows in seen] == [[("accepted", 1, 0), ("accepted", 1, 1)]] * 3


async def test_an_event_behind_a_parked_one_waits_with_it(place: Place) -> None:
    """As it would alone: nothing of a parked key runs, and it is queued behind."""

    async def wait(event: Event, tx: asyncpg.Connection) -> None:
        raise Retryable

    log = Log(1)
    first = await settle(
        place.db, [log.append(envelope("b0", ordering_key="k"))], processor(registry_of(wait), in_place=0)
    )
    assert isinstance(outcomes(first)[0], Parked)
    behind = Log(1, offset=1)
    for key, order in (("b1", "k"), ("b2", "other"), ("b3", "k")):
        behind.append(envelope(key, ordering_key=order))
    shares, settled = await place.settle(log_of(0, "a"), behind)
    assert [told(each) for each in settled] == [[NOTE], [Parked(None), NOTE, Parked(None)]]
    assert await effects(place.db) == ["a", "b2"]
    queue = 'SELECT "offset", attempts FROM parked_events WHERE order_key = \'src:k\' ORDER BY "offset"'
    assert [tuple(row) for row in await place.db.fetch(queue)] == [(0, 1), (1, 0), (3, 0)]
    kept = "SELECT idempotency_key, status, state, processed_at FROM events JOIN event_keys USING (event_id)"
    waits = await rows(place.db, f"{kept} WHERE status <> 'PROCESSED' ORDER BY 1")
    assert [tuple(row.values()) for row in waits] == [(f"b{n}", "RETRYING", "parked", None) for n in (0, 1, 3)]
    for share in shares:
        share.calm.asked(0)
    assert [share.calm.allowed for share in shares] == [True, True]


class TestNotPlain:
    """What is left to each partition alone, and what of the others."""

    async def test_who_has_something_else_is_left_out(self, place: Place) -> None:
        broken = log_of(1, "b")
        broken.append(b"{")
        conflict = log_of(2, "c")
        conflict.append(envelope("c", "another payload"))
        _, settled = await place.settle(log_of(0, "a"), broken, conflict)
        assert told(settled[0]) == [NOTE]
        assert settled[1:] == [None, None]
        assert await place.written() == (1, 1, 1)
        assert await place.db.fetchval("SELECT count(*) FROM partition_claims WHERE next_offset IS NULL") == 2

    async def test_an_event_that_failed_is_left_out_replay_or_not(self, place: Place) -> None:
        async def refuse(event: Event, tx: asyncpg.Connection) -> None:
            raise Permanent("no")

        log = log_of(1, "b")
        await settle(place.db, log.made, processor(registry_of(refuse)))
        again = Log(1, offset=1, now_ms=log.now_ms)
        again.append(envelope("b"))
        _, settled = await place.settle(log_of(0, "a"), again)
        assert (told(settled[0]), settled[1]) == ([NOTE], None)

    async def test_a_record_that_has_a_failures_row_is_left_out_though_its_key_is_forgotten(self, place: Place) -> None:
        async def refuse(event: Event, tx: asyncpg.Connection) -> None:
            raise Permanent("no")

        log = log_of(1, "b", gateway=True)
        await settle(place.db, log.made, processor(registry_of(refuse)))
        await place.db.execute("DELETE FROM event_keys")
        _, settled = await place.settle(log_of(0, "a"), log)
        assert (told(settled[0]), settled[1]) == ([NOTE], None)
        assert await place.db.fetchval("SELECT count(*) FROM event_keys") == 1, "no row is made for it"

    async def test_events_that_nothing_handles_are_left_out_where_they_are_dead(self, place: Place) -> None:
        other = log_of(1, "b", source="other")
        using = processor(registry_of(note), dead_unhandled=True)
        _, settled = await place.settle(log_of(0, "a"), other, using=using)
        assert (told(settled[0]), settled[1]) == ([NOTE], None)

    async def test_a_conflict_between_partitions_undoes_all(self, place: Place) -> None:
        _, settled = await place.settle(log_of(0, "a"), log_of(1, "a", payload="another"))
        assert settled == [None, None]
        assert await place.written() == (0, 0, 0)

    @pytest.mark.parametrize("batch", [False, True])
    async def test_a_handler_that_raises_undoes_all_and_keeps_its_partition_apart(
        self, place: Place, batch: bool
    ) -> None:
        async def moody(given: Any, tx: asyncpg.Connection) -> None:
            for event in given if batch else [given]:
                await note(event, tx)
                if event.idempotency_key == "bad":
                    raise Permanent("no")

        using = processor(registry_of(moody, batch=batch))
        logs = log_of(0, "a"), log_of(1, "b", "bad"), log_of(2, "c")
        shares, settled = await place.settle(*logs, using=using)
        assert settled == [None] * 3
        assert await place.written() == (0, 0, 0)
        for share in shares:  # a batch has been asked for alone, as it must be before the first guess
            share.calm.asked(0)
        assert [share.calm.allowed for share in shares] == ([False] * 3 if batch else [True, False, True])
        alone = [await settle(place.db, log.made, using, await take(place.db, log.partition)) for log in logs]
        assert [outcomes(each)[-1] for each in alone] == [Stored("moody"), _DEAD, Stored("moody")]
        assert sorted(await effects(place.db)) == ["a", "b", "c"]

    @pytest.mark.parametrize("ends", ["SELECT 1/0", "ROLLBACK", "COMMIT", "ROLLBACK; BEGIN"])
    async def test_a_handler_that_ends_the_transaction_and_says_nothing(self, place: Place, ends: str) -> None:
        async def rude(event: Event, tx: asyncpg.Connection) -> None:
            try:
                await tx.execute(ends)
            except asyncpg.PostgresError:
                return

        shares, settled = await place.settle(log_of(0, "a"), log_of(1, "b"), using=processor(registry_of(rude)))
        assert settled == [None, None]
        assert await place.written() == (0, 0, 0)
        assert await place.db.fetchval("SELECT count(*) FROM partition_claims WHERE open") == 0
        for share in shares:
            share.calm.asked(0)
        assert not shares[0].calm.allowed

    @pytest.mark.parametrize("known", [False, True])
    async def test_a_lost_claim_undoes_all(self, place: Place, known: bool) -> None:
        logs = log_of(0, "a"), log_of(1, "b")
        if known:
            await place.settle(*logs)
        before = await place.written()
        shares = [await place.share(log) for log in logs]
        await take(place.db, 1)
        each = place.together()
        assert await asyncio.gather(*(each.settle(share) for share in shares)) == [None, None]
        assert await place.written() == before

    @pytest.mark.parametrize("payload", [None, "another"])
    async def test_an_id_that_somebody_takes_meanwhile_undoes_all(
        self, place: Place, monkeypatch: pytest.MonkeyPatch, payload: Any
    ) -> None:
        opened = together._open_and_claim

        async def late(*given: Any) -> Any:
            await settle(place.db, [Log(7).append(envelope("b", payload))], processor(registry_of(note)))
            return await opened(*given)

        monkeypatch.setattr(together, "_open_and_claim", late)
        _, settled = await place.settle(log_of(0, "a"), log_of(1, "b"))
        assert settled == [None, None]
        assert await place.written() == (1, 1, 1)

    async def test_a_database_that_is_away_leaves_all_to_each(self, place: Place) -> None:
        shares = [await place.share(log_of(0, "a"))]
        await place.pool.close()
        assert await place.together().settle(shares[0]) is None
        assert not shares[0].calm.allowed


_DEAD = Dead(Reason.HANDLER_ERROR, "handle", "Permanent")


async def test_what_takes_long_is_better_alone(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for limit, calm in ((0.0, False), (60.0, True)):
        monkeypatch.setattr(together, "_LONG", limit)
        monkeypatch.setattr(together, "_SLOW", limit)
        shares, settled = await place.settle(log_of(int(limit), f"a{limit}"))
        assert told(settled[0]) == [NOTE]
        shares[0].calm.asked(0)
        assert shares[0].calm.allowed is calm


async def test_the_time_a_batch_may_take_counts(place: Place) -> None:
    _, settled = await place.settle(log_of(0, "a", "b"), using=processor(registry_of(note), budget=0.0))
    assert settled == [None]
    assert await place.written() == (0, 0, 0)


async def test_only_few_records_of_a_partition_and_only_so_many_partitions_at_once(place: Place) -> None:
    logs = [log_of(n, *(f"{n}-{m}" for m in range(FEW + 10))) for n in range(3)]
    each = place.together(most=2 * FEW)
    settled = await asyncio.gather(*[each.settle(await place.share(log)) for log in logs])
    assert [len(told(one)) for one in settled] == [FEW - 1] * 3
    assert await place.db.fetchval("SELECT count(DISTINCT xmin::text) FROM events") == 2


async def test_who_has_given_up_is_not_taken(place: Place) -> None:
    """A partition that is drained while it waits for the others."""
    running, finish = asyncio.Event(), asyncio.Event()

    async def slow(event: Event, tx: asyncpg.Connection) -> None:
        running.set()
        await finish.wait()

    each = place.together(processor(registry_of(slow)))
    first = asyncio.create_task(each.settle(await place.share(log_of(0, "a"))))
    await running.wait()
    given_up = asyncio.create_task(each.settle(await place.share(log_of(1, "b"))))
    await asyncio.sleep(0)
    given_up.cancel()
    await asyncio.wait([given_up])
    last = asyncio.create_task(each.settle(await place.share(log_of(2, "c"))))
    finish.set()
    assert [told(await task) for task in (first, last)] == [[Stored("slow")]] * 2
    assert await place.db.fetchval('SELECT count(*) FROM events WHERE "partition" = 1') == 0


async def test_whoever_must_not_wait_ends_the_connection(place: Place) -> None:
    running = asyncio.Event()

    async def hang(event: Event, tx: asyncpg.Connection) -> None:
        running.set()
        await tx.execute("SELECT pg_sleep(60)")

    share = await place.share(log_of(0, "a"))
    settling = asyncio.create_task(place.together(processor(registry_of(hang))).settle(share))
    await running.wait()
    assert share.connection is not None
    share.connection.terminate()
    assert await settling is None
    assert await place.written() == (0, 0, 0)


async def test_an_unforeseen_error_is_not_swallowed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def odd(*_: object) -> None:
        raise LookupError

    monkeypatch.setattr(together, "_results", odd)
    each = place.together()
    with pytest.raises(LookupError):
        await each.settle(await place.share(log_of(0, "a")))
    monkeypatch.undo()
    with pytest.raises(LookupError):
        await asyncio.wait_for(_working(each), 10)
    assert told(await each.settle(await place.share(log_of(1, "b")))) == [NOTE], "the next begins anew"


def _working(each: Together) -> asyncio.Task[None]:
    assert each._working is not None
    return each._working


async def test_whether_events_were_emitted_is_told(place: Place) -> None:
    async def parent(event: Event, tx: asyncpg.Connection) -> None:
        await emit.emit(event, tx, type="t", source="s", payload=1, schema_version="1.0")

    _, settled = await place.settle(log_of(0, "a"), using=processor(registry_of(parent)))
    assert settled[0] is not None
    assert settled[0].emitted
    _, settled = await place.settle(log_of(1, "b"))
    assert settled[0] is not None
    assert not settled[0].emitted


class TestSession:
    """What a handler leaves in its session is gone for whoever has the connection next."""

    async def left(self, place: Place, during: Callable[[asyncpg.Connection], Any]) -> tuple[Any, ...]:
        async with place.pool.acquire() as proxy:
            db = connection(proxy)
            try:
                async with db.transaction():
                    await db.execute("SET work_mem = '77MB'; SELECT pg_advisory_lock(7); LISTEN somebody")
                    await db.execute("DECLARE held CURSOR WITH HOLD FOR SELECT 1")
                    await during(db)
            except ZeroDivisionError:
                pass
            pid = db.get_server_pid()
        async with place.pool.acquire() as proxy:
            db = connection(proxy)
            assert db.get_server_pid() == pid
            work_mem = await db.fetchval("SHOW work_mem")
            held = await db.fetchval("SELECT count(*) FROM pg_cursors WHERE name = 'held'")
            locks = await db.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = $1", pid)
            return work_mem == "77MB", held, locks, await db.fetch("SELECT pg_listening_channels()")

    async def test_by_the_commit(self, place: Place) -> None:
        async def nothing(db: asyncpg.Connection) -> None: ...

        assert await self.left(place, nothing) == (False, 0, 0, [])

    async def test_by_the_pool_after_a_rollback(self, place: Place) -> None:
        async def fail(db: asyncpg.Connection) -> None:
            raise ZeroDivisionError

        assert await self.left(place, fail) == (False, 0, 0, [])

    async def test_a_commit_spares_the_pools_question(self, place: Place) -> None:
        async with place.pool.acquire() as proxy:
            db = connection(proxy)
            assert "RESET ALL" in db.get_reset_query()
            async with db.transaction():
                async with db.transaction():  # a savepoint
                    await db.execute("SET work_mem = '77MB'")
                assert "RESET ALL" in db.get_reset_query()
            assert db.get_reset_query() == ""
            with pytest.raises(ZeroDivisionError):
                async with db.transaction():
                    raise ZeroDivisionError
            assert "RESET ALL" in db.get_reset_query(), "this one ended in another way"
            assert await db.fetchval("SHOW work_mem") != "77MB"
