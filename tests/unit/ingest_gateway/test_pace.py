"""Retry-After from the measured drain rate."""

from __future__ import annotations

from ingest_gateway.pace import Pace


def test_the_time_given_follows_the_rate_of_completions() -> None:
    pace = Pace(0.0)
    for tenth in range(11):
        pace.note(10, tenth / 10)
    assert pace.seconds_for(100, 1.0) == 1
    assert pace.seconds_for(1000, 1.0) in (9, 10)


def test_it_is_a_whole_number_of_seconds_from_1_to_30() -> None:
    assert Pace(0.0).seconds_for(1, 0.0) == 30
    busy = Pace(0.0)
    busy.note(1_000_000, 0.5)
    assert busy.seconds_for(1, 0.5) == 1


def test_a_rate_of_long_ago_counts_for_nothing() -> None:
    pace = Pace(0.0)
    pace.note(1000, 0.5)
    pace.note(1000, 1.0)
    assert pace.seconds_for(1000, 600.0) == 30
