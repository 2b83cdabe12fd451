"""`plutus handlers list` and `plutus handlers check`: which handler takes what, and whether a worker could start with them.

The modules are those of the arguments, or of WORKER_HANDLERS. They are imported by a process of its own, as a worker
would import them; neither Kafka nor Postgres is needed.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated, Any, Final

import orjson
import typer

from infra.cli.output import (
    DONE,
    FAILED,
    INTERRUPTED,
    USAGE,
    AsJson,
    Failure,
    plural,
    run,
    say,
    show,
    show_json,
    show_table,
)

_SECONDS: Final = 60.0
_COLUMNS: Final = ("handler", "type", "source", "version", "form", "transaction", "payload", "deadline", "function")

Modules = Annotated[
    list[str] | None,
    typer.Argument(metavar="MODULE...", envvar="WORKER_HANDLERS", help="Python modules with handlers."),
]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    group = typer.Typer(no_args_is_help=True, help="Handlers: what takes which events, and what is wrong.")
    app.add_typer(group, name="handlers")

    @group.command("list", epilog="Example: plutus handlers list points")
    def list_(modules: Modules = None, as_json: AsJson = False) -> None:
        """List the registered handlers and what each matches."""
        run(lambda: _list(modules or [], as_json))

    @group.command("check", epilog="Example: plutus handlers check points stock --json")
    def check(modules: Modules = None, as_json: AsJson = False) -> None:
        """Say what is wrong with the handlers; exit code 1 if anything is."""
        run(lambda: _check(modules or [], as_json))


async def _list(modules: list[str], as_json: bool) -> int:
    report = await _inspect(modules)
    for problem in report["problems"]:
        say(f"warning: {problem['where']}: {problem['what']}")
    if as_json:
        for handler in report["handlers"]:
            show_json(handler)
    elif report["handlers"]:
        show_table(_COLUMNS, [_row(handler) for handler in report["handlers"]])
    else:
        say("no handler is registered")
    return FAILED if report["problems"] else DONE


def _row(handler: dict[str, Any]) -> list[object]:
    return [
        handler["name"],
        handler["type"],
        handler["source"],
        handler["version"],
        "batch" if handler["batch"] else "event",
        handler["transaction"],
        " | ".join(handler["payload"]) or None,
        None if handler["timeout"] is None else f"{handler['timeout']:g} s",
        handler["function"],
    ]


async def _check(modules: list[str], as_json: bool) -> int:
    report = await _inspect(modules)
    problems, notices = report["problems"], report["notices"]
    if as_json:
        show_json({"ok": not problems, "problems": problems, "notices": notices})
        return FAILED if problems else DONE
    for problem in problems:
        show(f"{problem['where']}: {problem['what']}")
    for notice in notices:
        say(f"notice: {notice['where']}: {notice['what']}")
    say(f"{plural(len(report['handlers']), 'handler')}, {plural(len(problems), 'problem')}")
    return FAILED if problems else DONE


async def _inspect(modules: list[str]) -> dict[str, Any]:
    """The report of `stream_worker.inspect_handlers`.

    Raises:
        Failure: no module is named, or the inspection itself did not end well.
    """
    if not modules:
        raise Failure(
            "No handler module is named.", advice="plutus handlers check MODULE, or set WORKER_HANDLERS", code=USAGE
        )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "stream_worker.inspect_handlers", ",".join(modules), "--json"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_SECONDS):
            out, _ = await process.communicate()
    except TimeoutError:
        raise Failure(
            f"The handlers were not imported within {_SECONDS:.0f} s.", advice="look for work at import time"
        ) from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    try:
        report: dict[str, Any] = orjson.loads(out)
    except orjson.JSONDecodeError:
        code = INTERRUPTED if process.returncode == INTERRUPTED else FAILED
        raise Failure(
            "The handlers could not be inspected.",
            cause=f"importing them ended the process with {process.returncode}",
            code=code,
        ) from None
    return report
