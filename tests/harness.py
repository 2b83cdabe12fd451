"""Real processes and real records for tests: start, wait, kill, produce, read back, wait for a condition.

    async with worker_process(stack, database, topics, tmp_path, WORKER_HANDLERS="...") as worker:
        await produce(stack, topics.events, [Record(b"shop", envelope("shop", "k1", {...}))])
        await eventually(lambda: is_drained(stack, topics, worker.group))
        worker.kill()
        await worker.start()

A process is what an operator starts, `python -m ...` with an environment; its output goes to a file in the test's
folder. Nothing here sleeps to be on time: whatever is waited for is a condition with a deadline.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import httpx
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.structs import ConsumerRecord, RecordMetadata
from prometheus_client.parser import text_string_to_metric_families

from infra.local.ports import Ports
from infra.local.process import Child, Command, spawn
from infra.runtime.producer import Record
from tests.stack import ROOT, Stack, Topics

READY_SECONDS = 20.0
STOP_SECONDS = 20.0
_POLL = 0.02
_KAFKA_SECONDS = 30.0
_REQUEST_SECONDS = 5.0
_PORTS = Ports()
# Settings of the tests' own surroundings that must not reach a process under test.
_SETTINGS = ("KAFKA_", "DATABASE_", "GATEWAY_", "WORKER_", "DEDUP_", "LOG_", "OTEL_", "PLUTUS_")


async def eventually(
    condition: Callable[[], Any], *, within: float = 30.0, every: float = _POLL, what: str = ""
) -> Any:
    """The first true answer of `condition`, which is asked until then.

    Args:
        condition: a plain or a coroutine function.
        within: seconds before the test fails. every: seconds between two questions.
        what: what is waited for, for the message; the condition's name by default.

    Raises:
        AssertionError: it did not become true in time.
    """
    clock = asyncio.get_running_loop().time
    deadline = clock() + within
    while True:
        answer = condition()
        found = await answer if inspect.isawaitable(answer) else answer
        if found:
            return found
        if clock() > deadline:
            raise AssertionError(f"not within {within:g} s: {what or condition.__name__} (last answer: {found!r})")
        await asyncio.sleep(every)


@dataclass
class Service:
    """One `python -m MODULE` under test; `worker_process` and `gateway_process` make it.

    url: base address of its HTTP server. group: the consumer group of a worker.
    """

    module: str
    env: dict[str, str]
    log: Path
    url: str
    http: httpx.AsyncClient
    group: str = ""
    _child: Child | None = field(default=None, repr=False)

    @property
    def child(self) -> Child:
        """The process of the latest start."""
        assert self._child is not None, "not started"
        return self._child

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.child.pid

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._child is not None and self._child.death() is None

    async def start(self, *, ready: bool = True) -> None:
        """Start it, again if need be; returns once /readyz says so, or at once."""
        assert not self.alive, f"{self.module} runs already"
        self._child = spawn(Command(self.module, (sys.executable, "-m", self.module), self.log, self.env, ROOT))
        if ready:
            await self.until_ready()

    async def until_ready(self, within: float = READY_SECONDS) -> None:
        """Wait for /readyz; a process that ended instead fails the test with its last words."""
        await eventually(self.is_ready, within=within, what=f"{self.module} is ready, log: {self.log}")

    async def is_ready(self) -> bool:
        """What /readyz says now."""
        assert self.alive, f"{self.child.obituary()}\n{self.log_tail()}"
        try:
            return (await self.http.get("/readyz")).status_code == 200
        except httpx.TransportError:
            return False

    def send(self, which: signal.Signals) -> None:
        """Signal it: SIGSTOP, SIGCONT, SIGTERM, ..."""
        self.child.send(which)

    def kill(self) -> None:
        """kill -9."""
        self.child.kill()

    async def stop(self, within: float = STOP_SECONDS) -> str:
        """SIGTERM; returns how it ended, "exited with code 0" where all is well."""
        self.send(signal.SIGTERM)
        return await self.ended(within)

    async def ended(self, within: float = STOP_SECONDS) -> str:
        """Wait for its end; returns how it ended."""
        ended = await eventually(self.child.death, within=within, what=f"{self.module} ends, log: {self.log}")
        return str(ended)

    async def metrics(self) -> dict[str, float]:
        """The samples of /metrics: `name` or `name{label=value,...}` -> value."""
        text = (await self.http.get("/metrics")).raise_for_status().text
        return {
            _sample_name(sample.name, sample.labels): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def log_tail(self, lines: int = 20) -> str:
        """The end of what it wrote, for the message of a test that fails."""
        return "\n".join(self.log.read_text().splitlines()[-lines:])

    def log_lines(self) -> list[dict[str, Any]]:
        """What it logged, every start of it; lines that are no JSON object (a traceback) are left out."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [json.loads(line) for line in lines if line.startswith("{")]


def free_port() -> int:
    """A port that nothing listens on, and that nobody else here is given."""
    return _PORTS.take(0, "a port of a test")


@asynccontextmanager
async def worker_process(
    stack: Stack, database: str, topics: Topics, folder: Path, *, start: bool = True, **settings: str | float
) -> AsyncIterator[Service]:
    """A worker on these topics and this database, ready; killed at the end if it still lives.

    Args:
        database: libpq URL. folder: where its log goes. start: False leaves the start to the test.
        settings: environment variables beside the addresses. Time-outs are short by default, so that the death of a
            worker is noticed within seconds; a statement gets a third of the session, and no less than twice the second
            that Postgres waits before it looks for a deadlock.
    """
    port = _PORTS.take(0, "WORKER_METRICS_PORT")
    group = str(settings.get("KAFKA_GROUP", f"test.{topics.events}"))
    short: dict[str, str | float] = {
        "WORKER_SESSION_TIMEOUT": 6,
        "WORKER_HANDLER_TIMEOUT": 3,
        "WORKER_DRAIN": 5,
        "KAFKA_GROUP": group,
    }
    env = _environment(stack, database, topics, {**short, "WORKER_METRICS_PORT": port, **settings})
    async with _service("stream_worker", env, folder, int(env["WORKER_METRICS_PORT"]), group, start) as worker:
        yield worker


@asynccontextmanager
async def gateway_process(
    stack: Stack, database: str, topics: Topics, folder: Path, *, start: bool = True, **settings: str | float
) -> AsyncIterator[Service]:
    """A gateway on these topics and this database, ready; killed at the end if it still lives. `http` talks to it.

    Args:
        database: libpq URL. folder: where its log goes. start: False leaves the start to the test.
        settings: environment variables beside the addresses.
    """
    port = _PORTS.take(0, "GATEWAY_PORT")
    env = _environment(stack, database, topics, {"GATEWAY_PORT": port, **settings})
    async with _service("ingest_gateway", env, folder, int(env["GATEWAY_PORT"]), "", start) as gateway:
        yield gateway


@asynccontextmanager
async def _service(
    module: str, env: dict[str, str], folder: Path, port: int, group: str, start: bool
) -> AsyncIterator[Service]:
    url = f"http://127.0.0.1:{port}"
    async with httpx.AsyncClient(base_url=url, timeout=_REQUEST_SECONDS, trust_env=False) as http:
        service = Service(module, env, folder / f"{module}-{port}.log", url, http, group)
        try:
            if start:
                await service.start()
            yield service
        finally:
            if service.alive:
                service.kill()


def _environment(stack: Stack, database: str, topics: Topics, settings: dict[str, str | float]) -> dict[str, str]:
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS)},
        "KAFKA_BOOTSTRAP_SERVERS": stack.bootstrap,
        "DATABASE_URL": database,
        "KAFKA_TOPIC": topics.events,
        "KAFKA_DLQ_TOPIC": topics.dlq,
        "KAFKA_PARTITIONS": str(topics.partitions),
        **{name: str(value) for name, value in settings.items()},
    }


def _sample_name(name: str, labels: dict[str, str]) -> str:
    inside = ",".join(f"{label}={value}" for label, value in sorted(labels.items()))
    return f"{name}{{{inside}}}" if inside else name


@asynccontextmanager
async def connected(database: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to this database."""
    connection: asyncpg.Connection = await asyncpg.connect(database, timeout=10, command_timeout=30)
    try:
        yield connection
    finally:
        await connection.close(timeout=10)


def envelope(source: str, key: str, payload: Any, **members: Any) -> bytes:
    """The JSON text of an event; `members` adds or replaces any of its members."""
    made = {"source": source, "schema_version": "1.0", "idempotency_key": key, "payload": payload, **members}
    return json.dumps(made).encode()


async def produce(stack: Stack, topic: str, records: Sequence[Record]) -> list[RecordMetadata]:
    """Publish in this order, as a plain producer does (idempotent, acks=all, murmur2 of the key); returns where each went."""
    async with (
        asyncio.timeout(_KAFKA_SECONDS),
        AIOKafkaProducer(
            bootstrap_servers=stack.bootstrap, acks="all", enable_idempotence=True, linger_ms=5
        ) as producer,
    ):
        sent = [
            await producer.send(
                topic, record.value, key=record.key, partition=record.partition, headers=list(record.headers)
            )
            for record in records
        ]
        return [await future for future in sent]


async def consume(stack: Stack, topic: str) -> list[ConsumerRecord]:
    """Every record that is in the topic now, by partition and offset."""
    found: list[ConsumerRecord] = []
    async with (
        asyncio.timeout(_KAFKA_SECONDS),
        AIOKafkaConsumer(bootstrap_servers=stack.bootstrap, auto_offset_reset="earliest") as consumer,
    ):
        partitions = await _partitions(consumer, topic)
        ends = await consumer.end_offsets(partitions)
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        while any([await consumer.position(tp) < end for tp, end in ends.items()]):
            for records in (await consumer.getmany(timeout_ms=200)).values():
                found += records
    return sorted(found, key=lambda record: (record.partition, record.offset))


async def is_drained(stack: Stack, topics: Topics, group: str) -> bool:
    """Whether the group has committed everything that is in the events topic."""
    async with asyncio.timeout(_KAFKA_SECONDS):
        ends = await end_offsets(stack, topics.events)
        committed = await committed_offsets(stack, group)
    return all(committed.get(tp, 0) >= end for tp, end in ends.items())


async def end_offsets(stack: Stack, topic: str) -> dict[TopicPartition, int]:
    """The next offset of each partition."""
    async with asyncio.timeout(_KAFKA_SECONDS), AIOKafkaConsumer(bootstrap_servers=stack.bootstrap) as consumer:
        return dict(await consumer.end_offsets(await _partitions(consumer, topic)))


async def committed_offsets(stack: Stack, group: str) -> dict[TopicPartition, int]:
    """What the group has committed."""
    admin = AIOKafkaAdminClient(bootstrap_servers=stack.bootstrap)
    await admin.start()
    try:
        offsets = await admin.list_consumer_group_offsets(group)
    finally:
        await admin.close()
    return {tp: offset.offset for tp, offset in offsets.items()}


async def _partitions(consumer: AIOKafkaConsumer, topic: str) -> list[TopicPartition]:
    # `partitions_for_topic` only knows topics that the client was told of; a broker that has just come back may answer
    # once that it knows no leader of any of them, and the client asks again by itself only for what it has assigned.
    await consumer._client.add_topic(topic)
    while not (numbers := consumer.partitions_for_topic(topic)):
        await consumer._client.force_metadata_update()
    return [TopicPartition(topic, number) for number in sorted(numbers)]
