"""The fixtures every integration test builds on, proven once."""

from __future__ import annotations

import asyncio

import asyncpg
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from tests.conftest import MakeTopics
from tests.stack import Stack, Topics

LOG_APPEND_TIME = 1


async def test_a_record_comes_back_with_the_brokers_time(stack: Stack, topics: Topics) -> None:
    async with (
        asyncio.timeout(30),
        AIOKafkaProducer(bootstrap_servers=stack.bootstrap, acks="all", enable_idempotence=True) as producer,
        AIOKafkaConsumer(
            topics.events, bootstrap_servers=stack.bootstrap, group_id=topics.events, auto_offset_reset="earliest"
        ) as consumer,
    ):
        sent = await producer.send_and_wait(topics.events, b"value", key=b"key", timestamp_ms=1)
        record = await consumer.getone()
        assert (record.key, record.value, record.partition) == (b"key", b"value", sent.partition)
        assert record.timestamp_type == LOG_APPEND_TIME
        assert record.timestamp > 1


async def test_topics_have_the_partitions_asked_for(stack: Stack, make_topics: MakeTopics) -> None:
    made = await make_topics(5)
    async with asyncio.timeout(30), AIOKafkaConsumer(bootstrap_servers=stack.bootstrap) as consumer:
        await consumer._client.add_topic(made.events)
        assert consumer.partitions_for_topic(made.events) == {0, 1, 2, 3, 4}


async def test_a_database_is_migrated_and_the_tests_own(stack: Stack, database: str) -> None:
    async with asyncio.timeout(30):
        connection = await asyncpg.connect(database)
        try:
            assert await connection.fetchval("SELECT count(*) FROM alembic_version") == 1
            assert await connection.fetchval("SELECT count(*) FROM event_keys") == 0
            assert await connection.fetchval("SHOW data_checksums") == "on"
        finally:
            await connection.close()
    assert database != stack.dsn
