"""The producer's arithmetic: sizes, partitions, acks. What it does with a broker is in tests/contract/test_producer.py."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.structs import RecordMetadata, TopicPartition
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from infra.runtime.producer import Producer, Receipt, Record, Unknown, partition_of, size_of
from infra.runtime.settings import RuntimeSettings

BATCH_HEADER = 61
HEADERS = st.lists(st.tuples(st.text(max_size=300), st.none() | st.binary(max_size=300)), max_size=5).map(tuple)
RECORDS = st.builds(Record, st.none() | st.binary(max_size=300), st.none() | st.binary(max_size=300), HEADERS)


@given(st.lists(RECORDS, max_size=20))
def test_a_record_takes_no_more_than_its_size(records: list[Record]) -> None:
    batch = BatchBuilder(1 << 30, 0, is_transactional=0, key_serializer=None, value_serializer=None)
    for record in records:
        batch.append(timestamp=None, key=record.key, value=record.value, headers=list(record.headers))
    assert batch.size() <= BATCH_HEADER + sum(size_of(record) for record in records)


@given(st.binary(max_size=50), st.integers(1, 10_000))
def test_a_key_has_the_partition_of_the_default_partitioner(key: bytes, count: int) -> None:
    partitions = list(range(count))
    assert partition_of(key, count) == DefaultPartitioner()(key, partitions, partitions)


@pytest.mark.parametrize(
    ("key", "murmur2"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_the_hash_is_javas(key: bytes, murmur2: int) -> None:
    """The vectors of Kafka's own UtilsTest; its partitioner clears the sign bit."""
    assert partition_of(key, 1 << 31) == murmur2 & 0x7FFFFFFF


def test_no_key_is_any_partition() -> None:
    assert {partition_of(None, 3) for _ in range(200)} == {0, 1, 2}


@pytest.mark.parametrize(
    ("offset", "results"),
    [
        (7, [Receipt("t", 1, 7, 99), Receipt("t", 1, 8, 99)]),
        (-1, [Unknown("no_offset")] * 2),
    ],
)
async def test_an_ack_without_an_offset_is_no_receipt(offset: int, results: list[Receipt | Unknown]) -> None:
    url = SecretStr("postgresql://nobody@localhost/none")
    producer = Producer(RuntimeSettings(kafka_bootstrap_servers="localhost:1", database_url=url), "test")
    ack: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    ack.set_result(RecordMetadata("t", 1, TopicPartition("t", 1), offset, 99, 1, 0))
    assert producer._acks(cast("Any", None), "t", ack, 2) == results
