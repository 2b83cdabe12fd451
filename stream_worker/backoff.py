"""How long to wait before the next attempt, and when to stop trying. Pure: no clock, no sleeping.

Full jitter around an exponential curve, so that partitions which failed together do not come back together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """The curve. base, ceiling: seconds. attempts: runs of one event in all before it is dead."""

    base: float = 0.1
    factor: float = 2.0
    ceiling: float = 30.0
    attempts: int = 4

    def delay(self, failures: int, random: Callable[[], float]) -> float:
        """Seconds to wait after `failures` failures in a row (1 or more): half fixed, half random in [0, 1)."""
        # The exponent is capped: a partition held for a day must not overflow a float.
        whole = min(self.ceiling, self.base * self.factor ** min(failures - 1, 64))
        return whole * (0.5 + 0.5 * random())

    def wait(self, failures: int, after: float | None, random: Callable[[], float]) -> float:
        """Seconds to wait: what the handler asked for, else the curve."""
        return self.delay(failures, random) if after is None else max(0.0, after)

    def exhausted(self, attempts: int) -> bool:
        """True when this many runs are enough."""
        return attempts >= self.attempts
