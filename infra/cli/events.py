"""`plutus events show ID`: what became of one event.

The id is the `event_id` that the gateway answered with. The payload is shown with `--payload` only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any
from uuid import UUID

import orjson
import typer

from infra.cli.output import DONE, NOTHING_MATCHED, AsJson, Failure, run, say, show, show_fields, show_json, show_table

_HIDDEN = ("state", "runs", "accepted_partition", "accepted_offset", "topic", "partition", "offset")


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    group = typer.Typer(no_args_is_help=True, help="Events: what became of them.")
    app.add_typer(group, name="events")

    @group.callback()
    def events() -> None:
        """A group with one command would otherwise become that command."""

    @group.command("show")
    def command(
        event_id: Annotated[UUID, typer.Argument(metavar="ID", help="The event_id that the gateway answered with.")],
        payload: Annotated[bool, typer.Option("--payload", help="Show the payload too.")] = False,
        as_json: AsJson = False,
    ) -> None:
        """Status, times, attempts, the record it came in, its handler and its failures."""
        run(lambda: _show(event_id, payload, as_json))


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
