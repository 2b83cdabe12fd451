"""Emitted events on a real Postgres and a real Kafka: with the effects or not at all, published at last, once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from pydantic import BaseModel, SecretStr
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from infra.runtime.producer import NotAccepted, Producer, Receipt, Record, Result, Unknown
from infra.runtime.settings import RuntimeSettings
from schemas.errors import Permanent, Reason, Retryable
from schemas.event import Event, parse_envelope
from schemas.ids import event_id
from stream_worker import emit as outbox
from stream_worker.emit import EmittedHeld, counted, emit, key_of, publish
from stream_worker.handlers import Registry
from stream_worker.outcomes import Dead, Duplicate, Stored
from stream_worker.run import Hold
from tests.harness import connected, consume
from tests.stack import Stack, Topics
from tests.worker_kit import (
    TOPIC,
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

TIMEOUT = 20.0


@dataclass
class Broker:
    """Takes records, or not; what it took is there to be read."""

    answers: list[Result | None] = field(default_factory=list)
    taken: list[Record] = field(default_factory=list)

    async def publish(self, topic: str, records: Sequence[Record], timeout: float) -> list[Result]:
        results: list[Result] = []
        for record in records:
            answer = self.answers.pop(0) if self.answers else None
            if not isinstance(answer, NotAccepted):
                self.taken.append(record)
            results.append(answer or Receipt(topic, 0, len(self.taken), 0))
        return results

    def keys(self) -> list[str]:
        return [self.event(record).idempotency_key for record in self.taken]

    @staticmethod
    def event(record: Record) -> Event:
        assert record.value is not None
        return parse_envelope(record.value)


@pytest.fixture
async def db(database: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to the test's own database, with an effects table."""
    async with connected(database) as connection:
        await make_effects(connection)
        yield connection


async def split(event: Event, tx: asyncpg.Connection) -> None:
    """As many events as the payload says, for the handler `note`."""
    for number in range(event.data):
        await emit(event, tx, type="part", source="parts", schema_version="1.0", payload={"n": number})


def splitting(handler: Any = split, **match: Any) -> Registry:
    registry = registry_of(handler, **(match or {"source": "src"}))
    registry.handler(source="parts")(note)
    return registry


async def waiting(db: asyncpg.Connection) -> list[tuple[str, int]]:
    query = "SELECT payload, ordinal FROM emitted_events ORDER BY n"
    return [(row["payload"], row["ordinal"]) for row in await db.fetch(query)]


def id_of(key: str) -> UUID:
    return event_id("src", key)


async def test_it_commits_with_the_event_and_is_numbered_per_parent(db: asyncpg.Connection) -> None:
    log = Log(partition=3)
    with counted() as emitted:
        await settle(db, [log.append(envelope("a", 2)), log.append(envelope("b", 0)), log.append(envelope("c", 1))])
        assert emitted.count == 0
        log.offset += 10
        items = [log.append(envelope("d", 2)), log.append(envelope("e", 0)), log.append(envelope("f", 1))]
        result = await settle(db, items, processor(splitting()))
        assert emitted.count == 3
    assert outcomes(result) == [Stored("split")] * 3
    found = await rows(db, 'SELECT parent_id, ordinal, topic, "partition" FROM emitted_events ORDER BY n')
    assert found == [
        {"parent_id": id_of("d"), "ordinal": 0, "topic": TOPIC, "partition": 3},
        {"parent_id": id_of("d"), "ordinal": 1, "topic": TOPIC, "partition": 3},
        {"parent_id": id_of("f"), "ordinal": 0, "topic": TOPIC, "partition": 3},
    ]


async def test_what_is_rolled_back_emits_nothing(db: asyncpg.Connection) -> None:
    async def fragile(event: Event, tx: asyncpg.Connection) -> None:
        await emit(event, tx, type="part", source="parts", schema_version="1.0", payload=event.idempotency_key)
        if event.data == "bad":
            raise Permanent
        if event.data == "later":
            raise Retryable
        if event.data == "cut":
            tx.terminate()

    log = Log()
    payloads = ["good", "bad", "good", "later"]
    items = [log.append(envelope(f"k{n}", payload)) for n, payload in enumerate(payloads)]
    await settle(db, items, processor(splitting(fragile)))
    # Those of the good ones only, although all were emitted once in the chunk that failed.
    assert await waiting(db) == [('"k0"', 0), ('"k2"', 0)]
    cut = log.append(envelope("cut", "cut"))
    with pytest.raises((Hold, asyncpg.InterfaceError)):
        await settle(db, [cut], processor(splitting(fragile)))
    assert db.is_closed()


async def test_published_in_order_then_forgotten(db: asyncpg.Connection) -> None:
    log = Log()
    items = [log.append(envelope(f"k{n}", n % 3)) for n in range(150)]
    await settle(db, items, processor(splitting()))
    broker = Broker()
    assert await publish(db, broker, TOPIC, 0, timeout=TIMEOUT) == 150
    expected = [key_of(id_of(f"k{n}"), ordinal) for n in range(150) for ordinal in range(n % 3)]
    assert broker.keys() == expected
    assert await waiting(db) == []
    assert await publish(db, broker, TOPIC, 0, timeout=TIMEOUT) == 0


async def test_only_the_owner_of_the_partition_publishes_it(db: asyncpg.Connection) -> None:
    await settle(db, [Log(partition=1).append(envelope("a", 1))], processor(splitting()))
    broker = Broker()
    assert await publish(db, broker, TOPIC, 0, timeout=TIMEOUT) == 0
    assert await publish(db, broker, "another", 1, timeout=TIMEOUT) == 0
    assert await publish(db, broker, TOPIC, 1, timeout=TIMEOUT) == 1


@pytest.mark.parametrize("answer", [NotAccepted("kafka_down"), Unknown("ack_timeout")])
async def test_what_kafka_does_not_take_waits(db: asyncpg.Connection, answer: Result) -> None:
    await settle(db, [Log().append(envelope("a", 3))], processor(splitting()))
    broker = Broker([None, answer, answer])
    with pytest.raises(EmittedHeld) as held:
        await publish(db, broker, TOPIC, 0, timeout=TIMEOUT)
    assert held.value.why in {"kafka_down", "ack_timeout"}
    assert [ordinal for _, ordinal in await waiting(db)] == [1, 2]
    assert await publish(db, broker, TOPIC, 0, timeout=TIMEOUT) == 2
    assert list(dict.fromkeys(broker.keys())) == [key_of(id_of("a"), n) for n in range(3)]


async def test_a_crash_between_the_acknowledgement_and_the_mark_publishes_twice_with_one_effect(
    db: asyncpg.Connection,
) -> None:
    log = Log()
    using = processor(splitting())
    await settle(db, [log.append(envelope("a", 2))], using)
    broker = Broker()
    await db.execute("CREATE TABLE kept AS TABLE emitted_events")
    await publish(db, broker, TOPIC, 0, timeout=TIMEOUT)
    await db.execute("INSERT INTO emitted_events OVERRIDING SYSTEM VALUE SELECT * FROM kept")  # never deleted, so
    await publish(db, broker, TOPIC, 0, timeout=TIMEOUT)
    assert len(broker.taken) == 4
    copies = [log.append(record.value, key=record.key) for record in broker.taken]
    assert outcomes(await settle(db, copies, using)) == [Stored("note")] * 2 + [Duplicate()] * 2
    assert await effects(db) == [key_of(id_of("a"), n) for n in range(2)]


async def test_a_replay_on_another_partition_is_published_by_its_owner(db: asyncpg.Connection) -> None:
    mended = False

    async def broken(event: Event, tx: asyncpg.Connection) -> None:
        await split(event, tx)
        if not mended:
            raise Permanent

    using = processor(splitting(broken))
    log = Log(partition=0)
    await settle(db, [log.append(envelope("a", 2))], using)
    await acknowledge_dead_letters(db, log)
    mended = True
    replay = Log(partition=2, now_ms=log.now_ms + 1)
    assert outcomes(await settle(db, [replay.append(envelope("a", 2))], using)) == [Stored("broken")]
    broker = Broker()
    assert await publish(db, broker, TOPIC, 2, timeout=TIMEOUT) == 2
    assert broker.keys() == [key_of(id_of("a"), n) for n in range(2)]


async def test_a_batch_handler_emits_for_each_event(db: asyncpg.Connection) -> None:
    async def split_all(events: Sequence[Event], tx: asyncpg.Connection) -> None:
        for event in reversed(events):
            await split(event, tx)

    registry = Registry()
    registry.handler(source="src", batch=True)(split_all)
    log = Log()
    await settle(db, [log.append(envelope(f"k{n}", n)) for n in range(3)], processor(registry))
    broker = Broker()
    await publish(db, broker, TOPIC, 0, timeout=TIMEOUT)
    assert broker.keys() == [key_of(id_of("k2"), 0), key_of(id_of("k2"), 1), key_of(id_of("k1"), 0)]


async def test_it_takes_sqlalchemys_transactions_and_obeys_their_savepoints(db: asyncpg.Connection) -> None:
    async def by_connection(event: Event, tx: AsyncConnection) -> None:
        await emit(event, tx, type="part", source="parts", schema_version="1.0", payload="dropped")
        await tx.rollback()
        await emit(event, tx, type="part", source="parts", schema_version="1.0", payload="connection")

    async def by_session(event: Event, tx: AsyncSession) -> None:
        await tx.execute(text("SELECT 1"))
        await emit(event, tx, type="part", source="parts", schema_version="1.0", payload="session")

    registry = Registry()
    registry.handler(type="connection")(by_connection)
    registry.handler(type="session")(by_session)
    log = Log()
    items = [log.append(envelope(kind, type=kind)) for kind in ("connection", "session")]
    assert outcomes(await settle(db, items, processor(registry))) == [Stored("by_connection"), Stored("by_session")]
    assert await waiting(db) == [('"connection"', 0), ('"session"', 0)]


class Parcel(BaseModel):
    """What a handler sends on."""

    order: str
    weight: Decimal


async def test_what_a_payload_may_be_and_the_id_that_comes_back(db: asyncpg.Connection) -> None:
    told: list[UUID] = []
    at = datetime(2026, 3, 1, tzinfo=UTC)
    payloads = [{"weight": Decimal("12345678901234567890.10"), "at": at}, Parcel(order="é", weight=Decimal("1.50")), []]

    async def ships(event: Event, tx: asyncpg.Connection) -> None:
        told.extend(
            [
                await emit(event, tx, type=None, source="parts", schema_version="2", payload=each, ordering_key="p1")
                for each in payloads
            ]
        )

    await settle(db, [Log().append(envelope("a"))], processor(splitting(ships)))
    broker = Broker()
    await publish(db, broker, TOPIC, 0, timeout=TIMEOUT)
    sent = [broker.event(record) for record in broker.taken]
    assert [event.id for event in sent] == told
    assert [event.payload.decode() for event in sent] == [
        '{"weight":12345678901234567890.10,"at":"2026-03-01T00:00:00Z"}',
        '{"order":"é","weight":"1.50"}',
        "[]",
    ]
    assert {(event.type, event.schema_version, event.ordering_key) for event in sent} == {(None, "2", "p1")}
    assert {record.key for record in broker.taken} == {b"parts:p1"}


@pytest.mark.parametrize(
    "members",
    [
        {"source": "not a source"},
        {"source": ""},
        {"type": "a type"},
        {"schema_version": ""},
        {"ordering_key": ""},
        {"payload": "\x00"},
        {"payload": "x" * 256 * 1024},
        {"payload": [[]] * 20_000},
    ],
)
async def test_what_cannot_be_sent_is_refused_and_its_parent_dead(
    db: asyncpg.Connection, members: dict[str, Any]
) -> None:
    told: list[str] = []

    async def wrong(event: Event, tx: asyncpg.Connection) -> None:
        given = {"type": "part", "source": "parts", "schema_version": "1.0", "payload": 1, **members}
        try:
            await emit(event, tx, **given)
        except Permanent as refusal:
            told.append(str(refusal))
            raise

    result = await settle(db, [Log().append(envelope("a"))], processor(splitting(wrong)))
    assert outcomes(result) == [Dead(Reason.HANDLER_ERROR, "handle", "Permanent")]
    assert told[0].startswith("The emitted event cannot be sent. ")
    assert await waiting(db) == []


async def test_outside_a_worker_it_is_refused(db: asyncpg.Connection) -> None:
    event = parse_envelope(envelope("a"))
    await take(db)
    async with db.transaction():
        with pytest.raises(RuntimeError, match="inside a handler"):
            await emit(event, db, type="part", source="parts", schema_version="1.0", payload=1)
    with pytest.raises(RuntimeError, match="inside a handler"):
        await emit(event, db, type="part", source="parts", schema_version="1.0", payload=1)


async def test_counts_do_not_mix(db: asyncpg.Connection) -> None:
    with counted() as outer:
        with counted() as inner:
            await settle(db, [Log().append(envelope("a", 2))], processor(splitting()))
        assert (outer.count, inner.count) == (0, 2)
    assert outbox._EMITTED.get() is None


async def test_through_a_real_kafka_and_back(stack: Stack, topics: Topics, db: asyncpg.Connection) -> None:
    settings = RuntimeSettings(
        kafka_bootstrap_servers=stack.bootstrap, database_url=SecretStr(stack.dsn), kafka_topic=topics.events
    )
    log = Log()
    using = processor(splitting())
    await settle(db, [log.append(envelope("a", 5))], using)
    await db.execute("UPDATE emitted_events SET topic = $1", topics.events)
    producer = Producer(settings, "test")
    await producer.start(TIMEOUT)
    try:
        assert await publish(db, producer, topics.events, 0, timeout=TIMEOUT) == 5
    finally:
        await producer.stop(TIMEOUT)
    records = sorted(await consume(stack, topics.events), key=lambda record: record.offset)
    assert {record.headers for record in records} == {(("content-type", b"application/json"),)}
    items = [log.append(record.value, key=record.key) for record in records]
    assert outcomes(await settle(db, items, using)) == [Stored("note")] * 5
    assert await effects(db) == [key_of(id_of("a"), n) for n in range(5)]
