"""Writes JSON in another spelling of the same value (RFC 8259): what a careless second sender might produce.

Members in another order, white space between tokens, characters as escapes, numbers with other exponents and zeros; the
value is exactly the same, so its fingerprint is (a property test holds that).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from decimal import Decimal

_SPACES = ("", "", "", " ", "\n", "\t", "\r\n  ")
_SHORT = {'"': '\\"', "\\": "\\\\", "/": "\\/", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_MUST_ESCAPE = frozenset('"\\')
_FARTHEST = 3


def respelled(value: object, rng: random.Random) -> str:
    """The value as JSON text, spelled at random.

    Args:
        value: dict, list, str, int, Decimal, bool or None; a Decimal is a number exactly.
    """
    return f"{_space(rng)}{_value(value, rng)}{_space(rng)}"


def _value(value: object, rng: random.Random) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int() | Decimal():
            return _number(Decimal(value), rng)
        case str():
            return _string(value, rng)
        case Mapping():
            members = [f"{_string(str(name), rng)}{_space(rng)}:{respelled(value[name], rng)}" for name in value]
            rng.shuffle(members)
            return "{" + ",".join(_space(rng) + member for member in members) + _space(rng) + "}"
        case Sequence():
            return "[" + ",".join(respelled(item, rng) for item in value) + _space(rng) + "]"
    raise TypeError(f"JSON has no {type(value).__name__}.")


def _space(rng: random.Random) -> str:
    return rng.choice(_SPACES)


def _string(text: str, rng: random.Random) -> str:
    return '"' + "".join(_character(char, rng) for char in text) + '"'


def _character(char: str, rng: random.Random) -> str:
    plain_is_allowed = char >= " " and char not in _MUST_ESCAPE
    if plain_is_allowed and rng.random() < 0.8:
        return char
    if char in _SHORT and rng.random() < 0.5:
        return _SHORT[char]
    units = char.encode("utf-16-be")
    return "".join(f"\\u{units[i]:02{rng.choice('xX')}}{units[i + 1]:02x}" for i in range(0, len(units), 2))


def _number(value: Decimal, rng: random.Random) -> str:
    """Exactly the same number: the point moved, the exponent moved back, zeros added behind."""
    sign, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int):
        raise TypeError("JSON has no infinity and no NaN.")
    moved = rng.choice((0, 0, rng.randint(-_FARTHEST, _FARTHEST)))
    text = format(Decimal((sign, digits, exponent - moved)), "f")
    zeros = "0" * rng.randint(0, 2)
    if zeros:
        text += zeros if "." in text else "." + zeros
    if moved or rng.random() < 0.1:
        text += rng.choice("eE") + rng.choice(("+", "") if moved >= 0 else ("",)) + str(moved)
    return text
