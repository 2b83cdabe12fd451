"""Another spelling is another text and the same value."""

from __future__ import annotations

import json
import random
from decimal import Decimal
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from infra.demo.respell import respelled
from schemas import json_text
from schemas.fingerprint import fingerprint

CHARACTERS = st.characters(exclude_characters="\x00", exclude_categories=["Cs"])
NUMBERS = st.integers(-(10**25), 10**25) | st.decimals(
    min_value=-(10**15), max_value=10**15, allow_nan=False, allow_infinity=False, places=9
)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(CHARACTERS, max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(CHARACTERS, max_size=5), inner, max_size=4),
    max_leaves=12,
)


def plainly(value: Any) -> str:
    """The value as JSON text, numbers digit for digit."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(name)}:{plainly(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(plainly, value)) + "]"
    return format(value, "f") if isinstance(value, Decimal) else json.dumps(value)


def printed(text: str) -> bytes:
    """The fingerprint of a payload's text."""
    raw = text.encode()
    return fingerprint(raw, json_text.load(raw))


@given(VALUES, st.integers(0, 2**32))
def test_the_fingerprint_stays_equal(value: Any, seed: int) -> None:
    assert printed(respelled(value, random.Random(seed))) == printed(plainly(value))


def test_everything_that_may_differ_does() -> None:
    value = {"a": Decimal("1.50"), "b": [1500, 'é"/'], "c": {"d": None, "e": True}}
    texts = {respelled(value, random.Random(seed)) for seed in range(200)}
    everything = "\n\n".join(texts)
    assert len(texts) == 200
    for spelling in ('"c"', "\\u00", "\\/", '\\"', "1.500", "15", "e-1", "E", "+", "\r\n", "\t", "e2"):
        assert spelling in everything, spelling
    assert {text.replace(" ", "").strip()[:3] for text in texts} > {'{"a', '{"b', '{"c'}
