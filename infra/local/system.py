"""The whole system in one folder: servers, migrations, topics, workers and gateway, as `plutus up` runs it.

    system = System(folder, settings, Options(workers=2))
    system.start()                    # all is ready, endpoints.json is written
    while ...: system.tick()          # several times a second: what died is started again
    system.stop()                     # gateway, then workers, then the servers

Nothing of the gateway or the worker is imported: they are commands, configured by their environment.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from infra.local import process
from infra.local.endpoints import Endpoints
from infra.local.process import Command
from infra.local.settings import LocalSettings
from infra.local.stack import READY_SECONDS, STOP_SECONDS, LocalStack, to_stderr

_SETUP_SECONDS = 120.0
_PROBE_SECONDS = 2.0
# What each program may take to stop, where the environment does not say: a little less than its share of our own time.
_GRACE = {"GATEWAY_DRAIN_TIMEOUT": "4", "GATEWAY_FLUSH_TIMEOUT": "2", "WORKER_DRAIN": "7"}
# What is for the edge of a network; here everything is asked on one port, by us too.
_ONE_PLAIN_PORT = {"GATEWAY_OPERATOR_PORT": "", "GATEWAY_TLS_CERTFILE": "", "GATEWAY_TLS_KEYFILE": ""}
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "127.0.0.1"}  # noqa: S104 - translated, not bound


@dataclass(frozen=True)
class Options:
    """What `plutus up` was asked for. None leaves a setting to the environment.

    workers: number of worker processes.
    gateway_processes: processes that share the gateway's port (GATEWAY_PROCESSES).
    partitions: of the events topic (KAFKA_PARTITIONS).
    handlers: module with the event handlers (WORKER_HANDLERS).
    """

    workers: int = 2
    gateway_processes: int | None = None
    partitions: int | None = None
    handlers: str | None = None


@dataclass(frozen=True)
class Programs:
    """The commands of the system. `setup` runs once, side by side, before the others start."""

    setup: Mapping[str, tuple[str, ...]]
    gateway: tuple[str, ...]
    worker: tuple[str, ...]


_PYTHON = (sys.executable, "-m")
PLUTUS = Programs(
    setup={
        "migrate": (*_PYTHON, "infra.cli.main", "migrate"),
        "topics": (*_PYTHON, "infra.cli.main", "topics", "create"),
    },
    gateway=(*_PYTHON, "ingest_gateway"),
    worker=(*_PYTHON, "stream_worker"),
)


class HttpProgram:
    """A program that answers GET /readyz with 200 when it is ready, as a service of the supervisor.

    Args:
        host, port: where it listens, for probing.
    """

    def __init__(self, command: Command, host: str, port: int) -> None:
        self.name = command.name
        self._command = command
        self._host, self._port = _ANY_ADDRESS.get(host, host), port

    @property
    def url(self) -> str:
        """Its base URL, without a trailing slash."""
        return f"http://{self._host}:{self._port}"

    def command(self) -> Command:
        """How to start it."""
        return self._command

    def ready(self) -> bool:
        """Whether it says so itself."""
        connection = HTTPConnection(self._host, self._port, timeout=_PROBE_SECONDS)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()

    def stopped(self) -> None:
        """Nothing to do after an orderly end."""


class System:
    """Everything, in one folder. To be used from the main thread.

    Args:
        home: absolute path of the folder.
        say: prints a line for a person.
        programs: the commands to run.
    """

    def __init__(
        self,
        home: Path,
        settings: LocalSettings,
        options: Options,
        say: Callable[[str], None] = to_stderr,
        programs: Programs = PLUTUS,
    ) -> None:
        self.stack = LocalStack(home, settings, say)
        self._settings, self._options, self._programs, self._say = settings, options, programs, say

    def start(self) -> Endpoints:
        """Start all and wait until it is ready.

        Raises:
            LocalError: what is in the way. `stop` is the caller's then too.
        """
        self.stack.acquire()
        gateway_port, worker_ports = self._choose_ports()
        self._say("starting Kafka and Postgres")
        self.stack.start_servers()
        self._say("migrating the database, creating the topics")
        self._set_up()
        self._say(f"starting the gateway and {len(worker_ports)} worker{'' if len(worker_ports) == 1 else 's'}")
        workers = [self._worker(number, port) for number, port in enumerate(worker_ports, 1)]
        gateway = self._gateway(gateway_port)
        supervisor = self.stack.supervisor
        supervisor.launch(workers)
        supervisor.launch([gateway])
        supervisor.wait_until_ready(READY_SECONDS)
        endpoints = Endpoints(
            gateway=gateway.url,
            gateway_metrics=gateway.url,
            worker_metrics=tuple(worker.url for worker in workers),
            kafka=self.stack.bootstrap,
            postgres=self.stack.dsn,
        )
        endpoints.write(self.stack.home.path)
        return endpoints

    def tick(self) -> None:
        """Start again what died.

        Raises:
            LocalError: something died too often.
        """
        self.stack.supervisor.tick()

    def stop(self, seconds: float = STOP_SECONDS, hurry: Callable[[], bool] = lambda: False) -> None:
        """Stop all in order within `seconds`; at once when `hurry` answers True."""
        self.stack.stop(seconds, hurry)

    def _choose_ports(self) -> tuple[int, list[int]]:
        settings, ports = self._settings, self.stack.ports
        gateway = ports.take(settings.gateway_port, "GATEWAY_PORT", settings.gateway_host)
        first = settings.worker_metrics_port
        wanted = [first + number if first else 0 for number in range(self._options.workers)]
        return gateway, [ports.take(port, "WORKER_METRICS_PORT") for port in wanted]

    def _set_up(self) -> None:
        environment = self._environment()
        lock = self.stack.home.children_lock
        with ThreadPoolExecutor(len(self._programs.setup) or 1) as pool:
            jobs = [
                pool.submit(process.run, self._program(name, argv, environment), _SETUP_SECONDS, lock=lock)
                for name, argv in self._programs.setup.items()
            ]
            for job in jobs:
                job.result()

    def _gateway(self, port: int) -> HttpProgram:
        host = self._settings.gateway_host
        environment = {**self._environment(), **_ONE_PLAIN_PORT, "GATEWAY_HOST": host, "GATEWAY_PORT": str(port)}
        return HttpProgram(self._program("gateway", self._programs.gateway, environment), host, port)

    def _worker(self, number: int, port: int) -> HttpProgram:
        name = f"worker-{number}"
        # A static member that comes back is the same member: nobody waits for its old session to run out.
        own = {"WORKER_METRICS_PORT": str(port), "WORKER_INSTANCE_ID": name}
        command = self._program(name, self._programs.worker, {**self._environment(), **own})
        return HttpProgram(command, "127.0.0.1", port)

    def _environment(self) -> dict[str, str]:
        asked = {
            "GATEWAY_PROCESSES": self._options.gateway_processes,
            "KAFKA_PARTITIONS": self._options.partitions,
            "WORKER_HANDLERS": self._options.handlers,
        }
        given = {name: str(value) for name, value in asked.items() if value is not None}
        return {**_GRACE, **self.stack.environment(), **given}

    def _program(self, name: str, argv: tuple[str, ...], environment: Mapping[str, str]) -> Command:
        return Command(name=name, argv=argv, env=environment, log=self.stack.home.logs / f"{name}.log")
