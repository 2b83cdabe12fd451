"""Migrations on a real Postgres: up, down, at once, offline, and equal to the recorded schema; roles; `plutus migrate`."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import re
import secrets
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from pydantic import SecretStr
from typer.testing import CliRunner, Result

from infra.cli.main import app
from infra.cli.migrate import MigrationError, migrate
from infra.runtime.partitions import Ensured, default_rows, ensure_partitions
from infra.runtime.sql import statements
from infra.runtime.tables import DatabaseSettings, engine, metadata
from tests.stack import ROOT, Stack, new_database

TABLES = {
    "alembic_version",
    "emitted_events",
    "event_keys",
    "events",
    "failures",
    "parked_events",
    "parked_keys",
    "partition_claims",
    "replay_jobs",
}
DAYS = 16  # yesterday, today and 14 ahead


class Database:
    """One database of a test's own."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn

    async def fetch(self, sql: str, *args: Any) -> list[tuple[Any, ...]]:
        conn = await asyncpg.connect(self.dsn)
        try:
            return [tuple(row) for row in await conn.fetch(sql, *args)]
        finally:
            await conn.close()

    async def script(self, sql: str) -> None:
        conn = await asyncpg.connect(self.dsn)
        try:
            await conn.execute(sql)
        finally:
            await conn.close()

    async def tables(self) -> set[str]:
        return {
            name
            for (name,) in await self.fetch(
                "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"
                " AND relkind IN ('r', 'p') AND NOT relispartition"
            )
        }

    async def partitions(self) -> set[str]:
        rows = await self.fetch("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'events'::regclass")
        return {name for (name,) in rows}


def with_user(dsn: str, user: str, password: str) -> str:
    return f"postgresql://{user}:{password}@{dsn.rpartition('@')[2]}"


@pytest.fixture
async def empty(stack: Stack) -> AsyncIterator[Database]:
    """A database without a table."""
    async with new_database(stack) as name:
        yield Database(stack.dsn_of(name))


@pytest.fixture
async def migrated(database: str) -> Database:
    """A database at the newest migration (`alembic upgrade head`, see tests/conftest.py)."""
    return Database(database)


@pytest.fixture
async def roles(stack: Stack) -> AsyncIterator[str]:
    """The text of roles.sql; what it creates on the server goes with the test. Ask for it before any database."""
    admin = Database(stack.dsn)
    query = "SELECT rolname FROM pg_roles WHERE rolname = ANY($1)"
    before = await admin.fetch(query, list(MAY))
    yield (ROOT / "migrations" / "roles.sql").read_text()
    for (role,) in set(await admin.fetch(query, list(MAY))) - set(before):
        await admin.script(f"DROP ROLE {role}")


@pytest.fixture
async def plain_role(stack: Stack) -> AsyncIterator[tuple[str, str]]:
    """Name and password of a login that is no superuser. Ask for it before the database that it is to own."""
    role, secret = f"plutus_test_{secrets.token_hex(6)}", secrets.token_hex(8)
    admin = Database(stack.dsn)
    await admin.script(f"CREATE ROLE {role} LOGIN CREATEROLE PASSWORD '{secret}'")
    yield role, secret
    await admin.script(f"DROP OWNED BY {role}; DROP ROLE {role}")


async def run(*command: str, dsn: str | None) -> tuple[int, str, str]:
    """Run `command` at the root as an operator would, with no setting but DATABASE_URL."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("DATABASE_", "KAFKA_"))}
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        env=env | ({"DATABASE_URL": dsn} if dsn else {}),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def alembic(*args: str, dsn: str | None) -> str:
    """Run Alembic's own command; its standard output."""
    code, out, err = await run(str(Path(sys.executable).with_name("alembic")), *args, dsn=dsn)
    assert code == 0, err
    return out


# Every name is cast to text: left as it is, the type `name` would cut all definitions off after 63 bytes.
CATALOGUE = """
SELECT 'column', c.relname::text, a.attname::text, a.attnum::text, format_type(a.atttypid, a.atttypmod),
    a.attnotnull::text, pg_get_expr(d.adbin, d.adrelid), col_description(c.oid, a.attnum)
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE c.relname = ANY($1) AND c.relnamespace = 'public'::regnamespace
UNION ALL
SELECT 'table', c.relname::text, c.relkind::text, pg_get_partkeydef(c.oid), array_to_string(c.reloptions, ', '),
    obj_description(c.oid), NULL, NULL
FROM pg_class c WHERE c.relname = ANY($1) AND c.relnamespace = 'public'::regnamespace
UNION ALL
SELECT 'constraint', conrelid::regclass::text, conname::text, pg_get_constraintdef(oid), NULL, NULL, NULL, NULL
FROM pg_constraint WHERE conrelid::regclass::text = ANY($1) AND contype <> 't'
UNION ALL
SELECT 'index', tablename::text, indexname::text, indexdef, NULL, NULL, NULL, NULL
FROM pg_indexes WHERE schemaname = 'public' AND tablename = ANY($1)
ORDER BY 1, 2, 3, 4
"""


async def catalogue(database: Database) -> list[tuple[Any, ...]]:
    """What Postgres knows of our tables, down to storage parameters and index predicates."""
    return await database.fetch(CATALOGUE, sorted(TABLES - {"alembic_version"}))


class TestAlembic:
    async def test_upgrade_makes_the_tables_and_partitions_ahead(self, empty: Database) -> None:
        await alembic("upgrade", "head", dsn=empty.dsn)
        assert await empty.tables() == TABLES
        today = dt.datetime.now(dt.UTC).date()
        days = {f"events_{today + dt.timedelta(days=n):%Y%m%d}" for n in range(-1, 15)}
        assert await empty.partitions() == {"events_default"} | days

    async def test_comparison_with_the_recorded_schema_is_empty(self, migrated: Database, empty: Database) -> None:
        assert "No new upgrade operations" in await alembic("check", dsn=migrated.dsn)
        recorded = engine(DatabaseSettings(database_url=SecretStr(empty.dsn)), name="test")
        async with recorded.begin() as connection:
            await connection.run_sync(metadata.create_all)
        await recorded.dispose()
        assert await catalogue(empty) == await catalogue(migrated)

    async def test_comparison_sees_a_difference(self, migrated: Database) -> None:
        await migrated.script("ALTER TABLE failures DROP CONSTRAINT failures_status_check, ADD COLUMN extra text")
        code, out, err = await run(sys.executable, "-m", "alembic", "check", dsn=migrated.dsn)
        assert code != 0
        assert "extra" in out + err
        assert "failures_status_check" in out + err

    async def test_downgrade_leaves_nothing_and_the_way_up_is_open_again(self, migrated: Database) -> None:
        before = await catalogue(migrated)
        await alembic("downgrade", "base", dsn=migrated.dsn)
        assert await migrated.tables() == {"alembic_version"}
        assert await migrated.fetch("SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace") == []
        await alembic("upgrade", "head", dsn=migrated.dsn)
        assert await catalogue(migrated) == before

    async def test_offline_sql_makes_the_same_and_takes_it_away(self, migrated: Database, empty: Database) -> None:
        up = await alembic("upgrade", "head", "--sql", dsn=None)
        await empty.script(up)
        assert await catalogue(empty) == await catalogue(migrated)
        assert await empty.partitions() == await migrated.partitions()
        await empty.script(await alembic("downgrade", "head:base", "--sql", dsn=None))
        assert await empty.tables() <= {"alembic_version"}

    async def test_a_table_in_use_stops_the_migration_soon_and_whole(self, migrated: Database) -> None:
        """Interleaving 12: DDL that waits behind an open transaction makes everyone else wait behind it."""
        before = await catalogue(migrated)
        conn = await asyncpg.connect(migrated.dsn)
        async with conn.transaction():
            await conn.execute("LOCK TABLE event_keys IN ROW EXCLUSIVE MODE")
            async with asyncio.timeout(30):
                code, _, err = await run(sys.executable, "-m", "alembic", "downgrade", "base", dsn=migrated.dsn)
        await conn.close()
        assert code != 0
        assert "lock timeout" in err
        assert await catalogue(migrated) == before

    async def test_without_a_database_url_it_says_so(self) -> None:
        code, _, err = await run(sys.executable, "-m", "alembic", "current", dsn=None)
        assert code == 2
        assert "DATABASE_URL: is not set" in err
        assert "Traceback" not in err


class TestPlutusMigrate:
    async def test_it_tells_each_step_and_may_run_twice(
        self, empty: Database, capsys: pytest.CaptureFixture[str]
    ) -> None:
        await asyncio.to_thread(migrate, empty.dsn)
        first = capsys.readouterr()
        await asyncio.to_thread(migrate, empty.dsn)
        second = capsys.readouterr()
        assert first.out == second.out == ""
        *steps, schema, partitions = first.err.splitlines()
        assert steps[0] == "migrated to 0001: Tables, claim trigger and day partitions (pre-deploy)."
        assert steps[-1].startswith(f"migrated to {schema.removeprefix('schema: at ')}: ")
        assert partitions == "partitions: 0 made, 0 rows moved into them"
        assert second.err.splitlines() == [schema, partitions]

    async def test_three_processes_at_once(self, empty: Database) -> None:
        command = (sys.executable, "-c", "import sys, infra.cli.migrate as m; m.migrate(sys.argv[1])", empty.dsn)
        results = await asyncio.gather(*(run(*command, dsn=None) for _ in range(3)))
        assert [code for code, _, _ in results] == [0, 0, 0], [err for _, _, err in results]
        assert sum("migrated to 0001" in err for _, _, err in results) == 1
        assert len(await empty.partitions()) == DAYS + 1

    async def test_it_makes_partitions_again_that_time_used_up(
        self, empty: Database, capsys: pytest.CaptureFixture[str]
    ) -> None:
        await asyncio.to_thread(migrate, empty.dsn)
        last = max(await empty.partitions() - {"events_default"})
        await empty.script(f"DROP TABLE {last}")
        capsys.readouterr()
        await asyncio.to_thread(migrate, empty.dsn)
        assert "partitions: 1 made, 0 rows moved into them" in capsys.readouterr().err
        assert last in await empty.partitions()


def command(dsn: str) -> Result:
    """`plutus migrate` with this DATABASE_URL."""
    return CliRunner().invoke(app, ["migrate"], env={"DATABASE_URL": dsn})


async def failed(dsn: str, secret: str) -> tuple[int, str]:
    """Exit code and message of a `plutus migrate` that fails, checked for the password and for a traceback."""
    result = await asyncio.to_thread(command, dsn)
    assert result.exit_code != 0
    assert result.stderr.startswith(("error[migration]: ", "error: settings are missing or wrong"))
    assert secret not in result.output
    assert "Traceback" not in result.output
    return result.exit_code, result.stderr


class TestPlutusMigrateErrors:
    async def test_nothing_listens(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
            code, message = await failed(f"postgresql://plutus:s3cret@127.0.0.1:{port}/plutus", "s3cret")
        assert code == 69
        assert f"127.0.0.1:{port} cannot be reached" in message

    async def test_an_unescaped_password_is_not_taken_for_the_address(self) -> None:
        code, message = await failed("postgresql://127.0.0.1:1/plu@s3cret", "s3cret")
        assert code == 2
        assert "DATABASE_URL" in message

    async def test_wrong_password(self, empty: Database) -> None:
        user = empty.dsn.split("//")[1].split(":")[0]
        code, message = await failed(with_user(empty.dsn, user, "s3cret"), "s3cret")
        assert code == 1
        assert "refused the user or the password" in message

    async def test_no_such_database(self, empty: Database) -> None:
        code, message = await failed(f"{empty.dsn}_gone", empty.dsn.split(":")[2].split("@")[0])
        assert code == 1
        assert "no database of that name" in message

    async def test_missing_privileges(self, plain_role: tuple[str, str], empty: Database) -> None:
        code, message = await failed(with_user(empty.dsn, *plain_role), plain_role[1])
        assert code == 1
        assert "may not change the schema" in message

    async def test_a_database_of_a_newer_release(self, empty: Database) -> None:
        await asyncio.to_thread(migrate, empty.dsn)
        await empty.script("UPDATE alembic_version SET version_num = '9999'")
        code, message = await failed(empty.dsn, empty.dsn.split(":")[2].split("@")[0])
        assert code == 1
        assert "newer than this release" in message

    async def test_tables_in_the_way(self, empty: Database) -> None:
        await empty.script("CREATE TABLE failures (a int)")
        code, message = await failed(empty.dsn, empty.dsn.split(":")[2].split("@")[0])
        assert code == 1
        assert 'relation "failures" already exists' in message
        assert await empty.tables() == {"failures"}, "a failed migration changes nothing"

    async def test_a_partition_that_cannot_be_locked(self, empty: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("infra.cli.migrate._LOCK_TIMEOUT", 0.1)
        await asyncio.to_thread(migrate, empty.dsn)
        last = max(await empty.partitions() - {"events_default"})
        await empty.script(f"DROP TABLE {last}")
        conn = await asyncpg.connect(empty.dsn)
        async with conn.transaction():
            await conn.execute("LOCK TABLE events_default IN ROW EXCLUSIVE MODE")
            with pytest.raises(MigrationError, match=r"were not made: another session locks `events`"):
                await asyncio.to_thread(migrate, empty.dsn)
        await conn.close()

    async def test_a_url_that_is_none(self) -> None:
        with pytest.raises(MigrationError, match="must look like postgresql://"):
            migrate("mysql://plutus:s3cret@127.0.0.1/plutus")


class TestIndexes:
    @pytest.mark.parametrize(
        ("statement", "index"),
        [
            ("read_known", "failures_topic_partition_offset_appended_at_key"),
            ("unsent_dead_letters", "failures_outbox_idx"),
            ("dead_letter_times", "failures_event_id_idx"),
            ("times_seen", "failures_content_idx"),
        ],
    )
    async def test_the_workers_questions_are_answered_by_an_index(
        self, database: str, statement: str, index: str
    ) -> None:
        """A partial index serves only a statement whose own condition implies the index's."""
        sql = statements("stream_worker")[statement]
        conn = await asyncpg.connect(database)
        await conn.execute(f"PREPARE question AS {sql}")
        await conn.execute("SET enable_seqscan = off; SET plan_cache_mode = force_generic_plan")
        nulls = ", ".join(["NULL"] * len(set(re.findall(r"\$\d+", sql))))
        plan = "\n".join(row[0] for row in await conn.fetch(f"EXPLAIN EXECUTE question ({nulls})"))
        await conn.close()
        assert index in plan


# --- roles.sql: who may do what. A statement is tried for its privileges alone: none of them changes a row.
STATEMENTS = {
    "look keys": "SELECT * FROM event_keys",
    "remember key": 'INSERT INTO event_keys (event_id, fingerprint, "partition", record_offset)'
    " SELECT gen_random_uuid(), '', 0, 0 WHERE false ON CONFLICT DO NOTHING RETURNING *",
    "forge key state": "INSERT INTO event_keys (event_id, state) SELECT gen_random_uuid(), 'stored' WHERE false",
    "claim key": "UPDATE event_keys SET state = 'stored', runs = runs + 1 WHERE false",
    "change fingerprint": "UPDATE event_keys SET fingerprint = '' WHERE false",
    "forget key": "DELETE FROM event_keys WHERE false",
    "show status": "SELECT status, received_at, processed_at, attempts, handled_by FROM events WHERE event_id IS NULL",
    "show payload": "SELECT payload FROM events",
    "write event": "INSERT INTO events (event_id, payload, received_at) SELECT NULL, NULL, NULL WHERE false",
    "finish event": "UPDATE events SET status = 'PROCESSED', attempts = attempts + 1 WHERE false",
    "change payload": "UPDATE events SET payload = NULL WHERE false",
    "delete event": "DELETE FROM events WHERE false",
    "show failure": "SELECT reason, status FROM failures WHERE event_id IS NULL",
    "show failed value": "SELECT value FROM failures",
    "write failure": "INSERT INTO failures (reason) SELECT NULL WHERE false",
    "settle failure": "UPDATE failures SET status = 'discarded', last_at = now() WHERE false",
    "mark dead letter": "UPDATE failures SET dlq_partition = 0, dlq_offset = 0, dlq_at = now() WHERE false",
    "change failed value": "UPDATE failures SET value = NULL WHERE false",
    "delete failure": "DELETE FROM failures WHERE false",
    "read claims": "SELECT * FROM partition_claims",
    "open claim": "UPDATE partition_claims SET open = true WHERE false",
    "emit": "INSERT INTO emitted_events (parent_id) SELECT NULL WHERE false",
    "read emitted": "SELECT * FROM emitted_events",
    "change emitted": "UPDATE emitted_events SET payload = NULL WHERE false",
    "forget emitted": "DELETE FROM emitted_events WHERE false",
    "audit job": "INSERT INTO replay_jobs (kind) SELECT NULL WHERE false",
    "finish job": "UPDATE replay_jobs SET status = 'done', updated_at = now() WHERE false",
    "change audit": "UPDATE replay_jobs SET who = '' WHERE false",
    "delete audit": "DELETE FROM replay_jobs WHERE false",
    "read schema version": "SELECT * FROM alembic_version",
    "count default rows": "SELECT count(*) FROM events_default",
    "make partition": "SELECT plutus_make_events_partition(current_date + 20)",
    "drop partition": "SELECT plutus_drop_events_partition('2020-01-01', 30)",
    "create table": "CREATE TABLE mine (a int)",
    "alter table": "ALTER TABLE events ADD COLUMN extra text",
    "disable trigger": "ALTER TABLE partition_claims DISABLE TRIGGER ALL",
    "truncate": "TRUNCATE failures",
}
MAY = {
    "plutus_gateway": {"look keys", "remember key", "show status", "show failure"},
    "plutus_worker": {
        "look keys",
        "remember key",
        "forge key state",
        "claim key",
        "show status",
        "show payload",
        "write event",
        "finish event",
        "show failure",
        "show failed value",
        "write failure",
        "settle failure",
        "mark dead letter",
        "read claims",
        "open claim",
        "emit",
        "read emitted",
        "forget emitted",
        "count default rows",
        "make partition",
    },
    "plutus_operator": {
        "look keys",
        "show status",
        "show payload",
        "show failure",
        "show failed value",
        "write failure",
        "settle failure",
        "mark dead letter",
        "audit job",
        "finish job",
        "read claims",
        "read emitted",
        "read schema version",
        "count default rows",
    },
    "plutus_owner": set(STATEMENTS),
}


async def allowed(conn: asyncpg.Connection, role: str) -> set[str]:
    """The statements that `role` has the privileges for."""
    permitted = set()
    for name, sql in STATEMENTS.items():
        transaction = conn.transaction()
        await transaction.start()
        try:
            await conn.execute(f"SET LOCAL ROLE {role}")
            await conn.execute(sql)
            permitted.add(name)
        except asyncpg.InsufficientPrivilegeError:
            pass
        finally:
            await transaction.rollback()
    return permitted


class TestRoles:
    async def test_each_role_may_do_its_work_and_nothing_else(self, roles: str, empty: Database) -> None:
        await asyncio.to_thread(migrate, empty.dsn)
        await empty.script(roles)
        await empty.script(roles)
        conn = await asyncpg.connect(empty.dsn)
        permitted = {role: await allowed(conn, role) for role in MAY}
        await conn.close()
        assert permitted == MAY

    async def test_the_processes_run_every_statement_they_have(self, roles: str, empty: Database) -> None:
        """EXPLAIN checks privileges as a run would; so a new statement cannot be forgotten in roles.sql."""
        await asyncio.to_thread(migrate, empty.dsn)
        await empty.script(roles)
        conn = await asyncpg.connect(empty.dsn)
        await conn.execute("SET ROLE plutus_gateway")
        for sql in statements("ingest_gateway").values():
            await conn.execute(f"EXPLAIN (GENERIC_PLAN) {sql}")
        await conn.execute("SET ROLE plutus_worker")
        for file in ("queries.sql", "emit.sql", "stored.sql"):
            for sql in statements("stream_worker", file).values():
                if not sql.startswith("FETCH"):
                    await conn.execute(f"EXPLAIN (GENERIC_PLAN) {sql}")
        assert await ensure_partitions(conn, days_ahead=16) != Ensured()
        assert await default_rows(conn) == 0
        await conn.close()
        owners = await empty.fetch("SELECT DISTINCT relowner::regrole::text FROM pg_class WHERE relname ~ '^events'")
        assert owners == [("plutus_owner",)], "a partition that a worker made belongs to the owner of the others"

    async def test_it_works_without_a_superuser_and_the_way_on_stays_open(
        self, stack: Stack, roles: str, plain_role: tuple[str, str], empty: Database
    ) -> None:
        """The role that owns the database migrates, hands over with roles.sql, and migrates again."""
        role, _ = plain_role
        admin, own = Database(stack.dsn), Database(with_user(empty.dsn, *plain_role))
        await admin.script(f"ALTER DATABASE {empty.dsn.rpartition('/')[2]} OWNER TO {role}")
        # Roles belong to the whole server: they may be there already, made by someone else.
        if await admin.fetch("SELECT 1 WHERE to_regrole('plutus_owner') IS NOT NULL"):
            await admin.script(f"GRANT plutus_owner TO {role} WITH ADMIN OPTION")
        await asyncio.to_thread(migrate, own.dsn)
        await own.script(roles)
        owners = await own.fetch("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'")
        assert owners == [("plutus_owner",)]
        await asyncio.to_thread(migrate, own.dsn)
        await alembic("downgrade", "base", dsn=own.dsn)
