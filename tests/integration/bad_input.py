"""The bad-input catalogue of the gateway: what strangers send, and the answer that each gets. Data alone, by number.

`CASES` are requests as bytes, `GUARDED` such of a gateway that knows its senders, by key or signature. In each, `MARK` stands
for six bytes of the case's own, so that whatever is echoed, logged or published can be told by its case. `ELSEWHERE` names the
tests that hold the rows which need more than one request or a gateway of their own.
"""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from infra.runtime import api_keys
from ingest_gateway.problems import ACCEPT
from tests.gateway_kit import BATCH, INGEST, request

MARK = "MaRk00"
ROWS = range(1, 83)
BODY_LIMIT = 256 * 1024
HEAD_LIMIT = 96 * 1024
WEBHOOKS = "/api/v1/webhooks/"
SECRET_NAME = "CATALOGUE_SECRET"


@dataclass(frozen=True, eq=False)
class Case:
    """One request and what must come of it.

    status: of the answer; None: the connection is closed without one. code: the reason in the problem document.
    closes: the connection ends after the answer. record: what must be in the topic; None: nothing. sent: or a function of the
    seconds since 1970, for what is signed with a time.
    """

    row: int
    what: str
    sent: bytes | Callable[[int], bytes]
    status: int | None
    code: str = ""
    closes: bool | None = None
    headers: dict[str, str] = field(default_factory=dict)
    half_close: bool = False
    record: bytes | None = None
    number: int = 0

    @property
    def mark(self) -> bytes:
        """The bytes of this case's own."""
        return b"M%05d" % self.number

    def sent_at(self, now: int) -> bytes:
        """The request, with this case's mark."""
        return self.own(self.sent if isinstance(self.sent, bytes) else self.sent(now))

    def own(self, text: bytes) -> bytes:
        """`text` with this case's mark."""
        return text.replace(MARK.encode(), self.mark)

    def __str__(self) -> str:
        return f"{self.row} {self.what}"


def event(payload: Any = MARK, **members: Any) -> bytes:
    """An envelope with the case's mark in key and payload; a member that is None is left out."""
    made = {"source": "catalogue", "schema_version": "1.0", "idempotency_key": MARK, "payload": payload, **members}
    return json.dumps({name: value for name, value in made.items() if value is not None}).encode()


def written(payload: str) -> bytes:
    """An envelope whose payload is this JSON text."""
    return event("@").replace(b'"@"', payload.encode())


def headed(*headers: str, body: bytes | None = None, kind: str | None = "application/json") -> bytes:
    """A POST of an event with these headers too."""
    sent = request(event() if body is None else body, *headers)
    content_type = b"" if kind is None else b"Content-Type: %s\r\n" % kind.encode()
    return sent.replace(b"Content-Type: application/json\r\n", content_type)


def chunked(*chunks: bytes, coding: str = "chunked", end: bytes = b"0\r\n\r\n") -> bytes:
    """A POST whose body comes in these chunks, framing included."""
    head = request(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: " + coding.encode())
    return head + b"".join(chunks) + end


def chunk(data: bytes) -> bytes:
    """One chunk."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def refused(
    row: int,
    what: str,
    sent: bytes | Callable[[int], bytes],
    status: int,
    code: str,
    *,
    closes: bool | None = None,
    **headers: str,
) -> Case:
    """A request that gets a problem document; nothing is published."""
    return Case(row, what, sent, status, code, closes, headers)


def dropped(row: int, what: str, sent: bytes, *, half_close: bool = False) -> Case:
    """A connection that is closed without an answer; nothing is published."""
    return Case(row, what, sent, None, half_close=half_close)


def taken(row: int, what: str, sent: bytes, record: bytes | None = None, *, closes: bool | None = None) -> Case:
    """A request that makes an event; the record is the body's own bytes, unless given."""
    return Case(
        row, what, sent, 202, closes=closes, record=sent.partition(b"\r\n\r\n")[2] if record is None else record
    )


def _connection() -> list[Case]:
    good, plain = event(), request(event())
    bad = "malformed"
    return [
        refused(1, "length and chunks", headed("Transfer-Encoding: chunked"), 400, bad, closes=True),
        refused(2, "xchunked", chunked(chunk(good), coding="xchunked"), 400, bad, closes=True),
        refused(2, "chunked, identity", chunked(chunk(good), coding="chunked, identity"), 400, bad, closes=True),
        refused(3, "gzip, chunked", chunked(chunk(good), coding="gzip, chunked"), 400, "malformed_json", closes=True),
        refused(4, "space before the colon", plain.replace(b"Host:", b"Host :"), 400, bad, closes=True),
        refused(5, "equal lengths", headed(f"Content-Length: {len(good)}"), 400, bad, closes=True),
        refused(5, "other lengths", headed("Content-Length: 2"), 400, bad, closes=True),
        refused(5, "a list of lengths", plain.replace(b"Length: ", b"Length: 2, "), 400, bad, closes=True),
        *[
            refused(
                6, f"length {value}", request(good).replace(b"%d\r\n" % len(good), value.encode() + b"\r\n"), 400, bad
            )
            for value in ("+2", "-1", "0x2", "1" + "0" * 23)
        ],
        refused(7, "folded header", headed("X: a\r\n b"), 400, bad, closes=True),
        refused(8, "NUL in a header", headed("X: a\x00b"), 400, bad, closes=True),
        refused(8, "bare CR in a header", headed("X: a\rb"), 400, bad, closes=True),
        refused(9, "bare LF", plain.replace(b"\r\n", b"\n"), 400, bad, closes=True),
        refused(10, "no Host", plain.replace(b"Host: gateway\r\n", b""), 400, "malformed_json", closes=True),
        refused(10, "two Hosts", headed("Host: other"), 400, "malformed_json", closes=True),
        taken(11, "absolute target", request(good, target=f"http://elsewhere.example{INGEST}")),
        refused(12, "CONNECT", request(b"", method="CONNECT", target="elsewhere.example:443"), 400, bad, closes=True),
        refused(12, "CONNECT to a path", request(b"", method="CONNECT"), 400, "malformed_json", closes=True),
        refused(12, "TRACE", request(b"", method="TRACE"), 405, "method_not_allowed", allow="POST"),
        refused(12, "PRI", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, bad, closes=True),
        taken(13, "HTTP/1.0", plain.replace(b"HTTP/1.1", b"HTTP/1.0"), closes=True),
        refused(14, "HTTP/0.9", b"GET /healthz\r\n\r\n", 400, "malformed_json", closes=True),
        refused(14, "TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64, 400, bad, closes=True),
        *[
            refused(15, f"Upgrade {what}", headed(f"Upgrade: {what}", "Connection: upgrade"), 400, "malformed_json")
            for what in ("websocket", "h2c")
        ],
        refused(15, "Upgrade alone", headed("Upgrade: websocket"), 400, "malformed_json", closes=True),
        refused(16, "20 MB header", headed("X: " + "y" * 20_000_000), 431, "headers_too_large", closes=True),
        refused(16, "a byte over", headed("X: " + "y" * HEAD_LIMIT), 431, "headers_too_large", closes=True),
        taken(16, "a head within the limit", headed("X: " + "y" * (HEAD_LIMIT - 512))),
        refused(17, "200,000 headers", headed(*["X: y"] * 200_000), 431, "headers_too_large", closes=True),
        refused(17, "65 headers", headed(*["X: y"] * 62), 431, "headers_too_large", closes=True),
        taken(17, "64 headers", headed(*["X: y"] * 61)),
        refused(18, "20 MB target", request(good, target="/" + "y" * 20_000_000), 414, "uri_too_long", closes=True),
        refused(19, "chunk of size -1", chunked(b"-1\r\n" + good), 400, bad, closes=True),
        refused(19, "chunk of size 17 f's", chunked(b"f" * 17 + b"\r\n" + good), 400, bad, closes=True),
        refused(
            20, "chunk extension", chunked(b"%x;" % len(good) + b"x" * 100_000 + b"\r\n" + good + b"\r\n"), 400, bad
        ),
        refused(20, "trailer", chunked(chunk(good), end=b"0\r\nIdempotency-Key: b\r\n\r\n"), 400, bad, closes=True),
        refused(20, "endless trailer", chunked(chunk(good), end=b"0\r\nX: " + b"y" * 300_000), 400, bad, closes=True),
        taken(
            20, "small chunks", chunked(*[chunk(b" ")] * 5_000, chunk(good[:9]), chunk(good[9:])), b" " * 5_000 + good
        ),
        dropped(21, "no byte", b""),
        dropped(21, "line breaks alone", b"\r\n\r\n"),
        refused(22, "half a head", plain[:40], 408, "request_timeout", closes=True),
        refused(23, "half a body", plain[:-5], 408, "request_timeout", closes=True),
        refused(23, "half a chunk", chunked(chunk(good)[:-7], end=b""), 408, "request_timeout", closes=True),
        dropped(24, "half-closed short body", plain[:-5], half_close=True),
        refused(25, "Expect over the limit", request(b"", "Expect: 100-continue", length=300_000), 413, "too_large"),
    ]


def _routes() -> list[Case]:
    there = "not_found"
    return [
        refused(28, "GET", request(b"", method="GET"), 405, "method_not_allowed", allow="POST"),
        refused(28, "PUT", request(event(), method="PUT"), 405, "method_not_allowed", allow="POST"),
        *[
            refused(29, target, request(b"", method="GET", target=target), 404, there)
            for target in ("/x%00", "/%ff", "/x%0d%0aSet-Cookie:%20a=b", "/api/v1/../v1/ingest/..", "/healthz/../x")
        ],
        refused(30, "trailing slash", request(event(), target=INGEST + "/"), 404, there),
        refused(31, "no Content-Type", headed(kind=None), 415, "unsupported_media", accept=ACCEPT.decode()),
        *[
            refused(32, kind, headed(kind=kind), 415, "unsupported_media")
            for kind in (
                "text/plain",
                "application/x-www-form-urlencoded",
                "multipart/form-data; boundary=x",
                "application/octet-stream",
            )
        ],
        refused(33, "latin-1", headed(kind="application/json; charset=latin-1"), 415, "unsupported_media"),
        refused(34, "an envelope as a CloudEvent", headed(kind="application/cloudevents+json"), 422, "bad_id"),
        refused(34, "CloudEvents in XML", headed(kind="application/cloudevents+xml"), 415, "unsupported_media"),
        refused(35, "gzip", headed("Content-Encoding: gzip"), 415, "unsupported_media"),
        refused(
            36,
            "gzip bomb",
            headed("Content-Encoding: gzip", body=b"\x1f\x8b" + b"\x00" * 90_000),
            415,
            "unsupported_media",
        ),
    ]


def _keys() -> list[Case]:
    bare = event(idempotency_key=None)
    nfc, nfd = "caf\u00e9", "cafe\u0301"
    return [
        refused(37, "no key", request(bare), 422, "bad_id"),
        *[refused(38, f"{key!r}", request(event(idempotency_key=key)), 400, "bad_id") for key in ("", " ", "\t ")],
        *[
            refused(38, f"header {key!r}", headed(f"Idempotency-Key: {key}", body=bare), 400, "bad_id")
            for key in ("", '""', '" "')
        ],
        *[
            refused(39, f"{count} characters", request(event(idempotency_key=MARK + "k" * (count - 6))), 422, "bad_id")
            for count in (256, 2_800, 9_000)
        ],
        *[
            refused(39, f"header of {count}", headed("Idempotency-Key: " + "k" * count, body=bare), 400, "bad_id")
            for count in (256, 2_800, 9_000)
        ],
        *[
            refused(40, f"{key!r}", request(event(idempotency_key=key)), 400, "bad_id")
            for key in ("a\n", "a\x7f", "a b", "\u00e9")
        ],
        refused(40, "header with a space", headed("Idempotency-Key: a b", body=bare), 400, "bad_id"),
        refused(40, "header not ASCII", headed("Idempotency-Key: \xe9", body=bare), 400, "bad_id"),
        refused(41, "two headers", headed("Idempotency-Key: a", "Idempotency-Key: a", body=bare), 400, "bad_id"),
        refused(41, "header and body differ", headed("Idempotency-Key: other"), 400, "bad_id"),
        *[
            refused(46, form, request(event(idempotency_key=key)), 400, "bad_id")
            for form, key in (("NFC", nfc), ("NFD", nfd))
        ],
        taken(47, "traceparent junk", headed("traceparent: \xff\xfe00-zz", "tracestate: " + "=" * 500)),
        taken(47, "8 kB of baggage", headed("baggage: a=" + "b" * 8_000)),
        taken(47, "64 kB of baggage", headed("baggage: a=" + "b" * 64_000)),
        taken(48, "forged X-Forwarded-For", headed("X-Forwarded-For: 127.0.0.1", "Forwarded: for=[::1]")),
    ]


def _json() -> list[Case]:
    bad = "malformed_json"
    good = event()
    deep = 100_000
    return [
        *[refused(56, f"{body!r}", request(body), 400, bad) for body in (b"", b" \n\t")],
        *[refused(57, body, request(body.encode()), 422, "not_object") for body in ("null", "[]", '"x"', "1")],
        *[
            refused(58, text, request(written(f'{{"{MARK}": {text}}}')), 400, bad)
            for text in ("[1,]", '{"a":1,}', "1 // x", "1 /* x */", "'a'", "01", ".5", "+1", "1.", "1e")
        ],
        refused(58, "two documents", request(good + good), 400, bad),
        refused(59, "BOM", request(b"\xef\xbb\xbf" + good), 400, bad),
        *[
            refused(59, coding, request(good.decode().encode(coding)), 400, bad)
            for coding in ("utf-16", "utf-16-be", "utf-32")
        ],
        *[
            refused(60, f"{text!r}", request(event("@").replace(b"@", MARK.encode() + text)), 400, bad)
            for text in (b"\xff", b"\xc0\x80", b"\xed\xa0\xbd\xed\xb8\x80", b"\xe2\x82")
        ],
        *[refused(61, text, request(written(text)), 400, bad) for text in ("NaN", "Infinity", "-Infinity")],
        refused(61, "1e400", request(written("1e400")), 400, "unstorable_number"),
        refused(62, "4,301 digits", request(written("1" * 4_301)), 400, "unstorable_number"),
        *[
            taken(63, text, request(written(f'["{MARK}", {text}]')))
            for text in ("9007199254740993", "18446744073709551616", "1.10", "12345678901234567890.10")
        ],
        refused(64, "repeated member", request(good[:-1] + b', "source": "catalogue"}'), 400, bad),
        refused(
            64, "repeated, nested", request(written(f'[{{"{MARK}": 1, "\\u004daRk00": 1, "a": 1, "a": 2}}]')), 400, bad
        ),
        refused(65, "NUL in the key", request(event(idempotency_key=f"{MARK}\0")), 422, "unstorable_text"),
        refused(65, "NUL in a value", request(event(f"{MARK}\0")), 422, "unstorable_text"),
        *[
            refused(66, text, request(written(f'"{MARK}{text}"')), 400, "unstorable_text")
            for text in ("\\ud800", "\\udc00\\ud800", "\\ud83dx")
        ],
        taken(67, "depth 64", request(written(f'{"[" * 64}"{MARK}"{"]" * 64}'))),
        refused(67, "depth 65", request(written(f'{"[" * 65}"{MARK}"{"]" * 65}')), 400, "too_deep"),
        refused(67, "depth 100,000", request(written("[" * deep + "]" * deep)), 400, "too_deep"),
        taken(68, "10,000 values", request(event([MARK] * 9_999))),
        refused(68, "10,001 values", request(event([MARK] * 10_000)), 413, "too_large"),
        taken(68, "9,000 members", request(event({f"{MARK}{number}": 0 for number in range(9_000)}))),
        *[taken(69, f"limit {over:+}", request(sized(BODY_LIMIT + over))) for over in (-1, 0)],
        refused(69, "limit +1", request(sized(BODY_LIMIT + 1)), 413, "too_large", closes=True),
        refused(70, "chunked past it", chunked(*[chunk(b"x" * 65_536)] * 40, end=b""), 413, "too_large", closes=True),
        refused(70, "announced past it", request(b"x" * 1_000, length=10_000_000), 413, "too_large", closes=True),
    ]


def sized(size: int) -> bytes:
    """An event of exactly so many bytes."""
    return event(MARK + "x" * (size - len(event())))


def _members() -> list[Case]:
    invalid = "schema_invalid"
    return [
        *[
            refused(71, f"no {name}", request(event(**{name: None})), 422, invalid)
            for name in ("source", "schema_version")
        ],
        refused(71, "no payload", request(event(None)), 422, invalid),
        refused(71, "an extra member", request(event(**{MARK: 1})), 422, invalid),
        *[
            refused(71, f"{name} {value!r}", request(event(**{name: value})), 422, invalid)
            for name, value in (
                ("source", 1),
                ("schema_version", 1.0),
                ("type", []),
                ("ordering_key", {}),
                ("occurred_at", 5),
            )
        ],
        refused(71, "key 7", request(event(idempotency_key=7)), 422, "bad_id"),
        *[
            refused(72, f"source {source!r}", request(event(source=source)), 422, invalid)
            for source in ("", "s" * 256, "a b", "a\\b", "<a>", "a\u202eb", "\U0001f600", "a\nb")
        ],
        *[
            refused(74, f"at {text}", request(event(occurred_at=text)), 422, invalid)
            for text in (
                "0000-01-01T00:00:00Z",
                "10000-01-01T00:00:00Z",
                "2024-01-01T00:00:60Z",
                "2024-01-01T00:00:00",
                "2024-02-30T00:00:00Z",
            )
        ],
        refused(74, "at 1e18", request(event(occurred_at=1e18)), 422, invalid),
        *[
            taken(75, text, request(event({MARK: text, text: MARK})))
            for text in ("__proto__", "$where", "${jndi:ldap://x/a}", "{{7*7}}", "'; DROP TABLE events; --", "%s%n%x")
        ],
        taken(76, "CR LF ESC", request(event(f"{MARK}\r\n\x1b[31m\u202e\u2028"))),
        refused(76, "in a source", request(event(source=f"{MARK}\r\n\x1b[31m")), 422, invalid),
        taken(77, "unknown type and version", request(event(type="nobody.knows", schema_version="999"))),
        refused(78, "a batch of none", request(b"[]", target=BATCH), 422, invalid),
        refused(
            78, "a batch of 1,001", request(b"[" + b",".join([event()] * 1_001) + b"]", target=BATCH), 413, "too_large"
        ),
    ]


SECRET = base64.b64encode(b"catalogue" * 4).decode()
KEY = api_keys.new_key()
KEYS = api_keys.line("catalogue", KEY, ["catalogue"])
HOOKS = f"""
[sources.standard]
scheme = "standard_webhooks"
secrets = [{{ env = "{SECRET_NAME}" }}]

[sources.stripe]
scheme = "stripe"
secrets = [{{ env = "{SECRET_NAME}" }}]

[sources.github]
scheme = "github"
secrets = [{{ env = "{SECRET_NAME}" }}]
"""
"""What the gateway of `GUARDED` declares; its environment holds `SECRET` under `SECRET_NAME`."""


def _standard(
    *, late: int = 0, stamp: str | None = None, name: str = "id", body: bytes | None = None, copies: int = 1
) -> Callable[[int], bytes]:
    """A delivery of Standard Webhooks that is rightly signed, but for what is given. `body`: what was signed instead."""

    def sent(now: int) -> bytes:
        at, own = str(now + late) if stamp is None else stamp, event()
        key = base64.b64decode(SECRET)
        digest = hmac.digest(key, f"{name}.{at}.".encode() + (own if body is None else body), "sha256")
        signatures = " ".join(["v1," + base64.b64encode(digest).decode()] * copies)
        headers = (f"webhook-id: {name}", f"webhook-timestamp: {at}", f"webhook-signature: {signatures}")
        return request(own, *headers, target=WEBHOOKS + "standard")

    return sent


def _stripe(*, late: int = 0, stamp: str | None = None, copies: int = 1) -> Callable[[int], bytes]:
    def sent(now: int) -> bytes:
        at, own = str(now + late) if stamp is None else stamp, event(id=MARK)
        digest = hmac.digest(SECRET.encode(), f"{at}.".encode() + own, "sha256").hex()
        signature = f"t={at}" + f",v1={digest}" * copies
        return request(own, f"stripe-signature: {signature}", target=WEBHOOKS + "stripe")

    return sent


def _github(digest: str) -> bytes:
    headers = (f"x-github-delivery: {MARK}", "x-github-event: push", f"x-hub-signature-256: sha256={digest}")
    return request(event(), *headers, target=WEBHOOKS + "github")


def _senders() -> list[Case]:
    unknown, forged, malformed = "unauthenticated", "bad_signature", "malformed_json"
    other = hmac.digest(SECRET.encode(), b"another body", "sha256").hex()
    asked: dict[str, Any] = {"www-authenticate": 'Bearer realm="plutus"'}
    return [
        *[
            refused(49, what, headed(*headers), 401, unknown, **asked)
            for what, headers in (
                ("no credential", ()),
                ("unknown key", (f"Authorization: Bearer {api_keys.new_key()}",)),
                ("another scheme", ("Authorization: Basic " + base64.b64encode(f"catalogue:{KEY}".encode()).decode(),)),
                ("a key and more", (f"Authorization: Bearer {KEY} {KEY}",)),
                ("10 kB of key", ("Authorization: Bearer " + "k" * 10_000,)),
            )
        ],
        refused(49, "two credentials", headed(*[f"Authorization: Bearer {KEY}"] * 2), 400, malformed),
        refused(
            50,
            "another source",
            headed(f"Authorization: Bearer {KEY}", body=event(source="x")),
            403,
            "forbidden_source",
        ),
        refused(51, "no signature", request(event(), target=WEBHOOKS + "standard"), 401, forged),
        refused(51, "another body's", _standard(body=b"{}"), 401, forged),
        refused(51, "another body's at GitHub", _github(other), 401, forged),
        *[
            refused(51, f"{digest!r}", _github(digest), 401, forged)
            for digest in ("", "0", "0" * 64, "z" * 64, other[:63])
        ],
        *[refused(52, f"{late:+} s", _standard(late=late), 401, forged) for late in (-310, 310)],
        *[refused(52, f"{late:+} s at Stripe", _stripe(late=late), 401, forged) for late in (-310, 310)],
        *[
            refused(52, f"at {what}", sign(stamp=stamp), 401, forged)
            for what, stamp in (
                ("words", "now"),
                ("a negative time", "-5"),
                ("4,301 digits", "1" * 4_301),
                ("+5", "+5"),
            )
            for sign in (_standard, _stripe)
        ],
        refused(54, "1,000 signatures", _standard(copies=1_000), 400, malformed),
        refused(54, "1,000 signatures at Stripe", _stripe(copies=1_000), 400, malformed),
        refused(55, "an id with a full stop", _standard(name="a.b"), 400, malformed),
        refused(55, "a time with a full stop", _standard(stamp="1.5"), 400, malformed),
        refused(55, "a time with a full stop at Stripe", _stripe(stamp="1.5"), 400, malformed),
    ]


_OPEN = [*_connection(), *_routes(), *_keys(), *_json(), *_members()]
CASES = [Case(**{**vars(case), "number": number}) for number, case in enumerate(_OPEN, 1)]
GUARDED = [Case(**{**vars(case), "number": number}) for number, case in enumerate(_senders(), 1 + len(_OPEN))]

ELSEWHERE = {
    26: "test_five_pipelined_events_are_answered_in_their_order",
    27: "test_a_client_that_leaves_after_its_body_has_sent_its_event",
    42: "test_duplicate_conflict_and_refusals",
    43: "test_duplicate_conflict_and_refusals",
    44: "test_concurrent_requests_of_one_event_are_one_record",
    45: "test_the_key_of_one_sender_never_meets_anothers",
    53: "test_a_delivery_becomes_an_event_and_its_repetition_a_duplicate",
    73: "test_new_sources_cost_no_series",
    77: "test_row_77_a_strict_registry_refuses_what_has_no_schema",
    78: "test_each_item_has_its_result_in_order",
    79: "test_a_kafka_that_is_down_is_not_accepted_and_comes_back_without_a_restart",
    80: "test_a_frozen_kafka_is_outcome_unknown_and_the_retry_takes_effect_once",
    81: "test_without_postgres_events_are_accepted_and_remembered_later",
    82: "test_too_many_in_flight_are_refused_before_the_body_is_read",
}
"""Row -> the test that holds it, or the part of it that a single request cannot show."""
