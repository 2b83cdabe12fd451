"""What the pipeline relies on of a key store, for the one in memory and the one in Postgres."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import closing, suppress
from typing import Protocol
from uuid import UUID

import asyncpg
import pytest

from infra.runtime.postgres import Deadlines, connect
from ingest_gateway.connections import Connections
from ingest_gateway.decide import Known, Remembered
from ingest_gateway.keys import PostgresKeys
from ingest_gateway.metrics import Metrics
from ingest_gateway.pipeline import KeyStore, StoreBusy, StoreDown
from ingest_gateway.settings import GatewaySettings
from tests.fakes.gateway import MemoryKeys, event
from tests.harness import connected, eventually


def key(name: str, payload: object = 1, *, partition: int = 0, offset: int = 0) -> Remembered:
    """The key of an event that is in Kafka there."""
    one = event(name, payload)
    return Remembered(one.id_bytes, one.fingerprint, partition, offset)


def row(of: Remembered) -> Known:
    """The row that this key leaves."""
    return Known(of.fingerprint, of.partition, of.record_offset)


class Rig(Protocol):
    """A store, and what the suite does to it behind its back."""

    @property
    def store(self) -> KeyStore: ...

    async def age(self, one: bytes) -> None:
        """The key was accepted long ago and is still not stored."""

    async def take_down(self) -> None:
        """From now on the store cannot be reached."""


class KeyStoreContract:
    """The suite."""

    async def test_unknown_ids_have_no_rows(self, rig: Rig) -> None:
        assert await rig.store.look([key("a").event_id, key("b").event_id]) == {}
        assert await rig.store.look([]) == {}

    async def test_what_is_remembered_is_known(self, rig: Rig) -> None:
        a, b = key("a", partition=1, offset=7), key("b", partition=2, offset=2**40)
        assert await rig.store.remember([a, b]) == {}
        found = await rig.store.look([b.event_id, a.event_id, key("c").event_id])
        assert found == {a.event_id: row(a), b.event_id: row(b)}

    async def test_the_first_row_stands_and_is_told(self, rig: Rig) -> None:
        first, second = key("a", 1, offset=1), key("a", 2, offset=2)
        await rig.store.remember([first])
        assert await rig.store.remember([second]) == {first.event_id: row(first)}
        assert await rig.store.look([first.event_id]) == {first.event_id: row(first)}

    async def test_one_call_may_mix_new_and_known_keys(self, rig: Rig) -> None:
        old = [key(f"old{number}", offset=number) for number in range(5)]
        new = [key(f"new{number}", offset=number) for number in range(5)]
        await rig.store.remember(old)
        again = [one._replace(record_offset=99) for one in old]
        standing = await rig.store.remember([*new, *again])
        assert standing == {one.event_id: row(one) for one in old}
        assert len(await rig.store.look([one.event_id for one in (*old, *new)])) == 10

    async def test_8a_of_concurrent_rememberers_one_wins_and_the_others_are_told_its_row(self, rig: Rig) -> None:
        """Interleaving 8a: an answer in one statement misses the racing row."""
        for turn in range(20):
            rivals = [[key(f"{turn}-{n}", payload, offset=payload) for n in range(10)] for payload in range(4)]
            told = await asyncio.gather(*(rig.store.remember(keys) for keys in rivals))
            known = await rig.store.look([one.event_id for one in rivals[0]])
            for keys, standing in zip(rivals, told, strict=True):
                for one in keys:
                    assert known[one.event_id] == standing.get(one.event_id, row(one))

    async def test_a_key_is_overdue_when_it_was_accepted_long_ago_and_not_stored(self, rig: Rig) -> None:
        a = key("a")
        await rig.store.remember([a])
        await rig.age(a.event_id)
        assert (await rig.store.look([a.event_id]))[a.event_id].overdue

    async def test_a_store_that_is_away_says_so(self, rig: Rig) -> None:
        await rig.store.remember([key("a")])
        await rig.take_down()
        async with asyncio.timeout(2):
            with pytest.raises(StoreDown):
                await rig.store.look([key("a").event_id])
            with pytest.raises(StoreDown):
                await rig.store.remember([key("b")])


class MemoryRig:
    """The fake."""

    def __init__(self) -> None:
        self.store = MemoryKeys()

    async def age(self, one: bytes) -> None:
        self.store.overdue.add(one)

    async def take_down(self) -> None:
        self.store.down = True


class TestMemoryKeys(KeyStoreContract):
    """The fake passes."""

    @pytest.fixture
    def rig(self) -> Rig:
        return MemoryRig()


class PostgresRig:
    """The real one."""

    def __init__(self, database: str) -> None:
        self.database = database
        self.store = PostgresKeys(settings(database), Metrics())

    async def age(self, one: bytes) -> None:
        async with connected(self.database) as db:
            await db.execute(
                "UPDATE event_keys SET accepted_at = now() - interval '11 minutes' WHERE event_id = $1", UUID(bytes=one)
            )

    async def take_down(self) -> None:
        name = self.database.rpartition("/")[2]
        async with connected(self.database.replace(name, "postgres")) as db:
            await db.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
            await db.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND pid <> pg_backend_pid()",
                name,
            )

    async def sessions(self) -> int:
        """Connections of the store that the server knows of."""
        async with connected(self.database) as db:
            found: int = await db.fetchval(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name = 'plutus-gateway-keys'"
            )
            return found


def settings(database: str, **values: object) -> GatewaySettings:
    """Settings with deadlines that a busy test machine keeps."""
    return GatewaySettings.model_validate(
        {
            "kafka_bootstrap_servers": "unused:1",
            "database_url": database,
            "gateway_look_timeout": 1.0,
            "gateway_remember_timeout": 1.0,
            **values,
        }
    )


async def until_told(store: PostgresKeys, keys: list[Remembered]) -> Mapping[bytes, Known]:
    """Remember, again while the other one's rows are not committed within the lock time-out of 50 ms, as deferred keys do. A
    deadlock is StoreDown, which ends it."""
    while True:
        with suppress(StoreBusy):
            return await store.remember(keys)


class TestPostgresKeys(KeyStoreContract):
    """The real one passes, and keeps what only it can break."""

    @pytest.fixture
    async def rig(self, database: str) -> AsyncIterator[PostgresRig]:
        made = PostgresRig(database)
        yield made
        await made.store.close()

    async def test_two_gateways_never_deadlock(self, rig: PostgresRig) -> None:
        """Interleaving 14: unsorted, 20 of 20 trials did."""
        other = PostgresKeys(settings(rig.database), Metrics())
        try:
            for turn in range(20):
                keys = [key(f"{turn}-{number}") for number in range(300)]
                backwards = random.Random(turn).sample(keys, len(keys))
                told = await asyncio.gather(until_told(rig.store, keys), until_told(other, backwards))
                assert sum(len(standing) for standing in told) == len(keys)
        finally:
            await other.close()

    async def test_a_row_that_is_there_is_not_waited_for(self, rig: PostgresRig) -> None:
        """Interleaving 16: the anti-join does not touch a row that a worker's transaction holds locked."""
        a = key("a")
        await rig.store.remember([a])
        async with connected(rig.database) as db, db.transaction():
            await db.execute("UPDATE event_keys SET state = 'stored' WHERE event_id = $1", UUID(bytes=a.event_id))
            assert await rig.store.remember([a, key("b")]) == {a.event_id: row(a)}

    async def test_many_new_keys_behind_new_ones_go_by_copy(
        self, rig: PostgresRig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        copied: list[int] = []
        copy = rig.store.connections.copy

        async def counted(table: str, columns: Sequence[str], rows: bytes, *, timeout: float) -> None:
            copied.append(len(rows))
            await copy(table, columns, rows, timeout=timeout)

        monkeypatch.setattr(rig.store.connections, "copy", counted)
        first, second = [[key(f"{turn}-{n}", offset=n) for n in range(60)] for turn in range(2)]
        assert await rig.store.remember(first) == {}
        assert not copied
        assert await rig.store.remember(second) == {}
        assert len(copied) == 1
        everything = [*first, *second]
        found = await rig.store.look([one.event_id for one in everything])
        assert found == {one.event_id: row(one) for one in everything}
        # One of them is known: the guess is undone, the others are remembered, and the next batch is asked for.
        third = [*(key(f"2-{n}") for n in range(60)), key("1-7", offset=99)]
        assert await rig.store.remember(third) == {second[7].event_id: row(second[7])}
        assert len(await rig.store.look([one.event_id for one in third])) == 61
        assert await rig.store.remember([key(f"3-{n}") for n in range(60)]) == {}
        assert len(copied) == 2

    async def test_a_copy_that_meets_an_uncommitted_row_leaves_it_to_the_insert(self, rig: PostgresRig) -> None:
        known, keys = [key(f"0-{n}") for n in range(60)], [key(f"1-{n}") for n in range(60)]
        assert await rig.store.remember(known) == {}
        async with connected(rig.database) as db, db.transaction():
            # As a worker does that has inserted the row and runs its handlers now.
            await db.execute(
                "UPDATE event_keys SET state = 'stored' WHERE event_id = $1", UUID(bytes=known[7].event_id)
            )
            assert await rig.store.remember([*keys, known[7]]) == {known[7].event_id: row(known[7])}
        assert len(await rig.store.look([one.event_id for one in keys])) == 60

    async def test_a_locked_table_makes_the_store_busy_not_down(self, rig: PostgresRig) -> None:
        async with connected(rig.database) as db, db.transaction():
            await db.execute("LOCK TABLE event_keys IN ACCESS EXCLUSIVE MODE")
            with pytest.raises(StoreBusy):
                await rig.store.look([key("a").event_id])

    async def test_an_uncommitted_row_makes_the_store_busy_not_down(self, rig: PostgresRig) -> None:
        a = key("a")
        async with connected(rig.database) as db:
            held = db.transaction()
            await held.start()
            await db.execute(
                'INSERT INTO event_keys (event_id, fingerprint, "partition", record_offset) VALUES ($1, $2, 0, 0)',
                UUID(bytes=a.event_id),
                a.fingerprint,
            )
            async with asyncio.timeout(0.5):
                with pytest.raises(StoreBusy):
                    await rig.store.remember([a, key("b")])
            await held.rollback()
        assert await rig.store.remember([a, key("b")]) == {}

    async def test_9_a_row_is_on_disk_when_it_was_told(self, rig: PostgresRig) -> None:
        """Interleaving 9: with synchronous_commit off a crash took the row of an acknowledged event with it."""
        await rig.store.look([])
        assert await one_setting(rig, "synchronous_commit") == "on"

    async def test_server_side_deadlines_end_what_the_client_gave_up(self, rig: PostgresRig) -> None:
        assert await one_setting(rig, "lock_timeout") == "50ms"
        assert await one_setting(rig, "statement_timeout") == "1s"

    async def test_no_session_is_leaked_by_time_outs_and_cancellations(self, rig: PostgresRig) -> None:
        async with connected(rig.database) as db, db.transaction():
            await db.execute("LOCK TABLE event_keys IN ACCESS EXCLUSIVE MODE")
            given = settings(rig.database, gateway_look_timeout=0.02)
            hurried = PostgresKeys(given, Metrics())
            for _ in range(5):
                told = await asyncio.gather(
                    *(hurried.look([key("a").event_id]) for _ in range(8)), return_exceptions=True
                )
                assert {type(one) for one in told} <= {StoreDown, StoreBusy}
            running = [asyncio.create_task(hurried.look([])) for _ in range(8)]
            await asyncio.sleep(0)
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

        async def told_alike() -> bool:
            return await rig.sessions() == hurried.connections.open <= given.gateway_batches + 1

        async def answers() -> bool:
            with suppress(StoreDown):
                return await hurried.look([]) == {}
            return False

        await eventually(answers)
        await eventually(told_alike, what="pg_stat_activity shows the connections there are")
        await hurried.close()

        async def none_left() -> bool:
            return await rig.sessions() == 0

        await eventually(none_left, what="every session is closed")

    async def test_a_connection_handed_to_a_cancelled_waiter_is_not_lost(self, rig: PostgresRig) -> None:
        deadlines = Deadlines(command=5.0, statement=5.0, lock=1.0, idle_in_transaction=5.0)
        only = Connections(lambda: connect(settings(rig.database), name="only", deadlines=deadlines), 1)
        try:
            first = asyncio.create_task(only.fetch("SELECT pg_sleep(0.05)", timeout=5))
            second = asyncio.create_task(only.fetch("SELECT 1", timeout=5))
            first.add_done_callback(
                lambda _: second.cancel()
            )  # in the very turn in which `second` is given the connection
            await asyncio.gather(first, second, return_exceptions=True)
            assert second.cancelled()
            assert len(await only.fetch("SELECT 1", timeout=2)) == 1
        finally:
            await only.close()

    async def test_a_server_that_accepts_and_says_nothing_costs_one_deadline(self) -> None:
        with closing(socket.create_server(("127.0.0.1", 0))) as silent:
            port = silent.getsockname()[1]
            store = PostgresKeys(settings(f"postgresql://u:p@127.0.0.1:{port}/db", gateway_look_timeout=0.1), Metrics())
            loop = asyncio.get_running_loop()
            for _ in range(3):
                began = loop.time()
                with pytest.raises(StoreDown):
                    await store.look([key("a").event_id])
                assert loop.time() - began < 0.5
            await store.close()

    async def test_it_comes_back_with_the_server(self, rig: PostgresRig) -> None:
        await rig.take_down()
        with pytest.raises(StoreDown):
            await rig.store.look([])
        name = rig.database.rpartition("/")[2]
        async with connected(rig.database.replace(name, "postgres")) as db:
            await db.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
        assert await rig.store.look([key("a").event_id]) == {}


async def one_setting(rig: PostgresRig, name: str) -> str:
    """A server setting as the store's own sessions have it."""
    rows = await rig.store.connections.fetch(f"SHOW {name}", timeout=2.0)
    return str(rows[0][0])


def test_the_driver_is_the_one_whose_errors_are_told_apart() -> None:
    assert issubclass(asyncpg.LockNotAvailableError, asyncpg.PostgresError)
