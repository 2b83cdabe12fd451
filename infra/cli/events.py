"""`plutus events`: what became of single events (`show ID`), which events there are (`list`), and handlers over those that
were stored without one (`run`).

Payloads are what strangers sent: they are shown by `show --payload` only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import orjson
import typer

from infra.cli.filters import AfterCursor, BySource, ByType, Limit, moment, no_cursor
from infra.cli.handlers import Modules
from infra.cli.output import (
    DONE,
    NOTHING_MATCHED,
    USAGE,
    AsJson,
    Failure,
    run,
    say,
    show,
    show_fields,
    show_json,
    show_table,
)

if TYPE_CHECKING:
    from infra.cli.event_queries import EventFilter

_COLUMNS = ("event", "received", "status", "source", "key", "type", "handled by", "attempts")
_HIDDEN = ("state", "runs", "accepted_partition", "accepted_offset", "topic", "partition", "offset")


class Status(StrEnum):
    """Statuses that an event's row may have. RECEIVED has none yet: `plutus groups lag` tells how many those are."""

    PROCESSED = "PROCESSED"
    RETRYING = "RETRYING"
    FAILED = "FAILED"


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    group = typer.Typer(no_args_is_help=True, help="Events: what became of them.")
    app.add_typer(group, name="events")

    @group.command("list", epilog="Example: plutus events list --status FAILED --source shop --since 2026-05-01")
    def list_(
        status: Annotated[Status | None, typer.Option(help="Only this status.")] = None,
        source: BySource = None,
        of_type: ByType = None,
        key: Annotated[str | None, typer.Option(help="Only this idempotency key; with --source it is quick.")] = None,
        handler: Annotated[str | None, typer.Option(help="Only those that this handler took.")] = None,
        since: Annotated[
            str | None, typer.Option(metavar="TIME", help="Only received then or later; ISO 8601.")
        ] = None,
        until: Annotated[str | None, typer.Option(metavar="TIME", help="Only received before; ISO 8601.")] = None,
        limit: Limit = 50,
        after: AfterCursor = None,
        as_json: AsJson = False,
    ) -> None:
        """The latest received first. The next page's cursor is told at the end of a full one.

        Events that are accepted and not yet processed are in Kafka alone: plutus groups lag counts them.
        """

        async def page() -> int:
            from infra.cli.event_queries import EventFilter

            wanted = EventFilter(
                status=None if status is None else status.value,
                source=source,
                type=of_type,
                key=key,
                handled_by=handler,
                since=moment("--since", since),
                until=moment("--until", until),
            )
            return await _list(wanted, limit, after, as_json)

        run(page)

    @group.command("show", epilog="Example: plutus events show 4d9f1039-58b9-5808-aa82-4b40ead17a9c --payload")
    def command(
        event_id: Annotated[UUID, typer.Argument(metavar="ID", help="The event_id that the gateway answered with.")],
        payload: Annotated[bool, typer.Option("--payload", help="Show the payload too.")] = False,
        as_json: AsJson = False,
    ) -> None:
        """Status, times, attempts, the record it came in, its handler and its failures."""
        run(lambda: _show(event_id, payload, as_json))

    @group.command("run", epilog="Example: plutus events run shop.handlers --type parcel_ordered --dry-run")
    def run_(
        modules: Modules = None,
        of_type: ByType = None,
        source: BySource = None,
        since: Annotated[
            str | None, typer.Option("--since", metavar="TIME", help="Only received then or later.")
        ] = None,
        until: Annotated[str | None, typer.Option("--until", metavar="TIME", help="Only received before.")] = None,
        most: Annotated[int | None, typer.Option("--max", min=1, help="Handle at most so many, then stop.")] = None,
        dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be run.")] = False,
        as_json: AsJson = False,
    ) -> None:
        """Run handlers over events that were stored because none took them then, once each."""

        async def command() -> int:
            from infra.cli.run_events import Order, run_stored

            if not modules:
                raise Failure("No handler module is named.", advice="plutus events run MODULE", code=USAGE)
            times = moment("--since", since), moment("--until", until)
            return await run_stored(Order(modules, of_type, source, *times, most, dry_run, as_json))

        run(command)


async def _list(wanted: EventFilter, limit: int, after: str | None, as_json: bool) -> int:
    from infra.cli.connect import database, operator_settings
    from infra.cli.event_queries import EventCursor, list_events

    try:
        cursor = EventCursor.parse(after) if after else None
    except ValueError:
        raise no_cursor() from None
    async with database(operator_settings(postgres=True)) as db:
        rows = await list_events(db, wanted, limit=limit, after=cursor)
    if as_json:
        for row in rows:
            show_json(row)
    elif rows:
        names = ("event_id", "received_at", "status", "source", "idempotency_key", "type", "handled_by", "attempts")
        show_table(_COLUMNS, [[row[name] for name in names] for row in rows])
    if len(rows) == limit:
        say(f"more: the same with --after {EventCursor(rows[-1]['received_at'], rows[-1]['event_id'])}")
    if not rows:
        say("no event matches")
    return DONE if rows else NOTHING_MATCHED


async def _show(event_id: UUID, payload: bool, as_json: bool) -> int:
    from infra.cli import queries
    from infra.cli.connect import database, operator_settings

    settings = operator_settings(postgres=True)
    async with database(settings) as db:
        event = await queries.event(db, event_id, payload=payload)
        failures = await queries.failures_of(db, event_id)
    if event is None:
        raise Failure(
            f"No event {event_id} is known.",
            cause="nothing with this id was accepted, or the database was down then and it is not processed yet",
            advice="plutus failures list --status all",
            code=NOTHING_MATCHED,
        )
    if as_json:
        show_json(as_object(event, failures))
    else:
        _show_text(event, failures)
    return DONE


def as_object(event: Mapping[str, Any], failures: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The event as one JSON object; its payload digit for digit."""
    members = {name: value for name, value in event.items() if name not in _HIDDEN}
    if members.get("payload") is not None:
        members["payload"] = orjson.Fragment(members["payload"])
    return {
        **members,
        "record": None if event["topic"] is None else {name: event[name] for name in ("topic", "partition", "offset")},
        "accepted_record": {"partition": event["accepted_partition"], "offset": event["accepted_offset"]},
        "failures": [dict(row) for row in failures],
    }


def _show_text(event: Mapping[str, Any], failures: Sequence[Mapping[str, Any]]) -> None:
    handled_by = event["handled_by"] or ("no handler" if event["status"] == "PROCESSED" else None)
    show_fields(
        [
            ("event", event["event_id"]),
            ("status", event["status"]),
            ("source", event["source"]),
            ("key", event["idempotency_key"]),
            ("type", event["type"]),
            ("schema version", event["schema_version"]),
            ("ordering key", event["ordering_key"]),
            ("occurred", event["occurred_at"]),
            ("received", event["received_at"]),
            ("processed", event["processed_at"]),
            ("handled by", handled_by),
            ("attempts", event["attempts"]),
            ("record", record(event)),
            ("accepted as", f"partition {event['accepted_partition']}, offset {event['accepted_offset']}"),
            ("payload", event.get("payload")),
        ]
    )
    if failures:
        show("")
        columns = ("failure", "status", "reason", "step", "error", "attempts", "last")
        keys = ("failure_id", "status", "reason", "step", "error_class", "attempts", "last_at")
        show_table(columns, [[row[key] for key in keys] for row in failures])
    elif event["status"] == "RECEIVED":
        say("in Kafka and not processed yet")


def record(row: Mapping[str, Any]) -> str | None:
    """Where a record is, for people."""
    if row["topic"] is None:
        return None
    return f"{row['topic']}, partition {row['partition']}, offset {row['offset']}"
