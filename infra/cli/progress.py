"""How far a long command is, on stderr: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from infra.cli.output import say

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

_EVERY = 10.0


class Progress:
    """How much of `total` is done.

    with Progress("replaying", 12_400) as progress:
        progress.at(500, "0 refused")

    Args:
        every: seconds between two plain lines.
        clock: seconds that only grow.
    """

    def __init__(
        self, what: str, total: int, *, every: float = _EVERY, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._what, self._total, self._every, self._clock = what, total, every, clock
        self._began = self._told = clock()
        self._bars: Bars | None = None
        if sys.stderr.isatty():
            self._bars = _bars()
            self._task = self._bars.add_task(what, total=total, rate="", note="")

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def at(self, done: int, note: str = "") -> None:
        """So much is done now; `note` is shown beside it."""
        now = self._clock()
        if self._bars is not None:
            self._bars.update(self._task, completed=done, rate=_rate(done, now - self._began), note=note)
            return
        if now - self._told >= self._every:
            self._told = now
            say(line(self._what, done, self._total, now - self._began, note))


def line(what: str, done: int, total: int, seconds: float, note: str = "") -> str:
    """`replaying 12,400/50,000  3,100/s  12 s left  0 refused`."""
    rate = done / seconds if seconds > 0 else 0.0
    parts = [f"{what} {done:,}/{total:,}", _rate(done, seconds)]
    if rate > 0 and done < total:
        parts.append(f"{(total - done) / rate:,.0f} s left")
    return "  ".join([*parts, note] if note else parts)


def _rate(done: int, seconds: float) -> str:
    return f"{done / seconds if seconds > 0 else 0.0:,.0f}/s"


def _bars() -> Bars:
    # Imported by who draws one: it takes longer than all the rest of a command.
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
        transient=True,
    )
