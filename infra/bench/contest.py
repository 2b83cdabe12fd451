"""One scenario played: its contestants in turn, round after round, each figure told as it comes."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from infra.bench.figures import Curve, Figure, Missing, Outcome, Results, alternating, outcomes
from infra.bench.ground import Failed
from infra.bench.plan import Scenario
from infra.local.errors import LocalError


@dataclass(frozen=True)
class Asked:
    """What a run of benchmarks was asked for.

    seconds, warmup: of each HTTP load. events: records that a worker drains. each_events: where each takes a statement
    of its own. long_events: where memory is watched. grown: keys and events that the tables hold already.
    own_load: do without wrk. peers: folder with a peers.py, its Bento and its Debezium; peers_home: where these were built.
    """

    rounds: int = 3
    seconds: float = 6.0
    warmup: float = 2.0
    events: int = 300_000
    each_events: int = 20_000
    long_events: int = 600_000
    grown: int = 1_000_000
    grown_warmup: int = 300_000
    own_load: bool = False
    peers: Path | None = None
    peers_home: Path = Path()


@dataclass(frozen=True)
class Measured:
    """What came of one contestant's turn."""

    values: dict[str, float]
    curve: Curve = ()


@dataclass(frozen=True)
class Absent:
    """A contestant that cannot compete here, and why."""

    why: str


Runner = Callable[[], Measured]
Contestants = Mapping[str, Runner | Absent]


@dataclass
class Contest:
    """Plays scenarios and collects what comes of them.

    figure, outcome, missing: told of each as it is known. say: tells a person what happens.
    """

    rounds: int
    say: Callable[[str], None]
    figure: Callable[[Figure], None]
    missing: Callable[[Missing], None]
    outcome: Callable[[Outcome], None]
    results: Results = field(default_factory=Results)

    def play(self, scenario: Scenario, contestants: Contestants) -> None:
        """Every round of one scenario, then what came of its goals."""
        able: dict[str, Runner] = {}
        for who, runner in contestants.items():
            if isinstance(runner, Absent):
                self._miss(Missing(scenario.name, who, runner.why))
            else:
                able[who] = runner
        if scenario.practice and able:
            who, runner = next(iter(able.items()))
            self.say(f"{scenario.name}: a turn that does not count, {who}")
            self._measured(scenario, who, "before the first round", runner)
        for number in range(1, self.rounds + 1):
            for who in alternating(list(able), number):
                self.say(f"{scenario.name}: round {number} of {self.rounds}, {who}")
                self._turn(scenario, who, number, able[who])
        for outcome in outcomes(scenario.name, scenario.goals, self.results.figures):
            self.results.outcomes.append(outcome)
            self.outcome(outcome)

    def _turn(self, scenario: Scenario, who: str, number: int, runner: Runner) -> None:
        measured = self._measured(scenario, who, f"round {number}", runner)
        if measured is None:
            return
        figure = Figure(scenario.name, who, number, measured.values, measured.curve if scenario.axis else ())
        self.results.figures.append(figure)
        self.figure(figure)

    def _measured(self, scenario: Scenario, who: str, when: str, runner: Runner) -> Measured | None:
        try:
            return runner()
        except (Failed, LocalError, ValueError, OSError, subprocess.SubprocessError) as error:
            self._miss(Missing(scenario.name, who, f"{when}: {error}"))
            return None

    def _miss(self, missing: Missing) -> None:
        self.results.missing.append(missing)
        self.missing(missing)
