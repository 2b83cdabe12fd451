"""`plutus dlq replay [ID]`: send dead letters back to the events topic, as they were.

Each event takes effect once, however often it is replayed. What fails again becomes a new failure and a new dead letter.
Ctrl-C stops after the batch that is under way, a second one at once; running it again goes on with what is still open.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from infra.cli.failures import ByReason, BySource
from infra.cli.output import (
    DONE,
    INTERRUPTED,
    NOTHING_MATCHED,
    AsJson,
    Failure,
    plural,
    run,
    say,
    show_json,
    show_table,
)
from schemas.errors import Reason

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.ext.asyncio import AsyncConnection

    from infra.cli.replay import DeadLetter, Request, Tally
    from infra.runtime.producer import Record
    from infra.runtime.settings import RuntimeSettings

_START_SECONDS = 15.0
_STOP_SECONDS = 5.0


class From(StrEnum):
    """Where the dead letters are taken from."""

    TOPIC = "topic"
    TABLE = "table"


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    group = typer.Typer(no_args_is_help=True, help="The dead-letter topic.")
    app.add_typer(group, name="dlq")

    @group.callback()
    def dlq() -> None:
        """A group with one command would otherwise become that command."""

    @group.command("replay")
    def command(
        any_id: Annotated[
            UUID | None, typer.Argument(metavar="[ID]", help="One failure's or one event's; all if left out.")
        ] = None,
        reason: ByReason = None,
        source: BySource = None,
        origin: Annotated[From, typer.Option("--from", help="Dead-letter topic or failures table.")] = From.TOPIC,
        anyway: Annotated[bool, typer.Option("--all", help="Those replayed or discarded before, too.")] = False,
        dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be sent.")] = False,
        as_json: AsJson = False,
    ) -> None:
        """Send the dead letters whose failures are open back to the events topic."""
        run(lambda: _replay(any_id, reason, source, origin, anyway, dry_run, as_json))


async def _replay(
    any_id: UUID | None,
    reason: Reason | None,
    source: str | None,
    origin: From,
    anyway: bool,
    dry_run: bool,
    as_json: bool,
) -> int:
    from infra.cli.connect import database, operator_settings
    from infra.cli.queries import Filter
    from infra.cli.replay import Request

    settings = operator_settings(kafka=True, postgres=True)
    request = Request(any_id, Filter(None, reason and reason.value, source), anyway, dry_run)
    stop = asyncio.Event()
    with _stopping_on_signals(stop):
        async with database(settings) as db:
            tally = await _run(settings, db, request, origin, stop)
    _report(tally, request, as_json)
    if not tally.read and any_id is not None and origin is From.TOPIC:
        say(f"its dead letter is not in {settings.kafka_dlq_topic}: try --from table")
    if stop.is_set():
        say("stopped; run it again to go on with what is still open")
        return INTERRUPTED
    return DONE if tally.replayed else NOTHING_MATCHED


async def _run(
    settings: RuntimeSettings, db: AsyncConnection, request: Request, origin: From, stop: asyncio.Event
) -> Tally:
    from infra.cli import replay
    from infra.cli.connect import reaching_kafka
    from infra.cli.progress import Progress
    from infra.runtime.producer import Producer

    async with AsyncExitStack() as stack:
        batches, total = await _dead_letters(settings, db, request, origin, stack)
        producer = Producer(settings, "plutus-replay")
        if not request.dry_run:
            stack.push_async_callback(producer.stop, _STOP_SECONDS)
            with reaching_kafka(settings):
                await producer.start(_START_SECONDS)

        async def publish(records: Sequence[Record]) -> None:
            await replay.publish_all(producer, settings.kafka_topic, records)

        progress = stack.enter_context(Progress("dead letters", total))
        return await replay.replay(
            db,
            batches,
            request,
            publish=publish,
            stop=stop,
            progress=lambda tally: progress.at(tally.read, f"{tally.replayed:,} replayed"),
        )


async def _dead_letters(
    settings: RuntimeSettings, db: AsyncConnection, request: Request, origin: From, stack: AsyncExitStack
) -> tuple[AsyncIterator[list[DeadLetter]], int]:
    """The dead letters to judge, and about how many they are."""
    from infra.cli import queries, replay
    from infra.cli.reader import open_reader

    rows = [] if request.any_id is None else await queries.letters_of(db, request.any_id)
    if request.any_id is not None and not rows:
        raise Failure(
            f"No failure and no failed event {request.any_id} is known.",
            advice="plutus failures list --status all",
            code=NOTHING_MATCHED,
        )
    if origin is From.TABLE:
        total = len(rows) if request.any_id else await queries.count_failures(db, request.wanted)
        return replay.from_table(db, request), total
    reader = await stack.enter_async_context(open_reader(settings, settings.kafka_dlq_topic))
    if request.any_id is not None:
        return replay.at_places(reader, rows), len(rows)
    starts, ends = await reader.beginnings(), await reader.ends()
    return replay.from_topic(reader, starts, ends), sum(ends[p] - starts[p] for p in ends)


def _report(tally: Tally, request: Request, as_json: bool) -> None:
    from infra.cli.replay import EXPLAINED

    if as_json:
        show_json(
            {
                "dry_run": request.dry_run,
                "read": tally.read,
                "replayed": tally.replayed,
                "by_reason": dict(sorted(tally.reasons.items())),
                "skipped": {verdict.value: tally.verdicts[verdict] for verdict in EXPLAINED},
            }
        )
    elif tally.reasons:
        done = "would replay" if request.dry_run else "replayed"
        show_table(("reason", done), sorted(tally.reasons.items()))
    sent = "would be sent back" if request.dry_run else "sent back"
    say(f"{plural(tally.read, 'dead letter')} read, {tally.replayed:,} {sent}")
    for verdict, words in EXPLAINED.items():
        if tally.verdicts[verdict]:
            say(f"skipped {tally.verdicts[verdict]:,}: {words}")


@contextmanager
def _stopping_on_signals(stop: asyncio.Event) -> Iterator[None]:
    """Inside, the first SIGINT or SIGTERM sets `stop`, a second one cancels what is under way."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()

    def asked() -> None:
        if stop.is_set() and task is not None:
            task.cancel()
        stop.set()
        say("stopping after this batch; once more to stop at once")

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, asked)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
