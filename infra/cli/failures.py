"""`plutus failures`: what could not be processed, and why (`list`, `show ID`), and what to do about it (`retry`, `discard`).

Keys, values and headers are what strangers sent: they are shown by `show --payload` only, never in a list.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from infra.cli.events import record
from infra.cli.filters import (
    AfterCursor,
    AnyId,
    ByClass,
    ByKey,
    ByReason,
    BySource,
    ByType,
    From,
    Limit,
    Since,
    Status,
    Until,
    Yes,
    asked,
    confirm,
    no_cursor,
)
from infra.cli.output import (
    DONE,
    NOTHING_MATCHED,
    AsJson,
    Failure,
    plural,
    run,
    say,
    show_fields,
    show_json,
    show_table,
)

if TYPE_CHECKING:
    from infra.cli.queries import Filter

_LIMIT = 50
_PAGE = 500
_COLUMNS = ("failure", "last", "status", "reason", "source", "event", "attempts", "dead letter")


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    group = typer.Typer(no_args_is_help=True, help="Failures: what could not be processed, and why.")
    app.add_typer(group, name="failures")

    @group.command("list", epilog="Example: plutus failures list --reason handler_error --since 2026-05-01")
    def list_(
        status: Annotated[Status, typer.Option(help="Only this status.")] = Status.OPEN,
        reason: ByReason = None,
        source: BySource = None,
        of_type: ByType = None,
        key: ByKey = None,
        error_class: ByClass = None,
        since: Since = None,
        until: Until = None,
        limit: Limit = _LIMIT,
        after: AfterCursor = None,
        as_json: AsJson = False,
    ) -> None:
        """The latest first. The next page's cursor is told at the end of a full one."""

        async def page() -> int:
            wanted = asked(
                status=status,
                reason=reason,
                source=source,
                of_type=of_type,
                key=key,
                error_class=error_class,
                since=since,
                until=until,
            )
            return await _list(wanted, limit, after, as_json)

        run(page)

    @group.command("show", epilog="Example: plutus failures show 3e803e6d-1f5b-4db6-8675-7c8df4497385 --payload")
    def show(
        failure_id: Annotated[UUID, typer.Argument(metavar="ID", help="The failure's id.")],
        payload: Annotated[bool, typer.Option("--payload", help="Show key, value and headers too.")] = False,
        as_json: AsJson = False,
    ) -> None:
        """One failure; its key, value and headers as sizes only, unless asked for."""
        run(lambda: _show(failure_id, payload, as_json))

    @group.command("retry", epilog="Example: plutus failures retry --reason handler_error --source shop --yes")
    def retry(
        any_id: AnyId = None,
        status: Annotated[Status, typer.Option(help="Those of this status.")] = Status.OPEN,
        reason: ByReason = None,
        source: BySource = None,
        of_type: ByType = None,
        key: ByKey = None,
        error_class: ByClass = None,
        since: Since = None,
        until: Until = None,
        yes: Yes = False,
        as_json: AsJson = False,
    ) -> None:
        """Send their original records, from the table, back to the events topic."""

        async def send() -> int:
            wanted = asked(
                any_id,
                status=Status.ALL if status is Status.OPEN else status,
                reason=reason,
                source=source,
                of_type=of_type,
                key=key,
                error_class=error_class,
                since=since,
                until=until,
            )
            return await _retry(wanted, status is not Status.OPEN, yes, as_json)

        run(send)

    @group.command(
        "discard", epilog="Example: plutus failures discard --reason malformed_json --until 2026-05-01 --yes"
    )
    def discard(
        any_id: AnyId = None,
        reason: ByReason = None,
        source: BySource = None,
        of_type: ByType = None,
        key: ByKey = None,
        error_class: ByClass = None,
        since: Since = None,
        until: Until = None,
        yes: Yes = False,
        as_json: AsJson = False,
    ) -> None:
        """Mark open failures as discarded: nothing more is to be done about them. Rows and dead letters stay."""

        async def mark() -> int:
            wanted = asked(
                any_id,
                reason=reason,
                source=source,
                of_type=of_type,
                key=key,
                error_class=error_class,
                since=since,
                until=until,
            )
            return await _discard(wanted, yes, as_json)

        run(mark)


async def _retry(wanted: Filter, anyway: bool, yes: bool, as_json: bool) -> int:
    from infra.cli.jobs import Kind
    from infra.cli.replay import Request
    from infra.cli.sending import Order, send_back

    if wanted.any_id is None:
        await _confirm(wanted if anyway else replace(wanted, status="open"), "Send {} back?", yes)
    return await send_back(Order(Kind.RETRY, Request(wanted, anyway), From.TABLE, as_json=as_json))


async def _discard(wanted: Filter, yes: bool, as_json: bool) -> int:
    from infra.cli import jobs, queries
    from infra.cli.connect import database, operator_settings

    await _confirm(replace(wanted, status="open"), "Discard {}?", yes)
    async with database(operator_settings(postgres=True)) as db:
        job = await jobs.start(db, jobs.Kind.DISCARD, {"filter": wanted.as_json()})
        until, discarded = await queries.now(db), 0
        while count := await queries.discard(db, wanted, until=until, most=_PAGE):
            discarded += count
            await jobs.save(db, job, jobs.Status.RUNNING, {"discarded": discarded})
        await jobs.save(db, job, jobs.Status.DONE, {"discarded": discarded})
        left = await queries.count_failures(db, replace(wanted, status="open"))
    if as_json:
        show_json({"discarded": discarded, "left": left, "job": job})
    say(f"{plural(discarded, 'failure')} discarded")
    if left:
        say(f"{left:,} still open: dead letters that are still to be sent, or failures newer than this command")
    return DONE if discarded else NOTHING_MATCHED


async def _confirm(wanted: Filter, question: str, yes: bool) -> None:
    """Ask, with how many they are."""
    from infra.cli import queries
    from infra.cli.connect import database, operator_settings

    if not yes:
        async with database(operator_settings(postgres=True)) as db:
            count = await queries.count_failures(db, wanted)
        confirm(question.format(plural(count, "failure")), yes=yes)


async def _list(wanted: Filter, limit: int, after: str | None, as_json: bool) -> int:
    from infra.cli import queries
    from infra.cli.connect import database, operator_settings

    try:
        cursor = queries.Cursor.parse(after) if after else None
    except ValueError:
        raise no_cursor() from None
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
