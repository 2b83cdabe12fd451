"""`plutus demo`: the main job on real input, every count checked.

Alone it starts a whole system in a fresh folder (Kafka, Postgres, a gateway, two workers), plays, stops everything and
leaves nothing behind but, if a count is off, the folder. `--against FILE` plays on the system whose endpoints.json that
is; keys get a prefix of their own, so that it can be repeated. Exit code 0 only if every count is exact.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import tempfile
import uuid
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from infra.cli.output import DONE, AsJson, finish, say
from infra.local.errors import LocalError

if TYPE_CHECKING:
    from infra.local.endpoints import Endpoints
    from infra.local.system import System

HANDLERS = "stream_worker.examples.earthquakes"
_WORKERS = 2
_OWN_SECONDS = 120.0
_AGAINST_SECONDS = 300.0
_TICK = 0.2


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @app.command("demo", epilog="Example: plutus demo --against .plutus/endpoints.json")
    def command(
        against: Annotated[
            Path | None, typer.Option(metavar="FILE", help="endpoints.json of a running system to use instead.")
        ] = None,
        seconds: Annotated[
            float | None, typer.Option("--deadline", min=1, help="Seconds for sending and draining.")
        ] = None,
        as_json: AsJson = False,
    ) -> None:
        """Send 1,707 earthquakes three times each, with ten bad records, and check every count."""
        if against is not None:
            finish(lambda: play_against(against, seconds or _AGAINST_SECONDS, as_json))
        finish(lambda: play_alone(seconds or _OWN_SECONDS, as_json))


def play_alone(seconds: float, as_json: bool) -> int:
    """The demo on a system of its own; the exit code.

    Raises:
        LocalError: the system could not be started or kept alive. Failure: something did not answer.
    """
    from infra.local.settings import LocalSettings
    from infra.local.system import Options, System

    home = Path(tempfile.mkdtemp(prefix="plutus-demo-"))
    settings = LocalSettings(plutus_home=home, gateway_port=0, kafka_port=0, postgres_port=0, worker_metrics_port=0)
    system = System(home, settings, Options(workers=_WORKERS, handlers=HANDLERS), say)
    code: int | None = None
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # it ends us like Ctrl-C: in order
    try:
        try:
            found = system.start()
            say(f"gateway {found.gateway}, Kafka {found.kafka}, data and logs in {home}")
            code = _play(system, found, seconds, as_json)
        finally:
            _stop(system)
    except KeyboardInterrupt:
        code = DONE  # nothing is off; what ended it is told elsewhere
        raise
    finally:
        if code == DONE:
            shutil.rmtree(home, ignore_errors=True)
        else:
            say(f"data and logs are kept in {home}")
    return code


def _stop(system: System) -> None:
    """Stop all in order, or at once if there is one more signal meanwhile."""
    signals: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: signals.append(number))
    system.stop(hurry=lambda: bool(signals))


def _play(system: System, found: Endpoints, seconds: float, as_json: bool) -> int:
    from infra.cli.demo_play import Play, Stage, beside

    async def play() -> int:
        stage = Stage(lambda: found, "", True, seconds)
        return await beside(Play(stage).run(as_json), system.tick, _TICK)

    return asyncio.run(play())


def play_against(file: Path, seconds: float, as_json: bool) -> int:
    """The demo on a running system; the exit code.

    Raises:
        LocalError: there is no such system. Failure: it did not answer for too long.
    """
    from infra.cli.demo_play import Play, Stage
    from infra.local import endpoints

    last = endpoints.read(file)

    def where() -> Endpoints:
        """Its addresses now; those it had while it is down."""
        nonlocal last
        with suppress(LocalError):
            last = endpoints.read(file)
        return last

    async def play() -> int:
        stage = Stage(where, f"{uuid.uuid4().hex[:8]}:", False, seconds)
        return await Play(stage).run(as_json)

    return asyncio.run(play())
