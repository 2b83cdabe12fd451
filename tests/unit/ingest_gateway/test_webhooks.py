"""Webhooks and API keys at the edge, called as ASGI: what becomes an event, and who is refused before anything is looked up."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

import pytest

from infra.runtime.api_keys import Grant, Grants, digest
from ingest_gateway import bulk
from ingest_gateway.bulk import Bulk
from ingest_gateway.head import Head
from ingest_gateway.hooks import Hook, Place
from ingest_gateway.intake import Endpoint, Intake
from ingest_gateway.routes import BATCH, INGEST, WEBHOOKS, Shell
from ingest_gateway.senders import bearer
from ingest_gateway.signatures import GitHub, StandardWebhooks, Stripe, Unsigned
from ingest_gateway.single import Plain, single
from ingest_gateway.webhooks import known_by_key, webhooks
from schemas.event import parse_envelope
from schemas.ids import event_id
from schemas.registry import default
from tests.harness import envelope
from tests.unit.ingest_gateway.test_routes import SETTINGS, Rig, elsewhere

NOW = 1_614_265_330
SECRET = b"0123456789abcdef0123456789abcdef"
HOOKS = {
    "github": Hook(GitHub((SECRET,)), Place(header="X-GitHub-Delivery"), Place(header="X-GitHub-Event"), "1.0"),
    "stripe": Hook(Stripe((SECRET,)), Place(pointer="/id"), Place(pointer="/type"), "2024-06-20"),
    "standard": Hook(StandardWebhooks((SECRET,)), Place(header="webhook-id"), Place(pointer="/type"), "1.0"),
    "meters": Hook(Unsigned(), Place(pointer="/reading/0/id"), None, "1.0"),
    "bells": Hook(Unsigned(), Place(header="x-id"), Place(header="x-kind"), "1.0"),
}
KEY, OTHERS, ALL = b"plutus_shop", b"plutus_till", b"plutus_all"
GRANTS: Grants = {
    digest(KEY): Grant("shop", frozenset({"shop", "meters", "bells"})),
    digest(OTHERS): Grant("till", frozenset({"till"})),
    digest(ALL): Grant("all", frozenset({"*"})),
}


class Edge(Rig):
    """The shell with webhooks, and with API keys where they are given."""

    def __init__(self, grants: Grants | None = None, *, max_in_flight: int = 100) -> None:
        super().__init__(max_in_flight=max_in_flight)
        self.hooks = dict(HOOKS)
        identify = None if grants is None else bearer(lambda: grants)
        intake = Intake(self.pipeline, self.metrics, self.telemetry, default(strict=False).check, identify=identify)
        self.intake = intake
        read = webhooks(WEBHOOKS, lambda: self.hooks, SETTINGS.limits, lambda: NOW)
        known = None if identify is None else known_by_key(WEBHOOKS, lambda: self.hooks, identify)
        batch = Bulk(BATCH, intake, SETTINGS.limits, bulk.Policy(2, 1_000_000, 30.0), self.pipeline.refusal)
        ways: dict[str, Endpoint] = {
            BATCH: batch,
            INGEST: intake.endpoint(INGEST, single(SETTINGS.limits)),
            WEBHOOKS: intake.endpoint(WEBHOOKS + "{source}", read, identify=known),
        }
        self.shell = Shell(ways, elsewhere, lambda: self.draining)

    async def post(
        self, source: str, body: bytes, *headers: tuple[bytes, bytes], kind: bytes | None = b"application/json"
    ) -> Any:
        """A webhook."""
        return await self.call(body, path=WEBHOOKS + source, kind=kind, headers=headers)

    def nothing_happened(self) -> bool:
        """Nothing was looked up, published or counted as an event."""
        counted = [self.count(outcome) for outcome in ("accepted", "duplicate", "conflict")]
        return not (self.keys.looks or self.keys.remembers or len(self.log) or any(counted))

    def refusals(self, reason: str) -> float | None:
        """gateway_rejected_total of this reason."""
        return self.metrics.registry.get_sample_value("gateway_rejected_total", {"reason": reason})


def digested(signed: bytes, secret: bytes = SECRET) -> bytes:
    """HMAC-SHA256."""
    return hmac.new(secret, signed, hashlib.sha256).digest()


def github(body: bytes, delivery: bytes = b"d-1", secret: bytes = SECRET) -> list[tuple[bytes, bytes]]:
    """The headers of a delivery."""
    return [
        (b"x-github-delivery", delivery),
        (b"x-github-event", b"push"),
        (b"x-hub-signature-256", b"sha256=" + digested(body, secret).hex().encode()),
    ]


def stripe(body: bytes, at: int = NOW) -> tuple[bytes, bytes]:
    """The header of an event."""
    return b"stripe-signature", b"t=%d,v1=%b" % (at, digested(b"%d.%b" % (at, body)).hex().encode())


def standard(body: bytes, name: bytes = b"msg_1", at: int = NOW) -> list[tuple[bytes, bytes]]:
    """The headers of a Standard Webhook."""
    signature = base64.b64encode(digested(b"%b.%d.%b" % (name, at, body)))
    return [(b"webhook-id", name), (b"webhook-timestamp", b"%d" % at), (b"webhook-signature", b"v1," + signature)]


async def test_a_delivery_becomes_an_event_and_its_repetition_a_duplicate() -> None:
    edge, body = Edge(), b'{"ref": "main",\n "n": 12345678901234567890.10}'
    status, headers, document = await edge.post("github", body, *github(body))
    assert (status, document) == (202, {"event_id": str(event_id("github", "d-1")), "status": "accepted"})
    assert headers[b"location"].endswith(document["event_id"].encode())
    event = edge.log.order[0].event
    assert (event.source, event.idempotency_key, event.type, event.schema_version) == ("github", "d-1", "push", "1.0")
    assert event.payload == body.replace(b"\n", b" ")
    assert parse_envelope(edge.log.order[0].wire) == event
    status, headers, document = await edge.post("github", body, *github(body))
    assert (status, document["status"], headers[b"idempotent-replayed"]) == (200, "duplicate", b"true")
    assert (await edge.post("github", b"{}", *github(b"{}")))[0] == 422
    # The same event by another way in.
    same = envelope("github", "d-1", json.loads(body))
    assert (await edge.call(same.replace(b"1.2345678901234567e+19", b"12345678901234567890.10")))[0] == 200


async def test_key_and_type_in_the_body() -> None:
    edge = Edge()
    body = b'{"id": "evt_1", "type": "invoice.paid", "data": [1.10]}'
    assert (await edge.post("stripe", body, stripe(body)))[0] == 202
    event = edge.log.order[0].event
    assert (event.idempotency_key, event.type, event.schema_version) == ("evt_1", "invoice.paid", "2024-06-20")
    assert event.payload == body
    body = b'{"no": "type"}'
    assert (await edge.post("standard", body, *standard(body)))[0] == 202
    assert edge.log.order[1].event.type is None
    assert (await edge.post("meters", b'{"reading": [{"id": 4711}]}'))[0] == 202
    assert edge.log.order[2].event.idempotency_key == "4711"


@pytest.mark.parametrize(
    ("kind", "body", "payload", "encoding"),
    [
        (b"application/x-www-form-urlencoded", b"a=1&b=%20", b'"a=1&b=%20"', "text"),
        (b"text/xml", "<a>Zoë\r\n</a>".encode(), '"<a>Zoë\\r\\n</a>"'.encode(), "text"),
        (b"application/octet-stream", b"\xff\x00", b'"/wA="', "base64"),
        (b"text/plain", b"42", b'"42"', "text"),
        (None, b"ring", b'"ring"', "text"),
        (b"application/json; charset=UTF-8", b'{"a":1}', b'{"a":1}', "json"),
        (b"application/vnd.shop.v2+json", b"[1.0]", b"[1.0]", "json"),
        (b"Application/JSON", b"1", b"1", "json"),
    ],
)
async def test_a_body_is_kept_as_it_is(kind: bytes | None, body: bytes, payload: bytes, encoding: str) -> None:
    edge = Edge()
    assert (await edge.post("bells", body, (b"x-id", b"1"), kind=kind))[0] == 202
    event = edge.log.order[0].event
    assert (event.payload, event.payload_encoding) == (payload, encoding)
    # The encoding stands beside the record's value, not in it.
    assert parse_envelope(edge.log.order[0].wire).payload == payload


@pytest.mark.parametrize(
    ("source", "body", "headers", "kind", "status", "code"),
    [
        ("meters", b"{", [], b"application/json", 400, "malformed_json"),
        ("meters", b'{"a":1,"a":2}', [], b"application/json", 400, "malformed_json"),
        ("meters", b"", [], b"application/json", 400, "malformed_json"),
        ("meters", b"{}", [], b"application/json", 422, "bad_id"),
        ("meters", b'{"reading":[{"id":1.5}]}', [], b"application/json", 422, "bad_id"),
        ("meters", b'{"reading":[{"id":true}]}', [], b"application/json", 422, "bad_id"),
        ("meters", b'{"reading":[{"id":""}]}', [], b"application/json", 400, "bad_id"),
        ("meters", b'{"reading":[{"id":"a b"}]}', [], b"application/json", 400, "bad_id"),
        ("meters", b'{"reading":[{"id":4711}]}', [], b"text/plain", 422, "bad_id"),
        ("meters", b'{"reading":[{"id":1}]}', [], b"application/json; charset=latin-1", 415, "unsupported_media"),
        ("bells", b"x", [(b"x-id", b"1"), (b"content-encoding", b"gzip")], None, 415, "unsupported_media"),
        ("bells", b"1", [(b"x-id", b"1"), (b"x-id", b"2")], b"application/json", 400, "malformed_json"),
        ("bells", b"1", [(b"x-id", b"k" * 256)], b"application/json", 422, "bad_id"),
        ("bells", b"1", [(b"x-id", b"\xe9")], b"application/json", 400, "bad_id"),
        ("bells", b"1", [(b"x-id", b"1"), (b"x-kind", b"a b")], b"application/json", 422, "schema_invalid"),
        ("bells", b"\xff" * 1600, [(b"x-id", b"1")], None, 413, "too_large"),
        ("bells", b"x" * 2049, [(b"x-id", b"1")], None, 413, "too_large"),
    ],
)
async def test_what_cannot_be_an_event_is_refused(
    source: str, body: bytes, headers: list[tuple[bytes, bytes]], kind: bytes | None, status: int, code: str
) -> None:
    edge = Edge()
    got, _, document = await edge.post(source, body, *headers, kind=kind)
    assert (got, document["code"]) == (status, code)
    assert edge.nothing_happened()


@pytest.mark.parametrize(
    ("source", "headers"),
    [
        ("github", github(b'{"id": "x"}', secret=b"guessed")),
        ("github", github(b'{"id": "y"}')),
        ("github", github(b'{"id": "x"}')[:2]),
        ("stripe", [stripe(b'{"id": "y"}')]),
        ("stripe", [stripe(b'{"id": "x"}', NOW - 301)]),
        ("stripe", [stripe(b'{"id": "x"}', NOW + 301)]),
        ("standard", standard(b'{"id": "x"}', at=NOW - 301)),
        ("standard", [*standard(b'{"id": "x"}')[:2], (b"webhook-signature", b"nonsense")]),
        ("standard", []),
    ],
)
async def test_the_forged_is_refused_before_anything_is_looked_up(
    source: str, headers: list[tuple[bytes, bytes]]
) -> None:
    edge = Edge()
    status, sent, document = await edge.post(source, b'{"id": "x"}', *headers)
    assert (status, document["code"]) == (401, "bad_signature")
    assert document["type"].endswith("problem/unauthenticated")
    assert sent[b"www-authenticate"] == b'Signature realm="webhooks"'
    assert edge.nothing_happened()
    assert edge.refusals("bad_signature") == 1


async def test_a_forged_copy_of_a_known_event_is_no_duplicate() -> None:
    edge, body = Edge(), b'{"id": "x"}'
    assert (await edge.post("github", body, *github(body)))[0] == 202
    looks = len(edge.keys.looks)
    assert (await edge.post("github", body, *github(body, secret=b"guessed")))[0] == 401
    assert (len(edge.keys.looks), edge.count("duplicate")) == (looks, 0)


async def test_the_signature_is_checked_before_the_body_is_read_as_anything() -> None:
    edge = Edge()
    assert (await edge.post("stripe", b"\xff{", stripe(b"other")))[0] == 401
    assert (await edge.post("stripe", b"\xff{", stripe(b"\xff{")))[0] == 400


@pytest.mark.parametrize("path", ["nobody", "", "github/", "github/more", "GITHUB", "a" * 65, "git%68ub"])
async def test_a_source_that_is_not_declared_is_not_there(path: str) -> None:
    edge = Edge()
    status, _, document = await edge.post(path, b"{}", *github(b"{}"))
    assert status in (404, 299)  # 299: the application behind, which says 404
    assert document.get("code", "unknown_source") == "unknown_source"
    assert edge.nothing_happened()


async def test_what_is_declared_anew_is_in_force_at_once() -> None:
    edge, body = Edge(), b"{}"
    edge.hooks["github"] = Hook(GitHub((b"new", SECRET)), HOOKS["github"].key, None, "1.0")
    assert (await edge.post("github", body, *github(body, b"1", b"new")))[0] == 202
    assert (await edge.post("github", body, *github(body, b"2")))[0] == 202
    edge.hooks["github"] = Hook(GitHub((b"new",)), HOOKS["github"].key, None, "1.0")
    assert (await edge.post("github", body, *github(body, b"3")))[0] == 401
    del edge.hooks["github"]
    assert (await edge.post("github", body, *github(body, b"4", b"new")))[0] == 404


async def test_a_webhook_is_posted() -> None:
    status, headers, _ = await Edge().call(path=WEBHOOKS + "github", method="GET")
    assert (status, headers[b"allow"]) == (405, b"POST")


async def test_while_too_much_is_in_flight_webhooks_are_refused_unread() -> None:
    assert (await Edge(max_in_flight=0).post("github", b"{}"))[0] == 429


def authorized(key: bytes) -> tuple[bytes, bytes]:
    """The header."""
    return b"authorization", b"Bearer " + key


@pytest.mark.parametrize(
    "headers",
    [
        (),
        ((b"authorization", b""),),
        (authorized(b"plutus_guessed"),),
        (authorized(KEY + b"x"),),
        (authorized(digest(KEY).hex().encode()),),
        ((b"authorization", b"Basic " + KEY),),
        ((b"authorization", KEY),),
        ((b"authorization", b"Bearer  "),),
        ((b"authorization", b"Bearer " + KEY + b" " + KEY),),
    ],
)
async def test_who_is_not_known_is_refused_before_the_body_is_read(headers: tuple[tuple[bytes, bytes], ...]) -> None:
    edge = Edge(GRANTS)
    status, sent, document = await edge.call(b"not even JSON", headers=headers)
    assert (status, document["code"]) == (401, "unauthenticated")
    assert sent[b"www-authenticate"] == b'Bearer realm="plutus"'
    assert "plutus_" not in json.dumps(document)
    assert edge.nothing_happened()
    assert edge.refusals("unauthenticated") == 1


async def test_a_key_writes_its_own_sources_alone() -> None:
    for key, source, status in [
        (KEY, "shop", 202),
        (KEY, "till", 403),
        (KEY, "shop2", 403),
        (OTHERS, "shop", 403),
        (OTHERS, "till", 202),
        (ALL, "anything", 202),
    ]:
        edge = Edge(GRANTS)
        got, _, document = await edge.call(envelope(source, "k", 1), headers=(authorized(key),))
        assert got == status, (key, source)
        if status == 403:
            assert document["code"] == "forbidden_source"
            assert document["type"].endswith("problem/forbidden-source")
            assert edge.nothing_happened()


async def test_the_key_of_one_sender_never_meets_anothers() -> None:
    edge = Edge(GRANTS)
    assert (await edge.call(envelope("shop", "k", 1), headers=(authorized(KEY),)))[0] == 202
    # The same idempotency key of another sender, in its own source; and in the first one's, which is not its own.
    assert (await edge.call(envelope("till", "k", 2), headers=(authorized(OTHERS),)))[0] == 202
    assert (await edge.call(envelope("shop", "k", 2), headers=(authorized(OTHERS),)))[0] == 403
    assert (await edge.call(envelope("shop", "k", 1), headers=(authorized(KEY),)))[0] == 200


async def test_in_a_batch_each_item_is_of_a_source_that_the_key_may_write() -> None:
    edge = Edge(GRANTS)
    items = b"\n".join(envelope(source, f"k-{n}", n) for n, source in enumerate(["shop", "till", "shop"]))
    ndjson = b"application/x-ndjson"
    status, _, document = await edge.call(items, path=BATCH, kind=ndjson, headers=(authorized(KEY),))
    results = document["results"]
    assert (status, [item["status"] for item in results]) == (200, [202, 403, 202])
    assert results[1]["problem"]["code"] == "forbidden_source"
    assert [flight.event.source for flight in edge.log.order] == ["shop", "shop"]
    assert edge.refusals("forbidden_source") == 1
    assert (await edge.call(items, path=BATCH, kind=ndjson))[0] == 401
    assert len(edge.log) == 2


async def test_the_short_cut_is_not_for_those_who_are_asked_or_wait() -> None:
    head = Head(INGEST, [])
    head.content_type = b"application/json"
    open_edge, asking = Edge(), Edge(GRANTS)
    assert Plain(open_edge.intake, SETTINGS.limits).wants(head)
    assert not Plain(asking.intake, SETTINGS.limits).wants(head)
    head.prefer = [b"wait=5"]
    assert not Plain(open_edge.intake, SETTINGS.limits).wants(head)


async def test_two_keys_in_one_request_are_refused() -> None:
    edge = Edge(GRANTS)
    assert (await edge.call(envelope("shop", "k", 1), headers=(authorized(KEY), authorized(ALL))))[0] == 400
    assert edge.nothing_happened()


async def test_the_scheme_is_a_word_in_any_case() -> None:
    assert (await Edge(GRANTS).call(envelope("shop", "k", 1), headers=((b"authorization", b"bEARER " + KEY),)))[
        0
    ] == 202


async def test_a_signed_webhook_needs_no_key_and_an_unsigned_one_does() -> None:
    edge, body = Edge(GRANTS), b'{"reading": [{"id": 1}]}'
    assert (await edge.post("github", body, *github(body)))[0] == 202
    assert (await edge.post("meters", body))[0] == 401
    assert (await edge.post("meters", body, authorized(OTHERS)))[0] == 403
    assert (await edge.post("meters", body, authorized(KEY)))[0] == 202
    assert (await edge.post("nobody", body, authorized(KEY)))[0] == 404


async def test_without_keys_nobody_is_asked() -> None:
    edge = Edge()
    assert (await edge.call(envelope("shop", "k", 1), headers=(authorized(b"whatever"),)))[0] == 202
