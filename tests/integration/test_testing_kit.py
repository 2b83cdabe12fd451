"""The test kit: it runs handlers as a worker would, passes what is idempotent and catches what is not."""

from __future__ import annotations

import itertools
import random
from collections.abc import Awaitable, Callable, Sequence
from decimal import Decimal
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

import stream_worker.examples  # noqa: F401 - registers the handlers
from schemas.errors import Permanent, Reason, Retryable
from schemas.event import Event
from stream_worker.emit import emit
from stream_worker.examples import alerts, earthquakes, ledger, stock, usage, vehicles
from stream_worker.handlers import REGISTRY, Handler, Registry, in_thread
from stream_worker.outcomes import Dead, Duplicate, Parked, Retry, Stored
from stream_worker.run import Hold
from stream_worker.testing import NotIdempotent, chaos, emitted, event, run
from tests.example_load import MAKERS, fill_shelf, shelf
from tests.harness import connected

TABLES = """
CREATE TABLE accounts (name text PRIMARY KEY, balance int NOT NULL);
CREATE TABLE postings (n bigserial PRIMARY KEY, account text NOT NULL, amount int NOT NULL, at timestamptz DEFAULT now());
CREATE TABLE audit (posting bigint REFERENCES postings, note text);
INSERT INTO accounts VALUES ('one', 0);
"""


@pytest.fixture
async def url(database: str) -> str:
    """A database of the test's own with the tables of these handlers."""
    async with connected(database) as db:
        await db.execute(TABLES)
    return database


async def post(sent: Event, tx: asyncpg.Connection) -> None:
    """An idempotent handler: three statements, one of them a savepoint's."""
    await tx.execute("UPDATE accounts SET balance = balance + $1 WHERE name = 'one'", sent.data)
    async with tx.transaction():
        n = await tx.fetchval("INSERT INTO postings (account, amount) VALUES ('one', $1) RETURNING n", sent.data)
    statement = await tx.prepare("INSERT INTO audit (posting, note) VALUES ($1, $2)")
    await statement.fetch(n, sent.idempotency_key)


def events(count: int = 3) -> list[Event]:
    return [event(n, key=f"k{n}") for n in range(1, count + 1)]


def handled(function: Any, *, batch: bool = False) -> Handler:
    registry = Registry()
    registry.handler(type="any", batch=batch)(function)
    return registry.registrations[0].handler


async def test_a_run_commits_and_tells_what_became_of_each_event(url: str) -> None:
    async def picky(sent: Event, tx: asyncpg.Connection) -> None:
        await post(sent, tx)
        if sent.data == 2:
            raise Permanent("not two")

    ran = await run(handled(picky), events(), database_url=url)
    assert [each.outcome for each in ran] == [
        Stored("picky"),
        Dead(Reason.HANDLER_ERROR, "handle", "Permanent"),
        Stored("picky"),
    ]
    assert [str(each.error) for each in ran] == ["None", "not two", "None"]
    again = await run(handled(picky), events(), database_url=url)
    assert [each.outcome for each in again] == [Duplicate()] * 3
    async with connected(url) as db:
        assert await db.fetchval("SELECT balance FROM accounts") == 4
        assert await db.fetchval("SELECT count(*) FROM events WHERE status = 'PROCESSED'") == 2


@pytest.mark.parametrize(("after", "outcome"), [(None, Retry), (60.0, Parked)])
async def test_an_event_that_must_wait_is_told(url: str, after: float | None, outcome: type) -> None:
    async def later(sent: Event, tx: asyncpg.Connection) -> None:
        if sent.data == 2:
            raise Retryable(after=after)

    ran = await run(handled(later), events(), database_url=url)
    assert [type(each.outcome) for each in ran][:2] == [Stored, outcome]


async def test_a_missing_table_holds_and_its_cause_says_which(url: str) -> None:
    async def misspelt(sent: Event, tx: asyncpg.Connection) -> None:
        await tx.execute("SELECT * FROM acounts")

    with pytest.raises(Hold) as held:
        await run(handled(misspelt), events(1), database_url=url)
    assert "acounts" in str(held.value.__cause__)


async def test_a_registered_function_brings_its_tables_along_and_others_are_refused(url: str) -> None:
    quake = event({"properties": {"mag": 5.1, "place": "x", "time": 0}})
    (ran,) = await run(earthquakes.record_earthquake, quake, database_url=url)
    assert ran.outcome == Stored("record_earthquake")
    async with connected(url) as db:
        assert await db.fetchval("SELECT count(*) FROM example_earthquakes") == 1
        assert await db.fetchval("SELECT to_regclass('example_stock')") is None
    with pytest.raises(ValueError, match="no registered handler"):
        await run(post, quake, database_url=url)


async def test_a_registry_finds_for_each_event(url: str) -> None:
    (ran,) = await run(REGISTRY, event({}, type="nobody_knows"), database_url=url)
    assert ran.outcome == Stored(None)


async def test_what_was_emitted_can_be_looked_at(url: str) -> None:
    async def sends(sent: Event, tx: asyncpg.Connection) -> None:
        await emit(sent, tx, type="part", source="parts", schema_version="1.0", payload={"of": Decimal("1.10")})

    (ran,) = await run(handled(sends), events(1), database_url=url)
    (part,) = await emitted(url)
    assert (part.type, part.payload, part.idempotency_key) == ("part", b'{"of":1.10}', f"{ran.event.id}:0")


async def test_an_idempotent_handler_passes_and_every_place_was_tried(url: str) -> None:
    report = await chaos(handled(post), events(2), database_url=url)
    # UPDATE, SAVEPOINT, INSERT, RELEASE, prepare, execute; and the return.
    assert report == (2, 12, 14, 12)
    async with connected(url) as db:
        assert await db.fetchval("SELECT count(*) FROM event_keys") == 0, "the original was not touched"
        names = await db.fetch("SELECT datname FROM pg_database WHERE datname LIKE 'plutus\\_test\\_%'")
    assert names == []


async def test_handlers_of_every_kind_pass(url: str) -> None:
    async def in_a_batch(sent: Sequence[Event], tx: asyncpg.Connection) -> None:
        total = await in_thread(sum, [each.data for each in sent])
        await tx.execute("UPDATE accounts SET balance = balance + $1", total)
        await tx.copy_records_to_table(
            "postings", records=[("one", e.data) for e in sent], columns=["account", "amount"]
        )
        for each in sent:
            await emit(each, tx, type="posted", source="ledger", schema_version="1.0", payload=each.data)

    async def alchemy(sent: Event, tx: AsyncConnection) -> None:
        await tx.execute(text("UPDATE accounts SET balance = balance + :n"), {"n": sent.data})
        async with tx.begin_nested():
            await tx.execute(text("INSERT INTO postings (account, amount) VALUES ('one', :n)"), {"n": sent.data})
        await emit(sent, tx, type="posted", source="ledger", schema_version="1.0", payload=sent.data)

    batch = await chaos(handled(in_a_batch, batch=True), events(2), database_url=url)
    assert (batch.statements, batch.crashes) == (4, 5)
    lent = await chaos(handled(alchemy), events(1), database_url=url)
    assert lent.crashes > 5


async def test_everything_planted_happens(url: str) -> None:
    calls = itertools.count()

    async def counted(sent: Event, tx: asyncpg.Connection) -> None:
        next(calls)
        await post(sent, tx)

    await chaos(handled(counted), events(1), database_url=url)
    # Clean and one by one, once each; duplicates add nothing; a retry, a replay, seven crashes and six errors: twice each.
    assert next(calls) == 1 + 1 + 1 + 2 * (1 + 1 + 7 + 6)


AWKWARD = """
CREATE TABLE trail (n int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, amount int, twice int GENERATED ALWAYS AS (amount * 2) STORED);
CREATE FUNCTION follow() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN INSERT INTO trail (amount) VALUES (NEW.amount); RETURN NEW; END $$;
CREATE TRIGGER follow AFTER INSERT ON postings FOR EACH ROW EXECUTE FUNCTION follow();
CREATE SCHEMA "other Schema";
CREATE TABLE "other Schema"."the Table" (id int PRIMARY KEY, next_id int REFERENCES "other Schema"."the Table", quarter date)
    PARTITION BY HASH (id);
CREATE TABLE "other Schema".part PARTITION OF "other Schema"."the Table" FOR VALUES WITH (MODULUS 1, REMAINDER 0);
CREATE TABLE hen (id int PRIMARY KEY, egg int NOT NULL);
CREATE TABLE egg (id int PRIMARY KEY, hen int NOT NULL REFERENCES hen DEFERRABLE INITIALLY DEFERRED);
INSERT INTO hen VALUES (1, 1);
INSERT INTO egg VALUES (1, 1);
ALTER TABLE hen ADD FOREIGN KEY (egg) REFERENCES egg;
INSERT INTO "other Schema"."the Table" VALUES (1, 2), (2, NULL);
INSERT INTO postings (account, amount) VALUES ('one', 7), ('one', 8);
DELETE FROM postings WHERE amount = 7;
"""


async def test_awkward_tables_are_brought_back_as_they_were(url: str) -> None:
    async with connected(url) as db:
        await db.execute(AWKWARD)
    seen: list[Any] = []

    async def look(sent: Event, tx: asyncpg.Connection) -> None:
        seen.append(
            await tx.fetchval(
                """SELECT (SELECT array_agg((n, amount)) || array_agg((n, twice)) FROM trail)::text
                || (SELECT array_agg((n, amount)) FROM postings)::text || (SELECT array_agg(balance) FROM accounts)::text
                || (SELECT array_agg(t) FROM "other Schema"."the Table" AS t)::text || (SELECT count(*) FROM hen, egg)"""
            )
        )
        await post(sent, tx)
        await tx.execute('INSERT INTO "other Schema"."the Table" (id) VALUES (3)')
        await tx.execute("DELETE FROM egg WHERE id = 9")

    report = await chaos(handled(look), events(1), database_url=url)
    assert len(seen) > 2 * report.statements
    assert len(set(seen)) == 1
    async with connected(url) as db:
        assert await db.fetchval("SELECT count(*) FROM trail") == 2


class Planted:
    """Handlers that are wrong in one way each. `url` is the database of the test."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.calls = itertools.count()

    async def second_connection(self, sent: Event, tx: asyncpg.Connection) -> None:
        """Commits an effect by itself, in the database that it was told of."""
        await post(sent, tx)
        async with connected(self.url) as db:
            await db.execute("INSERT INTO audit (note) VALUES ($1)", sent.idempotency_key)

    async def second_connection_here(self, sent: Event, tx: asyncpg.Connection) -> None:
        """Commits an effect by itself, wherever its transaction is."""
        here = await tx.fetchval("SELECT current_database()")
        async with connected(self.url.rpartition("/")[0] + f"/{here}") as db:
            await db.execute("INSERT INTO audit (note) VALUES ($1)", sent.idempotency_key)
        await post(sent, tx)

    async def memory(self, sent: Event, tx: asyncpg.Connection) -> None:
        """Counts its calls, not its events."""
        await tx.execute("INSERT INTO audit (note) VALUES ($1)", str(next(self.calls)))

    async def swallows(self, sent: Event, tx: asyncpg.Connection) -> None:
        """Takes an error for an answer."""
        try:
            async with tx.transaction():
                await post(sent, tx)
        except asyncpg.PostgresError:
            await tx.execute("INSERT INTO audit (note) VALUES ('failed')")

    async def swallows_all(self, sent: Event, tx: AsyncConnection) -> None:
        """Takes any error for an answer, and goes on in a broken transaction."""
        try:
            await tx.execute(text("UPDATE accounts SET balance = balance + 1"))
        except DBAPIError:
            return


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("second_connection", r"wrote outside its transaction.*\n  public.audit: 2 too many"),
        ("second_connection_here", r"After .* the tables differ from a clean run:\n  public.audit: \d too many"),
        ("memory", r"After .* the tables differ from a clean run:\n  public.audit: \d missing: .*too many"),
        ("swallows", r"(?s)After a lock time-out before statement \d+ .*\n.*public.audit"),
        ("swallows_all", r"After a lock time-out before statement 1 .*\n  \(events\): .*FAILED"),
    ],
)
async def test_a_handler_that_is_not_idempotent_is_caught(url: str, name: str, told: str) -> None:
    planted = Planted(url)
    with pytest.raises(NotIdempotent, match=told):
        await chaos(handled(getattr(planted, name)), events(2), database_url=url)


async def test_a_clean_run_must_succeed(url: str) -> None:
    async def refuses(sent: Event, tx: asyncpg.Connection) -> None:
        raise Permanent("why not")

    with pytest.raises(NotIdempotent, match=r"A clean run must succeed, and <Event .* came out as Dead") as caught:
        await chaos(handled(refuses), events(1), database_url=url)
    assert str(caught.value.__cause__) == "why not"


async def test_what_may_differ_is_left_out(url: str) -> None:
    numbers = itertools.count()

    async def random_note(sent: Event, tx: asyncpg.Connection) -> None:
        await tx.execute("INSERT INTO audit (note) VALUES ($1)", str(next(numbers)))

    await chaos(handled(random_note), events(1), database_url=url, ignore=["audit.note"])
    await chaos(handled(random_note), events(1), database_url=url, ignore=["audit"])
    with pytest.raises(ValueError, match=r"not in the database: audit\.nte"):
        await chaos(handled(random_note), events(1), database_url=url, ignore=["audit.nte"])


async def test_somebody_else_in_the_database_is_told(url: str) -> None:
    async with connected(url):
        with pytest.raises(RuntimeError, match="Others are connected"):
            await chaos(handled(post), events(1), database_url=url)


EXAMPLES: dict[str, Callable[..., Awaitable[None]]] = {
    "bank": ledger.post_transfers,
    "shop": stock.reserve_stock,
    "ward": alerts.watch_heart_rate,
    "fleet": vehicles.track_vehicle,
    "app": usage.count_usage,
    "net": earthquakes.record_earthquake,
}


@pytest.mark.parametrize("kind", MAKERS)
async def test_the_shipped_examples_pass(url: str, kind: str) -> None:
    source = f"{kind}-0"
    sent = [
        event(each.payload, type=each.type, source=each.source, key=each.key, occurred_at=each.at)
        for each in MAKERS[kind](random.Random(7), source, 3)
    ]
    async with connected(url) as db:
        async with db.transaction():
            for hook in REGISTRY.hooks:
                await hook(db)
        await fill_shelf(db, shelf([source]))
    assert EXAMPLES.keys() >= MAKERS.keys()
    report = await chaos(EXAMPLES[kind], sent, database_url=url)
    assert report.events == 3
    assert report.statements >= 1
