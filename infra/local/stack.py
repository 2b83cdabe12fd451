"""Real Kafka and real Postgres in one folder: what `plutus up` builds on, and what tests use alone.

    with LocalStack(folder, settings) as stack:
        ... stack.bootstrap, stack.dsn ...

Both are ready when `start` returns. Data stays in the folder; a later start, also after kill -9 of everything, goes on
with it. To be started from the main thread.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Self

from infra.local import endpoints, java
from infra.local.home import Home
from infra.local.jars import Jars
from infra.local.kafka import Kafka
from infra.local.ports import Ports
from infra.local.postgres import Postgres, find_executables
from infra.local.settings import LocalSettings
from infra.local.supervisor import Supervisor

READY_SECONDS = 90.0
STOP_SECONDS = 28.0
_PORT_SECONDS = 10.0  # what a killed run may still take to let go of its ports

# Settings of other servers that must not reach processes which use ours.
_FOREIGN = ("KAFKA_SECURITY_", "KAFKA_SSL_", "KAFKA_SASL_", "DATABASE_SSL", "DATABASE_URL", "KAFKA_BOOTSTRAP_SERVERS")


def to_stderr(line: str) -> None:
    """Print a line for a person; a closed terminal is no reason to fail."""
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)


class LocalStack:
    """Kafka and Postgres of one folder.

    Args:
        home: absolute path of the folder.
        settings: ports, executables, sizes.
        say: prints a line for a person.
    """

    def __init__(
        self, home: Path, settings: LocalSettings | None = None, say: Callable[[str], None] = to_stderr
    ) -> None:
        self.home = Home(home, say)
        self.settings = settings or LocalSettings()
        self.ports = Ports({self.settings.kafka_port, self.settings.postgres_port, self.settings.gateway_port})
        self._say = say
        self._servers: tuple[Kafka, Postgres] | None = None
        self._supervisor: Supervisor | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def bootstrap(self) -> str:
        """Kafka's address, host:port."""
        return self._started[0].bootstrap

    @property
    def dsn(self) -> str:
        """libpq URL of the database, of the role that owns it."""
        return self._started[1].dsn

    @property
    def supervisor(self) -> Supervisor:
        """What keeps the servers alive, and whatever else is launched with it."""
        if self._supervisor is None:
            raise RuntimeError("The stack is not started.")
        return self._supervisor

    def environment(self) -> dict[str, str]:
        """Our environment for a process that is to use these servers."""
        own = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
        return {**own, "KAFKA_BOOTSTRAP_SERVERS": self.bootstrap, "DATABASE_URL": self.dsn}

    def start(self) -> None:
        """Lock the folder, start both servers, wait until they are ready.

        Raises:
            LocalError: what is in the way; nothing is left running.
        """
        try:
            self.acquire()
            self.start_servers()
        except BaseException:
            self.stop()
            raise

    def acquire(self) -> None:
        """The first half of `start`: lock the folder and take away the endpoints of a run that was killed."""
        self.home.acquire()
        crashed = endpoints.remove(self.home.path) or self.home.had_leftovers
        self.ports.patience = _PORT_SECONDS if crashed else 0.0

    def start_servers(self) -> None:
        """The second half of `start`; `stop` is the caller's if it fails."""
        kafka, postgres = self._servers = self._make_servers()
        self._supervisor = Supervisor(self.home.children_lock, self._say)
        with ThreadPoolExecutor(2) as pool:
            for preparation in [pool.submit(kafka.prepare), pool.submit(postgres.prepare)]:
                preparation.result()
        self._supervisor.launch([kafka, postgres])
        self._supervisor.wait_until_ready(READY_SECONDS)

    def stop(self, seconds: float = STOP_SECONDS, hurry: Callable[[], bool] = lambda: False) -> None:
        """Stop all that was launched, the servers last, and give the folder back."""
        if self.home.held:  # else they are those of the system that holds it
            endpoints.remove(self.home.path)
        if self._supervisor is not None:
            self._supervisor.stop(seconds, hurry)
            self._supervisor = None
        self.home.release()

    def _make_servers(self) -> tuple[Kafka, Postgres]:
        settings = self.settings
        jars = Jars(settings.cache, settings.plutus_maven_repo)
        ports = (self.ports.take(settings.kafka_port, "KAFKA_PORT"), self.ports.take(0, "KAFKA_PORT"))
        postgres = Postgres(
            self.home,
            find_executables(settings.plutus_pg_bin),
            self.ports.take(settings.postgres_port, "POSTGRES_PORT"),
            settings.postgres_shared_buffers,
            settings.postgres_max_wal_size,
        )
        more = tuple(settings.kafka_java_options.split())
        kafka = Kafka(
            self.home, jars, java.find(settings.plutus_java), ports, self._say, more, settings.kafka_group_delay_ms
        )
        return kafka, postgres

    @property
    def _started(self) -> tuple[Kafka, Postgres]:
        if self._servers is None:
            raise RuntimeError("The stack is not started.")
        return self._servers
