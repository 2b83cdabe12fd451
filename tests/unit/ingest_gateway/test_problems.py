"""RFC 9457 documents: one table, stable types, and no value of the input."""

from __future__ import annotations

import json

import pytest

from ingest_gateway.answers import outcome_answer
from ingest_gateway.outcomes import CONFLICT, DUPLICATE, Accepted, NotAccepted, Outcome, Overloaded, Unknown
from ingest_gateway.problems import _KINDS, Kind, problem, rejected
from schemas import errors
from schemas.errors import FieldError, Invalid, Malformed, Reason, Rejected


def test_every_way_to_be_rejected_has_a_kind() -> None:
    leaves = {one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, Rejected)} - {Rejected}
    assert leaves == _KINDS.keys()


def test_types_are_stable_uris_and_differ() -> None:
    assert Kind.IDEMPOTENCY_CONFLICT.uri == "tag:plutus,2026:problem/idempotency-conflict"
    assert len({kind.uri for kind in Kind}) == len(Kind)


@pytest.mark.parametrize("kind", Kind)
def test_a_problem_says_its_own_status(kind: Kind) -> None:
    answer = problem(kind, "Why.", retry_after=7)
    document = json.loads(answer.body)
    headers = dict(answer.headers)
    assert document["status"] == answer.status == kind.status
    assert document["type"] == kind.uri
    assert headers[b"content-type"] == b"application/problem+json"
    assert headers[b"retry-after"] == b"7"
    assert int(headers[b"content-length"]) == len(answer.body)


def test_a_rejection_points_at_the_field_and_names_the_reason() -> None:
    answer = rejected(Malformed("The key is wrong.", reason=Reason.BAD_ID, pointer="/idempotency_key"))
    document = json.loads(answer.body)
    assert (answer.status, document["code"]) == (400, "bad_id")
    assert document["errors"] == [{"pointer": "/idempotency_key", "detail": "The key is wrong."}]


def test_every_broken_rule_of_a_payload_is_told() -> None:
    rules = (FieldError("/payload/amount", "must be a number"), FieldError("/payload/currency", "is missing"))
    document = json.loads(rejected(Invalid("Two rules.", errors=rules)).body)
    assert [one["pointer"] for one in document["errors"]] == ["/payload/amount", "/payload/currency"]


@pytest.mark.parametrize(
    ("outcome", "status", "word", "headers"),
    [
        (Accepted(0, 1), 202, b'"accepted"', {b"location": b"/api/v1/events/ID"}),
        (Accepted(0, 1, True), 202, b'"dedup":"deferred"', {b"location": b"/api/v1/events/ID"}),
        (DUPLICATE, 200, b'"duplicate"', {b"idempotent-replayed": b"true", b"location": b"/api/v1/events/ID"}),
        (CONFLICT, 422, b"idempotency_conflict", {}),
        (NotAccepted("kafka_down"), 503, b'"not_accepted"', {b"retry-after": b"2"}),
        (Unknown("ack_timeout"), 503, b'"outcome_unknown"', {b"retry-after": b"1"}),
        (Overloaded(9), 429, b'"overloaded"', {b"retry-after": b"9"}),
    ],
)
def test_the_table_of_answers(outcome: Outcome, status: int, word: bytes, headers: dict[bytes, bytes]) -> None:
    answer = outcome_answer(outcome, "ID")
    assert answer.status == status
    assert word in answer.body
    json.loads(answer.body)
    assert headers.items() <= dict(answer.headers).items()
    assert int(dict(answer.headers)[b"content-length"]) == len(answer.body)
