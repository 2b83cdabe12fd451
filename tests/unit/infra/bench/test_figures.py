"""Ratios are taken within a round, medians over the rounds; nothing that was not measured counts."""

from __future__ import annotations

import json
import random

import pytest

from infra.bench.figures import (
    POINTS,
    Figure,
    Goal,
    Outcome,
    alternating,
    at,
    curve_of,
    flatness,
    outcomes,
    parsed_load,
    percentile,
)
from infra.bench.plan import SCENARIOS, TITLES, scenarios


def figure(who: str, number: int, **values: float) -> Figure:
    return Figure("single", who, number, values)


def test_a_ratio_is_of_the_same_round() -> None:
    found = outcomes(
        "single",
        [Goal("rate", "bento", 0.85, 1.0)],
        [
            # The machine was twice as fast in the second round, for both.
            figure("plutus", 1, rate=100.0),
            figure("bento", 1, rate=100.0),
            figure("bento", 2, rate=200.0),
            figure("plutus", 2, rate=180.0),
            figure("plutus", 3, rate=300.0),
            figure("bento", 3, rate=200.0),
        ],
    )
    assert [outcome.rounds for outcome in found] == [(1.0, 0.9, 1.5)]
    assert found[0].median == 1.0
    assert found[0].verdict == "aim"


def test_a_round_without_the_other_does_not_count() -> None:
    figures = [figure("plutus", 1, rate=100.0), figure("plutus", 2, rate=100.0), figure("bento", 2, rate=50.0)]
    assert outcomes("single", [Goal("rate", "bento", 1.0)], figures)[0].rounds == (2.0,)
    assert outcomes("single", [Goal("rate", "debezium", 1.0)], figures) == []
    assert outcomes("other", [Goal("rate", "bento", 1.0)], figures) == []
    assert outcomes("single", [Goal("p99_ms", None, 1.0)], figures) == []


def test_a_figure_by_itself_has_goals_too() -> None:
    (found,) = outcomes(
        "single", [Goal("rate", None, 15_000, 20_000)], [figure("plutus", n, rate=16_000) for n in (1, 2)]
    )
    assert found.verdict == "must"
    assert found.as_object("gateway") == {
        "bench": "gateway",
        "scenario": "single",
        "value": "plutus rate",
        "median": 16_000,
        "low": 16_000,
        "high": 16_000,
        "rounds": 2,
        "wanted": "must ≥ 15,000, aim ≥ 20,000",
        "verdict": "must",
    }


@pytest.mark.parametrize(
    ("median", "most", "verdict"),
    [
        (2.9, True, "below"),
        (2.5, True, "must"),
        (2.2, True, "aim"),
        (2.1, False, "below"),
        (2.5, False, "must"),
        (9, False, "aim"),
    ],
)
def test_the_verdict_is_of_the_median(median: float, most: bool, verdict: str) -> None:
    must, aim = (2.8, 2.2) if most else (2.2, 2.8)
    assert Outcome("cpu", Goal("cpu_us", "bare", must, aim, most=most), (0.0, median, 99.0)).verdict == verdict


def test_without_a_limit_there_is_no_verdict() -> None:
    assert Outcome("single-1", Goal("rate", "bento", None), (1.0,)).verdict == ""
    assert Outcome("batch", Goal("cpu_us", None, None, 20.0, most=True), (21.0,)).verdict == ""


def test_percentiles_are_the_nearest_rank() -> None:
    values = sorted(random.Random(3).sample(range(1, 10_001), 10_000))
    assert [percentile(values, percent) for percent in (0, 50, 99, 99.9, 100)] == [1, 5_000, 9_900, 9_990, 10_000]
    assert percentile([7.0], 99.9) == 7.0
    curve = curve_of(value / 1000 for value in values)
    assert [percent for percent, _ in curve] == list(POINTS)
    assert at(curve, 99.0) == pytest.approx(9_900)
    assert curve_of([]) == ()


def test_everybody_comes_once_a_round_and_first_in_turn() -> None:
    orders = [alternating(["a", "b", "c"], number) for number in (1, 2, 3, 4)]
    assert [order[0] for order in orders] == ["a", "b", "c", "a"]
    assert all(sorted(order) == ["a", "b", "c"] for order in orders)
    assert alternating([], 1) == []


def test_what_grows_is_not_flat() -> None:
    level = [(n, 100.0 + n % 2) for n in range(30)]
    assert flatness(level) == pytest.approx(1.0, abs=0.01)
    assert flatness([(n, 100.0 + 5 * n) for n in range(30)]) > 1.2
    # What a process takes once, at its start, is not growth.
    assert flatness([(n, min(100.0, 20.0 * n)) for n in range(30)]) == 1.0
    assert flatness([(0, 1.0)]) == 1.0


def test_the_load_generators_line_is_found() -> None:
    told = {"answered": 200, "seconds": 2.0, "refused": 20, "broken": 1, "curve": [[50, 1.5], [99, 3.0]]}
    load = parsed_load(f"Running 2s test\nRESULT {json.dumps(told)}\n")
    assert load.rate == 90.0
    assert at(load.curve, 99.0) == 3.0
    with pytest.raises(ValueError, match="unable to connect"):
        parsed_load("unable to connect to 127.0.0.1:1 Connection refused")


def test_a_figure_is_one_line_of_json() -> None:
    line = Figure("single", "plutus", 1, {"rate": 12_345.678, "p99_ms": 1.23456}, ((50.0, 0.98765),)).as_object(
        "gateway"
    )
    assert line["rate"] == 12_346
    assert line["p99_ms"] == 1.235
    assert line["curve"] == [[50.0, 0.9877]]
    assert "\n" not in json.dumps(line)


def test_every_scenario_can_be_asked_for_by_its_name() -> None:
    for bench in TITLES:
        names = [scenario.name for scenario in scenarios(bench)]
        assert len(names) == len(set(names)) > 5
        assert [found.name for name in names for found in scenarios(bench, [name])] == names
        with pytest.raises(ValueError, match=names[0]):
            scenarios(bench, ["no-such"])


def test_goals_are_about_contestants_that_are_there() -> None:
    for scenario in SCENARIOS:
        assert {goal.who for goal in scenario.goals} <= set(scenario.contestants), scenario.name
        assert {goal.than for goal in scenario.goals} - {None} <= set(scenario.contestants), scenario.name
