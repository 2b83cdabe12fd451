"""When a child that died is started again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.local.restarts import DEATHS, FIRST_DELAY, LONGEST_DELAY, WINDOW, Restarts


def test_the_fifth_death_within_a_minute_is_the_last() -> None:
    restarts = Restarts()
    assert [restarts.after_death(now, lived=0.1) for now in (0.0, 1.0, 3.0, 6.0, 60.0)] == [0.5, 1.0, 2.0, 4.0, None]


def test_five_deaths_in_more_than_a_minute_are_outlived() -> None:
    restarts = Restarts()
    assert [restarts.after_death(now, lived=14.0) for now in (0.0, 15.0, 30.0, 45.0, 60.1)] == [0.5, 1.0, 2.0, 4.0, 8.0]


def test_the_delay_has_a_ceiling() -> None:
    restarts = Restarts()
    delays = [restarts.after_death(20.0 * n, lived=19.0) for n in range(200)]
    assert max(delay for delay in delays if delay is not None) == LONGEST_DELAY
    assert None not in delays


@pytest.mark.parametrize(("lived", "delay"), [(59.0, 1.0), (60.0, 0.5), (3600.0, 0.5)])
def test_a_life_of_a_minute_starts_the_delays_anew(lived: float, delay: float) -> None:
    restarts = Restarts()
    restarts.after_death(0.0, lived=1.0)
    assert restarts.after_death(4000.0, lived=lived) == delay


@given(st.lists(st.floats(0.0, 100.0), min_size=1, max_size=50))
def test_it_gives_up_exactly_when_five_deaths_fit_into_a_minute(gaps: list[float]) -> None:
    restarts, now, deaths = Restarts(), 0.0, []
    for gap in gaps:
        now += gap
        deaths.append(now)
        delay = restarts.after_death(now, lived=gap)
        assert (delay is None) == (len(deaths) >= DEATHS and now - deaths[-DEATHS] <= WINDOW)
        assert delay is None or FIRST_DELAY <= delay <= LONGEST_DELAY
