"""Strict JSON: one reading of a document that every parser downstream agrees with, and its canonical form.

Refused, because two parsers would disagree on it or Postgres could not hold it: repeated member names, NaN and
infinities, numbers beyond a double's range, lone surrogates, U+0000, a byte order mark, anything but UTF-8, and
documents deeper or wider than the limits (RFC 8259 sections 4, 6, 8; RFC 7493).

The canonical form is what fingerprints are taken over. Equal values have equal forms: member names sorted by code
point, no white space, shortest escapes, every number written as its exact decimal value. It is computed by a fast
path wherever orjson's own output proves itself exact, and by a decimal path everywhere else; both give the same bytes
(a property test holds them together).
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

import orjson

from schemas.errors import Invalid, Malformed, Reason, TooLarge
from schemas.limits import Limits

_WHITESPACE = b" \t\n\r"
_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_NUL_ESCAPE = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_BRACKETS = bytes.maketrans(b"{}[]", b"()()")
_NOT_BRACKETS = bytes(b for b in range(256) if b not in b"{}[]")
_NUMBER = re.compile(r"(-?)(\d+)(?:\.(\d+))?(?:[eE]([+-]?)(\d+))?")
_NUMBER_TO_REWRITE = re.compile(rb"(?:^|[:\[,])-?[0-9.]+(?:[eE]|(?<=\.0)(?:[,}\]]|$))")
"""Finds, in orjson's output, a number whose shortest double form is not its canonical form: `1.0`, `-0.0`, `1e+16`.
A string that looks alike only costs the exact path."""
_PLAIN_DIGITS = 40
_EXPONENT_DIGITS = 9


class Document(NamedTuple):
    """A strictly read JSON text.

    value: the Python value, numbers as orjson reads them (floats may be rounded: never store or compare them).
    plain: True when the text without white space is exactly orjson's encoding of `value`, which proves that no member
        was repeated and that no number or escape was rewritten.
    """

    value: Any
    plain: bool


def load(raw: bytes) -> Document:
    """Read `raw` strictly.

    Raises:
        Malformed: not JSON, repeated member, number or text that cannot be kept.
        Invalid: U+0000 in a string (legal JSON, but no text column can hold it).
    """
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise _malformed(error.msg) from None
    if b"\\u0000" in raw and _NUL_ESCAPE.search(raw):
        raise Invalid("The document contains the character U+0000, which cannot be stored.", reason=Reason.UNSTORABLE_TEXT)
    plain = raw.translate(None, _WHITESPACE) == orjson.dumps(value).translate(None, _WHITESPACE)
    if not plain:
        _decode_exactly(raw)
    return Document(value, plain)


def _malformed(detail: str) -> Malformed:
    # orjson's messages name a position and a rule, never the input; its version is pinned and a test holds the words.
    if "depth limit" in detail:
        return Malformed("The document is nested too deeply.", reason=Reason.TOO_DEEP)
    if "infinity" in detail:
        return Malformed("The document holds a number beyond the range of a double.", reason=Reason.UNSTORABLE_NUMBER)
    if "surrogate in string" in detail:
        return Malformed("The document holds a lone surrogate.", reason=Reason.UNSTORABLE_TEXT)
    return Malformed(f"The document is not JSON: {detail}.")


def check_size(raw: bytes, limits: Limits) -> None:
    """Bound the depth and the number of values of a well-formed JSON text, in C speed.

    Depth is the count of nested containers ("[[]]" is 2), nodes the count of values, containers included.

    Raises:
        Malformed: deeper than limits.depth. TooLarge: more than limits.nodes values.
    """
    opened = raw.count(b"{") + raw.count(b"[")
    if opened <= limits.depth and len(raw) <= limits.nodes:
        return  # cannot be deeper than it opens, nor hold more values than bytes
    bare = _STRINGS.sub(b"s", raw)
    brackets = bare.translate(_BRACKETS, _NOT_BRACKETS)
    for _ in range(limits.depth):
        if not brackets:
            break
        brackets = brackets.replace(b"()", b"")
    if brackets:
        raise Malformed(f"The payload is nested deeper than {limits.depth}.", reason=Reason.TOO_DEEP, pointer="/payload")
    squeezed = bare.translate(None, _WHITESPACE)
    containers = squeezed.count(b"{") + squeezed.count(b"[") - squeezed.count(b"{}") - squeezed.count(b"[]")
    if 1 + squeezed.count(b",") + containers > limits.nodes:
        raise TooLarge(f"The payload holds more than {limits.nodes} values.", pointer="/payload")


def canonical(raw: bytes, document: Document) -> bytes:
    """The canonical form of a JSON text that `load` accepted (`document.value` may be of a part: `raw` is that part)."""
    if document.plain:
        encoded = orjson.dumps(document.value, option=orjson.OPT_SORT_KEYS)
        if not _NUMBER_TO_REWRITE.search(encoded):
            return encoded
    return orjson.dumps(_decode_exactly(raw), option=orjson.OPT_SORT_KEYS)


def canonical_number(text: str) -> str:
    """The one spelling of a JSON number's exact value: 1.0, 1e0 and 1.00 are "1", -0 is "0", no digit is lost.

    Raises:
        Malformed: an exponent beyond nine digits, which no reader agrees on.
    """
    match = _NUMBER.fullmatch(text)
    assert match is not None, "the JSON grammar admits no other number"  # noqa: S101
    sign, whole, fraction, exponent_sign, exponent = match.groups()
    digits = (whole + (fraction or "")).lstrip("0")
    kept = digits.rstrip("0")
    if not kept:
        return "0"
    power = (exponent or "0").lstrip("0") or "0"
    if len(power) > _EXPONENT_DIGITS:
        raise Malformed("A number's exponent is too large to keep.", reason=Reason.UNSTORABLE_NUMBER)
    scale = int(power) * (-1 if exponent_sign == "-" else 1) - len(fraction or "") + len(digits) - len(kept)
    return sign + _decimal(kept, scale)


def _decimal(digits: str, scale: int) -> str:
    """digits x 10^scale, plain where a reader would write it plainly, else d.ddde±n."""
    point = len(digits) + scale
    if scale >= 0 and point <= _PLAIN_DIGITS:
        return digits + "0" * scale
    if scale < 0 < point:
        return f"{digits[:point]}.{digits[point:]}"
    if -_PLAIN_DIGITS < point <= 0:
        return f"0.{'0' * -point}{digits}"
    mantissa = digits[0] + ("." + digits[1:] if len(digits) > 1 else "")
    return f"{mantissa}e{point - 1}"


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise Malformed("The document repeats a member name.")
    return members


def _number(text: str) -> orjson.Fragment:
    return orjson.Fragment(canonical_number(text).encode())


_EXACT = json.JSONDecoder(object_pairs_hook=_members, parse_float=_number, parse_int=_number)


def _decode_exactly(raw: bytes) -> Any:
    """Every number as a ready-written fragment, every repeated member an error. Only for text that orjson accepted."""
    try:
        return _EXACT.decode(raw.decode())
    except RecursionError:
        raise Malformed("The document is nested too deeply.", reason=Reason.TOO_DEEP) from None
