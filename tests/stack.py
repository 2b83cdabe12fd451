"""The real services that tests run on. Started only when a test asks for them (see `tests/conftest.py`).

    KAFKA_BOOTSTRAP_SERVERS and DATABASE_URL both set   those, wherever they are
    PLUTUS_TEST_STACK=containers                        testcontainers: a container each, removed afterwards
    otherwise                                           the embedded ones, in a temporary folder

There is no fourth way: where none works, the tests that need the services fail and say why.
"""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import time
import uuid
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
from aiokafka.errors import UnknownTopicOrPartitionError
from pydantic import SecretStr

from infra.local import coordinator
from infra.local.ports import Ports
from infra.local.settings import LocalSettings
from infra.local.stack import LocalStack
from infra.runtime import topics
from infra.runtime.settings import RuntimeSettings

ROOT = Path(__file__).parent.parent
_CONNECT_SECONDS = 10.0
_POLL = 0.05
_MIGRATE_SECONDS = 60.0
_CONTAINER_SECONDS = 60.0


@dataclass(frozen=True)
class Stack:
    """A real Kafka and a real Postgres.

    bootstrap: host:port of Kafka.
    dsn: libpq URL of a database whose user may create others.
    """

    bootstrap: str
    dsn: str

    def dsn_of(self, database: str) -> str:
        """The URL of another database on the same server."""
        return urlsplit(self.dsn)._replace(path=f"/{database}").geturl()


@dataclass(frozen=True)
class Topics:
    """The topics of one test."""

    events: str
    dlq: str
    partitions: int


@contextmanager
def services(folder: Path, say: Callable[[str], None]) -> Iterator[Stack]:
    """The services of a test session; what was started is stopped at the end."""
    bootstrap, dsn = os.environ.get("KAFKA_BOOTSTRAP_SERVERS"), os.environ.get("DATABASE_URL")
    kind = os.environ.get("PLUTUS_TEST_STACK", "embedded")
    if bootstrap and dsn:
        yield Stack(bootstrap, dsn)
    elif bootstrap or dsn:
        raise RuntimeError("Set KAFKA_BOOTSTRAP_SERVERS and DATABASE_URL together, or neither of them.")
    elif kind == "containers":
        with _containers() as stack:
            yield stack
    elif kind == "embedded":
        with LocalStack(folder, LocalSettings(), say) as local:
            yield Stack(local.bootstrap, local.dsn)
    else:
        raise RuntimeError(f"PLUTUS_TEST_STACK is {kind!r}; it may be 'embedded' or 'containers'.")


@contextmanager
def _containers() -> Iterator[Stack]:
    from testcontainers.community.postgres import PostgresContainer
    from testcontainers.core.container import DockerContainer

    _require_docker()
    kafka_image = os.environ.get("PLUTUS_TEST_KAFKA_IMAGE", "apache/kafka:4.3.1")
    postgres_image = os.environ.get("PLUTUS_TEST_POSTGRES_IMAGE", "postgres:18")
    kafka = DockerContainer(kafka_image)
    postgres = PostgresContainer(postgres_image, username="plutus", password="plutus", dbname="plutus", driver=None)
    host, port = kafka.get_docker_client().host(), Ports().take(0, "KAFKA_PORT")
    for name, value in _kafka_environment(host, port).items():
        kafka.with_env(name, value)
    kafka.with_bind_ports(9092, port)
    with kafka, postgres:
        deadline = time.monotonic() + _CONTAINER_SECONDS
        while not coordinator.is_answering(port, host):
            if time.monotonic() > deadline:
                raise RuntimeError(f"Kafka in {kafka_image} was not ready after {_CONTAINER_SECONDS:.0f} s.")
            time.sleep(0.1)
        yield Stack(f"{host}:{port}", postgres.get_connection_url())


def _require_docker() -> None:
    from docker.errors import DockerException  # type: ignore[import-untyped]
    from testcontainers.core.docker_client import DockerClient

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the client drops its socket when nobody answers
        try:
            DockerClient()
            return
        except DockerException:
            pass
        gc.collect()
    raise RuntimeError(
        "PLUTUS_TEST_STACK=containers needs a Docker API, and none answers. Start one or set DOCKER_HOST; or unset "
        "PLUTUS_TEST_STACK to use the embedded services."
    )


def _kafka_environment(host: str, port: int) -> dict[str, str]:
    return {
        "KAFKA_NODE_ID": "1",
        "KAFKA_PROCESS_ROLES": "broker,controller",
        "KAFKA_LISTENERS": "PLAINTEXT://:9092,CONTROLLER://:9093",
        "KAFKA_ADVERTISED_LISTENERS": f"PLAINTEXT://{host}:{port}",
        "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
        "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
        "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@localhost:9093",
        "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false",
        "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
        "KAFKA_OFFSETS_TOPIC_NUM_PARTITIONS": "4",
        "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
        "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
        "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
        "KAFKA_GROUP_MIN_SESSION_TIMEOUT_MS": "1000",
    }


@asynccontextmanager
async def new_database(stack: Stack, *, template: str | None = None) -> AsyncIterator[str]:
    """A database of its own, dropped afterwards whoever is still connected.

    Args:
        template: name of the database to copy; nobody may be connected to it.

    Yields:
        its name.
    """
    name = f"plutus_{uuid.uuid4().hex[:12]}"
    admin = await asyncpg.connect(stack.dsn, timeout=_CONNECT_SECONDS)
    try:
        await admin.execute(f'CREATE DATABASE "{name}"' + (f' TEMPLATE "{template}"' if template else ""))
        try:
            yield name
        finally:
            await admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    finally:
        await admin.close(timeout=_CONNECT_SECONDS)


async def migrate(dsn: str) -> None:
    """`alembic upgrade head` from the root, as an operator runs it."""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "alembic", "upgrade", "head"],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": dsn},
        capture_output=True,
        text=True,
        timeout=_MIGRATE_SECONDS,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"alembic upgrade head failed:\n{done.stderr}")


async def make_topics(stack: Stack, partitions: int) -> Topics:
    """A fresh pair of topics, as `plutus topics create` makes them."""
    token = uuid.uuid4().hex[:12]
    made = Topics(f"test.{token}.events", f"test.{token}.dlq", partitions)
    settings = RuntimeSettings(
        kafka_bootstrap_servers=stack.bootstrap,
        database_url=SecretStr(stack.dsn),
        kafka_topic=made.events,
        kafka_dlq_topic=made.dlq,
        kafka_partitions=partitions,
    )
    await topics.create(settings)
    await _until_known(settings)
    return made


async def _until_known(settings: RuntimeSettings) -> None:
    """The controller has made the topics; a busy broker may hear of them a moment later, and denies them until then."""
    async with asyncio.timeout(_CONNECT_SECONDS):
        while True:
            with suppress(UnknownTopicOrPartitionError):
                await topics.longer_than(settings, 1)
                return
            await asyncio.sleep(_POLL)
