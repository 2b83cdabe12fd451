"""The envelope's parser, member by member, and every input of the catalogue (reliability section 4) that it decides.

Numbers in the test ids are rows of that catalogue: plain ones of its HTTP table, with a K those of its Kafka table.
"""

from __future__ import annotations

import json
import tracemalloc
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas import event as event_module
from schemas.errors import Invalid, Malformed, Reason, Rejected, TooLarge
from schemas.event import Event, build, encode, instant, one_line, parse_envelope
from schemas.ids import event_id
from schemas.json_text import load
from schemas.limits import EDGE, SAFETY, Limits
from tests.unit.schemas.spelling import spell, texts, values

GOOD: dict[str, Any] = {
    "source": "payment_service",
    "schema_version": "1.0",
    "idempotency_key": "evt_123456",
    "payload": {"amount": 100, "currency": "KES"},
}
seeds = st.integers(0, 2**32).map(Random)
visible = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=128)
sources = st.from_regex(r"[A-Za-z0-9._~:/?#@!$&'()*+,;=\[\]-]{1,40}(%[0-9A-Fa-f]{2})?", fullmatch=True)
moments = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)).map(lambda moment: moment.replace(tzinfo=UTC))  # noqa: DTZ001


NO_NAMES: tuple[object, ...] = (1, False, [], {}, "", "a b", "a\t", "é", "x" * 256)
IMPOSSIBLE_TIMES: tuple[object, ...] = (
    1e18, 1767225600, True, [], "", "now", "2026-11-23", "2026-11-23T10:00:00", "2026-11-23 10:00:00Z",
    "20261123T100000Z", "2026-W48-1T10:00:00Z", "0000-01-01T00:00:00Z", "10000-01-01T00:00:00Z",
    "2026-13-01T00:00:00Z", "2026-00-01T00:00:00Z", "2026-02-30T10:00:00Z", "2025-02-29T10:00:00Z",
    "2026-11-23T24:00:00Z", "2026-11-23T10:60:00Z", "2026-11-23T10:00:60Z", "2026-11-23T10:00:00+24:00",
    "2026-11-23T10:00:00+05:60", "2026-11-23T10:00:00+0530", "2026-11-23T10:00:00.Z", "2026-11-23T10:00:00,5Z",
    "2026-11-23T10:00Z", "2026-11-23T10:00:00Z ", "2026-11-23T10:00:00Z\n", "\u0662026-11-23T10:00:00Z",
    "0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00", "1e18",
)  # fmt: skip


def envelope(**members: Any) -> bytes:
    """The good envelope with these members instead; `...` leaves one out."""
    return json.dumps({name: value for name, value in {**GOOD, **members}.items() if value is not ...}).encode()


def with_payload(text: str) -> bytes:
    return b'{"source":"s","schema_version":"1","idempotency_key":"k","payload":' + text.encode() + b"}"


def refusal(body: bytes, limits: Limits = EDGE, key: str | None = None) -> Rejected:
    with pytest.raises(Rejected) as refused:
        parse_envelope(body, limits, idempotency_key=key)
    return refused.value


def test_the_envelope_of_the_readme() -> None:
    event = parse_envelope(envelope())
    assert event == Event(
        id_bytes=event_id("payment_service", "evt_123456").bytes,
        source="payment_service",
        schema_version="1.0",
        idempotency_key="evt_123456",
        payload=b'{"amount": 100, "currency": "KES"}',
        fingerprint=event.fingerprint,
    )
    assert event.data == {"amount": 100, "currency": "KES"}


def test_every_member() -> None:
    body = envelope(type="transfer_requested", ordering_key="acc-1", occurred_at="2026-11-23T10:00:00.5+05:30")
    event = parse_envelope(body)
    assert (event.type, event.ordering_key) == ("transfer_requested", "acc-1")
    assert event.occurred_at == datetime(2026, 11, 23, 4, 30, 0, 500_000, tzinfo=UTC)
    assert event.occurred_at.utcoffset() == timedelta(hours=5, minutes=30)
    assert event.partition_key() == b"payment_service"
    assert event.partition_key(spread=True) == b"payment_service:acc-1"


def test_null_in_an_optional_member_is_its_absence() -> None:
    assert parse_envelope(envelope(type=None, ordering_key=None, occurred_at=None)) == parse_envelope(envelope())


@pytest.mark.parametrize(
    ("body", "error", "reason", "pointer"),
    [
        pytest.param(envelope(idempotency_key=...), Invalid, Reason.BAD_ID, "/idempotency_key", id="37 K5 no key"),
        pytest.param(envelope(idempotency_key=""), Malformed, Reason.BAD_ID, "/idempotency_key", id="38 empty key"),
        pytest.param(envelope(idempotency_key="  "), Malformed, Reason.BAD_ID, "/idempotency_key", id="38 blank key"),
        *[
            pytest.param(envelope(idempotency_key="k" * n), Invalid, Reason.BAD_ID, "/idempotency_key", id=f"39 K5 key of {n}")
            for n in (256, 2_800, 9_000)
        ],
        *[
            pytest.param(envelope(idempotency_key=key), Malformed, Reason.BAD_ID, "/idempotency_key", id=f"40 46 key {key!a}")
            for key in ("a b", "a\n", "\x7f", "\x1b[2J", "caf\u00e9", "cafe\u0301", "\u202e", "\ufeffk", "１")
        ],
        *[
            pytest.param(envelope(idempotency_key=key), Invalid, Reason.BAD_ID, "/idempotency_key", id=f"K5 71 key {key}")
            for key in (1, 1.5, None, True, ["k"], {"k": 1})
        ],
        *[
            pytest.param(body, Invalid, Reason.NOT_OBJECT, "", id=f"57 K3 {body!r}")
            for body in (b"null", b"[]", b'"x"', b"1", b"true", b"[{}]")
        ],
        *[
            pytest.param(envelope(**{name: ...}), Invalid, Reason.SCHEMA_INVALID, f"/{name}", id=f"71 without {name}")
            for name in ("source", "schema_version", "payload")
        ],
        pytest.param(b"{}", Invalid, Reason.SCHEMA_INVALID, "/source", id="71 empty"),
        pytest.param(envelope(extra=1), Invalid, Reason.SCHEMA_INVALID, "", id="71 extra member"),
        pytest.param(envelope(payload_encoding="text"), Invalid, Reason.SCHEMA_INVALID, "", id="71 our own member"),
        *[
            pytest.param(envelope(**{name: value}), Invalid, Reason.SCHEMA_INVALID, f"/{name}", id=f"71 {name} {value!a:.20}")
            for name in ("source", "schema_version", "type", "ordering_key")
            for value in NO_NAMES
        ],
        *[
            pytest.param(envelope(**{name: None}), Invalid, Reason.SCHEMA_INVALID, f"/{name}", id=f"71 {name} null")
            for name in ("source", "schema_version")
        ],
        *[
            pytest.param(envelope(source=source), Invalid, Reason.SCHEMA_INVALID, "/source", id=f"72 source {source!a:.20}")
            for source in ("", "s" * 256, "a b", "a\\b", "<a>", "\u202e", "😀", "%", "%4", "%zz", "a^b", '"', "{a}", "|", "`", "a\n")
        ],
        *[
            pytest.param(envelope(occurred_at=time), Invalid, Reason.SCHEMA_INVALID, "/occurred_at", id=f"74 {time!a}")
            for time in IMPOSSIBLE_TIMES
        ],
        pytest.param(with_payload("[" * 65 + "]" * 65), Malformed, Reason.TOO_DEEP, "/payload", id="67 K8 depth 65"),
        pytest.param(with_payload("[" * 20_000 + "]" * 20_000), Malformed, Reason.TOO_DEEP, "", id="67 K8 depth 20,000"),
        pytest.param(with_payload("[" + "1," * 9_999 + "1]"), TooLarge, Reason.TOO_LARGE, "/payload", id="68 10,001 nodes"),
        pytest.param(with_payload('"\\u0000"'), Invalid, Reason.UNSTORABLE_TEXT, "", id="65 K6 NUL in a value"),
        pytest.param(with_payload('{"\\u0000":1}'), Invalid, Reason.UNSTORABLE_TEXT, "", id="65 K6 NUL in a name"),
        pytest.param(envelope(idempotency_key="a\x00"), Invalid, Reason.UNSTORABLE_TEXT, "", id="65 K6 NUL in the key"),
        pytest.param(with_payload('"\\udc00"'), Malformed, Reason.UNSTORABLE_TEXT, "", id="66 K6 surrogate"),
        pytest.param(with_payload("1e200000"), Malformed, Reason.UNSTORABLE_NUMBER, "", id="K7 1e200000"),
        pytest.param(with_payload("1" * 140_000), Malformed, Reason.UNSTORABLE_NUMBER, "", id="K7 140,000 digits"),
        pytest.param(b"", Malformed, Reason.MALFORMED_JSON, "", id="56 K2 zero bytes"),
        pytest.param(b"not json", Malformed, Reason.MALFORMED_JSON, "", id="K2 not JSON"),
        pytest.param(b"\xff\xfe", Malformed, Reason.MALFORMED_JSON, "", id="K2 not UTF-8"),
        pytest.param(b'{"source":"s","source":"s"}', Malformed, Reason.MALFORMED_JSON, "", id="64 repeated member"),
        pytest.param(envelope() + b"{}", Malformed, Reason.MALFORMED_JSON, "", id="58 two documents"),
    ],
)  # fmt: skip
def test_refused(body: bytes, error: type[Rejected], reason: Reason, pointer: str) -> None:
    refused = refusal(body)
    assert (type(refused), refused.reason, refused.pointer) == (error, reason, pointer)


@pytest.mark.parametrize("limits", [EDGE, SAFETY])
def test_the_worker_refuses_the_same_members_as_the_edge(limits: Limits) -> None:
    assert refusal(envelope(idempotency_key="k" * 256), limits).reason is Reason.BAD_ID
    assert refusal(with_payload("[" * 65 + "]" * 65), limits).reason is Reason.TOO_DEEP


@pytest.mark.parametrize(
    "members",
    [
        {"idempotency_key": "k" * 255},
        {"idempotency_key": "!~"},
        {"source": "s" * 255},
        {"source": "https://example.org/a?b=[c]#d%C3%A9"},
        {"source": "."},
        {"type": "t" * 128, "ordering_key": "o" * 255, "schema_version": "v" * 64},
        {"occurred_at": "0001-01-01T00:00:00Z"},
        {"occurred_at": "9999-12-31T23:59:59.999999Z"},
        {"occurred_at": "2024-02-29t23:59:59.123456789012z"},
        {"occurred_at": "2026-11-23T10:00:00-00:00"},
    ],
)
def test_members_at_their_border_pass(members: dict[str, Any]) -> None:
    parse_envelope(envelope(**members))


@pytest.mark.parametrize(
    "text",
    [
        *("9007199254740993", "18446744073709551616", "1.10", "12345678901234567890.10"),
        *("[" * 64 + "]" * 64, "[" + "1," * 9_998 + "1]", "null", "false", '""', "{}"),
        '{"__proto__":"$where","a":"${jndi:ldap://x}","b":"{{7*7}}","c":"\'; DROP TABLE events;--","d":"%s%n"}',
        '"\\r\\n\\u001b[31m"',
    ],
)  # fmt: skip
def test_rows_63_67_68_75_76_are_kept_as_sent(text: str) -> None:
    event = parse_envelope(with_payload(text))
    assert event.payload == text.encode()
    assert b"\n" not in event.payload


def test_row_69_the_body_border_is_exact() -> None:
    fill = EDGE.body_bytes - len(envelope(payload=""))
    parse_envelope(envelope(payload="x" * (fill - 1)))
    parse_envelope(envelope(payload="x" * fill))
    assert refusal(envelope(payload="x" * (fill + 1))).reason is Reason.TOO_LARGE


def test_kafka_row_9_the_worker_takes_more_bytes_than_the_edge() -> None:
    large = envelope(payload="x" * (EDGE.body_bytes + 1))
    assert refusal(large, EDGE).reason is Reason.TOO_LARGE
    parse_envelope(large, SAFETY)
    assert refusal(envelope(payload="x" * SAFETY.body_bytes), SAFETY).reason is Reason.TOO_LARGE


def test_the_key_may_come_beside_the_body() -> None:
    beside = parse_envelope(envelope(idempotency_key=...), idempotency_key="evt_123456")
    assert beside == parse_envelope(envelope()) == parse_envelope(envelope(), idempotency_key="evt_123456")
    refused = refusal(envelope(), key="evt_other")
    assert (type(refused), refused.reason, refused.pointer) == (Malformed, Reason.BAD_ID, "/idempotency_key")
    assert refusal(envelope(idempotency_key=1), key="1").reason is Reason.BAD_ID


def test_line_breaks_between_tokens_become_spaces_and_nothing_else_changes() -> None:
    event = parse_envelope(with_payload('\r\n{"a":\n[1.50,\r"\\n"]}\n'))
    assert event.payload == b'{"a": [1.50, "\\n"]}'
    assert one_line(b'{"a":1}') == b'{"a":1}'


def test_the_payload_is_found_whatever_stands_around_it() -> None:
    body = (
        b'{"ordering_key":"\\"payload\\":1", "p\\u0061yload" :\t[1.0,{"payload":2}]  ,"source":"s","schema_version":"1",'
        b'"idempotency_key":"k"}'
    )
    assert parse_envelope(body).payload == b'[1.0,{"payload":2}]'


@given(values, seeds, sources, visible, visible, st.none() | moments)
def test_parse_of_encode_is_the_same_event(
    value: Any, random: Random, source: str, key: str, kind: str, moment: datetime | None
) -> None:
    text = spell(value, random).encode()
    made = build(
        source=source,
        schema_version="1.0",
        idempotency_key=key,
        payload=text,
        document=load(text),
        type=kind,
        ordering_key=key,
        occurred_at=moment and moment.isoformat(),
    )
    line = encode(made)
    again = parse_envelope(line)
    assert b"\n" not in line
    assert b"\r" not in line
    assert again == msgspec.structs.replace(made, payload=one_line(text).strip(b" \t"))
    assert parse_envelope(encode(again)) == again


@given(values, seeds, seeds)
def test_re_spelling_the_envelope_changes_nothing_but_the_payload_text(
    value: Any, first: Random, second: Random
) -> None:
    members = {**GOOD, "payload": value}
    one, other = (parse_envelope(spell(members, random).encode()) for random in (first, second))
    assert (one.id, one.source, one.fingerprint) == (other.id, other.source, other.fingerprint)
    assert one.fingerprint_in(1) == one.fingerprint


USUAL = '{"source":"shop","schema_version":"1.0","idempotency_key":"k","payload":%s}'


@given(
    values,
    seeds,
    st.sampled_from(("shop", "Shop/1", "", "é", "a b", "s" * 256, True, None, [])),
    st.sampled_from(("1.0", "", "v" * 65, True, {})),
    st.sampled_from(("k", "", "a b", "k" * 256, True, [])),
    st.sampled_from((None, "order.placed", "", "t" * 129, True, {"a": "b"})),
    st.sampled_from(("compact", "blanks", "spelled", "twice", "more")),
    st.sampled_from((EDGE, SAFETY, Limits(depth=1), Limits(nodes=90), Limits(key_chars=2, source_chars=4))),
)
@example({}, Random(1), "shop", "1.0", "k", None, "compact", EDGE)
def test_an_envelope_that_is_as_most_are_reads_as_in_full(
    payload: Any, random: Random, source: Any, version: Any, key: Any, kind: Any, how: str, limits: Limits
) -> None:
    members = {"source": source, "schema_version": version, "idempotency_key": key, "type": kind, "payload": payload}
    if kind is None and random.random() < 0.5:
        del members["type"]
    if how == "spelled":
        body = spell(members, random).encode()
    else:
        spelled = {
            name: spell(value, random) if name == "payload" else json.dumps(value) for name, value in members.items()
        }
        colon, comma = (": ", ", ") if how == "blanks" else (":", ",")
        pairs = [f'"{name}"{colon}{value}' for name, value in spelled.items()]
        pairs += {"twice": pairs[:1], "more": ['"ordering_key":"o"']}.get(how, [])
        body = f"{{{comma.join(pairs)}}}".encode()

    def outcome(**beside: Any) -> Any:
        try:
            return parse_envelope(body, limits, **beside)
        except Rejected as error:
            return type(error), error.reason, error.pointer, str(error)

    # A key beside the body, equal to its own, always takes the full reading.
    beside = {"idempotency_key": key} if isinstance(key, str) else None
    if beside is not None:
        assert outcome() == outcome(**beside)
    else:
        assert isinstance(outcome(), tuple)


@pytest.mark.parametrize(
    "payload", ["{}", "null", "0.5", ' { "a b" : [ 1, 2 ] } ', '{"b":[1,2,{"c":"é.0"}],"a":-1}', '"1.0"']
)
def test_the_short_way_is_taken_by_what_is_usual(payload: str) -> None:
    body = (USUAL % payload).encode()
    assert event_module._usual(body, EDGE) == parse_envelope(body, idempotency_key="k")


@pytest.mark.parametrize(
    "payload",
    ["1.0", "-0.0", "1e3", '{"a":1,"a":1}', '"\\u0041"', "[\t]", "12345678901234567890123", "[" * 65 + "]" * 65],
)
def test_the_short_way_leaves_the_rest_alone(payload: str) -> None:
    assert event_module._usual((USUAL % payload).encode(), EDGE) is None


def test_a_fingerprint_of_a_newer_release_is_refused() -> None:
    with pytest.raises(ValueError, match="deploy the newer one"):
        parse_envelope(envelope()).fingerprint_in(9)


mutations = st.lists(st.tuples(st.integers(0, 400), st.binary(max_size=3)), min_size=1, max_size=4)


@given(st.binary(max_size=300), mutations)
@example(b"[" * 1000, [(0, b"")])
def test_whatever_the_bytes_only_a_rejection_comes_out(noise: bytes, changes: list[tuple[int, bytes]]) -> None:
    mutated = envelope(type="t", occurred_at="2026-11-23T10:00:00Z")
    for place, piece in changes:
        mutated = mutated[:place] + piece + mutated[place + 1 :]
    for body in (noise, mutated, with_payload("")[:-1] + noise + b"}"):
        with suppress(Rejected):
            parse_envelope(body)


@given(
    st.dictionaries(st.sampled_from([*GOOD, "type", "ordering_key", "occurred_at", "x"]), values, max_size=8),
    seeds,
)
def test_whatever_the_members_only_a_rejection_comes_out(members: dict[str, Any], random: Random) -> None:
    with suppress(Rejected):
        parse_envelope(spell(members, random).encode())


@pytest.mark.parametrize("place", [*GOOD, "type", "ordering_key", "occurred_at", "CANARY7f3"])
@pytest.mark.parametrize(
    "value", ["CANARY7f3 \x01é", {"CANARY7f3": "CANARY7f3"}, "CANARY7f3" * 40_000, ["CANARY7f3\x00"]]
)
def test_no_refusal_holds_anything_of_the_input(place: str, value: Any) -> None:
    with suppress(Rejected):
        parse_envelope(envelope(**{place: value}))
        return
    refused = refusal(envelope(**{place: value}))
    assert "CANARY" not in f"{refused.message} {refused.pointer} {refused.errors}"


@given(texts)
def test_an_instant_is_a_moment_or_a_sentence(text: str) -> None:
    try:
        moment = instant(text)
    except ValueError:
        with pytest.raises(ValueError, match=r"^(must be an RFC 3339|names a moment)"):
            instant(text)
    else:
        assert moment.tzinfo is not None


@given(moments, st.integers(-23 * 60, 23 * 60))
def test_every_moment_of_utc_can_be_said_in_every_zone(moment: datetime, minutes: int) -> None:
    sign, ahead = ("-" if minutes < 0 else "+"), abs(minutes)
    local = (moment + timedelta(minutes=minutes)).replace(tzinfo=None).isoformat()
    assert instant(f"{local}{sign}{ahead // 60:02}:{ahead % 60:02}") == moment


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_what_is_kept_of_an_event_takes_no_page_of_memory(separators: tuple[str, str]) -> None:
    """orjson's own bytes do: thousands are in a worker's hands at a time."""
    members = {"source": "s", "schema_version": "1.0", "idempotency_key": "k", "payload": {"n": 1}}
    body = json.dumps(members, separators=separators).encode()
    parse_envelope(body)
    tracemalloc.start()
    try:
        kept = [(event := parse_envelope(body), encode(event)) for _ in range(100)]
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken / len(kept) < 1_500
