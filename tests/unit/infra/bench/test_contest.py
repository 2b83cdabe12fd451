"""A scenario played: whose turn counts."""

from __future__ import annotations

import pytest

from infra.bench.contest import Contest, Measured
from infra.bench.figures import Figure, Missing
from infra.bench.plan import Scenario


def played(runs: list[str], *, practice: bool, broken: bool = False) -> tuple[list[Figure], list[Missing]]:
    """The figures and what is missing of two rounds; `runs` is told of every turn."""

    def runner(who: str) -> Measured:
        runs.append(who)
        if broken:
            raise OSError("no room")
        return Measured({"rate": float(len(runs))})

    contest = Contest(2, lambda said: None, lambda figure: None, lambda missing: None, lambda outcome: None)
    scenario = Scenario("gateway", "some", "Some", ("one", "other"), practice=practice)
    contest.play(scenario, {who: lambda who=who: runner(who) for who in ("one", "other")})  # type: ignore[misc]
    return contest.results.figures, contest.results.missing


@pytest.mark.parametrize("practice", [True, False])
def test_a_turn_for_practice_comes_first_and_does_not_count(practice: bool) -> None:
    runs: list[str] = []
    figures, missing = played(runs, practice=practice)
    assert runs == ["one"] * practice + ["one", "other", "other", "one"]
    assert [(figure.who, figure.round) for figure in figures] == [("one", 1), ("other", 1), ("other", 2), ("one", 2)]
    assert min(figure.values["rate"] for figure in figures) == 1 + practice
    assert not missing


def test_a_turn_for_practice_that_fails_is_told_like_any_other() -> None:
    figures, missing = played([], practice=True, broken=True)
    assert not figures
    assert [(each.who, each.why.partition(":")[0]) for each in missing][:2] == [
        ("one", "before the first round"),
        ("one", "round 1"),
    ]
