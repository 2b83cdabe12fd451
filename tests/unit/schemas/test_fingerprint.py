"""The fingerprint of a payload."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from schemas.fingerprint import BYTES, CURRENT, fingerprint, version_of
from schemas.json_text import load
from tests.unit.schemas import reference
from tests.unit.schemas.spelling import spell, values

seeds = st.integers(0, 2**32).map(Random)


def of(text: str, version: int = CURRENT) -> bytes:
    raw = text.encode()
    return fingerprint(raw, load(raw), version)


@given(values, seeds, seeds)
def test_one_value_has_one_fingerprint(value: Any, first: Random, second: Random) -> None:
    assert of(spell(value, first)) == of(spell(value, second))


@given(values, values, seeds)
def test_different_values_have_different_fingerprints(one: Any, other: Any, random: Random) -> None:
    assume(reference.canonical(spell(one, random)) != reference.canonical(spell(other, random)))
    assert of(spell(one, random)) != of(spell(other, random))


def test_it_is_a_version_byte_and_sixteen_bytes() -> None:
    assert len(of("{}")) == BYTES == 17
    assert version_of(of("{}")) == CURRENT == 1


def test_a_version_of_a_newer_release_is_named() -> None:
    with pytest.raises(ValueError, match="version 2 is not known to this release"):
        of("{}", version=2)
