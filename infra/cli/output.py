"""What every `plutus` command keeps to when it speaks.

Data goes to stdout, everything else to stderr. `--json` prints one object a line. An error has a code that scripts can
match on and OPERATIONS.md explains; it says what happened, why and what to do. Whatever is printed came from strangers:
what no terminal should get as it is (control characters, changes of the writing direction) is shown as an escape, in
JSON as well as in text. Colours are for terminals alone, and not where NO_COLOR is set.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Final, NoReturn
from uuid import UUID

import orjson
import typer

DONE: Final = 0
FAILED: Final = 1
USAGE: Final = 2
PARTLY: Final = 3
NOTHING_MATCHED: Final = 4
UNREACHABLE: Final = 69
INTERRUPTED: Final = 130

EXIT_CODES: Final = {
    DONE: "done",
    FAILED: "failed",
    USAGE: "wrong usage or settings",
    PARTLY: "partly done",
    NOTHING_MATCHED: "nothing matched",
    UNREACHABLE: "a service cannot be reached",
    INTERRUPTED: "interrupted",
}


class Problem(StrEnum):
    """Codes of errors; each has its line in OPERATIONS.md."""

    FAILED = "failed"
    USAGE = "usage"
    NOTHING_MATCHED = "nothing_matched"
    UNREACHABLE = "unreachable"
    LOCAL = "local"
    MIGRATION = "migration"
    KAFKA_UNREACHABLE = "kafka_unreachable"
    KAFKA_REFUSED = "kafka_refused"
    TOPIC_MISSING = "topic_missing"
    POSTGRES_UNREACHABLE = "postgres_unreachable"
    POSTGRES_REFUSED = "postgres_refused"
    SCHEMA_OUTDATED = "schema_outdated"
    NOT_ALLOWED = "not_allowed"
    TOO_SLOW = "too_slow"
    GATEWAY_UNREACHABLE = "gateway_unreachable"
    GATEWAY_REFUSED = "gateway_refused"
    NOT_SETTLED = "not_settled"


_BY_EXIT_CODE: Final = {
    USAGE: Problem.USAGE,
    NOTHING_MATCHED: Problem.NOTHING_MATCHED,
    UNREACHABLE: Problem.UNREACHABLE,
}

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")]


class Failure(Exception):
    """A command cannot do what it was asked to.

    Args:
        what: happened; cause: why, where that is known; advice: what to do next.
        code: the exit code. problem: which error it is; the one that goes with the exit code by default.
    """

    def __init__(
        self, what: str, *, cause: str = "", advice: str = "", code: int = FAILED, problem: Problem | None = None
    ) -> None:
        super().__init__(what)
        self.what, self.cause, self.advice, self.code = what, cause, advice, code
        self.problem = problem or _BY_EXIT_CODE.get(code, Problem.FAILED)


def say(text: str) -> None:
    """Tell a person something that is not data; a closed terminal is no reason to fail."""
    with suppress(OSError):
        for line in text.splitlines():
            print(printable(line), file=sys.stderr, flush=True)


def show(line: str) -> None:
    """Print one line of data."""
    print(printable(line))


def show_json(data: Any) -> None:
    """Print one object as one line of JSON. `orjson.Fragment`s are kept digit for digit."""
    print(_escaped(orjson.dumps(data, default=_plain).decode()))


def show_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under their column names; numbers are aligned to the right. Never cut: a line may be long."""
    for line in table(columns, rows):
        show(line)


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """The lines of a table."""
    cells = [list(columns), *([printable(_cell(value)) for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    numeric = [bool(rows) and all(isinstance(row[i], int | None) for row in rows) for i in range(len(columns))]
    return [
        "  ".join(
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in cells
    ]


def show_fields(fields: Sequence[tuple[str, object]]) -> None:
    """Print names and values, one pair a line; a missing value is left out."""
    width = max(len(name) for name, _ in fields)
    for name, value in fields:
        if value is not None:
            show(f"{name.ljust(width)}  {_cell(value)}")


def printable(text: str) -> str:
    """The text with everything a terminal would act on as an escape."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def plural(count: int, noun: str) -> str:
    """`1 record`, `2,000 records`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def run(command: Callable[[], Coroutine[Any, Any, int]]) -> NoReturn:
    """Run a command to its end and leave with its exit code."""
    finish(lambda: asyncio.run(command()))


def finish(command: Callable[[], int]) -> NoReturn:
    """Leave with the command's exit code; failures and Ctrl-C are told here, in one place."""
    # Clients tell of every broken connection at ERROR; the command says it once, in its own words.
    for name in ("aiokafka", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        code = command()
        sys.stdout.flush()
    except Failure as failure:
        tell(failure)
        code = failure.code
    except (KeyboardInterrupt, asyncio.CancelledError):
        say("interrupted")
        code = INTERRUPTED
    except BrokenPipeError:  # `plutus failures list | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = DONE
    raise typer.Exit(code)


def _plain(value: object) -> str:
    # The driver's UUIDs are a subclass, which orjson leaves to us.
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(type(value).__name__)


def tell(failure: Failure) -> None:
    """Say what went wrong, why, and what to do."""
    say(f"error[{failure.problem}]: {failure.what}")
    if failure.cause:
        say(f"cause: {failure.cause}")
    if failure.advice:
        say(f"try: {failure.advice}")


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="milliseconds")
    return f"{value:,}" if isinstance(value, int) else str(value)


def _escaped(text: str) -> str:
    """The same JSON with what is not printable as \\u escapes: outside ASCII, it can only stand inside strings."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if char.isprintable() else _json_escape(char) for char in text)


def _json_escape(char: str) -> str:
    if char in "\t\r\n":  # between tokens of a payload: inside a string JSON has none
        return " "
    units = char.encode("utf-16-be")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))
