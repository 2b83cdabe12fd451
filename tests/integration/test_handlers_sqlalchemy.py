"""Handlers that ask for SQLAlchemy, on a real Postgres: the same connection, the same transaction, the same outcomes."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from typing import Any

import asyncpg
import pytest
from sqlalchemy import JSON, Column, Integer, MetaData, String, Table, insert, select, text, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from schemas.errors import Permanent, Reason, Retryable
from schemas.event import Event
from schemas.payloads.payment import TransferRequested
from stream_worker.handlers import Registry
from stream_worker.outcomes import Dead, Outcome, Retry, Stored
from stream_worker.run import Hold
from tests.worker_kit import Log, connection, envelope, note, outcomes, processor, registry_of, rows, settle

metadata = MetaData()
notes = Table("notes", metadata, Column("n", Integer, primary_key=True), Column("text", String, unique=True))
documents = Table("documents", metadata, Column("plain", JSON), Column("binary", JSONB))


class Base(DeclarativeBase):
    metadata = metadata


class Account(Base):
    __tablename__ = "accounts"
    name: Mapped[str] = mapped_column(primary_key=True)
    balance: Mapped[int]


TABLES = """
CREATE TABLE notes (n serial PRIMARY KEY, text text UNIQUE);
CREATE TABLE documents (plain json, "binary" jsonb);
CREATE TABLE accounts (name text PRIMARY KEY, balance int NOT NULL CHECK (balance >= 0));
CREATE TABLE effects (n bigserial, event_id uuid, note text);
"""


@pytest.fixture
async def db(database: str) -> AsyncIterator[asyncpg.Connection]:
    """A pool's connection, as the worker has it, to a database with the tables of these handlers."""
    async with asyncpg.create_pool(database, min_size=1, max_size=1) as pool, pool.acquire() as acquired:
        await acquired.execute(TABLES)
        yield connection(acquired)
    gc.collect()  # a connection that SQLAlchemy thinks is lost would warn now, and a warning is an error


async def add(event: Event, tx: AsyncConnection) -> None:
    await tx.execute(insert(notes).values(text=event.idempotency_key))


async def add_account(event: Event, tx: AsyncSession) -> None:
    tx.add(Account(name=event.idempotency_key, balance=event.data))


async def texts(db: asyncpg.Connection) -> list[str]:
    return [row["text"] for row in await db.fetch("SELECT text FROM notes ORDER BY text")]


async def ran(db: asyncpg.Connection, handler: Callable[..., Any], *payloads: Any, **limits: Any) -> list[Outcome]:
    """The outcomes of events k0, k1 ... with these payloads."""
    log = Log()
    items = [log.append(envelope(f"k{n}", payload)) for n, payload in enumerate(payloads)]
    return outcomes(await settle(db, items, processor(registry_of(handler), attempts=1, **limits)))


async def test_what_a_connection_writes_commits_with_the_event(db: asyncpg.Connection) -> None:
    assert await ran(db, add, 1, 2, 3) == [Stored("add")] * 3
    assert await texts(db) == ["k0", "k1", "k2"]
    assert await db.fetchval("SELECT count(*) FROM events WHERE handled_by = 'add'") == 3


async def test_what_a_session_adds_is_flushed_and_commits_with_the_event(db: asyncpg.Connection) -> None:
    async def deposit(event: Event, tx: AsyncSession) -> None:
        account = await tx.get(Account, "one") or Account(name="one", balance=0)
        account.balance += event.data
        tx.add(account)

    assert await ran(db, deposit, 5, 7, -3) == [Stored("deposit")] * 3
    assert await rows(db, "SELECT name, balance FROM accounts") == [{"name": "one", "balance": 9}]


@pytest.mark.parametrize("error", [Permanent("no"), ValueError("no")])
async def test_a_failing_event_leaves_nothing_and_costs_nobody_else(db: asyncpg.Connection, error: Exception) -> None:
    async def fragile(event: Event, tx: AsyncConnection) -> None:
        await add(event, tx)
        if event.data == "bad":
            raise error

    async def fragile_session(event: Event, tx: AsyncSession) -> None:
        tx.add(Account(name=event.idempotency_key, balance=1))
        await tx.flush()
        if event.data == "bad":
            raise error

    dead = Dead(Reason.HANDLER_ERROR, "handle", type(error).__name__)
    assert await ran(db, fragile, "good", "bad", "good") == [Stored("fragile"), dead, Stored("fragile")]
    assert await texts(db) == ["k0", "k2"]
    await db.execute("TRUNCATE event_keys, events, failures")
    stored = Stored("fragile_session")
    assert await ran(db, fragile_session, "good", "bad", "good") == [stored, dead, stored]
    assert [row["name"] for row in await db.fetch("SELECT name FROM accounts ORDER BY name")] == ["k0", "k2"]


async def test_the_drivers_error_decides_not_sqlalchemys(db: asyncpg.Connection) -> None:
    async def clash(event: Event, tx: AsyncConnection) -> None:
        await tx.execute(insert(notes).values(text="the same"))

    async def refused(event: Event, tx: AsyncSession) -> None:
        tx.add(Account(name=event.idempotency_key, balance=event.data))

    async def unbindable(event: Event, tx: AsyncConnection) -> None:
        await tx.execute(insert(notes).values(n=2**70, text="x"))

    assert await ran(db, clash, 1, 2) == [Stored("clash"), Dead(Reason.HANDLER_ERROR, "handle", "23505")]
    await db.execute("TRUNCATE event_keys, events, failures")
    assert await ran(db, refused, 1, -1) == [Stored("refused"), Dead(Reason.HANDLER_ERROR, "handle", "23514")]
    await db.execute("TRUNCATE event_keys, events, failures")
    assert await ran(db, unbindable, 1) == [Dead(Reason.HANDLER_ERROR, "handle", "22000")]


async def test_a_bad_deploy_holds(db: asyncpg.Connection) -> None:
    async def misspelt(event: Event, tx: AsyncConnection) -> None:
        await tx.execute(text("SELECT * FROM no_such_table"))

    with pytest.raises(Hold, match="42P01") as held:
        await ran(db, misspelt, 1)
    assert held.value.alarm


async def test_a_lost_connection_is_told_as_with_asyncpg(database: str) -> None:
    async def cut(event: Event, tx: AsyncConnection) -> None:
        await tx.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    async def cut_itself(event: Event, tx: asyncpg.Connection) -> None:
        await tx.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    told = []
    for handler in (cut, cut_itself):
        db = await asyncpg.connect(database)
        with pytest.raises((Hold, asyncpg.InterfaceError)) as lost:
            await ran(db, handler, 1)
        told.append((type(lost.value), str(lost.value)))
        assert db.is_closed()
    assert told[0] == told[1]


async def test_a_swallowed_error_is_caught_and_one_in_a_savepoint_is_not(db: asyncpg.Connection) -> None:
    await db.execute("INSERT INTO notes (text) VALUES ('k1')")

    async def swallows(event: Event, tx: AsyncConnection) -> None:
        with suppress(IntegrityError):
            await add(event, tx)

    async def careful(event: Event, tx: AsyncConnection) -> None:
        try:
            async with tx.begin_nested():
                await add(event, tx)
        except IntegrityError:
            await tx.execute(insert(notes).values(text=f"again {event.idempotency_key}"))

    broke = Dead(Reason.HANDLER_BROKE_TRANSACTION, "handle", "25P02")
    assert await ran(db, swallows, 1, 1, 1) == [Stored("swallows"), broke, Stored("swallows")]
    await db.execute("TRUNCATE event_keys, events, failures")
    await db.execute("DELETE FROM notes WHERE text <> 'k1'")
    assert await ran(db, careful, 1, 1) == [Stored("careful")] * 2
    assert await texts(db) == ["again k1", "k0", "k1"]


async def test_a_session_left_behind_after_an_error_is_caught(db: asyncpg.Connection) -> None:
    async def swallows(event: Event, tx: AsyncSession) -> None:
        tx.add(Account(name="x", balance=-1))
        with suppress(DBAPIError):
            await tx.flush()

    assert await ran(db, swallows, 1) == [Dead(Reason.HANDLER_ERROR, "handle", "Permanent")]


async def test_commit_and_rollback_are_of_a_savepoint(db: asyncpg.Connection) -> None:
    async def steps(event: Event, tx: AsyncConnection) -> None:
        await tx.execute(insert(notes).values(text="kept"))
        await tx.commit()
        await tx.execute(insert(notes).values(text="dropped"))
        await tx.rollback()
        async with tx.begin():
            await tx.execute(insert(notes).values(text="kept too"))
        await tx.execute(insert(notes).values(text="left open"))
        if event.data == "bad":
            raise Permanent

    async def session_steps(event: Event, tx: AsyncSession) -> None:
        async with tx.begin():
            tx.add(Account(name="kept", balance=1))
        tx.add(Account(name="dropped", balance=1))
        await tx.rollback()
        tx.add(Account(name="left open", balance=1))

    assert await ran(db, steps, "bad", "good") == [
        Dead(Reason.HANDLER_ERROR, "handle", "Permanent"),
        Stored("steps"),
    ]
    assert await texts(db) == ["kept", "kept too", "left open"]
    await db.execute("TRUNCATE event_keys, events, failures")
    assert await ran(db, session_steps, 1) == [Stored("session_steps")]
    names = [row["name"] for row in await db.fetch("SELECT name FROM accounts ORDER BY name")]
    assert names == ["kept", "left open"]


async def test_closing_it_closes_nothing_and_undoes_what_was_not_committed(db: asyncpg.Connection) -> None:
    async def closes(event: Event, tx: AsyncConnection) -> None:
        await tx.execute(insert(notes).values(text=f"committed {event.idempotency_key}"))
        await tx.commit()
        await tx.execute(insert(notes).values(text="not committed"))
        await tx.close()

    async def closes_session(event: Event, tx: AsyncSession) -> None:
        async with tx:
            tx.add(Account(name=event.idempotency_key, balance=1))
            await tx.commit()

    async def invalidates(event: Event, tx: AsyncConnection) -> None:
        await tx.execute(insert(notes).values(text=event.idempotency_key))
        await tx.commit()
        await tx.invalidate()

    for handler in (closes, closes_session, invalidates):
        assert await ran(db, handler, 1, 2) == [Stored(handler.__name__)] * 2
        await db.execute("TRUNCATE event_keys, events, failures")
    assert await texts(db) == ["committed k0", "committed k1", "k0", "k1"]
    assert await db.fetchval("SELECT count(*) FROM accounts") == 2
    assert not db.is_closed()


async def test_json_is_read_by_sqlalchemy_and_the_connection_is_left_as_it_was(db: asyncpg.Connection) -> None:
    read: list[Any] = []

    async def keep(event: Event, tx: AsyncConnection) -> None:
        await tx.execute(insert(documents).values(plain=event.data, binary=event.data))
        read.append(tuple((await tx.execute(select(documents))).one()))
        await tx.execute(update(documents).values(binary={**event.data, "seen": True}))
        read.append((await tx.execute(select(documents.c.binary["seen"].as_boolean()))).scalar_one())

    document = {"a": [1, 2.5, None, "é"], "b": {"c": True}}
    assert await ran(db, keep, document) == [Stored("keep")]
    assert read == [(document, document), True]
    # The worker's COPY of `events`, whose payload is json, came after the handler on the same connection.
    assert await db.fetchval("SELECT payload::text FROM events") == '{"a": [1, 2.5, null, "\\u00e9"], "b": {"c": true}}'
    # And so does a handler's own, and text stays text for it.
    await db.copy_records_to_table("documents", records=[('{"d": 1.10}', '{"d": 1}')], columns=["plain", "binary"])
    assert await db.fetchval("SELECT plain FROM documents WHERE plain::text LIKE '%d%'") == '{"d": 1.10}'
    assert await db.fetchval("SELECT $1::jsonb", '{"e": 1}') == '{"e": 1}'


async def test_a_batch_and_a_typed_payload(db: asyncpg.Connection) -> None:
    registry = Registry()

    @registry.handler(type="transfer_requested", batch=True)
    async def post(events: Sequence[Event], tx: AsyncSession, payloads: Sequence[TransferRequested]) -> None:
        statement = upsert(Account).values(
            [{"name": payload.credit_account, "balance": int(payload.amount)} for payload in payloads]
        )
        await tx.execute(statement)

    transfer = {"transfer_id": "t", "debit_account": "external:x", "amount": 3, "currency": "KES"}
    log = Log()
    items = [
        log.append(envelope(f"k{n}", {**transfer, "credit_account": f"acc-{n}"}, type="transfer_requested"))
        for n in range(3)
    ]
    items.append(log.append(envelope("bad", {"amount": 3}, type="transfer_requested")))
    result = await settle(db, items, processor(registry))
    assert outcomes(result) == [Stored("post")] * 3 + [Dead(Reason.SCHEMA_INVALID, "handle", "Invalid")]
    assert await db.fetchval("SELECT sum(balance) FROM accounts") == 9


async def test_a_handler_past_its_deadline_is_undone(db: asyncpg.Connection) -> None:
    async def slow(event: Event, tx: AsyncConnection) -> None:
        await add(event, tx)
        if event.data == "slow":
            await tx.execute(text("SELECT pg_sleep(30)"))

    assert await ran(db, slow, "quick", "slow", timeout=0.5) == [
        Stored("slow"),
        Dead(Reason.HANDLER_TIMEOUT, "handle", "TimeoutError"),
    ]
    assert await texts(db) == ["k0"]


async def test_retryable_leaves_nothing(db: asyncpg.Connection) -> None:
    async def later(event: Event, tx: AsyncSession) -> None:
        await add_account(event, tx)
        await tx.commit()
        raise Retryable

    log = Log()
    result = await settle(db, [log.append(envelope("k", 1))], processor(registry_of(later), attempts=3))
    assert isinstance(result.retry, Retry)
    assert await db.fetchval("SELECT count(*) FROM accounts") == 0


async def test_both_worlds_take_turns_on_one_connection(db: asyncpg.Connection) -> None:
    registry = Registry()
    registry.handler(type="alchemy")(add)
    registry.handler(type="asyncpg")(note)
    registry.handler(type="session")(add_account)
    log = Log()
    kinds = ["alchemy", "asyncpg", "session"] * 20
    items = [log.append(envelope(f"k{n}", 1, type=kind)) for n, kind in enumerate(kinds)]
    result = await settle(db, items, processor(registry))
    assert {type(outcome) for outcome in outcomes(result)} == {Stored}
    counts = "SELECT (SELECT count(*) FROM notes), (SELECT count(*) FROM effects), (SELECT count(*) FROM accounts)"
    found = await db.fetchrow(counts)
    assert found is not None
    assert tuple(found) == (20, 20, 20)


async def test_a_changed_table_costs_one_more_try(db: asyncpg.Connection) -> None:
    async def count(event: Event, tx: AsyncConnection) -> None:
        await tx.execute(text("SELECT * FROM notes"))

    assert await ran(db, count, 1) == [Stored("count")]
    await db.execute("ALTER TABLE notes ADD COLUMN more int")
    items = [Log(offset=10).append(envelope("again"))]
    with pytest.raises(Hold, match="0A000"):  # as with a statement that asyncpg has cached
        await settle(db, items, processor(registry_of(count)))
    assert outcomes(await settle(db, items, processor(registry_of(count)))) == [Stored("count")]
