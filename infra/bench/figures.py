"""Figures and what follows from them: percentiles, ratios within a round, median and spread over the rounds. Pure.

Only ratios of one run are worth anything: every machine, and the same machine an hour later, has other figures. So a
ratio is taken between two figures of the same round, and the median over the rounds is what counts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final, Literal

POINTS: Final = (10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 99.99)
"""Percentiles of a latency curve."""

Curve = tuple[tuple[float, float], ...]
"""(percentile, milliseconds), or (seconds, value) where it is a course over time."""
Verdict = Literal["aim", "must", "below", ""]


@dataclass(frozen=True)
class Load:
    """What a load generator saw. `refused`: answers that were no 2xx. `broken`: requests without an answer."""

    answered: int
    seconds: float
    refused: int
    broken: int
    curve: Curve
    began: float = 0.0
    """Monotonic second of the first request, where it matters."""

    @property
    def rate(self) -> float:
        """Good answers a second."""
        return (self.answered - self.refused) / self.seconds


@dataclass(frozen=True)
class Figure:
    """What one contestant did in one round of one scenario."""

    scenario: str
    who: str
    round: int
    values: dict[str, float]
    curve: Curve = ()

    def as_object(self, bench: str) -> dict[str, Any]:
        """One line of the output."""
        told = {name: _rounded(value) for name, value in self.values.items()}
        curve = {"curve": [[at, _rounded(value)] for at, value in self.curve]} if self.curve else {}
        return {"bench": bench, "scenario": self.scenario, "who": self.who, "round": self.round, **told, **curve}


@dataclass(frozen=True)
class Goal:
    """What is wanted of a scenario.

    value: which figure. than: against whose figure of the same round; None: the figure itself.
    must, aim: the least ratio or figure, or the largest where `most`. who: whose figure.
    """

    value: str
    than: str | None
    must: float | None
    aim: float | None = None
    who: str = "plutus"
    most: bool = False

    def text(self) -> str:
        """What is compared, in a few words."""
        return f"{self.who} {self.value}" + (f" / {self.than}" if self.than else "")

    def wanted(self) -> str:
        """Must and aim, as the tables of the project write them."""
        sign = "≤" if self.most else "≥"
        times = " x" if self.than else ""
        return ", ".join(
            f"{name} {sign} {_short(limit)}{times}"
            for name, limit in (("must", self.must), ("aim", self.aim))
            if limit is not None
        )


@dataclass(frozen=True)
class Outcome:
    """A goal, and what came of it: a value of each round in which both were measured."""

    scenario: str
    goal: Goal
    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The value that counts."""
        return median(self.rounds)

    @property
    def verdict(self) -> Verdict:
        """Which of the two limits the median keeps; nothing where none must be kept."""
        goal = self.goal
        best = goal.must if goal.aim is None else goal.aim
        if best is not None and _keeps(self.median, best, goal.most):
            return "aim"
        if goal.must is None:
            return ""
        return "must" if _keeps(self.median, goal.must, goal.most) else "below"

    def as_object(self, bench: str) -> dict[str, Any]:
        """One line of the output."""
        return {
            "bench": bench,
            "scenario": self.scenario,
            "ratio" if self.goal.than else "value": self.goal.text(),
            "median": _rounded(self.median),
            "low": _rounded(min(self.rounds)),
            "high": _rounded(max(self.rounds)),
            "rounds": len(self.rounds),
            "wanted": self.goal.wanted(),
            "verdict": self.verdict,
        }


@dataclass(frozen=True)
class Missing:
    """A contestant that was not measured, and why."""

    scenario: str
    who: str
    why: str

    def as_object(self, bench: str) -> dict[str, Any]:
        """One line of the output."""
        return {"bench": bench, "scenario": self.scenario, "not_measured": self.who, "why": self.why}


@dataclass
class Results:
    """All of a run, in the order in which it came."""

    figures: list[Figure] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)


def outcomes(scenario: str, goals: Iterable[Goal], figures: Sequence[Figure]) -> list[Outcome]:
    """What came of the goals; one that was not measured in any round is left out."""
    by = {(figure.who, figure.round): figure.values for figure in figures if figure.scenario == scenario}
    found = []
    for goal in goals:
        values = []
        for (who, number), mine in by.items():
            if who != goal.who or goal.value not in mine:
                continue
            if goal.than is None:
                values.append(mine[goal.value])
            elif by.get((goal.than, number), {}).get(goal.value):
                values.append(mine[goal.value] / by[goal.than, number][goal.value])
        if values:
            found.append(Outcome(scenario, goal, tuple(values)))
    return found


def parsed_load(output: str) -> Load:
    """The result that a load generator printed.

    Raises:
        ValueError: there is none.
    """
    for line in output.splitlines():
        if line.startswith("RESULT "):
            told = json.loads(line.removeprefix("RESULT "))
            return Load(**{**told, "curve": tuple((float(at), float(ms)) for at, ms in told["curve"])})
    raise ValueError(f"the load generator told no result: {output.strip()[-300:]}")


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The value that so many percent do not exceed (nearest rank); `ordered` ascends and is not empty."""
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(0, min(len(ordered), int(rank)) - 1)]


def curve_of(values: Iterable[float]) -> Curve:
    """The latency curve of these seconds, in milliseconds."""
    ordered = sorted(values)
    return tuple((at, percentile(ordered, at) * 1000) for at in POINTS) if ordered else ()


def at(curve: Curve, percent: float) -> float:
    """The value of a latency curve at one of its percentiles."""
    return dict(curve)[percent]


def alternating(contestants: Sequence[str], number: int) -> list[str]:
    """Who comes when in this round (from 1): everybody once, and nobody always first."""
    if not contestants:
        return []
    turn = (number - 1) % len(contestants)
    return [*contestants[turn:], *contestants[:turn]]


def flatness(course: Sequence[tuple[float, float]]) -> float:
    """The last third's median over the second third's: about 1 where nothing grows any more."""
    values = [value for _, value in course]
    third = len(values) // 3
    if third == 0:
        return 1.0
    return median(values[-third:]) / median(values[third : 2 * third])


def _keeps(value: float, limit: float, most: bool) -> bool:
    return value <= limit if most else value >= limit


def _rounded(value: float) -> float:
    return round(value) if abs(value) >= 1000 else float(f"{value:.4g}")


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:g}"
