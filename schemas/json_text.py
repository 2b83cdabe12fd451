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
from typing import Any

import msgspec
import orjson

from schemas.errors import Invalid, Malformed, Reason, TooLarge
from schemas.limits import SAFETY, Limits

_WHITESPACE = b" \t\n\r"
_NUL_ESCAPE = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_BRACKETS = bytes.maketrans(b"{}[]", b"()()")
_NOT_BRACKETS = bytes(b for b in range(256) if b not in b"{}[]")
_NUMBER = re.compile(r"(-?)([0-9]+)(?:\.([0-9]+))?(?:[eE]([+-]?)([0-9]+))?")
_NUMBER_TO_REWRITE = re.compile(rb"(?:^|[:\[,])-?[0-9.]+(?:[eE]|(?<=\.0)(?:[,}\]]|$))")
"""Finds, in orjson's output, a number whose shortest double form is not its canonical form: `1.0`, `-0.0`, `1e+16`.
A string that looks alike only costs the exact path."""
_PLAIN_DIGITS = 40
_EXPONENT_DIGITS = 9
_SAFE_INTEGER_CHARS = 18
_ENVELOPE_NODES = 1_000
"""How many values `load` allows a document beyond a payload's limit: those of the envelope around it."""

# A single byte is looked for as an integer (`0x5C in raw`): that is a bare memchr, a tenth of `b"\\" in raw`.
_BACKSLASH, _DOT, _PLUS, _MINUS = b"\\.+-"


class Document(msgspec.Struct, frozen=True):
    """A strictly read JSON text.

    value: the Python value, numbers as orjson reads them (floats may be rounded: never store or compare them).
    plain: True when the text without white space is exactly orjson's encoding of `value`, which proves that no member
        was repeated and that no number or escape was rewritten.
    compact: True when, besides, there is no white space between tokens: a part's text is orjson's encoding of that part.
    exact: where the text is not plain, the value with every number in its canonical spelling, for `canonical` alone.
    """

    value: Any
    plain: bool
    compact: bool = False
    exact: Any = None


def load(raw: bytes, limits: Limits = SAFETY) -> Document:
    """Read `raw` strictly.

    Args:
        raw: UTF-8 JSON text.
        limits: bounds the work spent on a hostile document, an envelope's worth more generous than `check_size`,
            which draws the payload's exact border.

    Raises:
        Malformed: not JSON, repeated member, number or text that cannot be kept, too deep for the JSON writer.
        TooLarge: far too many values.
        Invalid: U+0000 in a string (legal JSON, but no text column can hold it).
    """
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise _malformed(error) from None
    if len(raw) > limits.nodes and has_more_values(raw, limits.nodes + _ENVELOPE_NODES):
        raise TooLarge(f"The document holds more than {limits.nodes} values.")
    if _BACKSLASH in raw and b"\\u0000" in raw and _NUL_ESCAPE.search(raw):
        raise Invalid(
            "The document contains the character U+0000, which cannot be stored.", reason=Reason.UNSTORABLE_TEXT
        )
    try:
        encoded = orjson.dumps(value)
    except orjson.JSONEncodeError:
        raise Malformed("The document is nested too deeply.", reason=Reason.TOO_DEEP) from None
    if raw == encoded:
        return Document(value, True, True)
    # Blanks alone are what most writers put between tokens, and taking them out is five times as quick as all white space.
    if raw.replace(b" ", b"") == encoded.replace(b" ", b""):
        return Document(value, True)
    if raw.translate(None, _WHITESPACE) == encoded.translate(None, _WHITESPACE):
        return Document(value, True)
    return Document(value, False, exact=_decode_exactly(raw))


def _malformed(error: orjson.JSONDecodeError) -> Malformed:
    # orjson's messages name a rule and a position, never the input; a test holds the words this depends on.
    if "depth limit" in error.msg:
        return Malformed("The document is nested too deeply.", reason=Reason.TOO_DEEP)
    if "infinity" in error.msg:
        return Malformed("The document holds a number beyond the range of a double.", reason=Reason.UNSTORABLE_NUMBER)
    if "surrogate in string" in error.msg:
        return Malformed("The document holds a lone surrogate.", reason=Reason.UNSTORABLE_TEXT)
    if "not valid UTF-8" in error.msg:
        return Malformed("The document is not UTF-8.")
    return Malformed(f"The document is not JSON: {error.msg} (line {error.lineno}, column {error.colno}).")


def written(value: Any) -> bytes:
    """The compact JSON text of a value, to be kept: orjson leaves its text in the 4 KiB that it was written in (3.13); this is a copy,
    which takes what it needs."""
    return b"%b" % orjson.dumps(value)


def check_size(raw: bytes, limits: Limits) -> None:
    """Bound the depth and the number of values of a payload's well-formed JSON text, in C speed.

    Depth is the count of nested containers ("[[]]" is 2), nodes the count of values, containers included.

    Raises:
        Malformed: deeper than limits.depth. TooLarge: more than limits.nodes values.
    """
    size = len(raw)
    if size > limits.nodes and has_more_values(raw, limits.nodes):
        raise TooLarge(f"The payload holds more than {limits.nodes} values.", pointer="/payload")
    if size > 2 * limits.depth and _is_deeper(raw, limits.depth):
        raise Malformed(
            f"The payload is nested deeper than {limits.depth}.", reason=Reason.TOO_DEEP, pointer="/payload"
        )


def has_more_values(raw: bytes, nodes: int) -> bool:
    """True when a JSON text holds more than `nodes` values, containers included. Of other text it says nothing."""
    if raw.count(b",") + raw.count(b"{") + raw.count(b"[") < nodes:
        return False  # each value but the first takes a comma or an opened container
    bare = _without_strings(raw)
    containers = bare.count(b"{") + bare.count(b"[") - bare.count(b"{}") - bare.count(b"[]")
    return 1 + bare.count(b",") + containers > nodes


def _is_deeper(raw: bytes, depth: int) -> bool:
    if raw.count(b"{") + raw.count(b"[") <= depth:
        return False  # it cannot be deeper than it opens
    brackets = _without_strings(raw).translate(_BRACKETS, _NOT_BRACKETS)
    for _ in range(depth):
        brackets = brackets.replace(b"()", b"")
    return brackets != b""


def _without_strings(raw: bytes) -> bytes:
    """The text with every string as the letter s, and no white space."""
    # Escaped backslashes and quotes are taken out first; then every second piece between quotes is a string.
    pieces = raw.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
    return b"s".join(pieces[::2]).translate(None, _WHITESPACE)


def canonical(raw: bytes, document: Document) -> bytes:
    """The canonical form of a JSON text that `load` accepted.

    Args:
        raw: the text, or a part of it.
        document: what `load` made of it; `value` and `exact` are of the same part.
    """
    if document.plain:
        encoded = orjson.dumps(document.value, option=orjson.OPT_SORT_KEYS)
        if is_canonical(encoded):
            return encoded
    exact = _decode_exactly(raw) if document.exact is None else document.exact
    return orjson.dumps(exact, option=orjson.OPT_SORT_KEYS)


def is_canonical(encoded: bytes) -> bool:
    """Whether orjson's sorted encoding of a value whose text is plain is its canonical form: no number has to be rewritten."""
    # Cheap evidence for the search: such a number has ".0", "e+" or "e-" in it, hence one of three bytes. (`find` takes two
    # thirds of the time of `in` for what is not there.)
    return not (
        (_DOT in encoded and b".0" in encoded)
        or (_MINUS in encoded and encoded.find(b"e-") >= 0)
        or (_PLUS in encoded and b"e+" in encoded)
    ) or not _NUMBER_TO_REWRITE.search(encoded)


def canonical_number(text: str) -> str:
    """The one spelling of a JSON number's exact value: 1.0, 1e0 and 1.00 are "1", -0 is "0", no digit is lost.

    Raises:
        Malformed: an exponent beyond nine digits, which no reader agrees on.
    """
    if "." in text and len(text) <= _PLAIN_DIGITS and "e" not in text and "E" not in text:
        plain = text.rstrip("0").rstrip(".")  # only zeros at its end can be too many
        return "0" if plain == "-0" else plain
    match = _NUMBER.fullmatch(text)
    assert match is not None, "the JSON grammar admits no other number"  # noqa: S101
    sign, whole, fraction, exponent_sign, exponent = match.groups()
    power = (exponent or "0").lstrip("0") or "0"
    if len(power) > _EXPONENT_DIGITS:
        raise Malformed("A number's exponent is too large to keep.", reason=Reason.UNSTORABLE_NUMBER)
    digits = (whole + (fraction or "")).lstrip("0")
    kept = digits.rstrip("0")
    if not kept:
        return "0"
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
    return orjson.Fragment(canonical_number(text))


def _integer(text: str) -> int | orjson.Fragment:
    return int(text) if len(text) <= _SAFE_INTEGER_CHARS else _number(text)


_EXACT = json.JSONDecoder(object_pairs_hook=_members, parse_float=_number, parse_int=_integer)


def _decode_exactly(raw: bytes) -> Any:
    """Every number in its canonical spelling, every repeated member an error. Only for text that orjson accepted."""
    return _EXACT.decode(raw.decode())
