"""The dead-letter breaker: never more deaths than its limit, whatever the mixture, and never tripped by a few."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stream_worker.breaker import Breaker


def test_so_many_in_a_row_and_not_one_more() -> None:
    breaker = Breaker(in_a_row=3)
    assert [breaker.died() for _ in range(5)] == [True, True, True, False, False]


def test_one_that_runs_well_ends_the_row_but_not_the_share() -> None:
    breaker = Breaker(in_a_row=3, share=0.5, window=10)
    stood = 0
    for _ in range(20):
        stood += breaker.died()
        stood += breaker.died()
        breaker.well()
    assert 5 < stood < 40, "two of three are more than half of the last ten"


def test_a_probe_may_not_die_at_all() -> None:
    assert not Breaker(strict=True).died()


def test_a_copy_is_fed_apart() -> None:
    breaker = Breaker(in_a_row=2)
    twin = breaker.copy()
    assert [twin.died(), twin.died(), twin.died()] == [True, True, False]
    assert [breaker.died(), breaker.died()] == [True, True]


@given(st.lists(st.booleans(), max_size=400), st.integers(1, 20), st.integers(2, 50))
def test_within_any_window_deaths_stay_at_or_below_the_share(history: list[bool], in_a_row: int, window: int) -> None:
    breaker = Breaker(in_a_row=in_a_row, share=0.5, window=window)
    stood: list[bool] = []
    for death in history:
        if death:
            if breaker.died():
                stood.append(True)
        else:
            breaker.well()
            stood.append(False)
        assert sum(stood[-window:]) <= 0.5 * window
        assert not all(stood[-in_a_row - 1 :]) or len(stood) <= in_a_row


@given(st.integers(1, 1_000))
def test_one_percent_of_deaths_never_trips_it(seed: int) -> None:
    breaker = Breaker()
    for n in range(1_000):
        if (n * 7919 + seed) % 100 == 0:
            assert breaker.died()
        else:
            breaker.well()
