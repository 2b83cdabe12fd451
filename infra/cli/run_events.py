"""`plutus events run`: handlers run over events that were stored without one, as a job with its audit row.

The work is done by `python -m stream_worker.run_stored`, a process of its own with a worker's settings, which tells in JSON
lines how far it is. Whatever ends it, what it had handled is handled and the rest is found again by the same command.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy.ext.asyncio import AsyncConnection

from infra.cli import jobs
from infra.cli.connect import database, operator_settings
from infra.cli.jobs import Kind, Status
from infra.cli.output import (
    DONE,
    FAILED,
    INTERRUPTED,
    NOTHING_MATCHED,
    Failure,
    plural,
    say,
    show_json,
    show_table,
)
from infra.cli.progress import Progress
from infra.cli.sending import stopping_on_signals
from infra.runtime.settings import RuntimeSettings

_STOP_SECONDS = 60.0
_LINE_BYTES = 16 << 20
_AGAIN = "run it again: what is handled stays handled"
_ENDS = {
    "taken_over": ("Another run has begun over the same events and goes on with them.", ""),
    "too_many_failed": ("Too many events in a row failed.", "mend the handler, then run this again"),
}


@dataclass(frozen=True)
class Order:
    """What the command was told."""

    modules: Sequence[str]
    type: str | None = None
    source: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    most: int | None = None
    dry_run: bool = False
    as_json: bool = False

    def argument(self) -> dict[str, Any]:
        """For the process."""
        names = ("type", "source", "since", "until", "most", "dry_run")
        return {name: getattr(self, name) for name in names}

    def as_json_object(self) -> dict[str, Any]:
        """For the job's row."""
        asked = {"type": self.type, "source": self.source, "since": self.since, "until": self.until}
        wanted = {name: str(value) for name, value in asked.items() if value is not None}
        return {"filter": wanted, "max": self.most, "handlers": list(self.modules)}


@dataclass
class _Told:
    """What the process has said so far."""

    kinds: list[dict[str, Any]]
    counts: dict[str, Any]
    examples: list[dict[str, str]]
    ended: str = ""

    @property
    def taken(self) -> int:
        """Events that a handler takes."""
        return sum(kind["events"] for kind in self.kinds if kind["handler"] is not None)


async def run_stored(order: Order) -> int:
    """Do it, and tell how it went; returns the exit code."""
    settings = operator_settings(kafka=True, postgres=True)
    told = _Told([], {}, [])
    stop = asyncio.Event()
    with stopping_on_signals(stop):
        async with database(settings) as db, _process(settings, order, stop) as lines:
            await _follow(db, order, lines, told)
    _report(order, told)
    return _code(told, stop)


async def _follow(db: AsyncConnection, order: Order, lines: AsyncIterator[dict[str, Any]], told: _Told) -> None:
    """Keep the job's row and the bar up to what the process says.

    Raises:
        Failure: it could not do it.
    """
    job: UUID | None = None
    progress: Progress | None = None
    with ExitStack() as bars:
        try:
            async for line in lines:
                if "kinds" in line:
                    told.kinds = line["kinds"]
                    job = None if order.dry_run else await jobs.start(db, Kind.RUN, order.as_json_object())
                    progress = bars.enter_context(Progress("events", told.taken))
                elif "counts" in line:
                    told.counts, told.examples = line["counts"], line["examples"]
                    if progress is not None:
                        progress.at(told.counts["read"], f"{told.counts['handled']:,} handled")
                    await _save(db, job, Status.RUNNING, told)
                elif "error" in line:
                    raise Failure(line["error"], cause=line["cause"], advice=_AGAIN)
                else:
                    told.ended = line["ended"]
        finally:
            await _save(db, job, Status.DONE if told.ended == "done" else Status.STOPPED, told)


async def _save(db: AsyncConnection, job: UUID | None, status: Status, told: _Told) -> None:
    if job is not None:
        await jobs.save(db, job, status, told.counts)


@asynccontextmanager
async def _process(
    settings: RuntimeSettings, order: Order, stop: asyncio.Event
) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
    """The process that does the work; it is told to stop when we are, and never outlives us by long."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "stream_worker.run_stored", orjson.dumps(order.argument()).decode()),
        env={**os.environ, **_environment(settings, order)},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,  # Ctrl-C reaches us alone, and we pass it on once
        limit=_LINE_BYTES,
    )
    telling = asyncio.create_task(_terminate_when(stop, process))
    try:
        yield _lines(process)
    finally:
        telling.cancel()
        if process.returncode is None:
            process.terminate()
            try:
                async with asyncio.timeout(_STOP_SECONDS):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()


async def _terminate_when(stop: asyncio.Event, process: asyncio.subprocess.Process) -> None:
    await stop.wait()
    if process.returncode is None:
        process.terminate()


async def _lines(process: asyncio.subprocess.Process) -> AsyncIterator[dict[str, Any]]:
    """What it says, to its end.

    Raises:
        Failure: it ended without saying how.
    """
    assert process.stdout is not None  # noqa: S101
    last: dict[str, Any] = {}
    async for text in process.stdout:
        last = orjson.loads(text)
        yield last
    code = await process.wait()
    if not ("ended" in last or "error" in last):
        raise Failure(
            "The process that runs the handlers ended early.",
            cause=f"it exited with {code}",
            advice=_AGAIN,
        )


def _environment(settings: RuntimeSettings, order: Order) -> Mapping[str, str]:
    """A local system's addresses are not in our own environment."""
    return {
        "WORKER_HANDLERS": ",".join(order.modules),
        "KAFKA_BOOTSTRAP_SERVERS": settings.kafka_bootstrap_servers,
        "DATABASE_URL": settings.dsn,
        "DATABASE_SSL": settings.database_ssl,
    }


def _report(order: Order, told: _Told) -> None:
    if order.as_json:
        more = {"kinds": told.kinds} if order.dry_run else {"examples": told.examples}
        show_json({"dry_run": order.dry_run, "ended": told.ended, **told.counts, **more})
        return
    if order.dry_run and told.kinds:
        columns = ("events", "source", "type", "version", "handler", "for example")
        names = ("events", "source", "type", "version", "handler", "example")
        show_table(columns, [[kind[name] for name in names] for kind in told.kinds])
        say(f"{plural(told.taken, 'event')} would be run")
        return
    if told.examples:
        show_table(("event", "why", "error"), [list(example.values()) for example in told.examples])
    counts = told.counts
    say(f"{plural(counts.get('handled', 0), 'event')} handled of {told.taken:,}")
    for name, words in (
        ("waits", "asked for later"),
        ("behind", "wait behind those"),
        ("handled_by_others", "handled by others"),
    ):
        if counts.get(name):
            say(f"{counts[name]:,} {words}")
    for reason, number in counts.get("failed", {}).items():
        say(f"{number:,} failed and stay as they were: {reason}")


def _code(told: _Told, stop: asyncio.Event) -> int:
    """The exit code.

    Raises:
        Failure: it ended before its end, and not because somebody asked.
    """
    if told.ended.startswith("held:"):
        raise Failure(
            "The database, or the deploy, is at fault.",
            cause=told.ended.removeprefix("held:"),
            advice=f"mend it; {_AGAIN}",
        )
    if told.ended in _ENDS:
        what, advice = _ENDS[told.ended]
        raise Failure(what, advice=advice)
    if stop.is_set():
        return INTERRUPTED
    if not told.taken:
        say("no stored event is without a handler that takes it now")
        return NOTHING_MATCHED
    unfinished = told.counts.get("failed") or told.counts.get("waits") or told.counts.get("behind")
    return FAILED if unfinished else DONE
