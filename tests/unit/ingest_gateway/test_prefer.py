"""Prefer headers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest_gateway.prefer import wait_seconds


@pytest.mark.parametrize(
    ("values", "seconds"),
    [
        ([b"wait=10"], 10),
        ([b"wait=0"], 0),
        ([b"respond-async, wait=10"], 10),
        ([b"respond-async", b"Wait=7"], 7),
        ([b' foo; some="a, wait=3" , wait = 5 ; x=y'], 5),
        ([b'wait="9"'], 9),
        ([b"handling=lenient,wait=3,return=minimal"], 3),
        ([b'foo="", wait=1'], 1),
        ([b"wait=10, wait=20"], 10),
        ([b",, ,wait=4"], 4),
        ([b"wait"], None),
        ([b"wait=", b"wait=5"], None),
        ([b"wait=soon"], None),
        ([b"wait=-1"], None),
        ([b"wait=1.5"], None),
        ([b"wait=1 0"], None),
        ([b"wait=9999999999"], None),
        ([b"await=3"], None),
        ([b'"wait=3"'], None),
        ([b'foo="wait=3'], None),
        ([b"return=minimal"], None),
        ([b""], None),
        ([], None),
    ],
)
def test_the_wait_is_found(values: list[bytes], seconds: int | None) -> None:
    assert wait_seconds(values) == seconds


@given(st.lists(st.binary(max_size=60) | st.text('wait=1;,"\\ ', max_size=60).map(str.encode), max_size=3))
def test_whatever_is_written_is_no_error(values: list[bytes]) -> None:
    seconds = wait_seconds(values)
    assert seconds is None or 0 <= seconds < 10**9


def test_a_long_one_is_read_in_one_pass() -> None:
    assert wait_seconds([b'a="' + b"\\x" * 8000]) is None
    assert wait_seconds([b"," * 16_000 + b"wait=1"]) == 1
