"""What is sent back and what is not: a table of every case."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from infra.cli.queries import Filter, Letter
from infra.cli.replay import FAILURE_ID, DeadLetter, Pace, Position, Request, Tally, Verdict, judge, of_record
from infra.runtime.producer import Record
from schemas.headers import dead_letter_headers

ID = UUID(int=9)
HERE = (2, 40)
ALL = Request()
ANYWAY = Request(anyway=True)


def row(status: str = "open", place: tuple[int, int] | None = HERE, *, wanted: bool = True) -> Letter:
    """A failures row whose dead letter is at `place`."""
    partition, offset = place or (None, None)
    return Letter(ID, status, "malformed_json", None, partition, offset, wanted=wanted)


def letter(place: tuple[int, int] | None = HERE) -> DeadLetter:
    """A dead letter read at `place`; None: from the table."""
    return DeadLetter(ID, Record(b"k", b"v"), place)


@pytest.mark.parametrize(
    ("read", "known", "request_", "verdict"),
    [
        (letter(), row(), ALL, Verdict.REPLAY),
        (letter(None), row(), ALL, Verdict.REPLAY),
        (letter(), row("replayed"), ALL, Verdict.NOT_OPEN),
        (letter(), row("discarded"), ALL, Verdict.NOT_OPEN),
        (letter(), row("replayed"), ANYWAY, Verdict.REPLAY),
        (letter((2, 41)), row(), ALL, Verdict.SECOND_COPY),
        (letter((2, 41)), row(), ANYWAY, Verdict.SECOND_COPY),
        (letter(), row(place=None), ALL, Verdict.UNSETTLED),
        (letter(None), row(place=None), ANYWAY, Verdict.UNSETTLED),
        (letter(), None, ALL, Verdict.UNKNOWN),
        (letter(), None, ANYWAY, Verdict.REPLAY),
        (letter(), None, Request(wanted=Filter(reason="malformed_json"), anyway=True), Verdict.UNKNOWN),
        (letter(), row(wanted=False), ALL, Verdict.FILTERED),
        (letter(), row(wanted=False), ANYWAY, Verdict.FILTERED),
    ],
)
def test_each_dead_letter_is_judged_by_its_row(
    read: DeadLetter, known: Letter | None, request_: Request, verdict: Verdict
) -> None:
    assert judge(read, known, request_) is verdict


@dataclass
class Consumed:
    """A record as the consumer hands it over."""

    key: bytes | None
    value: bytes | None
    headers: Any
    partition: int = 2
    offset: int = 40


def test_the_original_record_comes_out_of_its_dead_letter() -> None:
    original = [("trace", b"\xff"), ("none", None), ("trace", b"twice")]
    about: dict[str, str | int | None] = {"failure-id": str(ID), "reason": "malformed_json", "offset": 3}
    found = of_record(Consumed(b"k", None, dead_letter_headers(original, about)))
    assert found == DeadLetter(ID, Record(b"k", None, original), HERE)


@pytest.mark.parametrize("value", [None, b"", b"no uuid", b"\xff"])
def test_a_record_without_a_readable_id_has_none(value: bytes | None) -> None:
    assert of_record(Consumed(b"k", b"v", [(FAILURE_ID, value)])).failure_id is None


def test_a_position_reads_back() -> None:
    topic = Position({0: 4, 2: 9}, {0: 10, 2: 12})
    topic.passed(letter((2, 40)))
    assert Position.of_json(topic.as_json()) == Position({0: 4, 2: 41}, {0: 10, 2: 12})
    table = Position(until=datetime(2026, 5, 1, tzinfo=UTC))
    assert Position.of_json(table.as_json()) == table
    table.passed(letter(None))
    assert table.after == ID
    assert Position.of_json(table.as_json()) == table


def test_a_tally_is_counted_on() -> None:
    tally = Tally()
    tally.add(letter(), row(), Verdict.REPLAY)
    tally.add(letter(), None, Verdict.UNKNOWN)
    on = Tally.of_counts(tally.counts())
    assert (on.read, on.replayed, on.counts()) == (2, 1, tally.counts())
    assert list(tally.samples[0].values()) == [ID, "malformed_json", None, 1, 1], "sizes, no bytes"


async def test_a_pace_waits_for_what_was_sent_before_and_no_longer_than_the_stop() -> None:
    now, stop = 0.0, asyncio.Event()
    pace = Pace(100.0, stop, lambda: now)
    assert pace.pause == 0, "the first are free"
    await pace.wait(5)
    assert pace.pause == pytest.approx(0.05)
    began = asyncio.get_running_loop().time()
    await pace.wait(10_000)
    assert asyncio.get_running_loop().time() - began >= 0.049
    assert pace.pause == pytest.approx(100.05)
    stop.set()
    async with asyncio.timeout(30):
        await pace.wait(1)
    assert [Pace(rate, stop, lambda: now).step for rate in (None, 0.5, 20, 1e6)] == [200, 1, 20, 200]


def test_a_filter_reads_back() -> None:
    wanted = Filter("open", "handler_error", "shop", ID, "order", "k1", "KeyError", datetime(2026, 5, 1, tzinfo=UTC))
    assert Filter.of_json(wanted.as_json()) == wanted
    assert Filter.of_json(Filter().as_json()) == Filter()
