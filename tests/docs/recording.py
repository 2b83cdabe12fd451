"""A terminal recording as SVG, made from what a command really printed.

    python -m tests.docs.recording infra/docs/demo.svg plutus demo

The command runs on a terminal of its own; its screen is followed as a terminal does it, and every line is drawn for as long
as it stood there, at twice the speed and with long waits cut short. A viewer that does not animate shows the end.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

COLUMNS, ROWS = 118, 34
_LONGEST_WAIT = 0.8
_SPEED = 2.0
_FRAME = 0.12
_CHAR, _LINE, _MARGIN = 7.25, 17, 16
_COLOURS = {
    30: "#57606a", 31: "#ff7b72", 32: "#7ee787", 33: "#e3b341", 34: "#79c0ff", 35: "#d2a8ff", 36: "#a5d6ff",
    90: "#6e7681", 91: "#ffa198", 92: "#7ee787", 93: "#e3b341", 94: "#79c0ff", 95: "#d2a8ff", 96: "#a5d6ff",
}  # fmt: skip
_CONTROL = re.compile(r"\x1b\[(\??[0-9;]*)([A-Za-z])|([\r\n])|([^\x1b\r\n]+)|\x1b.?")

Run = tuple[str, int]
"""Some characters and their colour, 0 for the terminal's own."""


@dataclass
class Screen:
    """What a terminal shows, as far as our commands write: lines, colours, and going back to write over them."""

    lines: list[list[Run]] = field(default_factory=lambda: [[]])
    row: int = 0
    column: int = 0
    colour: int = 0

    def feed(self, text: str) -> None:
        """Take in output."""
        for found in _CONTROL.finditer(text):
            parameters, command, move, plain = found.groups()
            if plain:
                self._write(plain)
            elif move == "\n":
                self.row += 1
                self.column = 0
                while len(self.lines) <= self.row:
                    self.lines.append([])
            elif move == "\r":
                self.column = 0
            elif command:
                self._control(command, parameters)

    def _control(self, command: str, parameters: str) -> None:
        numbers = [int(number) for number in parameters.lstrip("?").split(";") if number]
        if command == "m":
            for number in numbers or [0]:
                self.colour = number if number in _COLOURS else 0
        elif command == "K":
            self.lines[self.row] = [] if numbers == [2] else _cut(self.lines[self.row], self.column)
        elif command == "A":
            self.row = max(0, self.row - (numbers or [1])[0])

    def _write(self, text: str) -> None:
        while text:
            if self.column >= COLUMNS:
                self.feed("\n")
            part, text = text[: COLUMNS - self.column], text[COLUMNS - self.column :]
            line = self.lines[self.row]
            before, after = _cut(line, self.column), _skip(line, self.column + len(part))
            self.lines[self.row] = _joined([*before, (part, self.colour), *after])
            self.column += len(part)

    def shown(self, rows: int) -> tuple[tuple[Run, ...], ...]:
        """The last `rows` lines."""
        return tuple(tuple(line) for line in self.lines[-rows:])


def _joined(line: Sequence[Run]) -> list[Run]:
    """The same line, however many pieces it came in."""
    runs: list[Run] = []
    for text, colour in line:
        if runs and runs[-1][1] == colour:
            runs[-1] = (runs[-1][0] + text, colour)
        else:
            runs.append((text, colour))
    return runs


def _cut(line: Sequence[Run], length: int) -> list[Run]:
    kept: list[Run] = []
    for text, colour in line:
        if length <= 0:
            break
        kept.append((text[:length], colour))
        length -= len(text)
    return kept


def _skip(line: Sequence[Run], length: int) -> list[Run]:
    left: list[Run] = []
    for text, colour in line:
        if length < len(text):
            left.append((text[max(0, length) :], colour))
        length -= len(text)
    return left


def record(command: Sequence[str]) -> tuple[list[tuple[float, str]], int]:
    """Run a command on a terminal: (seconds since the start, output) of each piece, and its exit code."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, env={**os.environ, "TERM": "xterm"}
    )
    os.close(theirs)
    began, pieces, rest = time.monotonic(), [], b""
    while True:
        ready, _, _ = select.select([ours], [], [], 0.2)
        if not ready and process.poll() is not None:
            break
        if ready:
            try:
                data = os.read(ours, 65_536)
            except OSError:  # the other end is closed
                break
            text = (rest + data).decode(errors="ignore")
            rest = (rest + data)[len(text.encode()) :]
            pieces.append((time.monotonic() - began, text))
    os.close(ours)
    return pieces, process.wait()


def frames(pieces: Iterable[tuple[float, str]], prompt: str) -> list[tuple[float, tuple[tuple[Run, ...], ...]]]:
    """When the screen became what it then showed; faster than it was, and long waits are cut short."""
    screen = Screen()
    screen.feed(f"\x1b[32m$\x1b[0m {prompt}\n")
    found = [(0.0, screen.shown(ROWS))]
    now, last = 0.0, 0.0
    for at, text in pieces:
        now += min(at - last, _LONGEST_WAIT) / _SPEED
        last = at
        screen.feed(text)
        if now - found[-1][0] >= _FRAME:
            found.append((now, screen.shown(ROWS)))
    found.append((now + _FRAME, screen.shown(ROWS)))
    return found


def svg(shots: Sequence[tuple[float, tuple[tuple[Run, ...], ...]]], title: str) -> str:
    """The recording: each line as often as it changed, with the time at which it stood there."""
    height = max(len(lines) for _, lines in shots)
    drawn: list[str] = []
    for row in range(height):
        changes: list[tuple[float, tuple[Run, ...]]] = []
        for at, lines in shots:
            line = lines[row] if row < len(lines) else ()
            if not changes or changes[-1][1] != line:
                changes.append((at, line))
        for (at, line), after in zip(changes, [*changes[1:], None], strict=True):
            if line:
                drawn.append(_drawn(line, row, at, None if after is None else after[0]))
    width, full = COLUMNS * _CHAR + 2 * _MARGIN, height * _LINE + 2 * _MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {full:.0f}" role="img">\n<title>{escape(title)}</title>\n'
        "<style>text{font:12px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;white-space:pre;fill:#e6edf3}"
        ".f{opacity:0}@keyframes on{0%,100%{opacity:1}}@keyframes off{0%,100%{opacity:0}}"
        "@media(prefers-reduced-motion:reduce){text{animation:none!important}}</style>\n"
        f'<rect width="100%" height="100%" rx="8" fill="#0d1117"/>\n' + "\n".join(drawn) + "\n</svg>\n"
    )


def _drawn(line: Sequence[Run], row: int, at: float, until: float | None) -> str:
    runs, column = [], 0
    for text, colour in line:
        shown = text.strip()
        if shown:
            x = _MARGIN + (column + len(text) - len(text.lstrip())) * _CHAR
            fill = f' fill="{_COLOURS[colour]}"' if colour else ""
            length = len(shown) * _CHAR
            runs.append(f'<tspan x="{x:.1f}" textLength="{length:.1f}"{fill}>{_spaced(shown)}</tspan>')
        column += len(text)
    y = _MARGIN + (row + 0.8) * _LINE
    if until is None:
        hidden = f' style="animation:off {at:.2f}s"' if at else ""
        return f'<text y="{y:.1f}"{hidden}>{"".join(runs)}</text>'
    return f'<text class="f" y="{y:.1f}" style="animation:on {until - at:.2f}s {at:.2f}s">{"".join(runs)}</text>'


def _spaced(text: str) -> str:
    """Spaces that no viewer folds."""
    return escape(text).replace(" ", "\u00a0")


def main() -> int:
    """Record; the command's exit code."""
    target, *command = sys.argv[1:]
    prompt = " ".join(command)
    path = Path(sys.executable).parent / command[0]
    pieces, code = record([str(path) if path.exists() else command[0], *command[1:]])
    Path(target).write_text(svg(frames(pieces, prompt), prompt), encoding="utf-8")
    print(f"{target}: {len(pieces)} pieces, exit code {code}")
    return code


if __name__ == "__main__":
    sys.exit(main())
