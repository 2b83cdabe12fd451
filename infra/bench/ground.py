"""Where the contestants compete: a Kafka and a Postgres of their own, fresh databases and topics, processes.

    with Ground(folder, settings, say) as ground:
        with ground.database() as dsn, ground.topics(8) as topics, ground.gateway(dsn, topics, processes=2) as gateway:
            ... gateway.url, gateway.cpu_seconds() ...

Plutus runs as an operator starts it, `python -m ingest_gateway` and `python -m stream_worker` with an environment; a
peer likewise, by a command. To be used from the main thread, to which the children are tied.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Final, Protocol, Self, TypeVar
from urllib.parse import urlsplit

import asyncpg
from pydantic import SecretStr

from infra.bench import bodies, usage
from infra.local import process
from infra.local.ports import Ports
from infra.local.process import Child, Command, spawn
from infra.runtime import topics as kafka_topics
from infra.runtime.settings import RuntimeSettings
from infra.runtime.sql import statements

T = TypeVar("T")
Ask = Callable[[Callable[[asyncpg.Connection], Awaitable[Any]]], Any]
Say = Callable[[str], None]

SQL: Final = statements("infra.bench")
PYTHON: Final = (sys.executable, "-m")
_QUICK: Final = {"LOG_LEVEL": "WARNING", "GATEWAY_LAME_DUCK": "0"}
"""Nobody reads the logs, and no balancer has to notice that a gateway stops."""
_CONNECT: Final = 10.0
_COMMAND: Final = 3600.0
_SETUP: Final = 120.0
_READY: Final = 60.0
_STOP: Final = 25.0
_PROBE: Final = 5.0
_POLL: Final = 0.05
_CHUNK: Final = 1_000_000


class Servers(Protocol):
    """A Kafka and a Postgres."""

    @property
    def bootstrap(self) -> str:
        """Kafka's address, host:port."""

    @property
    def dsn(self) -> str:
        """libpq URL of a database whose role may create others and read its server's WAL position."""

    def environment(self) -> dict[str, str]:
        """Our environment for a process that is to use them."""

    def start(self) -> None:
        """Have them ready."""

    def stop(self) -> None:
        """Let them go."""


@dataclass(frozen=True)
class Given:
    """Servers that run already, and go on."""

    bootstrap: str
    dsn: str

    def environment(self) -> dict[str, str]:
        """Our environment, with their addresses."""
        return {**os.environ, "KAFKA_BOOTSTRAP_SERVERS": self.bootstrap, "DATABASE_URL": self.dsn}

    def start(self) -> None:
        """They run."""

    def stop(self) -> None:
        """They go on."""


class Failed(Exception):
    """A contestant could not be measured; the message says why."""


@dataclass(frozen=True)
class Topics:
    """A pair of fresh topics."""

    events: str
    dlq: str
    partitions: int


@dataclass(frozen=True)
class Running:
    """A contestant that runs. `port`: where its HTTP server listens."""

    child: Child
    port: int

    @property
    def url(self) -> str:
        """Base address of its HTTP server."""
        return f"http://127.0.0.1:{self.port}"

    def cpu_seconds(self) -> float:
        """CPU that it and its children have used so far."""
        return usage.cpu_seconds(self.child.pid)

    def largest_mib(self) -> float:
        """Resident memory of its largest process."""
        return usage.largest_mib(self.child.pid)

    def counters(self) -> dict[str, float]:
        """The plain samples of its /metrics, summed over their labels."""
        status, text = _request(self.port, "GET", "/metrics")
        if status != 200:
            raise Failed(f"{self.child.command.name}: /metrics answers {status}")
        found: dict[str, float] = {}
        for line in text.decode().splitlines():
            if line and not line.startswith("#"):
                sample, _, value = line.rpartition(" ")
                name = sample.partition("{")[0]
                found[name] = found.get(name, 0.0) + float(value)
        return found


class Ground:
    """The servers of one run of benchmarks, and a folder that is removed at the end.

    Args:
        servers: started here and stopped at the end.
        say: tells a person what happens.
    """

    def __init__(self, folder: Path, servers: Servers, say: Say) -> None:
        self.folder, self.say = folder, say
        self._servers, self._ports = servers, Ports()
        self._template = f"bench_{uuid.uuid4().hex[:12]}"
        self._made = False

    def __enter__(self) -> Self:
        self.say("starting Kafka and Postgres")
        with ExitStack() as undo:
            undo.callback(self.__exit__)
            self._servers.start()
            self._administer(self._copy_statement(self._template, "template1"))
            self._made = True
            self._command("migrate", self.environment(self.dsn_of(self._template)), "migrate")
            undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        if self._made:
            self._administer(self._ask(SQL["drop_database"], self._template))
        self._servers.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def bootstrap(self) -> str:
        """Kafka's address."""
        return self._servers.bootstrap

    def dsn_of(self, database: str) -> str:
        """libpq URL of a database here."""
        return urlsplit(self._servers.dsn)._replace(path=f"/{database}").geturl()

    @contextmanager
    def database(self) -> Iterator[str]:
        """libpq URL of a migrated database without a row, dropped afterwards."""
        name = f"bench_{uuid.uuid4().hex[:12]}"
        self._administer(self._copy_statement(name, self._template))
        try:
            self._administer(SQL["flush"])
            yield self.dsn_of(name)
        finally:
            self._administer(self._ask(SQL["drop_database"], name))

    def topics(self, partitions: int) -> Topics:
        """A fresh pair of topics, as `plutus topics create` makes them."""
        token = uuid.uuid4().hex[:12]
        made = Topics(f"bench.{token}", f"bench.{token}.dlq", partitions)
        asyncio.run(kafka_topics.create(self.settings(made)))
        return made

    def settings(self, topics: Topics) -> RuntimeSettings:
        """Settings for a Kafka client of ours."""
        return RuntimeSettings(
            kafka_bootstrap_servers=self.bootstrap,
            database_url=SecretStr(self._servers.dsn),
            kafka_topic=topics.events,
            kafka_dlq_topic=topics.dlq,
            kafka_partitions=topics.partitions,
        )

    def environment(self, dsn: str, topics: Topics | None = None, **more: str | int) -> dict[str, str]:
        """The environment of a Plutus process that is to use a database and topics here."""
        named = {"KAFKA_TOPIC": topics.events, "KAFKA_DLQ_TOPIC": topics.dlq} if topics else {}
        given = {name: str(value) for name, value in more.items()}
        return {**self._servers.environment(), "DATABASE_URL": dsn, **_QUICK, **named, **given}

    @contextmanager
    def gateway(self, dsn: str, topics: Topics, processes: int = 1, **more: str | int) -> Iterator[Running]:
        """A gateway that is ready; stopped afterwards."""
        port = self.port()
        more = {"GATEWAY_PORT": port, "GATEWAY_PROCESSES": processes, **more}
        environment = self.environment(dsn, topics, **more)
        with self.program("gateway", (*PYTHON, "ingest_gateway"), environment, port) as running:
            self.until_ready(running)
            yield running

    @contextmanager
    def worker(self, number: int, dsn: str, topics: Topics, group: str, **more: str | int) -> Iterator[Running]:
        """A worker, not waited for; stopped afterwards."""
        port = self.port()
        environment = self.environment(dsn, topics, WORKER_METRICS_PORT=port, KAFKA_GROUP=group, **more)
        with self.program(f"worker-{number}", (*PYTHON, "stream_worker"), environment, port) as running:
            yield running

    @contextmanager
    def program(
        self, name: str, argv: Sequence[str], environment: Mapping[str, str], port: int = 0, cwd: Path | None = None
    ) -> Iterator[Running]:
        """Any command, started; ended afterwards, with force if it takes too long."""
        log = self.folder / "logs" / f"{name}-{uuid.uuid4().hex[:6]}.log"
        child = spawn(Command(name=name, argv=tuple(argv), log=log, env=dict(environment), cwd=cwd))
        try:
            yield Running(child, port)
        finally:
            child.send(child.command.stop)
            if not child.wait(time.monotonic() + _STOP):
                child.kill()

    def until(self, running: Running, ready: Callable[[], bool], seconds: float = _READY) -> None:
        """Wait until `ready`, which may find that nobody listens yet.

        Raises:
            Failed: the process ended first, or the time was over.
        """
        deadline = time.monotonic() + seconds
        while True:
            try:
                if ready():
                    return
            except (OSError, HTTPException):
                pass
            if running.child.death() is not None:
                raise Failed(running.child.obituary())
            if time.monotonic() > deadline:
                raise Failed(f"{running.child.command.name} was not ready in time (log: {running.child.command.log})")
            time.sleep(_POLL)

    def until_it_takes(self, running: Running, path: str) -> None:
        """Wait until a peer's server takes an event."""
        body = bodies.order(uuid.uuid4().hex, 0)
        self.until(running, lambda: 200 <= _request(running.port, "POST", path, body)[0] < 300)

    def until_ready(self, running: Running) -> None:
        """Wait until a Plutus process says that it is ready."""
        self.until(running, lambda: _request(running.port, "GET", "/readyz")[0] == 200)

    def grow(self, dsn: str, count: int, *, events: bool) -> None:
        """Fill in so many remembered keys of events that took effect, and the events themselves if asked."""
        self.say(f"filling in {count:,} keys{' and events' if events else ''}")

        async def filled(db: asyncpg.Connection) -> None:
            for begin in range(1, count + 1, _CHUNK):
                for name in ("grow_keys", "grow_events") if events else ("grow_keys",):
                    await db.execute(SQL[name], begin, min(begin + _CHUNK - 1, count))
            await db.execute(SQL["settle_down"])
            await db.execute(SQL["flush"])

        self.ask(dsn, filled)

    def port(self) -> int:
        """A free port."""
        return self._ports.take(0, "GATEWAY_PORT")

    def ask(self, dsn: str, question: Callable[[asyncpg.Connection], Coroutine[Any, Any, T]]) -> T:
        """What a database answers."""
        return asyncio.run(_with(dsn, question))

    @contextmanager
    def asking(self, dsn: str) -> Iterator[Ask]:
        """One connection for many questions, which costs its server less than one each: no parallel scan takes the cores of
        those that are measured."""
        with asyncio.Runner() as runner:
            alone = {"max_parallel_workers_per_gather": "0"}
            db = runner.run(asyncpg.connect(dsn, timeout=_CONNECT, command_timeout=_COMMAND, server_settings=alone))
            try:
                yield lambda question: runner.run(_awaited(question(db)))
            finally:
                runner.run(db.close(timeout=_CONNECT))

    def wal_bytes(self) -> int:
        """Bytes of WAL that the server has written so far."""
        return int(self.ask(self._servers.dsn, lambda db: db.fetchval(SQL["wal_position"])))

    def _copy_statement(self, name: str, template: str) -> str:
        return self._ask(SQL["copy_database"], name, template)

    def _ask(self, statement: str, *values: str) -> str:
        return str(self.ask(self._servers.dsn, lambda db: db.fetchval(statement, *values)))

    def _administer(self, statement: str) -> None:
        self.ask(self._servers.dsn, lambda db: db.execute(statement))

    def _command(self, name: str, environment: Mapping[str, str], *arguments: str) -> None:
        argv = (*PYTHON, "infra.cli.main", *arguments)
        process.run(Command(name=name, argv=argv, log=self.folder / "logs" / f"{name}.log", env=environment), _SETUP)


async def _awaited(answer: Awaitable[Any]) -> Any:
    return await answer


async def _with(dsn: str, question: Callable[[asyncpg.Connection], Coroutine[Any, Any, T]]) -> T:
    db = await asyncpg.connect(dsn, timeout=_CONNECT, command_timeout=_COMMAND)
    try:
        return await question(db)
    finally:
        await db.close(timeout=_CONNECT)


def _request(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    connection = HTTPConnection("127.0.0.1", port, timeout=_PROBE)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()
