"""Strict JSON and its canonical form."""

from __future__ import annotations

import time
from contextlib import suppress
from decimal import Decimal
from random import Random
from typing import Any

import orjson
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from schemas.errors import Invalid, Malformed, Reason, Rejected, TooLarge
from schemas.json_text import Document, canonical, canonical_number, check_size, load
from schemas.limits import EDGE, SAFETY, Limits
from tests.unit.schemas import reference
from tests.unit.schemas.spelling import numbers, spell, values

seeds = st.integers(0, 2**32).map(Random)


def form(text: str) -> str:
    raw = text.encode()
    return canonical(raw, load(raw)).decode()


@given(values, seeds, seeds)
def test_spellings_of_one_value_have_one_canonical_form(value: Any, first: Random, second: Random) -> None:
    assert form(spell(value, first)) == form(spell(value, second))


@given(values, seeds)
def test_canonical_form_is_what_the_standard_library_makes_of_it(value: Any, random: Random) -> None:
    text = spell(value, random)
    assert form(text) == reference.canonical(text)


@given(values, seeds)
@example([Decimal("1E+16"), Decimal("1E-7"), Decimal("0.00001")], Random(0))
def test_fast_path_gives_what_the_exact_path_gives(value: Any, random: Random) -> None:
    spelled = spell(value, random).encode()
    for raw in (spelled, orjson.dumps(orjson.loads(spelled))):
        assert canonical(raw, load(raw)) == canonical(raw, Document(None, plain=False))


@given(values, values, seeds)
def test_different_values_have_different_canonical_forms(one: Any, other: Any, random: Random) -> None:
    assume(reference.canonical(spell(one, random)) != reference.canonical(spell(other, random)))
    assert form(spell(one, random)) != form(spell(other, random))


@given(numbers, st.integers(0, 40), seeds)
def test_a_difference_in_any_digit_shows(value: Decimal, place: int, random: Random) -> None:
    _, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int)
    nudge = Decimal(1).scaleb(exponent + len(digits) - 1 - place)
    other = Decimal(str(reference.canonical(str(value))))  # exact, whatever the context's precision
    with_nudge = _exact_sum(other, nudge)
    assume(abs(with_nudge) < Decimal("1.7e308"))
    assert form(spell(value, random)) != form(spell(with_nudge, random))


def _exact_sum(one: Decimal, other: Decimal) -> Decimal:
    lowest = min(int(one.as_tuple().exponent), int(other.as_tuple().exponent))
    total = sum(int(_scaled(each, -lowest)) for each in (one, other))
    return Decimal((int(total < 0), tuple(map(int, str(abs(total)))), lowest))


def _scaled(value: Decimal, by: int) -> Decimal:
    sign, digits, exponent = value.as_tuple()
    return Decimal((sign, digits, int(exponent) + by))


@given(values, seeds)
def test_the_canonical_form_is_its_own_canonical_form(value: Any, random: Random) -> None:
    once = form(spell(value, random))
    assert form(once) == once


@given(values, seeds)
def test_what_is_called_plain_and_compact_is(value: Any, random: Random) -> None:
    raw = spell(value, random).encode()
    document = load(raw)
    assert document.compact == (raw == orjson.dumps(document.value))
    assert document.plain or not document.compact


@pytest.mark.parametrize(
    ("text", "canonical_text"),
    [
        ("-0", "0"),
        ("-0.000", "0"),
        ("0e999999999", "0"),
        ("1.50", "1.5"),
        ("-1.50", "-1.5"),
        ("100", "100"),
        ("100.0", "100"),
        ("1e39", "1" + "0" * 39),
        ("1e40", "1e40"),
        ("12e39", "1.2e40"),
        ("0." + "0" * 39 + "1", "0." + "0" * 39 + "1"),
        ("0." + "0" * 40 + "1", "1e-41"),
        ("1" * 50 + ".5", "1" * 50 + ".5"),
        ("1" * 50 + ".0", "1." + "1" * 49 + "e49"),
        ("1e000000000000001", "10"),
        ("1e-999999999", "1e-999999999"),
    ],
)
def test_canonical_number(text: str, canonical_text: str) -> None:
    assert canonical_number(text) == canonical_text


@pytest.mark.parametrize("text", ["1e-1000000000", "0e1000000000", "0.0E-9999999999999999999999"])
def test_an_exponent_beyond_nine_digits_is_refused(text: str) -> None:
    with pytest.raises(Malformed) as refused:
        load(text.encode())
    assert refused.value.reason is Reason.UNSTORABLE_NUMBER


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        pytest.param(b"", Reason.MALFORMED_JSON, id="56 empty"),
        pytest.param(b" \n\t", Reason.MALFORMED_JSON, id="56 blank"),
        *[
            pytest.param(raw, Reason.MALFORMED_JSON, id=f"58 {raw.decode()}")
            for raw in (
                b"[1,]",
                b'{"a":1,}',
                b"[1]//x",
                b"/*x*/1",
                b"{'a':1}",
                b"01",
                b"-01",
                b".5",
                b"+1",
                b"1.",
                b"1e",
                b"--1",
            )
        ],
        *[
            pytest.param(raw, Reason.MALFORMED_JSON, id=f"58 {raw.decode()}")
            for raw in (b"{} {}", b"1 2", b"[1]]", b"{}{")
        ],
        pytest.param(b"\xef\xbb\xbf{}", Reason.MALFORMED_JSON, id="59 BOM"),
        pytest.param("{}".encode("utf-16"), Reason.MALFORMED_JSON, id="59 UTF-16"),
        pytest.param("{}".encode("utf-16-be"), Reason.MALFORMED_JSON, id="59 UTF-16 without BOM"),
        pytest.param("{}".encode("utf-32"), Reason.MALFORMED_JSON, id="59 UTF-32"),
        *[
            pytest.param(raw, Reason.MALFORMED_JSON, id=f"60 {raw!r}")
            for raw in (b'"\xff"', b'"\xc0\x80"', b'"\xed\xa0\x80"', b'"\xf4\x90\x80\x80"', b'"\xe2\x82"', b"\x80")
        ],
        *[
            pytest.param(raw, Reason.MALFORMED_JSON, id=f"61 {raw.decode()}")
            for raw in (b"NaN", b"Infinity", b"-Infinity", b"nan")
        ],
        *[
            pytest.param(raw, Reason.UNSTORABLE_NUMBER, id=f"61 {raw.decode()}")
            for raw in (b"1e400", b"-1e400", b"1e200000")
        ],
        pytest.param(b"1" * 4301, Reason.UNSTORABLE_NUMBER, id="62 4,301 digits"),
        pytest.param(b"1" * 140_000, Reason.UNSTORABLE_NUMBER, id="7 140,000 digits"),
        pytest.param(b'{"a":1,"a":1}', Reason.MALFORMED_JSON, id="64 repeated member"),
        pytest.param(b'{"a":1,"a":2}', Reason.MALFORMED_JSON, id="64 repeated member, other value"),
        pytest.param(b'[{"b":{"a" :1, "\\u0061":1}}]', Reason.MALFORMED_JSON, id="64 repeated, nested, escaped"),
        pytest.param(b'"a\x00b"', Reason.MALFORMED_JSON, id="a bare NUL"),
        pytest.param(b'"a\nb"', Reason.MALFORMED_JSON, id="a bare line break in a string"),
        *[
            pytest.param(raw, Reason.UNSTORABLE_TEXT, id=f"66 {raw.decode()}")
            for raw in (
                b'"\\ud800"',
                b'"\\udfff"',
                b'"\\udc00\\ud800"',
                b'"\\ud83dx"',
                b'{"\\ud800":1}',
                b'"\\ud800\\ud800"',
            )
        ],
        pytest.param(b'"\\ux"', Reason.MALFORMED_JSON, id="broken escape"),
        pytest.param(b'"abc', Reason.MALFORMED_JSON, id="unfinished"),
    ],
)
def test_what_no_two_parsers_agree_on_is_malformed(raw: bytes, reason: Reason) -> None:
    with pytest.raises(Malformed) as refused:
        load(raw)
    assert refused.value.reason is reason


@pytest.mark.parametrize("raw", [b'"\\u0000"', b'{"\\u0000":1}', b'"\\\\\\u0000"', b'["a","b\\n\\u0000"]'])
def test_row_65_the_null_character_is_refused(raw: bytes) -> None:
    with pytest.raises(Invalid) as refused:
        load(raw)
    assert refused.value.reason is Reason.UNSTORABLE_TEXT


@pytest.mark.parametrize("raw", [b'"\\\\u0000"', b'"\\\\\\\\u0000"', b'"u0000"'])
def test_an_escaped_backslash_before_u0000_is_harmless(raw: bytes) -> None:
    assert load(raw).value == orjson.loads(raw)


@pytest.mark.parametrize(
    "raw", [b"9007199254740993", b"18446744073709551616", b"1.10", b"1.7976931348623157e308", b"1e-400"]
)
def test_row_63_numbers_that_a_double_cannot_hold_are_read(raw: bytes) -> None:
    load(raw)


@given(st.one_of(st.binary(max_size=200), st.text(max_size=100).map(str.encode)))
@example(b"[" * 1000 + b"]" * 1000)
@example(b"[" * 255 + b"]" * 255)
@example(b'{"a":' * 400 + b"1" + b"}" * 400)
def test_whatever_the_bytes_only_a_rejection_comes_out(raw: bytes) -> None:
    with suppress(Rejected):
        load(raw)


@pytest.mark.parametrize(
    "deep", [b"[" * 100_000 + b"]" * 100_000, b"[" * 100_000, b'{"a":' * 40_000 + b"1" + b"}" * 40_000]
)
def test_row_67_a_document_100_000_deep_is_refused_in_under_5_ms(deep: bytes) -> None:
    def milliseconds() -> float:
        started = time.perf_counter()
        with pytest.raises(Malformed) as refused:
            load(deep)
        assert refused.value.reason is Reason.TOO_DEEP
        return (time.perf_counter() - started) * 1000

    assert min(milliseconds() for _ in range(10)) < 5


@pytest.mark.parametrize("levels", [255, 256, 999, 1000, 1024, 1025, 20_000])
def test_kafka_row_8_what_is_too_deep_for_one_of_the_readers_is_too_deep(levels: int) -> None:
    for raw in (b"[" * levels + b"]" * levels, b'{"\\u0061":' * levels + b"1.0" + b"}" * levels):
        with pytest.raises(Malformed) as refused:
            load(raw)
        assert refused.value.reason is Reason.TOO_DEEP


@pytest.mark.parametrize("limits", [EDGE, SAFETY, Limits(depth=1), Limits(depth=200)])
@pytest.mark.parametrize("opening", [b"[", b'{"a{[":', b'{"\\"[\\\\":'])
def test_the_depth_border_is_exact(limits: Limits, opening: bytes) -> None:
    closing = b"]" if opening == b"[" else b"}"

    def nested(levels: int) -> bytes:
        return opening * levels + (b"" if opening == b"[" else b'"[[{{"') + closing * levels

    check_size(nested(limits.depth), limits)
    with pytest.raises(Malformed) as refused:
        check_size(nested(limits.depth + 1), limits)
    assert (refused.value.reason, refused.value.pointer) == (Reason.TOO_DEEP, "/payload")


def test_breadth_is_not_depth() -> None:
    check_size(b"[" + b",".join([b"[]"] * 5_000) + b"]", EDGE)
    check_size(b'"' + b"[" * 50_000 + b'"', EDGE)


@pytest.mark.parametrize("limits", [EDGE, Limits(nodes=1), Limits(nodes=5)])
@pytest.mark.parametrize("item", [b"1", b'"a,b,{[,"', b'"\\\\",'[:-1], b'"\\","', b"[]", b"{ }", b'{"a,":\n1}'])
def test_the_border_of_values_is_exact(limits: Limits, item: bytes) -> None:
    weight = 2 if b"1}" in item else 1
    fitting = (limits.nodes - 1) // weight

    def array(items: int) -> bytes:
        return b"[ " + b", ".join([item] * items) + b" ]"

    check_size(array(fitting), limits)
    with pytest.raises(TooLarge) as refused:
        check_size(array(fitting + 1), limits)
    assert (refused.value.reason, refused.value.pointer) == (Reason.TOO_LARGE, "/payload")


@given(values, seeds, st.integers(1, 30), st.integers(1, 6))
def test_the_borders_are_those_of_the_value(value: Any, random: Random, nodes: int, depth: int) -> None:
    def count(part: Any) -> int:
        inner = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
        return 1 + sum(map(count, inner))

    def height(part: Any) -> int:
        if not isinstance(part, dict | list):
            return 0
        return 1 + max(map(height, part.values() if isinstance(part, dict) else part), default=0)

    try:
        check_size(spell(value, random).encode(), Limits(nodes=nodes, depth=depth))
        fits = True
    except Rejected:
        fits = False
    assert fits == (count(value) <= nodes and height(value) <= depth)


def test_a_document_with_far_too_many_values_is_refused_before_the_slow_path() -> None:
    with pytest.raises(TooLarge):
        load(b"[" + b",".join([b"1.0"] * 60_000) + b"]", EDGE)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"[1,]", "The document is not JSON: trailing comma is not allowed (line 1, column 3)."),
        (b'"\xff"', "The document is not UTF-8."),
        (b'"\\ud800"', "The document holds a lone surrogate."),
        (b"1e999", "The document holds a number beyond the range of a double."),
        (b"[" * 2000, "The document is nested too deeply."),
    ],
)
def test_messages_say_what_is_wrong_and_where(raw: bytes, message: str) -> None:
    with pytest.raises(Malformed, match=r"^The document") as refused:
        load(raw)
    assert refused.value.message == message


@given(
    st.binary(max_size=8),
    st.binary(max_size=8),
    st.sampled_from([b'"%s"', b"{%s}", b"[%s]", b'{"%s":%s}', b"%s", b'"%s']),
)
def test_messages_hold_nothing_of_the_input(before: bytes, after: bytes, shape: bytes) -> None:
    secret = before + b"CANARY7f3" + after
    with suppress(Rejected):
        load(shape.replace(b"%s", secret))
        return
    with pytest.raises(Rejected) as refused:
        load(shape.replace(b"%s", secret))
    assert "CANARY" not in refused.value.message
