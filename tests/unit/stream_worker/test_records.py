"""Reading records: every reason of the Kafka table that reading decides, and headers that survive the failures table."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import Reason
from schemas.headers import PAYLOAD_ENCODING, dead_letter_headers, gateway_headers, without_dead_letter_headers
from stream_worker import records, store
from stream_worker.records import Item
from tests.worker_kit import TOPIC, Raw, envelope

NESTED = b'{"source":"s","schema_version":"1","idempotency_key":"k","payload":%s}'


def read(value: bytes | None, headers: Any = (), key: bytes | None = b"src", **options: Any) -> Item:
    return records.read(Raw(TOPIC, 0, 0, 1, key, value, headers), lambda event: None, **options)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, Reason.NULL_VALUE),
        (b"", Reason.MALFORMED_JSON),
        (b"{", Reason.MALFORMED_JSON),
        (b"\xff\xfe", Reason.MALFORMED_JSON),
        (b"[1]", Reason.NOT_OBJECT),
        (b"null", Reason.NOT_OBJECT),
        (b'{"source":"s","schema_version":"1","payload":1}', Reason.BAD_ID),
        (envelope("k" * 256), Reason.BAD_ID),
        (envelope("k\u00e9"), Reason.BAD_ID),
        (envelope("k", extra=1), Reason.SCHEMA_INVALID),
        (envelope("k", "\x00"), Reason.UNSTORABLE_TEXT),
        (NESTED % b'"\\ud800"', Reason.UNSTORABLE_TEXT),
        (NESTED % b"1e200000", Reason.UNSTORABLE_NUMBER),
        (NESTED % (b"9" * 140_000), Reason.UNSTORABLE_NUMBER),
        (NESTED % (b"[" * 65 + b"]" * 65), Reason.TOO_DEEP),
        (NESTED % (b"[" * 20_000 + b"]" * 20_000), Reason.TOO_DEEP),
    ],
)
def test_reasons(value: bytes | None, reason: Reason) -> None:
    item = read(value)
    assert item.event is None
    assert item.dead is not None
    assert (item.dead.reason, item.dead.step) == (reason, "parse")


@pytest.mark.parametrize(
    ("payload", "header", "encoding"),
    [
        ("YQ==", b"base64", "base64"),
        ("a", b"text", "text"),
        ("a", None, "json"),
        ("a", b"", "json"),
        ("a", b"json", "json"),
        ("a", b"TEXT", "json"),
        ("a", b"\xff", "json"),
        ({"a": 1}, b"text", "json"),
        (1, b"base64", "json"),
    ],
)
def test_a_header_says_what_a_string_stands_for(payload: object, header: bytes | None, encoding: str) -> None:
    item = read(envelope("k", payload), [(PAYLOAD_ENCODING, header)])
    assert item.event is not None
    assert item.event.payload_encoding == encoding


@pytest.mark.parametrize("encoding", ["json", "text", "base64"])
def test_what_the_gateway_says_of_a_payload_is_read(encoding: str) -> None:
    event = read(envelope("k", "a"), gateway_headers(payload_encoding=encoding)).event
    assert event is not None
    assert event.payload_encoding == encoding


def test_headers_beyond_the_limits_are_refused_and_odd_ones_are_not() -> None:
    value = envelope("k")
    for headers in ([("h", b"x")] * 1_000, [("h", b"x" * 900_000)]):
        dead = read(value, headers).dead
        assert dead is not None
        assert dead.reason == Reason.HEADERS_TOO_LARGE
    odd = [("traceparent", b"\xff"), ("traceparent", None), ("", b""), ("h", None)]
    assert read(value, odd).dead is None


def test_a_key_that_is_not_the_source_is_processed_unless_asked_otherwise() -> None:
    assert read(envelope("k"), key=None).dead is None
    refused = read(envelope("k"), key=b"other", refuse_key_mismatch=True)
    assert refused.dead is not None
    assert refused.dead.reason == Reason.KEY_MISMATCH
    spread = envelope("k", ordering_key="o")
    assert read(spread, key=b"src:o", refuse_key_mismatch=True).dead is None


names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=8)
headers_strategy = st.lists(st.tuples(names, st.none() | st.binary(max_size=16)), max_size=6)


@given(headers_strategy)
def test_headers_come_back_from_the_failures_table_as_they_were(headers: list[tuple[str, bytes | None]]) -> None:
    assert store.decode_headers(store.encode_headers(headers)) == headers


@given(headers_strategy)
def test_dead_letter_headers_are_added_replaced_and_taken_off_again(headers: list[tuple[str, bytes | None]]) -> None:
    plain = without_dead_letter_headers(headers)
    once = dead_letter_headers(plain, {"reason": "a", "offset": 1, "error-class": None})
    twice = dead_letter_headers(once, {"reason": "b", "offset": 2})
    assert without_dead_letter_headers(twice) == plain
    assert twice[len(plain) :] == [("plutus-dlq-reason", b"b"), ("plutus-dlq-offset", b"2")]


def test_the_content_hash_tells_null_from_empty_and_key_from_value() -> None:
    made = {read(v, key=k).content_hash for k in (None, b"", b"a", b"ab") for v in (None, b"", b"b", b"ab")}
    assert len(made) == 16


STRUCTURED = [("content-type", b"application/cloudevents+json; charset=UTF-8")]
ATTRIBUTES: list[tuple[str, bytes | None]] = [
    ("ce_specversion", b"1.0"),
    ("ce_id", b"k"),
    ("ce_source", b"src"),
    ("ce_type", b"paid"),
]
TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def structured(**members: object) -> bytes:
    return json.dumps({"specversion": "1.0", "id": "k", "source": "src", "type": "paid", **members}).encode()


def test_a_cloudevent_is_the_same_event_as_its_envelope() -> None:
    plain = read(envelope("k", {"n": 1}))
    for item in (
        read(structured(data={"n": 1.0}), STRUCTURED),
        read(b'{"n": 1}', ATTRIBUTES),
        read(b'{"n":1.0}', [("content-type", b"application/json"), *ATTRIBUTES]),
    ):
        assert item.dead is None
        assert item.event is not None
        assert plain.event is not None
        assert (item.id, item.event.fingerprint, item.event.type) == (plain.id, plain.event.fingerprint, "paid")
        assert item.key_matches
        assert not item.from_gateway


def test_the_data_of_a_binary_cloudevent_may_be_anything() -> None:
    for kind, value, payload, encoding in (
        (b"text/plain", b"hi", b'"hi"', "text"),
        (b"application/octet-stream", b"\xff", b'"/w=="', "base64"),
        (b"text/plain", b"", b'""', "text"),
    ):
        event = read(value, [("content-type", kind), *ATTRIBUTES]).event
        assert event is not None
        assert (event.payload, event.payload_encoding) == (payload, encoding)


@pytest.mark.parametrize(
    ("value", "headers", "reason"),
    [
        (None, ATTRIBUTES, Reason.NULL_VALUE),
        (None, STRUCTURED, Reason.NULL_VALUE),
        (b"{", STRUCTURED, Reason.MALFORMED_JSON),
        (b"{", ATTRIBUTES, Reason.MALFORMED_JSON),
        (b"[]", STRUCTURED, Reason.NOT_OBJECT),
        (b"1", [*ATTRIBUTES, ("ce_id", b"other")], Reason.UNDECODABLE),
        (b"1", [*ATTRIBUTES, ("ce_time", b"\xff")], Reason.UNDECODABLE),
        (b"1", [*ATTRIBUTES[:1], *ATTRIBUTES[2:]], Reason.BAD_ID),
        (b"1", [*ATTRIBUTES[:1], ("ce_id", None), *ATTRIBUTES[2:]], Reason.BAD_ID),
        (b"1", [("ce_specversion", b"0.3"), *ATTRIBUTES[1:]], Reason.SCHEMA_INVALID),
        (b"1", [("ce_specversion", None)], Reason.BAD_ID),
        (b"[" * 65 + b"]" * 65, ATTRIBUTES, Reason.TOO_DEEP),
        (structured(data="\0"), STRUCTURED, Reason.UNSTORABLE_TEXT),
        (structured(), [], Reason.SCHEMA_INVALID),
    ],
)
def test_reasons_of_cloudevents(value: bytes | None, headers: Any, reason: Reason) -> None:
    item = read(value, headers)
    assert item.event is None
    assert item.dead is not None
    assert (item.dead.reason, item.dead.step) == (reason, "parse")


def test_the_trace_of_its_creation_goes_before_the_records() -> None:
    record: list[tuple[str, bytes | None]] = [("traceparent", b"the record's")]
    assert read(structured(traceparent=TRACE.decode()), [*record, *STRUCTURED]).traceparent == TRACE
    assert read(b"1", [*record, ("ce_traceparent", TRACE), *ATTRIBUTES]).traceparent == TRACE
    assert read(structured(traceparent=5), [*record, *STRUCTURED]).traceparent == b"the record's"
    assert read(b"\xff", [*record, *STRUCTURED]).traceparent == b"the record's"
    assert read(None, [*record, *STRUCTURED]).traceparent == b"the record's"


def test_a_stray_header_makes_no_cloudevent() -> None:
    item = read(envelope("k"), [("ce_other", b"x"), ("content-type", b"text/plain")])
    assert item.dead is None
