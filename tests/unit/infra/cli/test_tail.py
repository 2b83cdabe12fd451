"""Which line a record becomes, and which lines are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from infra.cli.tail import Line, Wanted, identified, line_of
from schemas.ids import event_id
from tests.harness import envelope

ID = event_id("shop", "k1")
STORED = {
    "source": "shop",
    "idempotency_key": "k1",
    "type": "order",
    "status": "PROCESSED",
    "handled_by": "post",
    "accepted_partition": 2,
    "accepted_offset": 40,
    "partition": 2,
    "offset": 40,
}


@dataclass
class Consumed:
    """A record as the consumer hands it over."""

    partition: int = 2
    offset: int = 40
    timestamp: int = 1_777_636_800_123
    value: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()


def line(record: Consumed, known: dict[str, Any] | None = STORED, failed: dict[str, Any] | None = None) -> Line:
    """What becomes of it."""
    return line_of(record, ID, known, failed)


def test_a_record_that_was_stored_says_by_whom() -> None:
    assert line(Consumed()).text() == "12:00:00.123  PROCESSED  2:40  shop k1 order  by post"


@pytest.mark.parametrize(
    ("told", "status"),
    [
        (line(Consumed()), "PROCESSED"),
        (line(Consumed(offset=41)), "duplicate"),
        (line(Consumed(partition=1)), "duplicate"),
        (line(Consumed(offset=50), {**STORED, "offset": 50}), "PROCESSED"),
        (line(Consumed(), {**STORED, "status": "RETRYING"}), "RETRYING"),
        (line(Consumed(), {**STORED, "status": None}), "RECEIVED"),
        (line(Consumed(), STORED, {"reason": "handler_error", "step": "handle"}), "FAILED"),
        (line(Consumed(), None, {"reason": "malformed_json", "step": "parse"}), "FAILED"),
        (line(Consumed(), None), "settled"),
    ],
)
def test_each_record_has_its_status(told: Line, status: str) -> None:
    assert told.status == status
    assert (told.handled_by is None) == (status != "PROCESSED")


def test_a_failure_says_why() -> None:
    told = line(Consumed(), None, {"reason": "malformed_json", "step": "parse"})
    assert told.text() == "12:00:00.123  FAILED     2:40  (unreadable)  malformed_json at parse"
    assert told.as_object()["why"] == "malformed_json at parse"


def test_an_event_has_an_id_whichever_way_it_came_and_nothing_else_has() -> None:
    assert identified(Consumed(value=envelope("shop", "k1", {}))) == ID
    binary = (("ce_specversion", b"1.0"), ("ce_id", b"k1"), ("ce_source", b"shop"), ("ce_type", b"order"))
    assert identified(Consumed(value=b"{}", headers=(*binary, ("content-type", b"application/json")))) == ID
    assert [identified(Consumed(value=value)) for value in (None, b"", b"not JSON", b"{}")] == [None] * 4


@pytest.mark.parametrize(
    ("wanted", "takes"),
    [
        (Wanted(None, None, False), True),
        (Wanted("shop", "order", False), True),
        (Wanted("till", None, False), False),
        (Wanted(None, "refund", False), False),
        (Wanted(None, None, True), False),
    ],
)
def test_lines_are_chosen(wanted: Wanted, takes: bool) -> None:
    assert wanted.takes(line(Consumed())) is takes
    assert Wanted("shop", None, True).takes(line(Consumed(), {**STORED, "status": "RETRYING"}))
