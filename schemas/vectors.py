"""Published test vectors: what any other implementation of the event id, the fingerprint and the parser must reproduce.

    python -m schemas.vectors             adds the vectors of the inputs below to schemas/vectors.json

The file is a promise to producers in other languages and to the fingerprints already stored, so the command refuses to
change or drop a vector that stands in it: a changed canonical form needs a new version byte (`schemas.fingerprint`). Texts
stand in it as JSON strings of the JSON text; bytes that are no UTF-8 as base64.
"""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any

from schemas import event, ids, json_text
from schemas.errors import Rejected
from schemas.fingerprint import CURRENT, fingerprint

FILE = Path(__file__).parent / "vectors.json"

_NAMES = (
    ("payment_service", "evt_123456"),
    ("payment_service", "evt_123457"),
    ("payment_servic", "e!evt_123456"),
    ("https://sensors.example/rooms/3?floor=2", "550e8400-e29b-41d4-a716-446655440000"),
    ("urn:example:caf%C3%A9", "!~"),
    ("a", "b"),
    ("s" * 255, "k" * 255),
)

_PAYLOADS = (
    *("null", "true", "false", '""', "{}", "[]", "0", "-1", "100"),
    *("1.0", "1e0", "1.00", "10E-1", "-0", "-0.0", "0e5", "100.10", "1e2", "1.5e3", "15E+2", "0.00001", "1e-7"),
    *("1e16", "10000000000000000", "10000000000000000.1", "10000000000000000.2", "12345678901234567890.10"),
    *("9007199254740993", "18446744073709551616", "-9223372036854775809", "1.7976931348623157e308", "5e-324"),
    *("1234567890123456789012345678901234567890", "12345678901234567890123456789012345678901", "1e39", "1e40"),
    *("0.0000000000000000000000000000000000000001", "1e-41", "2.5e-324", "123456789012345678901.50"),
    *('"\\u00e9"', '"é"', '"e\u0301"', '"\\ud83d\\ude00"', '"\\/\\b\\f\\n\\r\\t\\"\\\\"', '"\\u001f\\u007f\\u2028"'),
    *('"1.0, -0.0] e+16"', '"1.0"', '{"b":1,"a":2}', '{"a":2,"b":1}', '{ "a" :\t2 ,\r\n "b" : 1.0 }', "[2,1]", "[ 1 , 2 ]"),
    '{"\\ue000":1,"\\ud83d\\ude00":2,"é":3,"z":4,"Z":5,"":6}',
    '{"amount": 100, "currency": "KES"}',
    '{"items":[{"sku":"A","quantity":1.0},{"quantity":2e0,"sku":"B"}],"total":59.90}',
)  # fmt: skip

_EQUAL = (
    ("1", "1.0", "1e0", "1.00", "10E-1", "0.1e1"),
    ("0", "-0", "-0.0", "0e5", "0.000"),
    ('"\\u00e9"', '"é"', '"\\u00E9"'),
    ('"/"', '"\\/"', '"\\u002f"'),
    ('{"a":1,"b":2}', '{"b":2,"a":1}'),
    ('{"a":1,"b":[true,null]}', '{ "b": [ true , null ], "\\u0061": 1.0 }'),
    ("100", "1e2", "100.000", "1000e-1"),
    ("12345678901234567890.10", "12345678901234567890.1", "1234567890123456789010e-2"),
)  # fmt: skip

_UNEQUAL = (
    ("10000000000000000.1", "10000000000000000.2"),
    ("10000000000000000", "10000000000000000.1"),
    ("9007199254740993", "9007199254740992"),
    ("18446744073709551616", "18446744073709551617"),
    ("1e-400", "0"),
    ("[1,2]", "[2,1]"),
    ("1", '"1"'),
    ("0", "false"),
    ("null", "{}"),
    ("[]", "{}"),
    ('{"a":null}', "{}"),
    ('"é"', '"e\u0301"'),
    ('"a"', '"A"'),
    ('" a"', '"a"'),
)  # fmt: skip


def _envelope(payload: str = '{"amount":100,"currency":"KES"}', **members: str) -> str:
    """An envelope with these raw JSON texts as members; an empty text leaves the member out."""
    standard = {"source": '"payment_service"', "schema_version": '"1.0"', "idempotency_key": '"evt_123456"'}
    texts = {**standard, **members, "payload": payload}
    return "{" + ",".join(f'"{name}":{text}' for name, text in texts.items() if text) + "}"


_DEEPEST = "[" * 64 + "]" * 64

_ACCEPTED = (
    '{"source": "payment_service", "schema_version": "1.0", "idempotency_key": "evt_123456", '
    '"payload": {"amount": 100, "currency": "KES"}}',
    _envelope("12345678901234567890.10"),
    _envelope("null"),
    _envelope(_DEEPEST),
    _envelope('\r\n {"a":\n1} \n'),
    _envelope('"\\ud83d\\ude00 \\r\\n \\u001b"'),
    _envelope('{"__proto__":"$where","x":"${jndi:ldap://x}{{7*7}}\'; DROP TABLE events;--%s%n"}'),
    _envelope(type='"transfer_requested"', ordering_key='"acc-1"', occurred_at='"2026-11-23T10:00:00.123456789+05:30"'),
    _envelope(type="null", ordering_key="null", occurred_at="null"),
    _envelope(occurred_at='"2026-11-23t10:00:00z"'),
    _envelope(source='"https://sensors.example/rooms/3?floor=2#x"', idempotency_key='"!~"'),
    '{"p\\u0061yload":[1, 2],"source":"s","schema_version":"1","idempotency_key":"k"}',
)

_REFUSED: tuple[str | bytes, ...] = (
    *("", " ", "nul", "{", "[1,]", '{"a":1,}', "{'a':1}", "01", ".5", "+1", "1.", "{} {}", "/* x */ {}", "NaN"),
    *("null", "[]", '"x"', "1"),
    *(b"\xef\xbb\xbf{}", "{}".encode("utf-16"), "{}".encode("utf-32"), b'"\xff"', b'"\xc0\x80"', b'"\xed\xa0\x80"'),
    *(_envelope(number) for number in ("NaN", "Infinity", "-Infinity", "1e400", "-1e400", "1" + "0" * 400, "0e1234567890")),
    *(_envelope(text) for text in ('"\\ud800"', '"\\udc00\\ud800"', '"\\ud800\\u0041"', '"a\x01b"', '"\\x41"')),
    *(_envelope(text) for text in ('"\\u0000"', '{"\\u0000":1}', '{"a":1,"\\u0061":2}', '[{"a":1,"a":1}]')),
    _envelope(f"[{_DEEPEST}]"),
    *(_envelope(**{name: ""}) for name in ("source", "schema_version", "idempotency_key")),
    _envelope(payload=""),
    _envelope(extra="1"),
    _envelope() [:-1] + ',"source":"payment_service"}',
    *(_envelope(idempotency_key=key) for key in ("1", "null", '""', '" "', '"a b"', '"caf\\u00e9"', '"\\u0007"')),
    _envelope(idempotency_key=f'"{"k" * 256}"'),
    *(_envelope(source=source) for source in ("1", "null", '""', '"a b"', '"a\\\\b"', '"<a>"', '"%4"', '"\\u202e"', '"😀"')),
    _envelope(source=f'"{"s" * 256}"'),
    *(_envelope(schema_version=version) for version in ("1.0", '""', '"1 0"', f'"{"1" * 65}"')),
    *(_envelope(type=name) for name in ("1", '""', '"a b"', '"é"', f'"{"t" * 129}"')),
    *(_envelope(ordering_key=key) for key in ("1", '""', '"a b"', f'"{"k" * 256}"')),
    *(_envelope(occurred_at=time) for time in (
        "1e18", "1767225600", '""', '"2026-11-23"', '"2026-11-23T10:00:00"', '"2026-11-23 10:00:00Z"',
        '"0000-01-01T00:00:00Z"', '"10000-01-01T00:00:00Z"', '"2026-02-30T10:00:00Z"', '"2026-11-23T24:00:00Z"',
        '"2026-11-23T10:00:60Z"', '"2026-11-23T10:00:00+24:00"', '"2026-11-23T10:00:00.Z"', '"0001-01-01T00:00:00+01:00"',
        '"9999-12-31T23:59:59-01:00"', '"\u0662026-11-23T10:00:00Z"',
    )),
)  # fmt: skip


def published() -> dict[str, Any]:
    """The vectors in the file."""
    vectors: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return vectors


def computed() -> dict[str, Any]:
    """The vectors as this release computes them."""
    return {
        "about": "Test vectors of Plutus: event ids, canonical forms and fingerprints, envelopes. See schemas/vectors.py.",
        "namespace": str(ids.PLUTUS_NAMESPACE),
        "fingerprint_version": CURRENT,
        "event_ids": [
            {"source": source, "idempotency_key": key, "event_id": str(ids.event_id(source, key))}
            for source, key in _NAMES
        ],
        "fingerprints": [_fingerprint(payload) for payload in _PAYLOADS],
        "equal": [{"payloads": list(payloads)} for payloads in _EQUAL],
        "unequal": [{"payloads": list(payloads)} for payloads in _UNEQUAL],
        "accepted": [_accepted(envelope) for envelope in _ACCEPTED],
        "refused": [_refused(envelope) for envelope in _REFUSED],
    }


def _fingerprint(payload: str) -> dict[str, Any]:
    raw = payload.encode()
    document = json_text.load(raw)
    form = json_text.canonical(raw, document).decode()
    return {"payload": payload, "canonical": form, "fingerprint": fingerprint(raw, document).hex()}


def _accepted(envelope: str) -> dict[str, Any]:
    made = event.parse_envelope(envelope.encode())
    return {
        "envelope": envelope,
        "event_id": str(made.id),
        "payload": made.payload.decode(),
        "fingerprint": made.fingerprint.hex(),
        "occurred_at": made.occurred_at and made.occurred_at.isoformat(),
        "one_line": event.encode(made).decode(),
    }


def _refused(envelope: str | bytes) -> dict[str, Any]:
    raw = envelope.encode() if isinstance(envelope, str) else envelope
    text = {"envelope": envelope} if isinstance(envelope, str) else {"envelope_base64": base64.b64encode(raw).decode()}
    try:
        event.parse_envelope(raw)
    except Rejected as error:
        return {**text, "error": type(error).__name__, "reason": error.reason.value, "pointer": error.pointer}
    raise ValueError(f"A vector of the refused ones is accepted: {text}")


def _lost(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Published vectors that `after` changes or drops."""
    lost = [name for name in ("namespace", "fingerprint_version") if before[name] != after[name]]
    for name, group in before.items():
        if isinstance(group, list):
            lost += [f"{name}: {json.dumps(vector)}" for vector in group if vector not in after[name]]
    return lost


def main() -> int:
    """Run the command; 0 when written, 1 when a published vector would change."""
    vectors = computed()
    lost = _lost(published(), vectors) if FILE.exists() else []
    for each in lost:
        print(f"published vector changed: {each}", file=sys.stderr)
    if lost:
        return 1
    FILE.write_text(json.dumps(vectors, indent=1) + "\n", encoding="utf-8")
    print(f"{sum(len(group) for group in vectors.values() if isinstance(group, list))} vectors in {FILE.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
