"""Which failures: the options that every command on failures and dead letters shares, and what they mean together."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from infra.cli.output import USAGE, Failure
from schemas.errors import Reason

if TYPE_CHECKING:
    from infra.cli.queries import Filter


class Status(StrEnum):
    """Which failures, by their status."""

    OPEN = "open"
    REPLAYED = "replayed"
    DISCARDED = "discarded"
    ALL = "all"


class From(StrEnum):
    """Where the dead letters are taken from."""

    TOPIC = "topic"
    TABLE = "table"


AnyId = Annotated[UUID | None, typer.Argument(metavar="[ID]", help="One failure's or one event's; all if left out.")]
ByReason = Annotated[Reason | None, typer.Option("--reason", help="Only this reason.", show_choices=False)]
BySource = Annotated[str | None, typer.Option("--source", help="Only this source.")]
ByType = Annotated[str | None, typer.Option("--type", help="Only events of this type.")]
ByKey = Annotated[str | None, typer.Option("--key", help="Only events with this idempotency key.")]
ByClass = Annotated[str | None, typer.Option("--class", help="Only this error class or SQLSTATE.")]
Since = Annotated[str | None, typer.Option("--since", metavar="TIME", help="Only failed then or later; ISO 8601.")]
Until = Annotated[str | None, typer.Option("--until", metavar="TIME", help="Only failed before; ISO 8601.")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=10_000, help="Rows of a page.")]
AfterCursor = Annotated[str | None, typer.Option("--after", metavar="CURSOR", help="Go on after that page.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


def asked(
    any_id: UUID | None = None,
    *,
    status: Status = Status.ALL,
    reason: Reason | None = None,
    source: str | None = None,
    of_type: str | None = None,
    key: str | None = None,
    error_class: str | None = None,
    since: str | None = None,
    until: str | None = None,
) -> Filter:
    """The filter that these options ask for.

    Raises:
        Failure: a time is none.
    """
    from infra.cli.queries import Filter

    return Filter(
        status=None if status is Status.ALL else status.value,
        reason=None if reason is None else reason.value,
        source=source,
        any_id=any_id,
        type=of_type,
        key=key,
        error_class=error_class,
        since=moment("--since", since),
        until=moment("--until", until),
    )


def confirm(question: str, *, yes: bool) -> None:
    """Ask a person before something that cannot be taken back.

    Raises:
        Failure: nobody is there to be asked, or the answer is no.
    """
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise Failure("Nobody is here to be asked.", advice="give --yes", code=USAGE)
    if not typer.confirm(question, err=True):
        raise Failure("Nothing was changed.")


def moment(option: str, text: str | None) -> datetime | None:
    """The time that an option names; without a zone it is UTC.

    Raises:
        Failure: it is none.
    """
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise Failure(f"{option} is no time.", advice=f"{option} 2026-05-01T12:00:00+02:00", code=USAGE) from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def no_cursor() -> Failure:
    """What was given as a cursor is none."""
    return Failure("That is no cursor.", advice="give --after what the page before told at its end", code=USAGE)
