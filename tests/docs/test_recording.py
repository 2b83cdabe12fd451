"""The recording is what a terminal shows, and the one in the README is of a demo whose counts were exact."""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ET

from tests.docs.recording import COLUMNS, Screen, frames, record, svg
from tests.stack import ROOT


def text(screen: Screen) -> list[str]:
    """Its lines without colours."""
    return ["".join(part for part, _ in line) for line in screen.lines]


def words(drawing: str) -> str:
    """What a drawing says."""
    return "".join(ET.fromstring(drawing).itertext()).replace("\u00a0", " ")  # noqa: S314 - our own


def test_a_long_line_goes_on_in_the_next() -> None:
    screen = Screen()
    screen.feed("x" * (COLUMNS + 3))
    assert text(screen) == ["x" * COLUMNS, "xxx"]


def test_a_bar_that_is_written_over_leaves_its_last_state() -> None:
    screen = Screen()
    screen.feed("start\r\nsending   1\r\x1b[2Ksending \x1b[32m 20\x1b[0m\r")
    assert text(screen) == ["start", "sending  20"]
    assert (" 20", 32) in screen.lines[1]
    screen.feed("\r\n\x1b[?25h\r\x1b[1A\x1b[2Ksent\r\n")
    assert text(screen) == ["start", "sent", ""]


def test_a_line_that_comes_in_pieces_is_one() -> None:
    screen = Screen()
    for piece in ("six", " ", "True"):
        screen.feed(piece)
    assert screen.lines == [[("six True", 0)]]


def test_writing_into_a_line_replaces_what_stood_there() -> None:
    screen = Screen()
    screen.feed("abcdef\rXY\x1b[36mZ")
    assert text(screen) == ["XYZdef"]


def test_a_recorded_command_ends_as_it_ended() -> None:
    script = "import sys; print('one'); sys.stdout.write('two\\r'); print('six', sys.stdout.isatty())"
    pieces, code = record([sys.executable, "-c", script])
    assert code == 0
    shots = frames(pieces, "say")
    assert ["".join(part for part, _ in line) for line in shots[-1][1]] == ["$ say", "one", "six True", ""]
    assert "six True" in words(svg(shots, "say"))


def test_the_readmes_recording_is_of_an_exact_demo_and_needs_nothing_from_elsewhere() -> None:
    content = (ROOT / "infra/docs/demo.svg").read_text(encoding="utf-8")
    assert "plutus demo" in words(content)
    assert "every count is exact" in words(content)
    assert re.findall(r"(?:href|src|url)\b|<script|<image", content) == []
