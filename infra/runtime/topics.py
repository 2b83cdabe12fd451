"""The two topics: how they must be, creating them, and telling what differs.

The events topic stamps records with the broker's time (`LogAppendTime`): replay and dead-letter times are compared by
it. Nobody creates topics by accident: the broker's auto-creation is off, and a process waits for them with a clear line.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import stamina
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from infra.runtime import log
from infra.runtime.kafka import connection
from infra.runtime.settings import RuntimeSettings

_LOG = log.get(__name__)
_DAY_MS = 86_400_000
_DEAD_LETTER_ROOM = 65_536
_TIMEOUT = 30.0


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as it should be."""

    name: str
    partitions: int
    replication: int
    configs: dict[str, str]


def wanted(settings: RuntimeSettings) -> tuple[Topic, Topic]:
    """The events topic and the dead-letter topic."""
    common = {"message.timestamp.type": "LogAppendTime", "cleanup.policy": "delete", "compression.type": "producer"}
    size = settings.kafka_max_message_bytes
    replication = settings.kafka_replication_factor
    minimum = {"min.insync.replicas": "2" if replication > 2 else "1"}
    events = {"retention.ms": str(settings.kafka_retention_days * _DAY_MS), "max.message.bytes": str(size)}
    dead = {"retention.ms": "-1", "max.message.bytes": str(size + _DEAD_LETTER_ROOM)}
    return (
        Topic(settings.kafka_topic, settings.kafka_partitions, replication, {**common, **minimum, **events}),
        Topic(settings.kafka_dlq_topic, settings.kafka_partitions, replication, {**common, **minimum, **dead}),
    )


async def create(settings: RuntimeSettings) -> list[str]:
    """Create what is missing; returns the names of the topics that were made.

    Raises:
        KafkaError, TimeoutError: no broker, or it refuses.
    """
    made = []
    async with _admin(settings) as admin:
        for topic in wanted(settings):
            request = NewTopic(topic.name, topic.partitions, topic.replication, topic_configs=topic.configs)
            response = await admin.create_topics([request])
            for name, code, *_ in response.topic_errors:
                error = for_code(code)
                if code == 0:
                    made.append(name)
                elif error is not TopicAlreadyExistsError:
                    raise error(f"topic {name}")
    return made


async def differences(settings: RuntimeSettings) -> list[str]:
    """What is not as it should be, one sentence each; empty: all is well. Fewer partitions than asked for is reported,
    more are not."""
    found = []
    async with _admin(settings) as admin:
        described = {t["topic"]: t for t in await admin.describe_topics([t.name for t in wanted(settings)])}
        for topic in wanted(settings):
            state = described.get(topic.name)
            if state is None or state["error_code"] != 0:
                found.append(f"topic {topic.name} does not exist: run `plutus topics create`")
                continue
            if len(state["partitions"]) < topic.partitions:
                found.append(f"topic {topic.name} has {len(state['partitions'])} partitions, {topic.partitions} wanted")
            found += await _config_differences(admin, topic)
    return found


async def _config_differences(admin: AIOKafkaAdminClient, topic: Topic) -> list[str]:
    responses = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic.name)])
    actual = {entry[0]: entry[1] for response in responses for resource in response.resources for entry in resource[4]}
    return [
        f"topic {topic.name}: {name} is {actual.get(name)}, {value} wanted"
        for name, value in topic.configs.items()
        if actual.get(name) != value
    ]


async def wait_for_topics(settings: RuntimeSettings) -> None:
    """Return once both topics exist; says once what it waits for. The caller bounds or cancels it."""
    told = False
    async for attempt in stamina.retry_context(
        on=(KafkaError, TimeoutError, OSError, _Missing), attempts=None, timeout=None, wait_max=2.0
    ):
        with attempt:
            missing = [line for line in await differences(settings) if "does not exist" in line]
            if missing and not told:
                told = True
                _LOG.warning("Waiting for topics.", action="waiting_for_topics", missing=missing)
            if missing:
                raise _Missing


class _Missing(Exception):
    """A topic does not exist yet."""


@asynccontextmanager
async def _admin(settings: RuntimeSettings) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(**connection(settings, "plutus-admin"))
    try:
        async with asyncio.timeout(_TIMEOUT):
            await admin.start()
            yield admin
    finally:
        await admin.close()
