"""What the one producer promises, on a real broker that refuses, freezes, dies and comes back."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.structs import ConsumerRecord
from pydantic import SecretStr

from infra.local.ports import Ports
from infra.runtime.producer import NotAccepted, Producer, Receipt, Record, Result, Unknown
from infra.runtime.settings import RuntimeSettings
from tests.conftest import MakeTopics
from tests.harness import consume, eventually, produce
from tests.own_stack import OwnStack, own_stack
from tests.stack import ROOT, Stack, Topics
from tests.stack import make_topics as make_topics_on

TIMEOUT = 10.0
SHORT = 1.0
# A deadline is kept if the answer comes this soon after it, on a busy machine.
GRACE = 5.0


def settings_of(bootstrap: str, **settings: object) -> RuntimeSettings:
    """Settings of a producer at these brokers."""
    url = SecretStr("postgresql://nobody@localhost/none")
    return RuntimeSettings(kafka_bootstrap_servers=bootstrap, database_url=url, **settings)  # type: ignore[arg-type]


@asynccontextmanager
async def started(bootstrap: str, swaps: list[str] | None = None, **settings: object) -> AsyncIterator[Producer]:
    """A producer, stopped in the end; `swaps` collects why it was replaced."""
    seen: list[str] = [] if swaps is None else swaps
    producer = Producer(settings_of(bootstrap, **settings), "test", on_swap=seen.append)
    await producer.start(TIMEOUT)
    try:
        yield producer
    finally:
        await producer.stop(SHORT)


@pytest.fixture
async def producer(stack: Stack) -> AsyncIterator[Producer]:
    """A started producer on the shared broker."""
    async with started(stack.bootstrap) as producer:
        yield producer


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnStack]:
    """A broker of this module's own."""
    with own_stack(tmp_path_factory.mktemp("own")) as servers:
        yield servers


@pytest.fixture
async def fragile(own: OwnStack) -> AsyncIterator[OwnStack]:
    """The module's own broker, whole again afterwards."""
    yield own
    await own.mend()


def receipts(results: list[Result]) -> list[Receipt]:
    """The results, which must all be receipts."""
    assert [result for result in results if not isinstance(result, Receipt)] == []
    return [result for result in results if isinstance(result, Receipt)]


def is_healthy(producer: Producer) -> bool:
    """`healthy` now; a function, as types cannot know that it changes."""
    return producer.healthy


async def log_of(stack: Stack, topic: str) -> dict[tuple[int, int], ConsumerRecord]:
    """What is in the topic: (partition, offset) -> record."""
    return {(record.partition, record.offset): record for record in await consume(stack, topic)}


async def lower_largest_message(stack: Stack, topic: str, size: int) -> None:
    """Let the broker refuse what the producer still allows."""
    admin = AIOKafkaAdminClient(bootstrap_servers=stack.bootstrap)
    await admin.start()
    try:
        change = ConfigResource(
            ConfigResourceType.TOPIC, topic, {"max.message.bytes": str(size), "message.timestamp.type": "LogAppendTime"}
        )
        await admin.alter_configs([change])
    finally:
        await admin.close()


# --- receipts, order, sizes


async def test_a_receipt_names_the_place_where_the_record_is(stack: Stack, topics: Topics, producer: Producer) -> None:
    records = [
        Record(f"key-{n % 17}".encode(), f"value {n}".encode(), (("n", str(n).encode()), ("none", None)))
        for n in range(300)
    ]
    records.append(Record(b"key", None))
    records.append(Record(None, b"no key"))
    records.append(Record(b"key", b"placed", partition=2))
    got = receipts(await producer.publish(topics.events, records, TIMEOUT))
    log = await log_of(stack, topics.events)
    assert len(log) == len(records)
    assert {receipt.partition for receipt in got} == {0, 1, 2}
    for record, receipt in zip(records, got, strict=True):
        found = log[receipt.partition, receipt.offset]
        assert (found.key, found.value, found.headers) == (record.key, record.value, tuple(record.headers))
        assert (found.timestamp, found.timestamp_type, receipt.topic) == (receipt.timestamp, 1, topics.events)
    assert got[-1].partition == 2


async def test_a_key_goes_where_other_producers_put_it(stack: Stack, topics: Topics, producer: Producer) -> None:
    records = [Record(f"key {n} \u00e9".encode(), b"v") for n in range(50)]
    ours = receipts(await producer.publish(topics.events, records, TIMEOUT))
    theirs = await produce(stack, topics.events, records)
    assert [receipt.partition for receipt in ours] == [sent.partition for sent in theirs]


async def test_calls_keep_their_order_in_a_partition(stack: Stack, topics: Topics, producer: Producer) -> None:
    def call(number: int) -> list[Record]:
        # Some calls are larger than one batch, so that the next ones find the partition busy.
        size = 300_000 if number % 7 == 0 else 10
        return [Record(f"key {n}".encode(), f"{number:03} {n}".encode().ljust(size)) for n in range(6)]

    calls = [asyncio.create_task(producer.publish(topics.events, call(number), TIMEOUT)) for number in range(40)]
    for results in await asyncio.gather(*calls):
        receipts(results)
    log = await consume(stack, topics.events)
    for partition in range(3):
        order = [bytes(record.value[:5]) for record in log if record.partition == partition]
        assert order == sorted(order)
        assert order


async def test_what_fits_no_single_batch_is_split(stack: Stack, topics: Topics, producer: Producer) -> None:
    values = [bytes([65 + n]) * 60_000 for n in range(40)] + [b"x" * 900_000, b"y" * 900_000]
    got = receipts(await producer.publish(topics.events, [Record(b"k", value) for value in values], TIMEOUT))
    assert [receipt.offset for receipt in got] == list(range(len(values)))
    log = await log_of(stack, topics.events)
    assert [log[receipt.partition, receipt.offset].value for receipt in got] == values


@pytest.mark.parametrize(
    "large",
    [
        Record(b"k", b"x" * 1_048_576),
        Record(b"k" * 600_000, b"x" * 600_000),
        Record(b"k", b"x", (("h", b"h" * 1_048_576),)),
        Record(b"k", None, (("h", b"h" * 1_048_576),)),
    ],
    ids=["value", "key and value", "header", "header of a tombstone"],
)
async def test_a_record_too_large_is_refused_before_it_costs_anything(
    stack: Stack, topics: Topics, large: Record
) -> None:
    swaps: list[str] = []
    async with started(stack.bootstrap, swaps) as producer:
        small = Record(b"k", b"small")
        first, refused, second = await producer.publish(topics.events, [small, large, small], TIMEOUT)
        assert isinstance(first, Receipt)
        assert refused == NotAccepted("too_large")
        assert isinstance(second, Receipt)
        assert second.offset == first.offset + 1
        assert isinstance(await producer.send(topics.events, large, TIMEOUT), NotAccepted)
        assert isinstance(await producer.send(topics.events, small, TIMEOUT), Receipt)
    assert swaps == []


async def test_the_largest_record_that_is_let_through_is_taken(stack: Stack, topics: Topics) -> None:
    swaps: list[str] = []
    async with started(stack.bootstrap, swaps) as producer:
        size = 1_048_576
        results = [
            await producer.publish(topics.events, [Record(b"k", b"x" * (size - n))], TIMEOUT)
            for n in range(0, 2000, 50)
        ]
    taken = [isinstance(result, Receipt) for (result,) in results]
    assert taken == sorted(taken)
    assert swaps == []
    assert {type(result) for (result,) in results} == {NotAccepted, Receipt}


# --- what is certainly not accepted


async def test_an_unknown_topic_is_not_accepted_within_the_deadline(producer: Producer) -> None:
    began = time.monotonic()
    record = Record(b"k", b"v")
    assert await producer.publish("test.no.such.topic", [record] * 2, SHORT) == [NotAccepted("no_metadata")] * 2
    assert time.monotonic() - began < SHORT + GRACE
    assert isinstance(await producer.send("test.no.such.topic", record, SHORT), NotAccepted)
    assert time.monotonic() - began < 2 * (SHORT + GRACE)
    assert await producer.partitions("test.no.such.topic", SHORT) == 0


async def test_an_unknown_partition_is_not_accepted(topics: Topics, producer: Producer) -> None:
    records = [Record(b"k", b"v"), Record(b"k", b"v", partition=3), Record(b"k", b"v", partition=-1)]
    first, second, third = await producer.publish(topics.events, records, TIMEOUT)
    assert isinstance(first, Receipt)
    assert (second, third) == (NotAccepted("no_partition"), NotAccepted("no_partition"))
    assert await producer.send(topics.events, records[1], TIMEOUT) == NotAccepted("no_partition")


async def test_nothing_is_accepted_before_the_start_and_after_the_stop(stack: Stack, topics: Topics) -> None:
    producer = Producer(settings_of(stack.bootstrap), "test")
    record = Record(b"k", b"v")
    assert not is_healthy(producer)
    assert await producer.publish(topics.events, [record], SHORT) == [NotAccepted("kafka_down")]
    assert await producer.partitions(topics.events, SHORT) == 0
    await producer.start(TIMEOUT)
    assert is_healthy(producer)
    assert await producer.partitions(topics.events, SHORT) == 3
    await producer.stop(TIMEOUT)
    assert await producer.publish(topics.events, [record], SHORT) == [NotAccepted("closing")]
    assert await producer.send(topics.events, record, SHORT) == NotAccepted("closing")
    assert not is_healthy(producer)
    assert await consume(stack, topics.events) == []


async def test_a_stop_flushes_what_is_on_its_way(stack: Stack, topics: Topics) -> None:
    async with started(stack.bootstrap) as producer:
        assert await producer.partitions(topics.events, TIMEOUT) == 3
        records = [Record(f"{n}".encode(), b"x" * 1000) for n in range(500)]
        publishing = asyncio.create_task(producer.publish(topics.events, records, TIMEOUT))
        await asyncio.sleep(0)
        await producer.stop(TIMEOUT)
        receipts(await publishing)
    assert len(await consume(stack, topics.events)) == 500


# --- poisoning and the swap


async def test_a_refused_batch_is_unknown_and_the_next_one_works(stack: Stack, make_topics: MakeTopics) -> None:
    topic = (await make_topics(2)).events
    swaps: list[str] = []
    async with started(stack.bootstrap, swaps) as producer:
        await producer.publish(topic, [Record(b"k", b"before", partition=p) for p in (0, 1)], TIMEOUT)
        await lower_largest_message(stack, topic, 20_000)

        async def refused() -> bool:
            (answer,) = await producer.publish(topic, [Record(b"k", b"x" * 50_000, partition=0)], TIMEOUT)
            return answer == Unknown("MessageSizeTooLargeError")

        await eventually(refused, what="the broker applies the lower limit")
        began = time.monotonic()
        after = [Record(b"k", b"after", partition=p) for p in (0, 1)]
        receipts(await producer.publish(topic, after, TIMEOUT))
        assert time.monotonic() - began < 5.0
        assert isinstance(await producer.send(topic, Record(b"k", b"sent", partition=0), TIMEOUT), Receipt)
        assert producer.healthy
    assert swaps == ["MessageSizeTooLargeError"]
    values = [bytes(record.value) for record in await consume(stack, topic) if len(record.value) < 50_000]
    assert sorted(values) == sorted([b"before", b"after"] * 2 + [b"sent"])


async def test_a_swap_keeps_what_others_have_on_their_way(stack: Stack, make_topics: MakeTopics) -> None:
    topic = (await make_topics(4)).events
    swaps: list[str] = []
    async with started(stack.bootstrap, swaps) as producer:
        await lower_largest_message(stack, topic, 20_000)

        async def one(number: int) -> list[Result]:
            bad = number == 20
            record = Record(b"k", b"x" * 50_000 if bad else f"{number}".encode(), partition=0 if bad else number % 4)
            return await producer.publish(topic, [record], TIMEOUT)

        async def round_of(numbers: range) -> list[Result]:
            return [result for results in await asyncio.gather(*map(one, numbers)) for result in results]

        await eventually(lambda: _refused(producer, topic), what="the broker applies the lower limit")
        results = await round_of(range(100))
        after = await round_of(range(100, 120))
    found = {bytes(record.value) for record in await consume(stack, topic)}
    for number, result in enumerate(results + after):
        if not isinstance(result, Unknown):
            assert (f"{number}".encode() in found) is isinstance(result, Receipt)
    # Only the partition of the refused batch may be in doubt.
    assert {number % 4 for number, result in enumerate(results) if isinstance(result, Unknown)} == {0}
    assert isinstance(results[20], Unknown)
    receipts(after)
    assert swaps == ["MessageSizeTooLargeError"] * 2


async def _refused(producer: Producer, topic: str) -> bool:
    (answer,) = await producer.publish(topic, [Record(b"k", b"x" * 50_000)], TIMEOUT)
    return answer == Unknown("MessageSizeTooLargeError")


async def test_publishing_waits_for_a_swap_and_learns_of_the_stop(stack: Stack, make_topics: MakeTopics) -> None:
    topic = (await make_topics(1)).events
    async with started(stack.bootstrap) as producer:
        await lower_largest_message(stack, topic, 20_000)
        await eventually(lambda: _refused(producer, topic), what="the broker applies the lower limit")
        assert not producer.healthy
        waiting = [asyncio.create_task(producer.publish(topic, [Record(b"k", b"v")], TIMEOUT)) for _ in range(3)]
        sending = asyncio.create_task(producer.send(topic, Record(b"k", b"v"), TIMEOUT))
        await asyncio.sleep(0)
        await producer.stop(TIMEOUT)
        assert await asyncio.gather(*waiting) == [[NotAccepted("closing")]] * 3
        assert await sending == NotAccepted("closing")


# --- a broker that freezes, dies and comes back


async def test_a_frozen_broker_leaves_the_outcome_unknown_and_is_found_again(fragile: OwnStack) -> None:
    topic = (await make_topics_on(fragile.services, 2)).events
    swaps: list[str] = []
    async with started(fragile.services.bootstrap, swaps) as producer:
        receipts(await producer.publish(topic, [Record(b"k", b"before")], TIMEOUT))
        fragile.freeze("kafka")
        began = time.monotonic()
        records = [Record(b"k", b"frozen", partition=p) for p in (0, 1)]
        assert await producer.publish(topic, records, SHORT) == [Unknown("ack_timeout")] * 2
        assert time.monotonic() - began < SHORT + GRACE
        # The partition is still busy with that batch: what comes now is not even enqueued, or unknown, but in time.
        began = time.monotonic()
        later = await producer.publish(topic, [Record(b"k", b"later", partition=0)] * 2, SHORT)
        assert not any(isinstance(result, Receipt) for result in later)
        assert isinstance(await producer.send(topic, Record(b"k", b"sent", partition=1), SHORT), NotAccepted | Unknown)
        assert time.monotonic() - began < 2 * (SHORT + GRACE)
        fragile.thaw("kafka")

        async def recovered() -> bool:
            return isinstance((await producer.publish(topic, [Record(b"k", b"after")], TIMEOUT))[0], Receipt)

        await eventually(recovered)
        assert producer.healthy
    found = [bytes(record.value) for record in await consume(fragile.services, topic)]
    assert found.count(b"frozen") <= 2
    assert found.count(b"before") == 1


async def test_a_broker_that_died_is_found_again(fragile: OwnStack) -> None:
    topic = (await make_topics_on(fragile.services, 1)).events
    async with started(fragile.services.bootstrap) as producer:
        receipts(await producer.publish(topic, [Record(b"k", b"before")], TIMEOUT))
        fragile.kill("kafka")
        began = time.monotonic()
        (lost,) = await producer.publish(topic, [Record(b"k", b"lost")], SHORT)
        assert not isinstance(lost, Receipt)
        assert time.monotonic() - began < SHORT + GRACE
        await fragile.revive("kafka")

        async def recovered() -> bool:
            return isinstance((await producer.publish(topic, [Record(b"k", b"after")], TIMEOUT))[0], Receipt)

        await eventually(recovered)
    found = [bytes(record.value) for record in await consume(fragile.services, topic)]
    assert found.count(b"before") == 1
    assert found.count(b"lost") <= 1


async def test_a_long_silence_replaces_the_producer(fragile: OwnStack) -> None:
    topic = (await make_topics_on(fragile.services, 1)).events
    times = iter([0.0, 29.0, 31.0, 32.0])
    swaps: list[str] = []
    producer = Producer(
        settings_of(fragile.services.bootstrap), "test", on_swap=swaps.append, clock=lambda: next(times)
    )
    await producer.start(TIMEOUT)
    try:
        fragile.freeze("kafka")
        for _ in range(3):
            assert swaps == []
            (answer,) = await producer.publish(topic, [Record(b"k", b"v")], 0.2)
            assert not isinstance(answer, Receipt)
        assert swaps in (["ack_timeout"], ["TimeoutError"])
        fragile.thaw("kafka")
        await eventually(lambda: producer.healthy)
        receipts(await producer.publish(topic, [Record(b"k", b"after")], TIMEOUT))
    finally:
        await producer.stop(SHORT)


@pytest.mark.parametrize("swapping", [False, True], ids=["at work", "in a swap"])
async def test_a_stop_keeps_its_deadline_with_a_frozen_broker(fragile: OwnStack, swapping: bool) -> None:
    topic = (await make_topics_on(fragile.services, 1)).events
    before = asyncio.all_tasks()
    clock: Callable[[], float] = iter([0.0, 100.0, 200.0]).__next__ if swapping else time.monotonic
    producer = Producer(settings_of(fragile.services.bootstrap), "test", clock=clock)
    await producer.start(TIMEOUT)
    receipts(await producer.publish(topic, [Record(b"k", b"v")], TIMEOUT))
    fragile.freeze("kafka")
    for _ in range(2 if swapping else 1):
        await producer.publish(topic, [Record(b"k", b"v")], 0.2)
    assert producer.healthy is not swapping
    waiting = asyncio.create_task(producer.publish(topic, [Record(b"k", b"v")], TIMEOUT))
    await asyncio.sleep(0)
    began = time.monotonic()
    await producer.stop(SHORT)
    (answer,) = await waiting
    assert time.monotonic() - began < SHORT + 2 * GRACE
    assert not isinstance(answer, Receipt)
    # Nothing of it is left: no task, no connection.
    await eventually(lambda: not (asyncio.all_tasks() - before), within=3, what="no task is left")


async def test_the_start_waits_for_a_broker(own: OwnStack) -> None:
    producer = Producer(settings_of(f"127.0.0.1:{Ports().take(0, 'KAFKA_PORT')}"), "test")
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        await producer.start(SHORT)
    assert time.monotonic() - began < SHORT + GRACE
    assert not producer.healthy
    await producer.stop(SHORT)
    own.kill("kafka")
    try:
        late = Producer(settings_of(own.services.bootstrap), "test")
        starting = asyncio.create_task(late.start())
        await own.revive("kafka")
        async with asyncio.timeout(TIMEOUT):
            await starting
        assert late.healthy
        await late.stop(SHORT)
    finally:
        await own.mend()


# --- what is logged

PROGRAM = """
import asyncio, sys
from infra.runtime import log
from infra.runtime.producer import Producer, Record
from tests.contract.test_producer import settings_of
log.configure("DEBUG", "json", "worker")
async def main():
    producer = Producer(settings_of(sys.argv[1]), "test")
    await producer.start(10)
    record = Record(b"secret-key", b"secret-value", (("h", b"secret-header"),))
    print(await producer.publish(sys.argv[2], [record], 10), await producer.send(sys.argv[2], record, 10))
    await producer.stop(5)
asyncio.run(main())
log.flush()
"""


async def test_no_key_or_value_is_logged_at_any_level(stack: Stack, topics: Topics, tmp_path: Path) -> None:
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", PROGRAM, stack.bootstrap, topics.events],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.count("Receipt(") == 2
    assert "secret" not in done.stderr
