"""`plutus failures list` and `plutus failures show ID`: what could not be processed, and why.

Keys, values and headers are what strangers sent: they are shown by `show --payload` only, never in a list.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

import typer

from infra.cli.events import record
from infra.cli.output import DONE, NOTHING_MATCHED, USAGE, AsJson, Failure, run, say, show_fields, show_json, show_table
from schemas.errors import Reason

_LIMIT = 50
_COLUMNS = ("failure", "last", "status", "reason", "source", "event", "attempts", "dead letter")


class Status(StrEnum):
    """Which failures, by their status."""

    OPEN = "open"
    REPLAYED = "replayed"
    DISCARDED = "discarded"
    ALL = "all"


ByReason = Annotated[Reason | None, typer.Option("--reason", help="Only this reason.", show_choices=False)]
BySource = Annotated[str | None, typer.Option("--source", help="Only this source.")]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    group = typer.Typer(no_args_is_help=True, help="Failures: what could not be processed, and why.")
    app.add_typer(group, name="failures")

    @group.command("list")
    def list_(
        status: Annotated[Status, typer.Option(help="Only this status.")] = Status.OPEN,
        reason: ByReason = None,
        source: BySource = None,
        limit: Annotated[int, typer.Option(min=1, max=10_000, help="Rows of a page.")] = _LIMIT,
        after: Annotated[str | None, typer.Option(metavar="CURSOR", help="Go on after that page.")] = None,
        as_json: AsJson = False,
    ) -> None:
        """The latest first. The next page's cursor is told at the end of a full one."""
        run(lambda: _list(status, reason, source, limit, after, as_json))

    @group.command("show")
    def show(
        failure_id: Annotated[UUID, typer.Argument(metavar="ID", help="The failure's id.")],
        payload: Annotated[bool, typer.Option("--payload", help="Show key, value and headers too.")] = False,
        as_json: AsJson = False,
    ) -> None:
        """One failure; its key, value and headers as sizes only, unless asked for."""
        run(lambda: _show(failure_id, payload, as_json))


async def _list(
    status: Status, reason: Reason | None, source: str | None, limit: int, after: str | None, as_json: bool
) -> int:
    from infra.cli import queries
    from infra.cli.connect import database, operator_settings

    wanted = queries.Filter(None if status is Status.ALL else status.value, reason and reason.value, source)
    try:
        cursor = queries.Cursor.parse(after) if after else None
    except ValueError:
        raise Failure(
            "That is no cursor.", advice="give --after what the page before told at its end", code=USAGE
        ) from None
    async with database(operator_settings(postgres=True)) as db:
        rows = await queries.list_failures(db, wanted, limit=limit, after=cursor)
    if as_json:
        for row in rows:
            show_json(dict(row))
    elif rows:
        show_table(_COLUMNS, [_line(row) for row in rows])
    if len(rows) == limit:
        last = queries.Cursor(rows[-1]["last_at"], rows[-1]["failure_id"])
        say(f"more: the same with --after {last}")
    if not rows:
        say("no failure matches")
    return DONE if rows else NOTHING_MATCHED


def _line(row: Mapping[str, Any]) -> list[object]:
    sent = "to be sent" if row["dlq_offset"] is None else f"{row['dlq_partition']}:{row['dlq_offset']}"
    names = ("failure_id", "last_at", "status", "reason", "source", "event_id", "attempts")
    return [*(row[name] for name in names), sent]


async def _show(failure_id: UUID, payload: bool, as_json: bool) -> int:
    from infra.cli import queries
    from infra.cli.connect import database, operator_settings

    async with database(operator_settings(postgres=True)) as db:
        row = await queries.failure(db, failure_id, content=payload)
    if row is None:
        raise Failure(
            f"No failure {failure_id} is known.", advice="plutus failures list --status all", code=NOTHING_MATCHED
        )
    if as_json:
        show_json(as_object(row))
    else:
        _show_text(row)
    return DONE


def as_object(row: Mapping[str, Any]) -> dict[str, Any]:
    """The failure as one JSON object: key and value as text where they are text, else base64."""
    members = dict(row)
    for name in ("key", "value"):
        if name in members:
            members[name] = _bytes(members[name])
    return members


def _bytes(content: bytes | None) -> dict[str, str] | None:
    if content is None:
        return None
    try:
        return {"text": content.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(content).decode()}


def _show_text(row: Mapping[str, Any]) -> None:
    sent = None
    if row["dlq_offset"] is not None:
        sent = f"partition {row['dlq_partition']}, offset {row['dlq_offset']}, {row['dlq_at'].isoformat(sep=' ')}"
    show_fields(
        [
            ("failure", row["failure_id"]),
            ("status", row["status"]),
            ("reason", row["reason"]),
            ("step", row["step"]),
            ("error", row["error_class"]),
            ("event", row["event_id"]),
            ("source", row["source"]),
            ("record", record(row)),
            ("appended", row["appended_at"]),
            ("attempts", row["attempts"]),
            ("first", row["first_at"]),
            ("last", row["last_at"]),
            ("next", row["next_at"]),
            ("dead letter", sent or "still to be sent"),
            *_content(row),
        ]
    )


def _content(row: Mapping[str, Any]) -> list[tuple[str, object]]:
    """Key, value and headers where they were asked for, else how large they are."""
    if "headers" not in row:
        sizes = [(name, row[f"{name}_bytes"]) for name in ("key", "value")]
        return [
            *((name, "null" if size is None else f"{size:,} bytes") for name, size in sizes),
            ("headers", row["header_count"]),
        ]
    content: list[tuple[str, object]] = [(name, _one(_bytes(row[name]))) for name in ("key", "value")]
    return content + [(f"header {header['name']}", _one(header)) for header in row["headers"]]


def _one(content: Mapping[str, Any] | None) -> str:
    if content is None or content.get("null"):
        return "null"
    return str(content["text"]) if "text" in content else f"base64 {content['base64']}"
