"""The two topics: how they must be, creating them, and telling what differs.

The events topic stamps records with the broker's time (`LogAppendTime`): replay and dead-letter times are compared by
it. Nobody creates topics by accident: looking at them never does, even where the broker's auto-creation is on, and a
process waits for them with a clear line.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import stamina
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    KafkaError,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
    for_code,
)

from infra.runtime import log
from infra.runtime.kafka import connection
from infra.runtime.settings import RuntimeSettings

_LOG = log.get(__name__)
_DAY_MS = 86_400_000
_TIMEOUT = 30.0
_CLOSE_TIMEOUT = 5.0
_NOBODY = ("Empty", "Dead")  # states of a group without members


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
    replication = settings.kafka_replication_factor
    minimum = {"min.insync.replicas": "2" if replication > 2 else "1"}
    events = {
        "retention.ms": str(settings.kafka_retention_days * _DAY_MS),
        "max.message.bytes": str(settings.kafka_max_message_bytes),
    }
    dead_days = settings.kafka_dlq_retention_days
    dead = {
        "retention.ms": "-1" if dead_days is None else str(dead_days * _DAY_MS),
        "max.message.bytes": str(settings.dead_letter_bytes),
    }
    return (
        Topic(settings.kafka_topic, settings.kafka_partitions, replication, {**common, **minimum, **events}),
        Topic(settings.kafka_dlq_topic, settings.kafka_partitions, replication, {**common, **minimum, **dead}),
    )


async def create(settings: RuntimeSettings) -> list[str]:
    """Create what is missing; returns the names of the topics that were made. What exists is left as it is.

    Raises:
        KafkaError, TimeoutError: no broker, or it refuses.
    """
    made = []
    async with _admin(settings) as admin:
        for topic in wanted(settings):
            request = NewTopic(topic.name, topic.partitions, topic.replication, topic_configs=topic.configs)
            response = await admin.create_topics([request])
            for name, code, message, *_ in response.topic_errors:
                error = for_code(code)
                if code == 0:
                    made.append(name)
                elif error is not TopicAlreadyExistsError:
                    raise error(message or f"topic {name}")
    return made


async def differences(settings: RuntimeSettings) -> list[str]:
    """What is not as it should be, one sentence each; empty: all is well. Fewer partitions than asked for is reported,
    more are not.

    Raises:
        KafkaError, TimeoutError: no broker, or it refuses.
    """
    found = []
    async with _admin(settings) as admin:
        existing = await _existing(admin)
        for topic in wanted(settings):
            state = existing.get(topic.name)
            if state is None:
                found.append(f"topic {topic.name} does not exist: run `plutus topics create`")
                continue
            if len(state["partitions"]) < topic.partitions:
                found.append(f"topic {topic.name} has {len(state['partitions'])} partitions, {topic.partitions} wanted")
            found += await _config_differences(admin, topic)
    return found


async def partitions(settings: RuntimeSettings) -> list[int]:
    """The partitions of the events topic; empty: it does not exist.

    Raises:
        KafkaError, TimeoutError: no broker, or it refuses.
    """
    async with _admin(settings) as admin:
        existing = await _existing(admin)
    state = existing.get(settings.kafka_topic)
    return sorted(each["partition"] for each in state["partitions"]) if state else []


async def has_workers(settings: RuntimeSettings) -> bool:
    """Whether the workers' group has members, one that died a moment ago included.

    Raises:
        KafkaError, TimeoutError: no broker, or it refuses.
    """
    async with _admin(settings) as admin:
        answers = await admin.describe_consumer_groups([settings.kafka_group])
    states = [state for answer in answers for _, _, state, *_ in answer.groups]
    return any(state not in _NOBODY for state in states if state)


async def longer_than(settings: RuntimeSettings, days: int) -> list[str]:
    """What either topic may still hold after so many days, one sentence each; empty: nothing.

    A topic that is compacted and not deleted from keeps its records for ever, whatever its retention says.

    Raises:
        KafkaError, TimeoutError: no broker, or it refuses.
    """
    found = []
    async with _admin(settings) as admin:
        for topic in wanted(settings):
            actual = await _configs(admin, topic.name)
            kept = int(actual["retention.ms"]) if "delete" in actual["cleanup.policy"] else -1
            if kept < 0:
                found.append(f"topic {topic.name} keeps its records for ever")
            elif kept >= days * _DAY_MS:
                found.append(f"topic {topic.name} keeps its records for {kept / _DAY_MS:g} days")
    return found


async def wait_for_topics(settings: RuntimeSettings) -> None:
    """Return once both topics exist; says once what it waits for. The caller bounds or cancels it."""
    told = False
    async for attempt in stamina.retry_context(
        on=(KafkaError, TimeoutError, OSError, _Missing), attempts=None, timeout=None, wait_max=2.0
    ):
        with attempt:
            missing = await _missing(settings)
            if missing and not told:
                told = True
                _LOG.warning(
                    "Waiting for topics: run `plutus topics create`.", action="waiting_for_topics", missing=missing
                )
            if missing:
                raise _Missing


async def _missing(settings: RuntimeSettings) -> list[str]:
    async with _admin(settings) as admin:
        existing = await _existing(admin)
    return [topic.name for topic in wanted(settings) if topic.name not in existing]


async def _existing(admin: AIOKafkaAdminClient) -> dict[str, dict[str, Any]]:
    """The cluster's topics by name.

    All of them are asked for: aiokafka's request for single ones lets a broker create them with its own defaults.
    """
    return {
        t["topic"]: t for t in await admin.describe_topics() if t["error_code"] != UnknownTopicOrPartitionError.errno
    }


async def _config_differences(admin: AIOKafkaAdminClient, topic: Topic) -> list[str]:
    """The topic's settings that are not as wanted."""
    actual = await _configs(admin, topic.name)
    return [
        f"topic {topic.name}: {name} is {actual.get(name)}, {value} wanted"
        for name, value in topic.configs.items()
        if actual.get(name) != value
    ]


async def _configs(admin: AIOKafkaAdminClient, name: str) -> dict[str, str]:
    """The topic's settings as they are. A resource is (error code, message, type, name, entries), an entry (name, value,
    read only, source, sensitive, ...)."""
    responses = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name)])
    actual: dict[str, str] = {}
    for response in responses:
        for code, message, _, _, entries in response.resources:
            if code:
                raise for_code(code)(message or f"settings of topic {name}")
            actual.update((entry[0], entry[1]) for entry in entries)
    return actual


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
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_TIMEOUT):
                await admin.close()
