"""What operators ask of Kafka about the cluster and the group: brokers, versions, members, committed offsets.

Every question has a deadline; what goes wrong on the way to the brokers is a Failure.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment
from aiokafka.errors import GroupCoordinatorNotAvailableError, KafkaError, for_code
from aiokafka.structs import TopicPartition

from infra.cli.connect import reaching_kafka
from infra.cli.reader import Offsets
from infra.runtime.kafka import connection
from infra.runtime.settings import RuntimeSettings

_SECONDS = 15.0
_CLOSE_SECONDS = 5.0


@dataclass(frozen=True)
class Member:
    """A worker of the group. partitions: those of the topic that it owns."""

    member_id: str
    client_id: str
    host: str
    partitions: tuple[int, ...]

    @property
    def name(self) -> str:
        """Enough of its id to tell it from the others, and where it is."""
        return f"{self.member_id[-8:]} at {self.host.lstrip('/')}"


@dataclass(frozen=True)
class Group:
    """A consumer group as its coordinator knows it. state: Stable, Empty, Dead (there is none), PreparingRebalance, ..."""

    name: str
    state: str
    members: tuple[Member, ...]

    @property
    def owners(self) -> dict[int, Member]:
        """Who owns each partition."""
        return {partition: member for member in self.members for partition in member.partitions}


class Cluster:
    """Questions to the brokers; `open_cluster` makes it."""

    def __init__(self, settings: RuntimeSettings, admin: AIOKafkaAdminClient) -> None:
        self._settings, self._admin = settings, admin

    async def brokers(self) -> list[str]:
        """The brokers' addresses."""
        with reaching_kafka(self._settings):
            async with asyncio.timeout(_SECONDS):
                found: dict[str, Any] = await self._admin.describe_cluster()
        return [f"{broker['host']}:{broker['port']}" for broker in found["brokers"]]

    async def group(self, name: str, topic: str) -> Group:
        """A group, with who owns which partitions of `topic`."""
        with reaching_kafka(self._settings):
            async with asyncio.timeout(_SECONDS):
                try:
                    [response] = await self._admin.describe_consumer_groups([name])
                except GroupCoordinatorNotAvailableError:
                    return Group(name, "Dead", ())  # no group was ever on this cluster
            code, _, state, _, _, members = response.groups[0][:6]
            if code:
                raise for_code(code)(f"group {name}")
        return Group(name, state, tuple(_member(each, topic) for each in members))

    async def committed(self, group: str, topic: str) -> dict[int, int]:
        """What the group has committed, by partition of the topic."""
        with reaching_kafka(self._settings):
            async with asyncio.timeout(_SECONDS):
                try:
                    found: dict[TopicPartition, Any] = await self._admin.list_consumer_group_offsets(group)
                except GroupCoordinatorNotAvailableError:
                    return {}
        return {tp.partition: each.offset for tp, each in found.items() if tp.topic == topic and each.offset >= 0}


@asynccontextmanager
async def open_cluster(settings: RuntimeSettings) -> AsyncIterator[Cluster]:
    """A way to ask.

    Raises:
        Failure: no broker.
    """
    admin = AIOKafkaAdminClient(**connection(settings, "plutus-cli"))
    try:
        with reaching_kafka(settings):
            async with asyncio.timeout(_SECONDS):
                await admin.start()
        yield Cluster(settings, admin)
    finally:
        with suppress(TimeoutError, KafkaError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await admin.close()


def lag(begin: Offsets, end: Offsets, committed: Offsets) -> dict[int, int]:
    """Records still to be processed, by partition. Those that Kafka has deleted are none any more."""
    return {p: max(0, end[p] - max(committed.get(p, 0), begin.get(p, 0))) for p in end}


def _member(described: Any, topic: str) -> Member:
    member_id, client_id, host, _, assignment = described
    partitions: tuple[int, ...] = ()
    if assignment:
        for name, numbers in ConsumerProtocolMemberAssignment.decode(assignment).assignment:
            if name == topic:
                partitions = tuple(sorted(numbers))
    return Member(member_id, client_id, host, partitions)
