"""How fast work drains: what `Retry-After` is computed from. Pure, the time is passed in."""

from __future__ import annotations

import math

_WINDOW = 1.0
_LONGEST = 30


class Pace:
    """Completions per second, over the last full second and the running one."""

    def __init__(self, now: float) -> None:
        self._since = now
        self._count = 0
        self._rate = 0.0

    def note(self, count: int, now: float) -> None:
        """`count` pieces of work were completed."""
        elapsed = now - self._since
        if elapsed >= _WINDOW:
            self._rate = self._count / elapsed
            self._since, self._count = now, 0
        self._count += count

    def seconds_for(self, waiting: int, now: float) -> int:
        """Whole seconds until `waiting` pieces are done at the measured rate: at least 1, at most 30."""
        elapsed = max(now - self._since, _WINDOW)
        rate = max(self._rate if now - self._since < 2 * _WINDOW else 0.0, self._count / elapsed)
        if rate <= 0:
            return _LONGEST
        return min(max(math.ceil(waiting / rate), 1), _LONGEST)
