"""What is sent back and what is not: a table of every case."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest

from infra.cli.queries import Filter, Letter
from infra.cli.replay import FAILURE_ID, DeadLetter, Request, Verdict, judge, of_record
from infra.runtime.producer import Record
from schemas.headers import dead_letter_headers

ID = UUID(int=9)
HERE = (2, 40)
ALL = Request()
ANYWAY = Request(anyway=True)


def row(status: str = "open", place: tuple[int, int] | None = HERE) -> Letter:
    """A failures row whose dead letter is at `place`."""
    return Letter(ID, status, "malformed_json", None, *(place or (None, None)))


def letter(place: tuple[int, int] | None = HERE) -> DeadLetter:
    """A dead letter read at `place`; None: from the table."""
    return DeadLetter(ID, Record(b"k", b"v"), place)


def only(**wanted: str) -> Request:
    """A request with a filter."""
    return Request(wanted=Filter(**wanted))


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
        (letter(), row(), only(reason="malformed_json"), Verdict.REPLAY),
        (letter(), row(), only(reason="null_value"), Verdict.FILTERED),
        (letter(), row(), only(source="shop"), Verdict.FILTERED),
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
