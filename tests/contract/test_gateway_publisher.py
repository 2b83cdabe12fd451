"""What the pipeline relies on of a publisher, for the one in memory and the one into Kafka."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

import pytest

from infra.runtime.producer import NotAccepted, Producer, Receipt
from infra.runtime.producer import Result as Published
from ingest_gateway.metrics import Metrics
from ingest_gateway.outcomes import Outcome
from ingest_gateway.pipeline import Flight, Publisher
from ingest_gateway.publisher import KafkaPublisher
from ingest_gateway.settings import GatewaySettings
from tests.fakes.gateway import MemoryLog, event
from tests.harness import consume
from tests.stack import Stack, Topics

TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def flight(key: str, source: str = "shop", *, trace: bytes | None = None, **members: object) -> Flight:
    """A flight of that event; its record's value is the key."""
    settled: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    return Flight(event(key, 1, source, **members), key.encode(), trace, settled, 0.0)


def receipts(results: Sequence[Published]) -> list[Receipt]:
    """All of them, which must be receipts."""
    found = [one for one in results if isinstance(one, Receipt)]
    assert len(found) == len(results), results
    return found


class Rig(Protocol):
    """A publisher, and what stands in the log it writes to."""

    @property
    def publisher(self) -> Publisher: ...

    async def log(self) -> dict[tuple[int, int], bytes]:
        """(partition, offset) -> value."""

    async def refuse(self) -> None:
        """From now on nothing can be enqueued."""


class PublisherContract:
    """The suite."""

    async def test_a_receipt_names_the_record(self, rig: Rig) -> None:
        flights = [flight(f"k{number}", f"source-{number % 7}") for number in range(50)]
        got = receipts(await rig.publisher.publish(flights))
        log = await rig.log()
        assert [log[one.partition, one.offset] for one in got] == [one.wire for one in flights]
        assert len(log) == 50

    async def test_a_source_keeps_its_order_on_one_partition(self, rig: Rig) -> None:
        got = receipts(await rig.publisher.publish([flight(f"k{number}") for number in range(20)]))
        assert {one.partition for one in got} == {got[0].partition}
        assert [one.offset for one in got] == list(range(20))

    async def test_calls_are_enqueued_in_the_order_in_which_they_are_made(self, rig: Rig) -> None:
        calls = [[flight(f"{call}-{number}") for number in range(5)] for call in range(20)]
        told = await asyncio.gather(*(rig.publisher.publish(flights) for flights in calls))
        offsets = [one.offset for results in told for one in receipts(results)]
        assert offsets == sorted(offsets)

    async def test_what_was_not_enqueued_is_not_accepted(self, rig: Rig) -> None:
        await rig.refuse()
        async with asyncio.timeout(5):
            results = await rig.publisher.publish([flight("a"), flight("b")])
        assert [type(one) for one in results] == [NotAccepted, NotAccepted]
        assert await rig.log() == {}


class MemoryRig:
    """The fake."""

    def __init__(self) -> None:
        self.publisher = MemoryLog()

    async def log(self) -> dict[tuple[int, int], bytes]:
        return {
            (number, offset): one.wire
            for number, partition in enumerate(self.publisher.partitions)
            for offset, one in enumerate(partition)
        }

    async def refuse(self) -> None:
        self.publisher.refusing = True


class TestMemoryLog(PublisherContract):
    """The fake passes."""

    @pytest.fixture
    def rig(self) -> Rig:
        return MemoryRig()


class KafkaRig:
    """The real one."""

    def __init__(self, stack: Stack, topics: Topics, **values: object) -> None:
        self.stack, self.topics = stack, topics
        self.settings = GatewaySettings.model_validate(
            {
                "kafka_bootstrap_servers": stack.bootstrap,
                "kafka_topic": topics.events,
                "kafka_dlq_topic": topics.dlq,
                "database_url": "postgresql://u:p@unused/db",
                **values,
            }
        )
        self.producer = Producer(self.settings, "test")
        self.publisher = KafkaPublisher(self.producer, self.settings, Metrics())

    async def log(self) -> dict[tuple[int, int], bytes]:
        return {
            (record.partition, record.offset): record.value or b""
            for record in await consume(self.stack, self.topics.events)
        }

    async def refuse(self) -> None:
        await self.producer.stop(5.0)


class TestKafkaPublisher(PublisherContract):
    """The real one passes, and keeps what only it can break."""

    @pytest.fixture
    async def rig(self, stack: Stack, topics: Topics) -> AsyncIterator[KafkaRig]:
        made = KafkaRig(stack, topics)
        await made.producer.start(30.0)
        yield made
        await made.producer.stop(5.0)

    async def test_a_record_says_what_it_is_and_nothing_else(self, rig: KafkaRig) -> None:
        await rig.publisher.publish([flight("a"), flight("b", trace=TRACE)])
        plain, traced = await consume(rig.stack, rig.topics.events)
        own = (("content-type", b"application/json"), ("plutus-gateway", b"1"))
        assert (plain.key, plain.value, plain.headers) == (b"shop", b"a", own)
        assert traced.headers == (*own, ("traceparent", TRACE))

    async def test_before_the_broker_is_reached_nothing_is_accepted(self, stack: Stack, topics: Topics) -> None:
        rig = KafkaRig(stack, topics)
        assert await rig.publisher.publish([flight("a")]) == [NotAccepted("kafka_down")]
        assert await rig.producer.partitions(topics.events, 0.1) == 0

    async def test_a_topic_that_is_not_there_accepts_nothing(self, rig: KafkaRig) -> None:
        missing = KafkaRig(rig.stack, Topics("no.such.topic", rig.topics.dlq, 1), gateway_produce_timeout=0.5)
        await missing.producer.start(30.0)
        try:
            assert await missing.publisher.publish([flight("a")]) == [NotAccepted("no_metadata")]
            assert await missing.producer.partitions("no.such.topic", 0.5) == 0
        finally:
            await missing.producer.stop(5.0)

    async def test_what_the_topic_would_refuse_is_not_sent_and_poisons_nothing(self, rig: KafkaRig) -> None:
        """Reliability 3.1: the broker's refusal would spend a sequence number and fail every later send."""
        huge = flight("huge")
        huge.wire = b"x" * (rig.settings.kafka_max_message_bytes + 1)
        first, second = await rig.publisher.publish([huge, flight("a")])
        assert first == NotAccepted("too_large")
        assert isinstance(second, Receipt)
        assert rig.producer.healthy

    async def test_sources_that_opted_in_are_spread_by_their_ordering_key(self, stack: Stack, topics: Topics) -> None:
        rig = KafkaRig(stack, topics, gateway_spread_sources=["shop"])
        await rig.producer.start(30.0)
        try:
            spread, other = (
                flight(key, source, ordering_key="cart-1") for key, source in (("a", "shop"), ("b", "till"))
            )
            await rig.publisher.publish([spread, other])
            assert {record.key for record in await consume(stack, topics.events)} == {b"shop:cart-1", b"till"}
        finally:
            await rig.producer.stop(5.0)
