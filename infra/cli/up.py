"""`plutus up`: the whole system on this machine, until Ctrl-C.

The first SIGINT, SIGTERM or SIGHUP stops everything in order, the second at once. Exit code 0 after an orderly stop, 1
when something could not be started or kept alive, 130 when the stop was cut short.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Self
from urllib.parse import urlsplit

import typer

from infra.cli.output import AsJson, show_json

if TYPE_CHECKING:
    from infra.local.endpoints import Endpoints
    from infra.local.settings import LocalSettings
    from infra.local.system import Options, Programs

_TICK = 0.1
_CUT_SHORT = 130


class _Interrupted(BaseException):
    """A signal came while starting."""


class Signals:
    """Counts the signals that ask us to stop. SIGHUP stays ignored where it was (nohup)."""

    def __init__(self) -> None:
        self.count = 0
        self._raise = False

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            signal.signal(signal.SIGHUP, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        """The handlers stay: what comes after an orderly stop must not turn it into a death by signal."""

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Inside, the first signal interrupts whatever is being waited for."""
        self._raise = True
        try:
            yield
        finally:
            self._raise = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        if self._raise:
            self._raise = False
            raise _Interrupted


def up(settings: LocalSettings, options: Options, programs: Programs | None = None, *, as_json: bool = False) -> int:
    """Run the system until a signal; the exit code. Its addresses are printed once it is ready.

    Raises:
        LocalError: it could not be started or kept alive; all is stopped by then.
    """
    from infra.local.stack import to_stderr
    from infra.local.system import PLUTUS, System

    signals = Signals()
    system = System(settings.home, settings, options, programs=programs or PLUTUS)
    with signals:
        try:
            with signals.interrupting():
                _announce(system.start(), settings, as_json)
            while not signals.count:
                system.tick()
                time.sleep(_TICK)
        except _Interrupted:
            pass
        finally:
            if signals.count:
                to_stderr("stopping; once more to stop at once")
            system.stop(hurry=lambda: signals.count > 1)
    return _CUT_SHORT if signals.count > 1 else 0


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @app.command("up", epilog="Example: plutus up --workers 3 --handlers points")
    def command(
        workers: Annotated[int, typer.Option(min=0, help="Number of workers.")] = 2,
        gateway_processes: Annotated[
            int | None, typer.Option(min=1, help="Processes that share the gateway's port.")
        ] = None,
        partitions: Annotated[int | None, typer.Option(min=1, help="Partitions of a new events topic.")] = None,
        handlers: Annotated[str | None, typer.Option(metavar="MODULE", help="Module with event handlers.")] = None,
        as_json: AsJson = False,
    ) -> None:
        """Run Kafka, Postgres, the gateway and workers here until Ctrl-C; data stays in PLUTUS_HOME."""
        from infra.local.settings import LocalSettings
        from infra.local.system import Options
        from infra.runtime.settings import load_or_exit

        options = Options(workers, gateway_processes, partitions, handlers)
        raise typer.Exit(up(load_or_exit(LocalSettings), options, as_json=as_json))


def _announce(endpoints: Endpoints, settings: LocalSettings, as_json: bool) -> None:
    """The addresses, on stdout; the password stays in endpoints.json."""
    database = urlsplit(endpoints.postgres)
    where = f"{database.hostname}:{database.port}{database.path}"
    if as_json:
        show_json(
            {
                "gateway": endpoints.gateway,
                "workers": endpoints.worker_metrics,
                "kafka": endpoints.kafka,
                "postgres": where,
                "endpoints": str(settings.home / "endpoints.json"),
            }
        )
        sys.stdout.flush()
        return
    lines = [
        f"gateway   {endpoints.gateway}  (API: {endpoints.gateway}/docs)",
        *(f"worker    {url}" for url in endpoints.worker_metrics),
        f"kafka     {endpoints.kafka}",
        f"postgres  {where}, user {database.username}",
        f"data, logs and endpoints.json in {settings.home}; Ctrl-C stops all, data stays",
    ]
    print("\n".join(lines), flush=True)
