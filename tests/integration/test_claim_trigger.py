"""The claim trigger on a real Postgres: no COMMIT while a batch's claim is open, whoever asks for it.

Interleaving 6: a handler runs COMMIT in the batch's transaction; the driver reports nothing, and a crash then leaves
effects without their events. And the fence of interleaving 4, as far as it is the table's.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

EPOCH = 5
_WHERE = "WHERE \"group\" = 'g' AND topic = 't' AND \"partition\" = 0"
OPEN = f"UPDATE partition_claims SET open = true {_WHERE} AND epoch = {EPOCH} RETURNING epoch"
CLOSE = (
    f"UPDATE partition_claims SET open = false, next_offset = 7 {_WHERE} AND epoch = {EPOCH} AND open RETURNING epoch"
)
TAKE = f"UPDATE partition_claims SET epoch = epoch + 1, open = false {_WHERE} RETURNING epoch"
EFFECT = "INSERT INTO effects VALUES (1)"


@pytest.fixture
async def db(database: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to a migrated database that holds one claim and a table for a handler's effects."""
    conn = await asyncpg.connect(database, command_timeout=10)
    await conn.execute(f"INSERT INTO partition_claims VALUES ('g', 't', 0, {EPOCH}); CREATE TABLE effects (n int)")
    yield conn
    await conn.close()


@pytest.fixture
async def other(database: str) -> AsyncIterator[asyncpg.Connection]:
    """Somebody else's connection to the same database."""
    conn = await asyncpg.connect(database, command_timeout=10)
    yield conn
    await conn.close()


async def refused(conn: asyncpg.Connection, sql: str) -> asyncpg.PostgresError:
    """The error of a statement that the trigger refuses."""
    with pytest.raises(asyncpg.PostgresError) as caught:
        await conn.execute(sql)
    assert caught.value.sqlstate == "PL001"
    return caught.value


async def effects(conn: asyncpg.Connection) -> int:
    return int(await conn.fetchval("SELECT count(*) FROM effects"))


class TestCommit:
    async def test_a_closed_claim_commits(self, db: asyncpg.Connection) -> None:
        async with db.transaction():
            await db.fetchval(OPEN)
            await db.execute(EFFECT)
            assert await db.fetchval(CLOSE) == EPOCH
        assert await effects(db) == 1
        claim = await db.fetchrow("SELECT open, next_offset FROM partition_claims")
        assert tuple(claim or ()) == (False, 7)

    async def test_an_open_claim_does_not_and_nothing_of_it_stays(self, db: asyncpg.Connection) -> None:
        await db.execute("BEGIN")
        await db.fetchval(OPEN)
        await db.execute(EFFECT)
        error = await refused(db, "COMMIT")
        assert await effects(db) == 0
        assert await db.fetchval("SELECT open FROM partition_claims") is False
        assert error.constraint_name == "partition_claims_closed"
        assert "partition 0 of topic t was committed before it was finished" in str(error)

    async def test_a_handler_that_commits_cannot_leave_half_a_batch(self, db: asyncpg.Connection) -> None:
        """Interleaving 6. The driver's own COMMIT comes later and would report nothing."""
        transaction = db.transaction()
        await transaction.start()
        await db.fetchval(OPEN)
        await db.execute(EFFECT)
        await refused(db, "COMMIT; INSERT INTO effects VALUES (2)")
        assert await db.fetchval(CLOSE) is None, "the worker's last statement tells it that the transaction is gone"
        assert await effects(db) == 0

    async def test_commit_and_chain_is_no_way_round(self, db: asyncpg.Connection) -> None:
        await db.execute("BEGIN")
        await db.fetchval(OPEN)
        await db.execute(EFFECT)
        await refused(db, "COMMIT AND CHAIN")
        assert await effects(db) == 0

    async def test_a_handler_that_rolls_back_and_begins_anew_is_found_out_by_the_last_statement(
        self, db: asyncpg.Connection
    ) -> None:
        """The claim's opening went with the rollback, so there is nothing to refuse: the closing finds nothing open."""
        await db.execute("BEGIN")
        await db.fetchval(OPEN)
        await db.execute("ROLLBACK; BEGIN")
        await db.execute(EFFECT)
        assert await db.fetchval(CLOSE) is None
        await db.execute("ROLLBACK")

    async def test_a_swallowed_error_cannot_commit(self, db: asyncpg.Connection) -> None:
        """COMMIT of a failed transaction answers ROLLBACK without an error; the closing statement does not."""
        transaction = db.transaction()
        await transaction.start()
        await db.fetchval(OPEN)
        await db.execute(EFFECT)
        with pytest.raises(asyncpg.DivisionByZeroError):
            await db.execute("SELECT 1 / 0")
        with pytest.raises(asyncpg.InFailedSQLTransactionError):
            await db.fetchval(CLOSE)
        await transaction.rollback()
        assert await effects(db) == 0

    async def test_savepoints_of_a_handler_do_not_matter(self, db: asyncpg.Connection) -> None:
        async with db.transaction():
            await db.fetchval(OPEN)
            async with db.transaction():
                await db.execute(EFFECT)
            await db.execute("SAVEPOINT one; INSERT INTO effects VALUES (2); ROLLBACK TO one")
            assert await db.fetchval(CLOSE) == EPOCH
        assert await effects(db) == 1

    async def test_closing_undone_by_a_savepoint_is_still_open(self, db: asyncpg.Connection) -> None:
        await db.execute("BEGIN")
        await db.fetchval(OPEN)
        await db.execute("SAVEPOINT one")
        await db.fetchval(CLOSE)
        await db.execute("ROLLBACK TO one")
        await refused(db, "COMMIT")

    async def test_making_the_check_immediate_does_not_get_past_it(self, db: asyncpg.Connection) -> None:
        await db.execute("BEGIN")
        await db.fetchval(OPEN)
        await refused(db, "SET CONSTRAINTS ALL IMMEDIATE")
        await db.execute("ROLLBACK")

    @pytest.mark.parametrize(
        "sql", [f"DELETE FROM partition_claims {_WHERE}", f"UPDATE partition_claims SET topic = 'u' {_WHERE}"]
    )
    async def test_a_claim_that_vanished_was_not_closed(self, db: asyncpg.Connection, sql: str) -> None:
        await db.execute("BEGIN")
        await db.fetchval(OPEN)
        await db.execute(sql)
        await refused(db, "COMMIT")

    async def test_an_open_claim_cannot_be_inserted(self, db: asyncpg.Connection) -> None:
        await refused(db, "INSERT INTO partition_claims VALUES ('g', 't', 1, 1, NULL, true)")

    async def test_a_search_path_of_the_handler_changes_nothing(self, db: asyncpg.Connection) -> None:
        """A table of the same name in front of ours must not be the one that is read."""
        await db.execute(
            "CREATE SCHEMA mine; CREATE TABLE mine.partition_claims (LIKE partition_claims INCLUDING DEFAULTS);"
            f"INSERT INTO mine.partition_claims VALUES ('g', 't', 0, {EPOCH}, NULL, false)"
        )
        await db.execute("BEGIN")
        await db.fetchval(OPEN)
        await db.execute("SET LOCAL search_path = mine, public")
        await refused(db, "COMMIT")


class TestCost:
    async def test_a_batch_is_checked_once(self, db: asyncpg.Connection) -> None:
        """Opening queues one check, closing and taking none."""
        await db.execute("SET track_functions = 'pl'")
        async with db.transaction():
            await db.fetchval(TAKE)
            await db.fetchval(f"UPDATE partition_claims SET epoch = {EPOCH} {_WHERE}")
            await db.fetchval(OPEN)
            await db.execute("SET CONSTRAINTS ALL DEFERRED")
            await db.fetchval(CLOSE)
        await db.execute("SELECT pg_stat_force_next_flush()")
        calls = "SELECT calls FROM pg_stat_user_functions WHERE funcname = 'plutus_refuse_open_claim'"
        assert await db.fetchval(calls) == 1

    async def test_updates_of_a_claim_stay_on_their_page(self, db: asyncpg.Connection) -> None:
        for _ in range(300):
            async with db.transaction():
                await db.fetchval(OPEN)
                await db.fetchval(CLOSE)
        assert await db.fetchval("SELECT pg_relation_size('partition_claims')") == 8192


class TestFence:
    async def test_an_older_epoch_opens_nothing(self, db: asyncpg.Connection) -> None:
        await db.fetchval(TAKE)
        async with db.transaction():
            assert await db.fetchval(OPEN) is None

    async def test_a_successor_waits_for_the_open_batch_and_then_owns_the_partition(
        self, db: asyncpg.Connection, other: asyncpg.Connection
    ) -> None:
        """Interleaving 4: opening locks the row, so an epoch changes only between batches."""
        async with db.transaction():
            await db.fetchval(OPEN)
            await other.execute("SET lock_timeout = '100ms'")
            with pytest.raises(asyncpg.LockNotAvailableError):
                await other.fetchval(TAKE)
            await db.fetchval(CLOSE)
        assert await other.fetchval(TAKE) == EPOCH + 1
        async with db.transaction():
            assert await db.fetchval(OPEN) is None
