"""Day partitions of `events` on a real Postgres: made ahead, filled from the default, dropped; and who waits for whom."""

from __future__ import annotations

import asyncio
import datetime as dt
import uuid
from collections.abc import AsyncIterator

import asyncpg
import pytest

from infra.runtime.partitions import Dropped, Ensured, default_rows, drop_expired, ensure_partitions

SOON = 0.1  # a lock_timeout for locks that will not come
DAY = dt.timedelta(days=1)


def today() -> dt.date:
    return dt.datetime.now(dt.UTC).date()


def noon(day: dt.date) -> dt.datetime:
    return dt.datetime.combine(day, dt.time(12), dt.UTC)


def name_of(day: dt.date) -> str:
    return f"events_{day:%Y%m%d}"


@pytest.fixture
async def db(database: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to a migrated database, as the maintenance uses it. The day may have changed since the migration."""
    conn = await asyncpg.connect(database, command_timeout=30)
    await ensure_partitions(conn)
    yield conn
    await conn.close()


@pytest.fixture
async def other(database: str) -> AsyncIterator[asyncpg.Connection]:
    """Somebody else's connection to the same database."""
    conn = await asyncpg.connect(database, command_timeout=30)
    yield conn
    await conn.close()


async def insert(conn: asyncpg.Connection, received_at: dt.datetime, status: str = "PROCESSED") -> None:
    """One event."""
    await conn.execute(
        "INSERT INTO events (event_id, source, idempotency_key, schema_version, payload, status, received_at, topic,"
        " \"partition\", \"offset\") VALUES ($1, 's', 'k', '1', '{}', $2, $3, 't', 0, 0)",
        uuid.uuid4(),
        status,
        received_at,
    )


async def lose_partition(conn: asyncpg.Connection, day: dt.date) -> None:
    """As if nobody had made it in time."""
    await conn.execute(f"DROP TABLE {name_of(day)}")


async def make_partition(conn: asyncpg.Connection, day: dt.date) -> None:
    """A partition outside the days that are made by themselves."""
    await conn.execute("SELECT plutus_make_events_partition($1)", day)


async def partitions(conn: asyncpg.Connection) -> set[str]:
    rows = await conn.fetch("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'events'::regclass")
    return {row[0] for row in rows}


async def homes(conn: asyncpg.Connection) -> dict[str, int]:
    """Rows by the partition they are in."""
    rows = await conn.fetch("SELECT tableoid::regclass::text, count(*) FROM events GROUP BY 1")
    return {row[0]: row[1] for row in rows}


class TestEnsure:
    async def test_a_second_run_finds_nothing_to_do(self, db: asyncpg.Connection) -> None:
        assert await ensure_partitions(db) == Ensured()
        assert await default_rows(db) == 0

    async def test_missing_days_are_made_as_far_ahead_as_asked(self, db: asyncpg.Connection) -> None:
        assert await ensure_partitions(db, days_ahead=16) == Ensured(made=(today() + 15 * DAY, today() + 16 * DAY))
        assert await ensure_partitions(db, days_ahead=16) == Ensured()

    async def test_12_rows_leave_the_default_for_their_new_partition(self, db: asyncpg.Connection) -> None:
        """Interleaving 12: one row in the default blocks the plain way of making its real partition."""
        day = today() + 3 * DAY
        await lose_partition(db, day)
        await insert(db, noon(day))
        await insert(db, noon(day), "RETRYING")
        assert await default_rows(db) == 2
        with pytest.raises(asyncpg.CheckViolationError):
            await db.execute(f"CREATE TABLE plain PARTITION OF events FOR VALUES FROM ('{day}') TO ('{day + DAY}')")
        assert await ensure_partitions(db) == Ensured(made=(day,), moved=2)
        assert await default_rows(db) == 0
        assert await homes(db) == {name_of(day): 2}

    async def test_a_partition_made_later_is_like_one_made_first(self, db: asyncpg.Connection) -> None:
        day = today() + 3 * DAY
        shape = (
            "SELECT replace(pg_get_indexdef(indexrelid), $1, '') FROM pg_index WHERE indrelid = $1::text::regclass"
            " UNION ALL SELECT conname || pg_get_constraintdef(oid) FROM pg_constraint"
            " WHERE conrelid = $1::text::regclass AND contype = 'c' ORDER BY 1"
        )
        first = await db.fetch(shape, name_of(day + DAY))
        await lose_partition(db, day)
        await ensure_partitions(db)
        assert await db.fetch(shape, name_of(day)) == first
        assert len(first) == 3  # the primary key and two checks

    async def test_days_of_the_default_get_partitions_however_far_away(self, db: asyncpg.Connection) -> None:
        past, future = today() - 40 * DAY, today() + 400 * DAY
        await insert(db, noon(past))
        await insert(db, noon(future))
        assert await ensure_partitions(db) == Ensured(made=(past, future), moved=2)
        assert await default_rows(db) == 0

    @pytest.mark.parametrize("zone", ["UTC", "Pacific/Auckland", "America/St_Johns"])
    async def test_days_are_utc_days_whatever_the_session_says(self, db: asyncpg.Connection, zone: str) -> None:
        day = today() + 3 * DAY
        await lose_partition(db, day)
        midnight = dt.datetime.combine(day, dt.time(), dt.UTC)
        microsecond = dt.timedelta(microseconds=1)
        for received_at in (midnight - microsecond, midnight, midnight + DAY - microsecond, midnight + DAY):
            await insert(db, received_at)
        await db.execute(f"SET timezone = '{zone}'")
        assert await ensure_partitions(db) == Ensured(made=(day,), moved=2)
        assert await homes(db) == {name_of(day - DAY): 1, name_of(day): 2, name_of(day + DAY): 1}

    async def test_it_leaves_the_session_as_it_was(self, db: asyncpg.Connection) -> None:
        await lose_partition(db, today() + 3 * DAY)
        before = await db.fetchval("SHOW lock_timeout")
        await ensure_partitions(db)
        assert await db.fetchval("SHOW lock_timeout") == before

    async def test_two_at_once_make_each_day_once(self, db: asyncpg.Connection, other: asyncpg.Connection) -> None:
        done = await asyncio.gather(
            ensure_partitions(db, days_ahead=40, lock_timeout=10), ensure_partitions(other, 40, lock_timeout=10)
        )
        assert sorted(done[0].made + done[1].made) == [today() + n * DAY for n in range(15, 41)]
        assert done[0].busy == done[1].busy == ()


class TestEnsureBesideOthers:
    """Everyone queues behind a DDL statement that waits, so it waits briefly, and for as few as it can."""

    async def test_a_day_that_cannot_be_locked_is_busy_and_made_next_time(
        self, db: asyncpg.Connection, other: asyncpg.Connection
    ) -> None:
        day = today() + 3 * DAY
        await lose_partition(db, day)
        await insert(db, noon(day))
        async with other.transaction():
            await other.execute("LOCK TABLE events_default IN ACCESS SHARE MODE")
            assert await ensure_partitions(db, lock_timeout=SOON) == Ensured(busy=(day,))
            assert await default_rows(db) == 1, "a move that failed has moved nothing"
        assert await ensure_partitions(db, lock_timeout=SOON) == Ensured(made=(day,), moved=1)

    async def test_one_busy_day_does_not_keep_the_others_back(
        self, db: asyncpg.Connection, other: asyncpg.Connection
    ) -> None:
        """A writer of today keeps today's partition from being made, and no other one."""
        await lose_partition(db, today())
        await lose_partition(db, today() + 3 * DAY)
        async with other.transaction():
            await insert(other, noon(today() + 4 * DAY))
            done = await ensure_partitions(db, lock_timeout=SOON)
            assert done == Ensured(made=(today() + 3 * DAY,), busy=(today(),))

    async def test_an_open_worker_transaction_does_not_hold_up_a_day_ahead(
        self, db: asyncpg.Connection, other: asyncpg.Connection
    ) -> None:
        async with other.transaction():
            await insert(other, noon(today()))
            assert (await ensure_partitions(db, days_ahead=15, lock_timeout=SOON)).made == (today() + 15 * DAY,)
            await insert(other, noon(today()))

    async def test_12_writers_of_the_day_being_made_never_fail(self, db: asyncpg.Connection, database: str) -> None:
        """A writer that had been routed to the default when the partition came would be refused with 23514, which
        reads as the event's fault: they are kept out before they choose.
        """
        written = 0
        busy, made = asyncio.Event(), asyncio.Event()

        async def write() -> None:
            nonlocal written
            conn = await asyncpg.connect(database, command_timeout=30)
            while not made.is_set():
                await insert(conn, dt.datetime.now(dt.UTC))
                written += 1
                if written >= 30:
                    busy.set()
            await conn.close()

        for _ in range(5):
            await lose_partition(db, today())
            written = 0
            busy.clear()
            made.clear()
            async with asyncio.timeout(30), asyncio.TaskGroup() as writers:
                for _ in range(6):
                    writers.create_task(write())
                await busy.wait()
                while (await ensure_partitions(db)).busy:
                    pass
                made.set()
            assert await homes(db) == {name_of(today()): written}
            assert await default_rows(db) == 0


class TestDrop:
    async def test_12_only_expired_partitions_without_unfinished_events_go(self, db: asyncpg.Connection) -> None:
        clean, retrying, failed, empty, last = (today() - n * DAY for n in (40, 41, 42, 43, 31))
        young = today() - 30 * DAY
        for day in (clean, retrying, failed, empty, last, young):
            await make_partition(db, day)
        for day, status in ((clean, "PROCESSED"), (retrying, "RETRYING"), (failed, "FAILED"), (young, "PROCESSED")):
            await insert(db, noon(day), status)
        before = await partitions(db)
        done = await drop_expired(db, 30)
        assert done == Dropped(dropped=(empty, clean, last), held=(failed, retrying))
        assert before - await partitions(db) == {name_of(day) for day in (empty, clean, last)}
        assert await homes(db) == {name_of(day): 1 for day in (retrying, failed, young)}
        assert (await drop_expired(db, 30)).dropped == ()

    async def test_a_held_partition_goes_once_its_events_are_finished(self, db: asyncpg.Connection) -> None:
        day = today() - 40 * DAY
        await make_partition(db, day)
        await insert(db, noon(day), "FAILED")
        assert (await drop_expired(db, 30)).held == (day,)
        await db.execute("UPDATE events SET status = 'PROCESSED'")
        assert (await drop_expired(db, 30)).dropped == (day,)

    async def test_an_event_that_is_failing_right_now_is_waited_for(
        self, db: asyncpg.Connection, other: asyncpg.Connection
    ) -> None:
        day = today() - 40 * DAY
        await make_partition(db, day)
        async with other.transaction():
            await insert(other, noon(day), "FAILED")
            assert await drop_expired(db, 30, lock_timeout=SOON) == Dropped(busy=(day,))
        assert await drop_expired(db, 30, lock_timeout=SOON) == Dropped(held=(day,))

    async def test_an_event_that_fails_after_the_look_is_not_lost(
        self, db: asyncpg.Connection, other: asyncpg.Connection
    ) -> None:
        """The drop has found nothing unfinished and waits for its last lock; a worker that is in its way fails an event
        of the day. The drop gives way, before the server would call it a deadlock and choose the worker.
        """
        day = today() - 40 * DAY
        await make_partition(db, day)
        waiting = "SELECT 1 FROM pg_locks WHERE relation = 'events'::regclass AND NOT granted"
        async with asyncio.timeout(20), other.transaction():
            await insert(other, noon(today()))
            drop = asyncio.create_task(drop_expired(db, 30))
            while not await other.fetch(waiting):
                pass
            await insert(other, noon(day), "FAILED")
        assert await drop == Dropped(busy=(day,))
        assert await drop_expired(db, 30) == Dropped(held=(day,))

    async def test_a_reader_of_everything_makes_it_busy(
        self, db: asyncpg.Connection, other: asyncpg.Connection
    ) -> None:
        day = today() - 40 * DAY
        await make_partition(db, day)
        async with other.transaction():
            await other.fetch("SELECT count(*) FROM events")
            assert await drop_expired(db, 30, lock_timeout=SOON) == Dropped(busy=(day,))
        assert await drop_expired(db, 30, lock_timeout=SOON) == Dropped(dropped=(day,))

    async def test_two_at_once_drop_each_day_once(self, db: asyncpg.Connection, other: asyncpg.Connection) -> None:
        days = tuple(today() - n * DAY for n in range(49, 39, -1))
        for day in days:
            await make_partition(db, day)
        done = await asyncio.gather(drop_expired(db, 30, lock_timeout=10), drop_expired(other, 30, lock_timeout=10))
        assert sorted(done[0].dropped + done[1].dropped) == list(days)

    async def test_expired_rows_of_the_default_go_by_way_of_a_partition(self, db: asyncpg.Connection) -> None:
        day = today() - 40 * DAY
        await insert(db, noon(day))
        assert await drop_expired(db, 30) == Dropped()
        await ensure_partitions(db)
        assert await drop_expired(db, 30) == Dropped(dropped=(day,))

    async def test_the_database_itself_refuses_a_young_partition(self, db: asyncpg.Connection) -> None:
        with pytest.raises(asyncpg.InvalidParameterValueError, match="younger than 30 days"):
            await db.execute("SELECT plutus_drop_events_partition($1, 30)", today())
        with pytest.raises(asyncpg.InvalidParameterValueError):
            await db.execute("SELECT plutus_drop_events_partition($1, 0)", today())

    async def test_no_retention_is_not_a_retention_of_zero(self, db: asyncpg.Connection) -> None:
        with pytest.raises(ValueError, match="at least 1"):
            await drop_expired(db, 0)
