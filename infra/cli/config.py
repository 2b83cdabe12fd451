"""`plutus config show`: every setting as the processes would read it here: value, source, meaning.

Each process's own settings module is asked, in a process of its own. Secrets are hidden, of URLs the password alone.
Where the environment names neither Kafka nor Postgres, those of the system in PLUTUS_HOME are told, as its source.
"""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Final

import orjson
import typer

from infra.cli.output import DONE, NOTHING_MATCHED, USAGE, AsJson, Failure, run, say, show_json, show_table

_SECONDS: Final = 20.0
_ADDRESSES: Final = ("KAFKA_BOOTSTRAP_SERVERS", "DATABASE_URL")


class Of(StrEnum):
    """Whose settings."""

    GATEWAY = "gateway"
    WORKER = "worker"
    LOCAL = "local"
    ALL = "all"


MODULES: Final = {
    Of.GATEWAY: "ingest_gateway.settings",
    Of.WORKER: "stream_worker.settings",
    Of.LOCAL: "infra.local.settings",
}


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    group = typer.Typer(no_args_is_help=True, help="Settings.")
    app.add_typer(group, name="config")

    @group.callback()
    def config() -> None:
        """A group with one command would otherwise become that command."""

    @group.command("show", epilog="Example: plutus config show KAFKA DATABASE --changed")
    def command(
        names: Annotated[
            list[str] | None, typer.Argument(metavar="[NAME]...", help="Only these, or what begins so.")
        ] = None,
        of: Annotated[Of, typer.Option("--of", help="Whose settings.")] = Of.ALL,
        changed: Annotated[bool, typer.Option("--changed", help="Only what is not the default.")] = False,
        as_json: AsJson = False,
    ) -> None:
        """Every setting with its value and where that comes from; secrets are hidden.

        Exit code 2: some are missing or wrong, all of which are told. 4: no such setting.
        """
        run(lambda: _show([name.upper() for name in names or ()], of, changed, as_json))


@dataclass(frozen=True)
class Read:
    """What one process makes of its environment. mistakes: why it would not start; "" if it would."""

    of: Of
    rows: list[dict[str, Any]]
    mistakes: str


async def _show(names: list[str], of: Of, changed: bool, as_json: bool) -> int:
    asked = [each for each in MODULES if of in (each, Of.ALL)]
    found = await read_all(asked)
    rows: dict[str, dict[str, Any]] = {}
    for read in found:
        for row in read.rows:
            rows.setdefault(row["name"], {**row, "of": []})["of"].append(read.of.value)
    shown = [
        row
        for row in rows.values()
        if (not names or row["name"].startswith(tuple(names))) and not (changed and row["source"] == "default")
    ]
    if as_json:
        for row in shown:
            show_json(row)
    elif shown:
        columns = ("setting", "value", "source", "of")
        show_table(columns, [[row["name"], row["value"], row["source"], ", ".join(row["of"])] for row in shown])
    wrong = [read for read in found if read.mistakes]
    if wrong:
        raise Failure(
            f"The settings of {' and '.join(read.of.value for read in wrong)} are missing or wrong.",
            cause="\n".join(dict.fromkeys(line for read in wrong for line in read.mistakes.splitlines())),
            advice=".example.env documents each",
            code=USAGE,
        )
    if not shown:
        say("no setting matches")
    return DONE if shown else NOTHING_MATCHED


async def read_all(asked: list[Of]) -> list[Read]:
    """What each of these processes makes of this environment."""
    environment, source = _environment()
    reads = await asyncio.gather(*(_read(each, environment) for each in asked))
    for read in reads:
        for row in read.rows:
            if source and row["name"] in _ADDRESSES:
                row["source"] = source
    return reads


async def _read(of: Of, environment: dict[str, str]) -> Read:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", MODULES[of]),
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_SECONDS):
            out, err = await process.communicate()
    except TimeoutError:
        raise Failure(f"{MODULES[of]} did not answer within {_SECONDS:.0f} s.") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode not in (0, USAGE):
        raise Failure(f"{MODULES[of]} ended with {process.returncode}.", cause=err.decode(errors="replace")[-500:])
    mistakes = [line.strip() for line in err.decode(errors="replace").splitlines()[1:]] if process.returncode else []
    return Read(of, [orjson.loads(line) for line in out.splitlines()], "\n".join(mistakes))


def _environment() -> tuple[dict[str, str], str]:
    """The environment of the processes, and what the addresses' source is where it is not that."""
    from infra.local import endpoints
    from infra.local.errors import LocalError
    from infra.local.settings import LocalSettings

    mine = dict(os.environ)
    if any(mine.get(name) or mine.get(f"{name}_FILE") for name in _ADDRESSES):
        return mine, ""
    try:
        found = endpoints.of_running(LocalSettings().home)
    except LocalError:
        return mine, ""
    return {**mine, **dict(zip(_ADDRESSES, (found.kafka, found.postgres), strict=True))}, "the system in PLUTUS_HOME"
