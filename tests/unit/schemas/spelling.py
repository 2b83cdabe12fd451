"""JSON values for Hypothesis, and every way to spell one.

A value is None, bool, str, list, dict or an exact `Decimal`. `spell` writes it with a random choice wherever JSON leaves
one: white space, key order, escapes, exponents, zeros at the ends.
"""

from __future__ import annotations

from decimal import Decimal
from random import Random
from typing import Any

from hypothesis import strategies as st

_SHORT_ESCAPES = {"\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", '"': '\\"', "\\": "\\\\", "/": "\\/"}
_SPACES = ("", "", "", " ", "\n", "\r\n", "\t ")

texts = st.one_of(
    st.sampled_from(
        ["", "a", "e", "1.0", "1.0,", ":-0.0]", "e+16", "}{", "][", '\\"', "\\u0000x", "\u2028", "\ue000", "😀"]
    ),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=12),
)
"""Any string that JSON and Postgres can hold, with a liking for what looks like structure or a number."""

numbers = st.one_of(
    st.integers(-20, 20).map(Decimal),
    st.integers(-(2**70), 2**70).map(Decimal),
    st.floats(allow_nan=False, allow_infinity=False).map(lambda value: Decimal(repr(value))),
    st.builds(
        lambda digits, scale: Decimal(digits).scaleb(scale), st.integers(-(10**27), 10**27), st.integers(-300, 270)
    ),
)
"""Exact numbers within a double's range."""

scalars = st.one_of(st.none(), st.booleans(), texts, numbers)


def _containers(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.lists(children, max_size=4), st.dictionaries(texts, children, max_size=4))


values: st.SearchStrategy[Any] = st.recursive(scalars, _containers, max_leaves=12)


def spell(value: Any, random: Random) -> str:
    """One of the many JSON texts of `value`."""
    space = random.choice(_SPACES)
    if isinstance(value, dict):
        members = [f"{_string(name, random)}{space}:{spell(each, random)}" for name, each in value.items()]
        random.shuffle(members)
        return f"{space}{{{space}{','.join(members)}{random.choice(_SPACES)}}}"
    if isinstance(value, list):
        return f"{space}[{space}{','.join(spell(each, random) for each in value)}]{random.choice(_SPACES)}"
    if isinstance(value, str):
        return space + _string(value, random) + random.choice(_SPACES)
    if isinstance(value, Decimal):
        return space + _number(value, random) + random.choice(_SPACES)
    return space + {None: "null", True: "true", False: "false"}[value] + space


def _string(text: str, random: Random) -> str:
    return '"' + "".join(_character(character, random) for character in text) + '"'


def _character(character: str, random: Random) -> str:
    must_escape = character in '"\\' or character < " "
    choices = [] if must_escape else [character] * 3
    if character in _SHORT_ESCAPES:
        choices.append(_SHORT_ESCAPES[character])
    units = character.encode("utf-16-be")
    codes = "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))
    choices.append(codes if random.random() < 0.5 else codes.upper().replace("\\U", "\\u"))
    return random.choice(choices)


def _number(value: Decimal, random: Random) -> str:
    sign, all_digits, exponent = value.as_tuple()
    assert isinstance(exponent, int)
    digits = "".join(map(str, all_digits)).strip("0") and "".join(map(str, all_digits)).lstrip("0")
    if not digits:
        return random.choice(["0", "-0", "0.0", "-0.00", "0e7", "0E-3", "-0.0e+12"])
    zeros = random.choice([0, 0, 0, 1, 5])
    digits, exponent = digits + "0" * zeros, exponent - zeros
    point = len(digits) + exponent
    if -30 < point < 60 and random.random() < 0.6:
        return "-" * sign + _plainly(digits, exponent, point)
    split = random.randint(1, len(digits))
    power = point - split
    mantissa = digits[:split] + ("." + digits[split:] if digits[split:] else "")
    written = f"{'-' if power < 0 else random.choice(['', '+'])}{random.choice(['', '0', '00'])}{abs(power)}"
    return "-" * sign + mantissa + random.choice("eE") + written


def _plainly(digits: str, exponent: int, point: int) -> str:
    if exponent >= 0:
        return digits + "0" * exponent
    if point <= 0:
        return "0." + "0" * -point + digits
    return f"{digits[:point]}.{digits[point:]}"
