"""The circuit breaker in front of Postgres: pure, the clock is passed in.

    closed      every step may go to the database
    open        none may, until `pause` seconds have passed
    half-open   one step tries; its outcome closes or opens the breaker again

Only outcomes that say something of the database count: a lock time-out says that a row is busy, and is not reported here.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum


class State(IntEnum):
    """The numbers are the values of the gauge `gateway_dedup_breaker_state`."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class Breaker:
    """Counts failures in a row.

    Args:
        failures: how many in a row open it.
        pause: seconds it stays open before one attempt is let through.
        clock: monotonic seconds.
    """

    def __init__(self, failures: int, pause: float, clock: Callable[[], float]) -> None:
        self._limit = failures
        self._pause = pause
        self._clock = clock
        self._in_a_row = 0
        self._opened_at = 0.0
        self.state = State.CLOSED

    def allows(self) -> bool:
        """May a step go to the database now? In the half-open state only the first to ask may, until it reports."""
        if self.state is State.CLOSED:
            return True
        if self._clock() - self._opened_at < self._pause:
            return False
        # The attempt is let through; should it never report, the next one is let through a pause later.
        self._opened_at = self._clock()
        self.state = State.HALF_OPEN
        return True

    def succeeded(self) -> None:
        """The database answered in time."""
        self._in_a_row = 0
        self.state = State.CLOSED

    def failed(self) -> None:
        """The database refused, or did not answer in time."""
        self._in_a_row += 1
        if self.state is State.HALF_OPEN or self._in_a_row >= self._limit:
            self.state = State.OPEN
            self._opened_at = self._clock()
