"""Postgres or Kafka frozen, killed, absent, and back again: what senders are told, and that nothing is lost or doubled."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import asyncpg
import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from schemas.event import parse_envelope
from tests import stack as real
from tests.gateway_kit import code, post
from tests.harness import Service, connected, consume, eventually, gateway_process
from tests.own_stack import OwnStack, own_stack
from tests.stack import Stack, Topics
from tests.tcp_proxy import TcpProxy

pytestmark = pytest.mark.slow

FAST: dict[str, Any] = {"BREAKER_FAILURES": 2, "BREAKER_PAUSE": 0.3, "GATEWAY_LAME_DUCK": 0}


@pytest.fixture(scope="module")
async def own(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[OwnStack]:
    """Servers that this module may break; their first database is migrated, and is copied for each test."""
    with own_stack(tmp_path_factory.mktemp("own")) as made:
        await real.migrate(made.services.dsn)
        yield made


class Place(NamedTuple):
    """Where a gateway of one test works."""

    services: Stack
    database: str
    topics: Topics
    folder: Path

    def gateway(self, **settings: Any) -> Any:
        """A gateway here."""
        return gateway_process(self.services, self.database, self.topics, self.folder, **{**FAST, **settings})

    async def offsets(self) -> dict[bytes, list[tuple[int, int]]]:
        """Value of each record -> where it stands."""
        found: dict[bytes, list[tuple[int, int]]] = {}
        for record in await consume(self.services, self.topics.events):
            found.setdefault(record.value or b"", []).append((record.partition, record.offset))
        return found

    async def remembered(self) -> dict[Any, tuple[int, int]]:
        """event id -> the record that its row names."""
        async with connected(self.database) as db:
            rows = await db.fetch('SELECT event_id, "partition", record_offset FROM event_keys')
        return {row[0]: (row[1], row[2]) for row in rows}

    async def all_remembered(self, count: int) -> None:
        """Wait until that many keys have rows, and hold each against the log."""

        async def so_many() -> bool:
            return len(await self.remembered()) == count

        await eventually(so_many, what=f"{count} keys are remembered")
        rows = await self.remembered()
        for value, places in (await self.offsets()).items():
            assert rows[parse_envelope(value).id] in places


@pytest.fixture
async def place(own: OwnStack, tmp_path: Path) -> AsyncIterator[Place]:
    """A fresh database and fresh topics on servers that are whole, and are mended afterwards."""
    topics = await real.make_topics(own.services, 3)
    name, template = f"d{uuid.uuid4().hex[:12]}", own.services.dsn.rpartition("/")[2]
    async with connected(own.services.dsn_of("postgres")) as db:
        await db.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    yield Place(own.services, own.services.dsn_of(name), topics, tmp_path)
    await own.mend()


async def accept_deferred(gateway: Service, keys: list[str]) -> list[float]:
    """POST these; all must be accepted with `dedup: deferred`. Returns the seconds that each took."""
    seconds = []
    for key in keys:
        began = time.monotonic()
        answer = await post(gateway, key)
        seconds.append(time.monotonic() - began)
        assert (answer.status_code, answer.json().get("dedup")) == (202, "deferred"), answer.text
    return seconds


@pytest.mark.parametrize("how", ["freeze", "kill"])
async def test_without_postgres_events_are_accepted_and_remembered_later(own: OwnStack, place: Place, how: str) -> None:
    async with place.gateway() as gateway:
        assert (await post(gateway, "before")).status_code == 202
        getattr(own, how)("postgres")
        seconds = await accept_deferred(gateway, [f"key-{number}" for number in range(30)])
        assert statistics.median(seconds) < 0.25, "the breaker spares the attempts"
        assert (await gateway.http.get("/readyz")).status_code == 200
        metrics = await gateway.metrics()
        assert metrics["gateway_dedup_deferred_total"] == metrics["gateway_dedup_deferred_waiting"] == 30
        assert metrics["gateway_dedup_breaker_state"] > 0
        status = await gateway.http.get("/api/v1/events/00000000-0000-0000-0000-000000000000")
        assert (status.status_code, code(status)) == (503, "database_unavailable")
        if how == "freeze":
            own.thaw("postgres")
        else:
            await own.revive("postgres")
        await place.all_remembered(31)

        async def told_duplicate() -> bool:
            return (await post(gateway, "key-7")).status_code == 200

        async def none_waits() -> bool:
            return bool((await gateway.metrics())["gateway_dedup_deferred_waiting"] == 0)

        await eventually(told_duplicate)
        assert (await post(gateway, "key-7", "another")).status_code == 422
        # Frozen, the server had most of the keys already; that they are there is found out at the next try.
        await eventually(none_waits)


async def test_a_slow_postgres_costs_one_look_up_and_then_nothing(place: Place) -> None:
    there = urlsplit(place.database)
    async with TcpProxy.before(there.hostname or "", there.port or 0) as slow:
        through = there._replace(netloc=f"{there.username}:{there.password}@127.0.0.1:{slow.port}").geturl()
        async with place._replace(database=through).gateway(BREAKER_PAUSE=60, GATEWAY_REMEMBER_TIMEOUT=1.5) as gateway:
            assert (await post(gateway, "before")).status_code == 202
            slow.delay = 2.0
            await accept_deferred(gateway, ["opens-1", "opens-2"])
            looks = (await gateway.metrics())["gateway_dedup_look_duration_seconds_count"]
            await accept_deferred(gateway, [f"key-{number}" for number in range(30)])
            metrics = await gateway.metrics()
            assert metrics["gateway_dedup_breaker_state"] == 2
            assert metrics["gateway_dedup_look_duration_seconds_count"] == looks, "an open breaker asks for nothing"
            slow.delay = 0.0
            assert await gateway.stop() == "exited with code 0"
    await place.all_remembered(33)


async def test_a_postgres_without_a_connection_left_does_not_stop_events(own: OwnStack, place: Place) -> None:
    async with AsyncExitStack() as others:
        await take_every_connection(own, others)
        async with place.gateway() as gateway:
            await accept_deferred(gateway, [f"key-{number}" for number in range(10)])
            assert (await gateway.http.get("/readyz")).status_code == 200
            await others.aclose()
            await place.all_remembered(10)


async def take_every_connection(own: OwnStack, others: AsyncExitStack) -> None:
    """Connect until the server has no room for another."""
    try:
        while True:
            await others.enter_async_context(connected(own.services.dsn_of("postgres")))
    except asyncpg.TooManyConnectionsError:
        return


async def test_reject_refuses_and_is_not_ready_without_postgres(own: OwnStack, place: Place) -> None:
    async with place.gateway(DEDUP_OUTAGE="reject") as gateway:
        own.kill("postgres")
        for number in range(5):
            answer = await post(gateway, f"key-{number}")
            assert (answer.status_code, code(answer)) == (503, "not_accepted")
            assert int(answer.headers["retry-after"]) >= 1
        assert (await gateway.http.get("/readyz")).status_code == 503
        await own.revive("postgres")

        async def accepted() -> bool:
            return (await post(gateway, "key-0")).status_code == 202

        await eventually(accepted)
        await gateway.until_ready()
    assert len(await place.offsets()) == 1


async def test_keys_still_in_memory_are_remembered_at_the_stop(own: OwnStack, place: Place) -> None:
    async with place.gateway(BREAKER_PAUSE=20) as gateway:
        assert (await post(gateway, "before")).status_code == 202
        own.kill("postgres")
        await accept_deferred(gateway, ["a", "b", "c"])
        await own.revive("postgres")
        assert await gateway.stop() == "exited with code 0"
    await place.all_remembered(4)


async def test_a_frozen_kafka_is_outcome_unknown_and_the_retry_takes_effect_once(own: OwnStack, place: Place) -> None:
    keys = [f"key-{number}" for number in range(12)]
    async with place.gateway(GATEWAY_PRODUCE_TIMEOUT=1) as gateway:
        assert (await post(gateway, "before")).status_code == 202
        own.freeze("kafka")
        first = await post(gateway, "first")
        assert (first.status_code, code(first)) == (503, "outcome_unknown")
        assert int(first.headers["retry-after"]) >= 1
        assert (await post(gateway, "before")).status_code == 200, "what is known needs no Kafka"
        answers = await asyncio.gather(*(post(gateway, key) for key in keys))
        told = {key: code(answer) for key, answer in zip(keys, answers, strict=True)}
        assert set(told.values()) <= {"outcome_unknown", "not_accepted"}
        own.thaw("kafka")

        async def accepted() -> bool:
            return (await post(gateway, "first")).status_code in (200, 202)

        await eventually(accepted)
        logged = {parse_envelope(value).idempotency_key for value in await place.offsets()}
        assert not logged & {key for key, word in told.items() if word == "not_accepted"}
        for key in keys:
            assert (await post(gateway, key)).status_code in (200, 202)
        await place.all_remembered(14)
        assert (await gateway.metrics())["raw_events_created_total"] == 14


async def test_a_kafka_that_is_down_is_not_accepted_and_comes_back_without_a_restart(
    own: OwnStack, place: Place
) -> None:
    own.kill("kafka")
    await own_is_dead(own)
    async with gateway_process(
        place.services, place.database, place.topics, place.folder, start=False, GATEWAY_PRODUCE_TIMEOUT=1, **FAST
    ) as gateway:
        await gateway.start(ready=False)

        async def listens() -> bool:
            try:
                return (await gateway.http.get("/healthz")).status_code == 200
            except OSError:
                return False
            except Exception as error:
                return type(error).__name__ != "ConnectError"

        await eventually(listens)
        answer = await post(gateway, "a")
        assert (answer.status_code, code(answer)) == (503, "not_accepted")
        ready = await gateway.http.get("/readyz")
        assert (ready.status_code, ready.json()["status"]) == (503, "not_ready")
        await own.revive("kafka")
        await gateway.until_ready(within=30)
        assert (await post(gateway, "a")).status_code == 202
        own.kill("kafka")
        await own_is_dead(own)
        answer = await post(gateway, "b")
        assert answer.status_code == 503
        await own.revive("kafka")
        await eventually(lambda: accepted(gateway, "b"), within=40)
        assert await gateway.stop() == "exited with code 0"
    await place.all_remembered(2)


async def test_a_kafka_that_ends_in_order_is_not_asked_without_end(own: OwnStack, place: Place) -> None:
    """It says that its partitions have no leader; for as long as there is none, the client would ask 1,500 times a second."""
    async with gateway_process(
        place.services, place.database, place.topics, place.folder, GATEWAY_PRODUCE_TIMEOUT=1, **FAST
    ) as gateway:
        assert (await post(gateway, "before")).status_code == 202
        dead = asyncio.create_task(own_is_dead(own))
        own.stop("kafka")
        began = asyncio.get_running_loop().time()
        for n in itertools.count():
            answers = await asyncio.gather(*(post(gateway, f"{n}-{m}") for m in range(20)))
            if dead.done():
                break
        assert {answer.status_code for answer in answers} == {503}
        seconds = asyncio.get_running_loop().time() - began
        refused = [
            line for line in gateway.log_lines() if line.get("event", "").startswith("Unable to update metadata")
        ]
        assert len(refused) < 10 + 4 * seconds
        await own.revive("kafka")
        await eventually(lambda: accepted(gateway, "after"), within=40, what="it takes events again")


async def accepted(gateway: Service, key: str) -> bool:
    return (await post(gateway, key)).status_code in (200, 202)


async def own_is_dead(own: OwnStack) -> None:
    """Wait until Kafka's port answers no more."""

    async def refused() -> bool:
        host, _, port = own.services.bootstrap.partition(":")
        try:
            _, writer = await asyncio.open_connection(host, int(port))
        except ConnectionError:
            return True
        writer.close()
        return False

    await eventually(refused)


async def test_a_stop_while_kafka_is_frozen_keeps_its_deadline(own: OwnStack, place: Place) -> None:
    settings = {"GATEWAY_PRODUCE_TIMEOUT": 1, "GATEWAY_DRAIN_TIMEOUT": 3, "GATEWAY_FLUSH_TIMEOUT": 2}
    async with place.gateway(**settings) as gateway:
        assert (await post(gateway, "before")).status_code == 202
        own.freeze("kafka")
        waiting = asyncio.create_task(post(gateway, "stuck"))
        await eventually(lambda: in_flight(gateway))
        began = time.monotonic()
        assert await gateway.stop(within=20) == "exited with code 0"
        assert time.monotonic() - began < 12
        answer = await waiting
        assert (answer.status_code, code(answer)) == (503, "outcome_unknown")


async def in_flight(gateway: Service) -> bool:
    """Whether an event is being worked on."""
    return (await gateway.metrics())["gateway_in_flight"] > 0


async def test_a_poisoned_producer_is_replaced(stack: Stack, database: str, topics: Topics, tmp_path: Path) -> None:
    """Reliability 3.1: a record that the broker refuses fails every later send until the producer is another."""
    strict = Topics(f"{topics.events}.strict", topics.dlq, 1)
    admin = AIOKafkaAdminClient(bootstrap_servers=stack.bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(strict.events, 1, 1, topic_configs={"max.message.bytes": "20000"})])
    finally:
        await admin.close()
    async with gateway_process(stack, database, strict, tmp_path, **FAST) as gateway:
        assert (await post(gateway, "small")).status_code == 202
        refused = await post(gateway, "large", "x" * 30_000)
        assert (refused.status_code, code(refused)) == (503, "outcome_unknown")
        began = time.monotonic()

        async def accepted() -> bool:
            return (await post(gateway, "small-too")).status_code in (200, 202)

        await eventually(accepted, within=10)
        assert time.monotonic() - began < 5
        assert (await gateway.metrics())["gateway_producer_swaps_total"] == 1
