"""Waiting times, without waiting."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stream_worker.backoff import Backoff


def test_it_doubles_up_to_the_ceiling_with_half_of_it_random() -> None:
    backoff = Backoff(base=0.1, factor=2.0, ceiling=1.0)
    assert [round(backoff.delay(n, lambda: 1.0), 3) for n in range(1, 7)] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    assert [round(backoff.delay(n, lambda: 0.0), 3) for n in range(1, 4)] == [0.05, 0.1, 0.2]


@given(st.integers(1, 10**9), st.floats(0, 1))
def test_it_is_bounded_however_long_a_partition_is_held(failures: int, chance: float) -> None:
    assert 0 < Backoff().delay(failures, lambda: chance) <= Backoff().ceiling


def test_attempts_are_counted_from_the_first_run() -> None:
    backoff = Backoff(attempts=3)
    assert [backoff.exhausted(n) for n in (1, 2, 3)] == [False, False, True]
