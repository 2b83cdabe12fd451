"""The life of an event as `plutus send` tells it, and how a refusal is explained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from infra.cli.output import FAILED, UNREACHABLE, USAGE, Failure, Problem
from infra.cli.send import Life, lines, payload_of, refusal

ID = "4d9f1039-58b9-5808-aa82-4b40ead17a9c"
KNOWN = {
    "status": "PROCESSED",
    "partition": 3,
    "offset": 17,
    "received_at": "2026-05-01T12:00:00.000000+00:00",
    "processed_at": "2026-05-01T12:00:00.031400+00:00",
    "handled_by": "add_points",
    "attempts": 1,
    "reason": None,
    "step": None,
}


def life(answer: str = "accepted", settled: float | None = 57.2, **known: Any) -> Life:
    """An event that was answered after 12 ms."""
    return Life(ID, answer, False, 12.0, {**KNOWN, **known}, settled)


def test_an_event_is_accepted_stored_and_handled() -> None:
    assert lines(life()) == [
        ("accepted", "   12 ms", f"partition 3, offset 17; event {ID}"),
        ("stored", "   57 ms", "PROCESSED, 31 ms after it was accepted, by Postgres's clock"),
        ("handled", "   57 ms", "by add_points in the same transaction, 1 attempt"),
    ]


@pytest.mark.parametrize(
    ("told", "what", "words"),
    [
        (life(handled_by=None), "handled", "by nobody: no handler matches it"),
        (
            life(status="FAILED", reason="handler_error", step="handle", attempts=3),
            "failed",
            "handler_error at step handle, 3 attempts",
        ),
        (life(settled=None, status="RETRYING"), "accepted", f"partition 3, offset 17; event {ID}"),
        (Life(ID, "accepted", True, 12.0), "accepted", f"in Kafka, dedup deferred; event {ID}"),
        (
            life("duplicate"),
            "duplicate",
            f"of {ID}, accepted 2026-05-01T12:00:00.000000+00:00 as partition 3, offset 17: PROCESSED by add_points",
        ),
        (Life(ID, "duplicate", False, 12.0), "duplicate", f"of {ID}: not processed yet"),
    ],
)
def test_the_last_line_tells_what_became_of_it(told: Life, what: str, words: str) -> None:
    assert (lines(told)[-1][0], lines(told)[-1][2]) == (what, words)


def test_as_json_it_has_every_member_whatever_is_known() -> None:
    whole, nothing = life().as_object(), Life(ID, "accepted", True, 12.0).as_object()
    assert whole.keys() == nothing.keys()
    assert (whole["answered_ms"], whole["settled_ms"], whole["accepted_to_effect_ms"]) == (12.0, 57.2, 31.4)
    assert (nothing["status"], nothing["settled_ms"], nothing["dedup_deferred"]) == ("RECEIVED", None, True)


def test_a_conflict_says_what_has_the_key() -> None:
    said = {"code": "idempotency_conflict", "title": "The key belongs to another", "detail": "Use one of its own."}
    failure = refusal(422, said, ID, "k1")
    assert failure.what == "The gateway answered 422 idempotency_conflict: The key belongs to another."
    assert (failure.code, failure.problem) == (FAILED, Problem.GATEWAY_REFUSED)
    assert "--key" in failure.advice
    assert f"plutus events show {ID} --payload" in failure.advice


def test_a_refusal_names_the_fields() -> None:
    said = {
        "title": "t",
        "detail": "d",
        "errors": [{"pointer": "/a", "detail": "one"}, {"pointer": "/b", "detail": "two"}],
    }
    assert refusal(422, said, ID, "k1").cause == "/a: one /b: two"


@pytest.mark.parametrize("status", [429, 503])
def test_what_may_be_sent_again_says_under_which_key(status: int) -> None:
    failure = refusal(status, {}, ID, "k1")
    assert failure.code == UNREACHABLE
    assert "--key k1" in failure.advice


def test_a_payload_keeps_its_digits(tmp_path: Path) -> None:
    assert payload_of("12345678901234567890.10") == "12345678901234567890.10"
    (tmp_path / "p.json").write_text('{"n": 1e2}')
    assert payload_of(f"@{tmp_path}/p.json") == '{"n": 1e2}'


@pytest.mark.parametrize("given", ["{", '1, "source": "other"', "", "@/no/such/file"])
def test_what_is_no_payload_is_told(given: str) -> None:
    with pytest.raises(Failure) as told:
        payload_of(given)
    assert told.value.code == USAGE
