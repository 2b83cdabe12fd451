"""The plain lines of a long command; the bar is the library's business."""

from __future__ import annotations

import pytest

from infra.cli.progress import Progress, line


def test_a_line_tells_rate_and_time_left() -> None:
    assert line("replaying", 12_400, 50_000, 4.0, "0 refused") == (
        "replaying 12,400/50,000  3,100/s  12 s left  0 refused"
    )
    assert line("replaying", 0, 10, 0.0) == "replaying 0/10  0/s"
    assert line("replaying", 10, 10, 1.0) == "replaying 10/10  10/s"


def test_plain_lines_come_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    with Progress("sent", 100, every=10, clock=lambda: now) as progress:
        for done in range(0, 100, 5):
            now += 1
            progress.at(done)
    assert capsys.readouterr().err.splitlines() == ["sent 45/100  4/s  12 s left", "sent 95/100  5/s  1 s left"]
