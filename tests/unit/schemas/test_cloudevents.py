"""CloudEvents as events: what each attribute becomes, what is refused, and what the SDK writes."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from cloudevents.core.bindings import http as sdk_http
from cloudevents.core.bindings import kafka as sdk_kafka
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent as SdkEvent
from hypothesis import given
from hypothesis import strategies as st

from schemas import cloudevents
from schemas.cloudevents import binary, http_attributes, is_structured, kafka_attributes, structured
from schemas.errors import Invalid, Malformed, Reason, Rejected, TooLarge
from schemas.event import Event, parse_envelope
from schemas.limits import Limits
from tests.harness import envelope

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
BASE: dict[str, Any] = {"specversion": "1.0", "id": "k1", "source": "/shop/1", "type": "order.paid"}
DATA = {"amount": 100, "note": "Zoë"}


def document(**members: Any) -> bytes:
    """A structured CloudEvent; a member of None is left out."""
    return json.dumps({name: value for name, value in {**BASE, **members}.items() if value is not None}).encode()


def test_what_each_attribute_becomes() -> None:
    event, trace = structured(
        document(
            time="2026-01-02T03:04:05Z",
            partitionkey="till-7",
            dataschema="https://schemas.example.com/orders/1.2",
            subject="s",
            other=5,
            traceparent=TRACE,
            data=DATA,
        )
    )
    same = parse_envelope(envelope("/shop/1", "k1", DATA))
    assert (event.id, event.fingerprint) == (same.id, same.fingerprint)
    assert (event.source, event.idempotency_key, event.type) == ("/shop/1", "k1", "order.paid")
    assert (event.ordering_key, event.schema_version, event.payload_encoding) == ("till-7", "1.2", "json")
    assert event.occurred_at == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert trace == TRACE.encode()


@pytest.mark.parametrize(
    ("dataschema", "version"),
    [
        (None, "1.0"),
        ("https://schemas.example.com/orders/2.1", "2.1"),
        ("https://schemas.example.com/orders/v2/", "2"),
        ("https://schemas.example.com/orders/2.1.0-rc.1.json", "2.1.0-rc.1"),
        ("urn:example:orders:V3", "3"),
        ("https://schemas.example.com/orders#1.1", "1.1"),
        ("https://schemas.example.com/orders?version=4", "4"),
        ("tag:plutus,2026:schema/type/transfer_requested/1.0", "1.0"),
        ("https://schemas.example.com/orders", "1.0"),
        ("https://schemas.example.com/orders-2", "1.0"),
        ("https://schemas.example.com/2/orders", "1.0"),
    ],
)
def test_the_schema_version_is_the_last_part_of_dataschema_where_that_is_one(
    dataschema: str | None, version: str
) -> None:
    assert structured(document(dataschema=dataschema)).event.schema_version == version


@pytest.mark.parametrize(
    ("members", "kind", "reason", "pointer"),
    [
        ({"id": None}, Invalid, Reason.BAD_ID, "/id"),
        ({"id": ""}, Invalid, Reason.BAD_ID, "/id"),
        ({"id": 5}, Invalid, Reason.BAD_ID, "/id"),
        ({"id": "a b"}, Malformed, Reason.BAD_ID, "/id"),
        ({"id": "k" * 256}, Invalid, Reason.BAD_ID, "/id"),
        ({"source": None}, Invalid, Reason.SCHEMA_INVALID, "/source"),
        ({"source": "a b"}, Invalid, Reason.SCHEMA_INVALID, "/source"),
        ({"type": None}, Invalid, Reason.SCHEMA_INVALID, "/type"),
        ({"type": "t" * 129}, Invalid, Reason.SCHEMA_INVALID, "/type"),
        ({"specversion": None}, Invalid, Reason.SCHEMA_INVALID, "/specversion"),
        ({"specversion": "0.3"}, Invalid, Reason.SCHEMA_INVALID, "/specversion"),
        ({"time": "yesterday"}, Invalid, Reason.SCHEMA_INVALID, "/time"),
        ({"partitionkey": ""}, Invalid, Reason.SCHEMA_INVALID, "/partitionkey"),
        ({"dataschema": 1}, Invalid, Reason.SCHEMA_INVALID, "/dataschema"),
        ({"dataschema": "urn:x:" + "1" * 65}, Invalid, Reason.SCHEMA_INVALID, "/dataschema"),
        ({"data_base64": "?"}, Invalid, Reason.SCHEMA_INVALID, "/data_base64"),
        ({"data_base64": 1}, Invalid, Reason.SCHEMA_INVALID, "/data_base64"),
        ({"data": 1, "data_base64": "MQ=="}, Invalid, Reason.SCHEMA_INVALID, "/data_base64"),
        ({"data_base64": "e30g"}, None, None, None),
        ({"data_base64": "e3s="}, Malformed, Reason.MALFORMED_JSON, ""),
    ],
)
def test_what_is_refused_is_told_of_the_attribute(
    members: dict[str, Any], kind: type[Rejected] | None, reason: Reason, pointer: str
) -> None:
    if kind is None:
        structured(document(**members))
        return
    with pytest.raises(kind) as caught:
        structured(document(**members))
    assert (caught.value.reason, caught.value.pointer) == (reason, pointer)
    assert "idempotency_key" not in caught.value.message


def test_limits_are_those_of_every_event() -> None:
    small = Limits(body_bytes=300, depth=4)
    with pytest.raises(TooLarge):
        structured(document(data="x" * 300), small)
    with pytest.raises(TooLarge):
        binary(BASE, False, b"\xff" * 280, small)  # as base64 it is larger than it came
    with pytest.raises(Malformed) as caught:
        structured(document(data=[[[[[]]]]]), small)
    assert (caught.value.reason, caught.value.pointer) == (Reason.TOO_DEEP, "/data")
    with pytest.raises(Malformed):
        structured(document()[:-1] + b',"data":1,"data":1}')


@pytest.mark.parametrize(
    ("content_type", "data", "payload", "encoding"),
    [
        (b"application/json", b' {"a": 1.10}\r\n', b'{"a": 1.10}', "json"),
        (b"application/vnd.shop+json; charset=utf-8", b"[1,\n2]", b"[1, 2]", "json"),
        (None, b"1", b"1", "json"),
        (b"text/plain", b"hello", b'"hello"', "text"),
        (b"application/xml", "<é/>".encode(), '"<é/>"'.encode(), "text"),
        (b"application/octet-stream", b"\xff\x00", b'"/wA="', "base64"),
        (b"\xff", b"x", b'"x"', "text"),
        (b"application/json", None, b"null", "json"),
    ],
)
def test_data_of_every_kind(content_type: bytes | None, data: bytes | None, payload: bytes, encoding: str) -> None:
    event = binary(BASE, cloudevents.is_json_type(content_type), data).event
    assert (event.payload, event.payload_encoding) == (payload, encoding)
    if data is None or content_type == b"\xff":
        return
    kind = None if content_type is None else content_type.decode()
    in_base64 = structured(document(datacontenttype=kind, data_base64=base64.b64encode(data).decode())).event
    assert in_base64.fingerprint == event.fingerprint
    assert in_base64.payload_encoding == encoding
    if encoding == "text":
        assert structured(document(datacontenttype=kind, data=data.decode())).event.fingerprint == event.fingerprint


def test_data_is_kept_as_sent() -> None:
    body = document()[:-1] + b', "data": {"n": 12345678901234567890.10,\n "m": 1.0}}'
    assert structured(body).event.payload == b'{"n": 12345678901234567890.10,  "m": 1.0}'


def test_headers_are_decoded_once() -> None:
    found = http_attributes(
        [
            (b"ce-id", b"a%20b%25c"),
            (b"ce-source", b"/caf%c3%A9"),
            (b"ce-type", b'"quoted \\"x\\""'),
            (b"ce-partitionkey", b"100%"),
            (b"content-type", b"text/plain"),
        ]
    )
    assert found == {"id": "a b%c", "source": "/café", "type": 'quoted "x"', "partitionkey": "100%"}
    assert kafka_attributes([("ce_id", b"a%20b"), ("ce_type", None), ("x", b"")]) == {"id": "a%20b"}
    for odd in ([(b"ce-id", b"%ff")], [(b"ce-id", b"a"), (b"ce-id", b"a")]):
        with pytest.raises(Malformed):
            http_attributes(odd)
    with pytest.raises(Malformed):
        kafka_attributes([("ce_id", b"\xff")])


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        (b"application/cloudevents+json", True),
        (b"Application/CloudEvents+JSON; charset=UTF-8", True),
        (b"application/cloudevents+json; charset=latin-1", False),
        (b"application/cloudevents-batch+json", False),
        (b"application/cloudevents+xml", False),
        (b"application/json", False),
    ],
)
def test_the_media_type_of_a_structured_event(content_type: bytes, expected: bool) -> None:
    assert is_structured(content_type) is expected


TEXT = st.text(st.characters(codec="ascii", min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=30)
WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**15), 10**15) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=8,
)


@given(TEXT, TEXT, st.none() | TEXT, st.dictionaries(WORDS, JSON_VALUES, max_size=3))
def test_what_the_sdk_writes_is_the_same_event_in_every_mode(
    key: str, kind: str, ordering_key: str | None, data: dict[str, Any]
) -> None:
    attributes: dict[str, Any] = {**BASE, "id": key, "type": kind, "time": datetime(2026, 1, 2, tzinfo=UTC)}
    attributes |= {"datacontenttype": "application/json", "traceparent": TRACE}
    if ordering_key is not None:
        attributes["partitionkey"] = ordering_key
    sent = SdkEvent(attributes, data)
    read = _every_mode(sent)
    first = read[0]
    assert (first.idempotency_key, first.type, first.ordering_key) == (key, kind, ordering_key)
    assert first.data == data
    assert all((each.id, each.fingerprint) == (first.id, first.fingerprint) for each in read)
    assert all(each.occurred_at == first.occurred_at for each in read)


def _every_mode(sent: SdkEvent) -> list[Event]:
    http_binary = sdk_http.to_binary(sent, JSONFormat())
    http_structured = sdk_http.to_structured(sent, JSONFormat())
    kafka_binary = sdk_kafka.to_binary(sent, JSONFormat())
    kafka_structured = sdk_kafka.to_structured(sent, JSONFormat())
    headers = [(name.lower().encode(), value.encode()) for name, value in http_binary.headers.items()]
    return [
        structured(http_structured.body).event,
        binary(http_attributes(headers), True, http_binary.body or None).event,
        structured(kafka_structured.value).event,
        binary(kafka_attributes(list(kafka_binary.headers.items())), True, kafka_binary.value or None).event,
    ]
