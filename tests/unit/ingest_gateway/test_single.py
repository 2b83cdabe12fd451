"""CloudEvents at the path of single events: the same event as an envelope, whichever mode."""

from __future__ import annotations

import json
from typing import Any

import pytest

from schemas.event import parse_envelope
from schemas.headers import PAYLOAD_ENCODING, gateway_headers
from tests.harness import envelope
from tests.unit.ingest_gateway.test_routes import TRACE, Rig

STRUCTURED = b"application/cloudevents+json; charset=UTF-8"
BASE: dict[str, Any] = {"specversion": "1.0", "id": "k1", "source": "shop", "type": "paid"}
ATTRIBUTES = tuple((f"ce-{name}".encode(), value.encode()) for name, value in BASE.items())
OTHER_TRACE = b"00-11111111111111111111111111111111-2222222222222222-01"


def structured(**members: Any) -> bytes:
    return json.dumps({**BASE, **members}).encode()


async def test_every_mode_and_the_envelope_are_one_event() -> None:
    rig = Rig()
    first = await rig.call(structured(data={"n": 1.0}), kind=STRUCTURED)
    assert first[0] == 202
    event = parse_envelope(envelope("shop", "k1", {"n": 1.0}, type="paid"))
    assert first[2] == {"event_id": str(event.id), "status": "accepted"}
    assert parse_envelope(rig.log.order[0].wire) == event
    assert (await rig.call(b'{"n": 1}', headers=ATTRIBUTES))[0] == 200
    assert (await rig.call(envelope("shop", "k1", {"n": 1})))[0] == 200
    assert (await rig.call(b'{"n": 2}', headers=ATTRIBUTES))[2]["code"] == "idempotency_conflict"
    assert (rig.count("accepted"), rig.count("duplicate"), rig.count("conflict")) == (1, 2, 1)


async def test_a_body_that_is_no_json_says_so_in_its_record() -> None:
    rig = Rig()
    for key, body, encoding in (("a", b"hello", "text"), ("b", b"\xff", "base64")):
        headers = ((b"ce-id", key.encode()), *ATTRIBUTES[:1], *ATTRIBUTES[2:])
        assert (await rig.call(body, kind=b"text/plain", headers=headers))[0] == 202
        event = rig.log.order[-1].event
        assert event.payload_encoding == encoding
        assert (PAYLOAD_ENCODING, encoding.encode()) in gateway_headers(None, event.payload_encoding)


async def test_no_data_is_null() -> None:
    rig = Rig()
    assert (await rig.call(structured(), kind=STRUCTURED))[0] == 202
    assert (await rig.call(b"", kind=None, headers=ATTRIBUTES))[0] == 200
    assert rig.log.order[0].event.payload == b"null"


async def test_the_trace_of_its_creation_goes_before_the_requests() -> None:
    rig = Rig()
    transport = (b"traceparent", TRACE)
    await rig.call(structured(id="a", traceparent=OTHER_TRACE.decode()), kind=STRUCTURED, headers=(transport,))
    await rig.call(structured(id="b", traceparent="junk"), kind=STRUCTURED, headers=(transport,))
    await rig.call(b"1", headers=(*ATTRIBUTES, (b"ce-traceparent", OTHER_TRACE), transport))
    assert [flight.traceparent for flight in rig.log.order] == [OTHER_TRACE, TRACE, OTHER_TRACE]


@pytest.mark.parametrize(
    ("kind", "headers", "body", "status", "code"),
    [
        (b"application/cloudevents+json", (), b"[]", 422, "not_object"),
        (b"application/cloudevents+json", (), structured(specversion="2.0"), 422, "schema_invalid"),
        (b"application/cloudevents+json", (), structured(id="a b"), 400, "bad_id"),
        (b"application/cloudevents+json", (), b"", 400, "malformed_json"),
        (b"application/cloudevents+json; charset=latin-1", (), structured(), 415, "unsupported_media"),
        (b"application/cloudevents+xml", (), b"<x/>", 415, "unsupported_media"),
        (STRUCTURED, ((b"content-encoding", b"gzip"),), structured(), 415, "unsupported_media"),
        (STRUCTURED, ((b"idempotency-key", b"other"),), structured(), 400, "bad_id"),
        (STRUCTURED, ((b"idempotency-key", b"k1"),), structured(), 202, None),
        (b"application/json", ATTRIBUTES[:3], b"1", 422, "schema_invalid"),
        (b"application/json", ATTRIBUTES, b"{", 400, "malformed_json"),
        (b"application/json", (*ATTRIBUTES, ATTRIBUTES[0]), b"1", 400, "undecodable"),
        (b"application/octet-stream", ATTRIBUTES, b"x" * 3000, 413, "too_large"),
        (b"text/plain", ((b"content-encoding", b"gzip"), *ATTRIBUTES), b"1", 415, "unsupported_media"),
    ],
)
async def test_answers(kind: bytes, headers: Any, body: bytes, status: int, code: str | None) -> None:
    answer = await Rig().call(body, kind=kind, headers=headers)
    assert (answer[0], answer[2].get("code")) == (status, code)
