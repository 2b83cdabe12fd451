"""Run handlers over events that were stored without one: `plutus events run` starts this, as a process of its own.

    python -m stream_worker.run_stored '{"type": "parcel_ordered", "dry_run": true}'

The modules are those of WORKER_HANDLERS; settings are a worker's. What is wanted is one JSON object: type, source, since,
until (RFC 3339), most, dry_run. JSON lines come out: `{"kinds": [...]}` first, counts after every page, and how it
ended last: `done`, `stopped`, or why not. SIGINT and SIGTERM end it after the page under way.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import asyncpg
import msgspec
import uvloop

from infra.runtime import log, postgres
from infra.runtime.postgres import Deadlines
from infra.runtime.settings import load_or_exit
from schemas import registry as schema_registry
from stream_worker import handlers
from stream_worker.app import NotSo, deadlines, refuse_slow, run_hooks
from stream_worker.backoff import Backoff
from stream_worker.batch import Fenced
from stream_worker.breaker import Breaker
from stream_worker.run import Hold, Runner
from stream_worker.settings import WorkerSettings
from stream_worker.stored import Kind, Run, Tally, Tripped, Wanted, kinds

_FOR_EVER = 1 << 30
_LOOK = Deadlines(command=600.0, statement=600.0, lock=10.0, idle_in_transaction=60.0)


class Asked(msgspec.Struct, forbid_unknown_fields=True):
    """The command's argument."""

    type: str | None = None
    source: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    most: int | None = None
    dry_run: bool = False


def tell(**members: Any) -> None:
    """One line for who started this process."""
    print(msgspec.json.encode(members).decode(), flush=True)


async def run(settings: WorkerSettings, asked: Asked) -> str:
    """Do it; returns how it ended.

    Raises:
        ImportError, NotSo: as a worker. OSError, asyncpg errors: the database cannot be reached, or refuses.
    """
    registry = handlers.load(settings.worker_handlers)
    refuse_slow(registry, settings)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    wanted = Wanted(asked.type, asked.source, asked.since, asked.until)
    look = await postgres.connect(settings, name="plutus-events-run", deadlines=_LOOK)
    work = await postgres.connect(settings, name="plutus-events-run", deadlines=deadlines(settings))
    try:
        tell(kinds=[_kind(each) for each in await kinds(look, registry, wanted)])
        if asked.dry_run:
            return "done"
        await run_hooks(work, registry)
        started = Run(
            look,
            work,
            registry,
            Runner(
                settings.worker_handler_timeout,
                settings.transaction_budget,
                Backoff(attempts=_FOR_EVER),
                settings.worker_batch_records,
                in_place=0,
            ),
            Breaker(settings.breaker_deaths_in_a_row, settings.breaker_share),
            schema_registry.default(strict=settings.strict_schemas).check,
            asked.most,
            told=_told,
            stopping=stop.is_set,
        )
        return await _through(started, wanted)
    finally:
        for connection in (look, work):
            connection.terminate()


async def _through(run: Run, wanted: Wanted) -> str:
    try:
        return "done" if await run.through(wanted) else "stopped"
    except Fenced:
        return "taken_over"
    except Tripped:
        return "too_many_failed"
    except Hold as hold:
        return f"held:{hold.why}"


def _told(tally: Tally) -> None:
    tell(counts=tally.counts(), examples=tally.examples)


def _kind(kind: Kind) -> dict[str, Any]:
    return kind._asdict()


def main(arguments: Sequence[str]) -> int:
    """0: it ended as the last line says. 1: the database. 2: settings, handlers or the argument are wrong."""
    settings = load_or_exit(WorkerSettings)
    log.configure("WARNING", settings.log_format, "events-run")
    try:
        asked = msgspec.json.decode(arguments[0] if arguments else b"{}", type=Asked)
        tell(ended=uvloop.run(run(settings, asked)))
    except (ImportError, NotSo, msgspec.MsgspecError) as error:
        tell(error="The handlers cannot be run.", cause=str(error))
        return 2
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        # Never a message: it may hold what a row holds.
        tell(error="The database did not do it.", cause=getattr(error, "sqlstate", None) or type(error).__name__)
        return 1
    finally:
        log.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
