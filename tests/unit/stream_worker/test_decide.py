"""What is decided before anything is written. Pure tables, and the law that no acknowledged payload is ever lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from schemas.errors import Reason
from stream_worker.decide import ACCEPTED, CONFLICT, EXHAUSTED, NEW, REPLAY, KeyRow, Known, decide
from stream_worker.outcomes import Dead, Duplicate, Redelivered
from tests.worker_kit import START_MS, Log, envelope


def known(**rows: KeyRow) -> Known:
    return Known(dict(rows), frozenset(), {})  # type: ignore[arg-type]


def test_the_first_of_an_unknown_id_runs_and_the_rest_are_judged_by_it() -> None:
    log = Log()
    items = [log.append(envelope("a", 1)), log.append(envelope("a", 1.0)), log.append(envelope("a", 2))]
    assert decide(items, known()) == [NEW, Duplicate(), CONFLICT]


@pytest.mark.parametrize(
    ("state", "expected"),
    [("accepted", ACCEPTED), ("stored", Duplicate()), ("parked", Duplicate()), ("failed", Duplicate())],
)
def test_a_known_row_decides(state: str, expected: object) -> None:
    item = Log().append(envelope("a", 1))
    other = Log(offset=1).append(envelope("a", 2))
    assert item.event is not None
    row = KeyRow(item.event.fingerprint, state)  # type: ignore[arg-type]
    assert decide([item, other], Known({item.id: row}, frozenset(), {})) == [expected, CONFLICT]


def test_only_a_copy_appended_after_the_dead_letter_is_a_replay() -> None:
    log = Log()
    before, same, after = (log.append(envelope("a")) for _ in range(3))
    assert before.event is not None
    rows = {before.id: KeyRow(before.event.fingerprint, "failed")}
    buried = Known(rows, frozenset(), {before.id: same.appended_ms})
    assert decide([before, same, after, after], buried) == [Duplicate(), Duplicate(), REPLAY, Duplicate()]
    buried.exhausted.add(before.id)
    assert decide([after], buried) == [EXHAUSTED]


def test_coordinates_with_a_failures_row_are_a_redelivery_whatever_they_hold() -> None:
    log = Log()
    items = [log.append(b"junk"), log.append(envelope("a"))]
    at = frozenset((item.offset, item.appended_ms) for item in items)
    assert decide(items, Known({}, at, {})) == [Redelivered(), Redelivered()]
    moved = [structs.replace(item, timestamp=item.timestamp + 1) for item in items]
    assert decide(moved, Known({}, at, {})) == [Dead(Reason.MALFORMED_JSON, "parse"), NEW], "another record"


@pytest.mark.parametrize("raw", [-1, 2**63 - 1, -(2**63), 0])
def test_any_timestamp_can_be_stored(raw: int) -> None:
    item = structs.replace(Log().append(envelope("a")), timestamp=raw)
    assert item.appended_at.year in (1970, 9999)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from([1, 2])), max_size=12))
def test_every_id_has_one_candidate_and_every_other_payload_is_reported(log_of: list[tuple[str, int]]) -> None:
    log = Log(now_ms=START_MS)
    items = [log.append(envelope(key, payload)) for key, payload in log_of]
    decisions = decide(items, known())
    first: dict[str, int] = {}
    for (key, payload), decision in zip(log_of, decisions, strict=True):
        if key not in first:
            first[key] = payload
            assert decision == NEW
        else:
            assert decision == (Duplicate() if payload == first[key] else CONFLICT)
