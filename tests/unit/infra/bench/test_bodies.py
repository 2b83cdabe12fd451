"""What is sent is what the parser takes, about as large as it is said to be; duplicates and bad records are as counted."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from importlib import resources

import pytest

from infra.bench import bodies, fill
from schemas.errors import Malformed
from schemas.event import parse_envelope
from schemas.ids import event_id
from schemas.registry import default


def test_an_order_is_an_event_of_about_200_bytes() -> None:
    event = parse_envelope(bodies.order("run", 123_456))
    assert event.id == event_id(bodies.source(123_456), bodies.key("run", 123_456))
    assert event.type is None
    assert 150 < len(event.payload) < 250
    assert parse_envelope(bodies.order("run", 7, "bench.effect", amount=-1)).data["amount"] == -1


def test_runs_and_numbers_have_keys_of_their_own() -> None:
    ids = {parse_envelope(bodies.order(prefix, n)).id for prefix in ("a", "b") for n in range(100)}
    assert len(ids) == 200


def test_a_batch_is_lines_of_consecutive_events() -> None:
    lines = bodies.batch("run", 2, 10).split(b"\n")
    assert lines == [bodies.order("run", n) for n in range(20, 30)]


def test_transfers_fit_their_schema_and_never_pay_themselves() -> None:
    registry = default()
    for n in range(4_200):
        event = parse_envelope(bodies.transfer("run", n))
        registry.check(event)  # raises where it does not fit
        assert event.data["debit_account"] != event.data["credit_account"]
        assert Decimal(event.data["amount"]) > 0


def test_wrk_sends_the_same_order() -> None:
    lua = resources.files("infra.bench").joinpath("load.lua").read_text()
    note = re.search(r'NOTE = "([^"]*)"', lua)
    assert note is not None
    first, second, end = re.findall(r"'([^']*)'", lua.partition("local ORDER =")[2].partition("function")[0])
    spelled = (first + second + note[1] + end) % (12 % bodies.SOURCES, "run", 12, 12, 12)
    assert json.loads(spelled) == json.loads(bodies.order("run", 12))
    assert f"for i = 1, {bodies.BATCH} do" in lua
    assert f"i % {bodies.SOURCES}," in lua


@pytest.mark.parametrize("count", [0, 49, 50, 51, 100, 149, 12_345, 30_000])
def test_half_of_the_records_are_duplicates_of_earlier_ones(count: int) -> None:
    make = fill.half_duplicates("run")
    records = [make(n) for n in range(count)]
    assert len(set(records)) == fill.distinct_of_half(count)
    if count > 1_000:
        assert abs(len(set(records)) - count / 2) <= bodies.SOURCES
    sources = [json.loads(record)["source"] for record in records[:200]]
    assert sources == [bodies.source(n) for n in range(len(sources))]


def test_every_hundredth_record_is_malformed() -> None:
    make = fill.malformed("run")
    bad = 0
    for n in range(1_000):
        try:
            parse_envelope(make(n))
        except Malformed:
            bad += 1
    assert bad == 10
