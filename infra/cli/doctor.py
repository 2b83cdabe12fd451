"""`plutus doctor`: what is wrong with an installation, each line with what to do about it.

Looks and changes nothing. A service that does not answer costs its own checks and no others.
"""

from __future__ import annotations

import asyncio
import platform
import sys
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Final

import typer

from infra.cli.output import DONE, FAILED, UNREACHABLE, AsJson, Failure, plural, run, say, show, show_json

if TYPE_CHECKING:
    from infra.cli.checks import Finding
    from infra.runtime.settings import RuntimeSettings

_SECONDS: Final = 60.0
_ANSWER_SECONDS: Final = 10.0
_MARKS: Final = {"ok": "ok", "warning": "warn", "failed": "FAIL", "unreachable": "FAIL"}


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @app.command("doctor", epilog="Example: plutus doctor --bad")
    def command(
        bad: Annotated[bool, typer.Option("--bad", help="Only what is not well.")] = False,
        gateway: Annotated[str | None, typer.Option(metavar="URL", help="The gateway; else PLUTUS_GATEWAY.")] = None,
        as_json: AsJson = False,
    ) -> None:
        """Check settings, Kafka, topics, workers, Postgres, schema, grants, clock and gateway; each line with its fix.

        Exit code 0: nothing fails (there may be warnings); 1: something does; 69: a service cannot be reached.
        """
        run(lambda: _doctor(bad, gateway, as_json))


async def _doctor(bad: bool, gateway: str | None, as_json: bool) -> int:
    from infra.cli.checks import State

    found: list[Finding] = []
    try:
        async with asyncio.timeout(_SECONDS):
            async for finding in _findings(gateway):
                found.append(finding)
                if finding.state is not State.OK or not bad:
                    _tell(finding, as_json)
    except TimeoutError:
        raise Failure(f"The checks were not done within {_SECONDS:g} s.", code=UNREACHABLE) from None
    states = [finding.state for finding in found]
    failed = [state for state in states if state in (State.FAILED, State.UNREACHABLE)]
    say(f"{plural(len(states), 'check')}, {plural(states.count(State.WARNING), 'warning')}, {len(failed)} failed")
    if State.UNREACHABLE in failed:
        return UNREACHABLE
    return FAILED if failed else DONE


def _tell(finding: Finding, as_json: bool) -> None:
    if as_json:
        show_json(asdict(finding))
        return
    show(f"{_MARKS[finding.state]:<4}  {finding.check:<12}  {finding.what}")
    if finding.fix:
        show(f"{'':20}try: {finding.fix}")


async def _findings(gateway: str | None) -> AsyncIterator[Finding]:
    from infra.cli import checks
    from infra.cli.checks import Finding, State
    from infra.cli.config import Of, read_all
    from infra.cli.connect import operator_settings
    from infra.local.errors import LocalError

    yield Finding("versions", State.OK, f"Plutus {_version()}, Python {platform.python_version()} on {sys.platform}")
    for read in await read_all([Of.GATEWAY, Of.WORKER]):
        for finding in checks.of_settings(read.of.value, read.mistakes, len(read.rows)):
            yield finding
    try:
        settings = operator_settings(kafka=True, postgres=True)
    except (Failure, LocalError) as error:
        yield Finding("settings", State.FAILED, str(error), "set the addresses, or start a system: plutus up")
        return
    async for finding in _guarded("kafka", checks.of_kafka(settings)):
        yield finding
    async for finding in _guarded("postgres", _of_postgres(settings)):
        yield finding
    async for finding in _guarded("gateway", _of_gateway(gateway)):
        yield finding


async def _of_postgres(settings: RuntimeSettings) -> AsyncIterator[Finding]:
    from infra.cli import checks
    from infra.cli.connect import reaching_postgres
    from infra.runtime.tables import connect

    with reaching_postgres(settings):
        db = await connect(settings, name="plutus-cli", command_timeout=_ANSWER_SECONDS)
        try:
            async for finding in checks.of_database(db):
                yield finding
        finally:
            await db.close(timeout=_ANSWER_SECONDS)


async def _of_gateway(given: str | None) -> AsyncIterator[Finding]:
    from infra.cli import checks
    from infra.cli.checks import Finding, State
    from infra.cli.connect import gateway_url
    from infra.local.errors import LocalError

    try:
        url = gateway_url(given)
    except LocalError:
        yield Finding(
            "gateway", State.WARNING, "not looked at: its address is not known", "set PLUTUS_GATEWAY, or --gateway"
        )
        return
    yield await checks.of_gateway(url)


async def _guarded(check: str, findings: AsyncIterator[Finding]) -> AsyncIterator[Finding]:
    """The findings, and one more where the service fails."""
    from infra.cli import checks

    try:
        async for finding in findings:
            yield finding
    except Failure as failure:
        yield checks.away(check, failure)


def _version() -> str:
    from importlib.metadata import version

    return version("plutus")
