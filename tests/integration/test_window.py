"""The bounded dedup window: which keys go, which never do, and what a worker refuses to start with."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import TopicAuthorizationFailedError, UnknownTopicOrPartitionError

from infra.runtime.topics import longer_than
from schemas.errors import Permanent
from schemas.event import Event
from stream_worker import app
from stream_worker.app import NotSo, refuse_short_window
from stream_worker.outcomes import Duplicate, Stored
from stream_worker.settings import WorkerSettings
from stream_worker.window import forget_old_keys
from tests.harness import eventually
from tests.stack import Stack, Topics
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
    settle,
)

DAYS = 30


@pytest.fixture
async def db(database: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to the test's own database, with an effects table."""
    connection = await asyncpg.connect(database)
    await make_effects(connection)
    yield connection
    await connection.close()


async def age(db: asyncpg.Connection, days: int) -> None:
    """All that is known of keys and failures happened so many days earlier."""
    shift = f"interval '{days} days'"
    await db.execute(f"UPDATE event_keys SET accepted_at = accepted_at - {shift}")
    await db.execute(
        f"UPDATE failures SET first_at = first_at - {shift}, last_at = last_at - {shift}, dlq_at = now() - {shift}"
    )


async def keys(db: asyncpg.Connection) -> list[str]:
    return [row[0] for row in await db.fetch("SELECT state FROM event_keys ORDER BY state")]


async def test_11_only_keys_of_events_that_took_effect_before_the_window_go(db: asyncpg.Connection) -> None:
    async def fails(event: Event, tx: asyncpg.Connection) -> None:
        if event.data == "bad":
            raise Permanent

    log = Log()
    items = [log.append(envelope(f"k{n}", "bad" if n == 3 else None)) for n in range(10)]
    await settle(db, items, processor(registry_of(fails)))
    await db.execute("UPDATE event_keys SET state = 'parked' WHERE record_offset = 4")
    await db.execute("UPDATE event_keys SET state = 'accepted' WHERE record_offset = 5")
    await age(db, DAYS + 1)
    young = log.append(envelope("young"))
    await settle(db, [young], processor(registry_of(fails)))
    assert await forget_old_keys(db, DAYS + 2, pause=0) == 0
    assert await forget_old_keys(db, DAYS, pause=0) == 7
    assert await keys(db) == ["accepted", "failed", "parked", "stored"]
    assert outcomes(await settle(db, [young], processor(registry_of(fails)))) == [Duplicate()]


async def test_11_a_replayed_event_is_known_until_its_dead_letter_is_surely_gone(db: asyncpg.Connection) -> None:
    """It failed late and was mended: its dead letter is younger than the event, and may be replayed once more."""
    healthy = False

    async def mended(event: Event, tx: asyncpg.Connection) -> None:
        if not healthy:
            raise Permanent
        await note(event, tx)

    log = Log()
    using = processor(registry_of(mended))
    await settle(db, [log.append(envelope("k"))], using)
    await acknowledge_dead_letters(db, log)
    healthy = True
    assert outcomes(await settle(db, [log.append(envelope("k"))], using)) == [Stored("mended")]
    await age(db, DAYS + 1)
    await db.execute("UPDATE failures SET dlq_at = now() - interval '29 days'")
    assert await forget_old_keys(db, DAYS, pause=0) == 0
    assert outcomes(await settle(db, [log.append(envelope("k"))], using)) == [Duplicate()]
    assert await effects(db) == ["k"]
    await db.execute("UPDATE failures SET dlq_at = now() - interval '31 days'")
    assert await forget_old_keys(db, DAYS, pause=0) == 1


async def test_11_one_worker_at_a_time_and_nobody_waits_for_a_key_that_is_held(
    db: asyncpg.Connection, database: str
) -> None:
    other = await asyncpg.connect(database, command_timeout=10)
    try:
        log = Log()
        await settle(db, [log.append(envelope(f"k{n}")) for n in range(3)])
        await age(db, DAYS + 1)
        await other.execute("SELECT pg_advisory_lock(1347179860, 4)")
        assert await forget_old_keys(db, DAYS, pause=0) == 0
        await other.execute("SELECT pg_advisory_unlock_all()")
        async with other.transaction():
            await other.execute("SELECT 1 FROM event_keys WHERE record_offset = 0 FOR UPDATE")
            assert await forget_old_keys(db, DAYS, pause=0) == 2
        assert await forget_old_keys(db, DAYS, pause=0) == 1
        assert await other.fetchval("SELECT pg_try_advisory_lock(1347179860, 4)"), "the session lets go of it"
        assert await db.fetchval("SHOW statement_timeout") == await other.fetchval("SHOW statement_timeout")
    finally:
        await other.close()


@pytest.mark.parametrize(
    ("days", "dlq_days", "refused"),
    [(None, None, ""), (90, None, "{dlq} keeps its records for ever"), (90, 60, ""), (30, 60, "{events} keeps")],
)
async def test_11_a_window_shorter_than_a_topic_keeps_its_records_is_refused(
    stack: Stack, topics: Topics, days: int | None, dlq_days: int | None, refused: str
) -> None:
    settings = WorkerSettings(
        kafka_bootstrap_servers=stack.bootstrap,
        database_url=stack.dsn,
        kafka_topic=topics.events,
        kafka_dlq_topic=topics.dlq,
        dedup_window_days=days,
    )
    if dlq_days is not None:
        await _keep(stack, topics.dlq, dlq_days)

        async def known() -> bool:
            # The controller has the new retention; the broker hears of it a moment later.
            return f"topic {topics.dlq} keeps its records for ever" not in await longer_than(settings, 1)

        await eventually(known)
    if not refused:
        await refuse_short_window(settings)
        return
    with pytest.raises(NotSo) as told:
        await refuse_short_window(settings)
    assert refused.format(events=topics.events, dlq=topics.dlq) in str(told.value)


@pytest.mark.parametrize("passing", [UnknownTopicOrPartitionError(), TimeoutError()])
async def test_a_start_waits_for_a_broker_that_does_not_know_its_topics_yet(
    stack: Stack, topics: Topics, monkeypatch: pytest.MonkeyPatch, passing: Exception
) -> None:
    answers = [passing, TopicAuthorizationFailedError()]

    async def answer(settings: WorkerSettings, days: int) -> list[str]:
        raise answers.pop(0)

    monkeypatch.setattr(app, "longer_than", answer)
    settings = WorkerSettings(kafka_bootstrap_servers=stack.bootstrap, database_url=stack.dsn, dedup_window_days=1)
    with pytest.raises(TopicAuthorizationFailedError):  # which no waiting mends
        await refuse_short_window(settings)
    assert not answers


async def _keep(stack: Stack, topic: str, days: int) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=stack.bootstrap)
    await admin.start()
    try:
        configs = {"retention.ms": str(days * 86_400_000)}
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs=configs)])
    finally:
        await admin.close()
