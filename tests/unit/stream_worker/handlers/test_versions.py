"""Versions: dotted numbers in order, ranges, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_worker.handlers.versions import Range, key, parse

numbers = st.lists(st.integers(0, 12), min_size=1, max_size=4)
dotted = numbers.map(lambda parts: ".".join(map(str, parts)))


def taken(spec: str, version: str) -> bool:
    parsed = parse(spec)
    return parsed.takes(key(version)) if isinstance(parsed, Range) else parsed == key(version)


@pytest.mark.parametrize(
    ("spec", "version", "expected"),
    [
        ("1.0", "1.0", True),
        ("1.0", "1", True),
        ("1.0", "1.0.0", True),
        ("1.0", "1.0.1", False),
        ("01.0", "1.0", True),
        ("2024-05-01", "2024-05-01", True),
        ("2024-05-01", "2024-05-02", False),
        (">=1.0,<2", "1.0", True),
        (">=1.0,<2", "1", True),
        (">=1.0,<2", "1.99.7", True),
        (">=1.0,<2", "2.0", False),
        (">=1.0,<2", "0.9", False),
        (">=1.9", "1.10", True),
        ("<1.10", "1.9", True),
        ("<=2", "2.0.0", True),
        ("<=2", "2.0.1", False),
        (" > 1 , <= 2.0 ", "1.0.0.1", True),
        (" > 1 , <= 2.0 ", "1.0", False),
        ("<2", "0", True),
        (">=1", "v2", False),
        (">=1", "1.0rc1", False),
        ("v2", "v2", True),
    ],
)
def test_what_a_version_spec_takes(spec: str, version: str, expected: bool) -> None:
    assert taken(spec, version) is expected


@pytest.mark.parametrize(
    ("spec", "rule"),
    [
        ("", "neither a version nor a range"),
        ("1.0 2.0", "neither a version nor a range"),
        ("é", "neither a version nor a range"),
        (">=1,>2", "two bounds on one side"),
        ("<1,<=2", "two bounds on one side"),
        (">=2,<1", "no version lies"),
        (">1,<=1.0", "no version lies"),
        (">=1,", "no bound"),
        ("1.0,2.0", "no bound"),
        (">=v1", "no bound"),
        ("=>1", "neither a version nor a range|no bound"),
        (">=1,<2,<3", "two bounds"),
    ],
)
def test_what_cannot_be_meant_is_refused(spec: str, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        parse(spec)


@given(numbers, numbers)
def test_versions_are_in_the_order_of_their_numbers(one: list[int], other: list[int]) -> None:
    width = max(len(one), len(other))
    padded = [(*parts, *[0] * (width - len(parts))) for parts in (one, other)]
    first, second = (key(".".join(map(str, parts))) for parts in (one, other))
    assert isinstance(first, tuple)
    assert isinstance(second, tuple)
    assert (first < second, first == second) == (padded[0] < padded[1], padded[0] == padded[1])


@st.composite
def ranges(draw: st.DrawFn) -> Range:
    low, high = draw(st.none() | dotted), draw(st.none() | dotted)
    bounds = [f"{sign}{text}" for sign, text in ((draw(st.sampled_from([">", ">="])), low),) if text is not None]
    bounds += [f"{sign}{text}" for sign, text in ((draw(st.sampled_from(["<", "<="])), high),) if text is not None]
    try:
        found = parse(",".join(bounds))
    except ValueError:
        return Range()
    return found if isinstance(found, Range) else Range()


@given(ranges(), ranges(), dotted)
def test_ranges_have_in_common_what_both_take(one: Range, other: Range, version: str) -> None:
    both = one.takes(key(version)) and other.takes(key(version))
    assert one.common(other).takes(key(version)) is both
    assert one.common(other) == other.common(one)
    if both:
        assert not one.common(other).empty


def test_ranges_that_touch_have_nothing_in_common_unless_both_take_the_bound() -> None:
    below, above = parse("<2"), parse(">=2")
    upto = parse("<=2")
    assert isinstance(below, Range)
    assert isinstance(above, Range)
    assert isinstance(upto, Range)
    assert below.common(above).empty
    assert not upto.common(above).empty
