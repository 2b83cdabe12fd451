"""When a child that died is started again, and when not any more: pure, the time is passed in."""

from __future__ import annotations

from collections import deque

WINDOW = 60.0
DEATHS = 5
FIRST_DELAY = 0.5
LONGEST_DELAY = 10.0


class Restarts:
    """The deaths of one child. All times are monotonic seconds.

    The delay doubles with every death in a row, from 0.5 to 10 s; a life of a minute ends the row. Five deaths within a
    minute end it all.
    """

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=DEATHS)
        self._in_a_row = 0

    def after_death(self, now: float, lived: float) -> float | None:
        """Seconds to wait before the next start, or None to give up."""
        self._recent.append(now)
        if len(self._recent) == DEATHS and now - self._recent[0] <= WINDOW:
            return None
        self._in_a_row = 1 if lived >= WINDOW else self._in_a_row + 1
        return min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(self._in_a_row - 1, 10))
