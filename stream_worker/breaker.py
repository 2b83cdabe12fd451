"""The dead-letter breaker: a bad deploy must not pour a topic into the dead letters. Pure: no clock.

It counts, in log order, the events that ran well and those that died of what a deploy can cause (the handler, a schema
checked here), never malformed records, limits or conflicts. Past a number in a row, or a share of the last ones, it
trips: the event at hand is not dead-lettered, the partition waits, and single events probe whether it is mended.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field


@dataclass(slots=True)
class Breaker:
    """in_a_row: deaths one after the other. share: of the last `window` events. `strict`: not a single death (a probe)."""

    in_a_row: int = 50
    share: float = 0.5
    window: int = 200
    strict: bool = False
    _run: int = field(init=False, default=0)
    _deaths: int = field(init=False, default=0)
    _last: deque[bool] = field(init=False, default_factory=deque)

    def copy(self) -> Breaker:
        """The same, to be thrown away if the transaction that feeds it is undone."""
        twin = Breaker(self.in_a_row, self.share, self.window, self.strict)
        twin._run, twin._deaths, twin._last = self._run, self._deaths, deque(self._last)
        return twin

    def well(self, events: int = 1) -> None:
        """So many events took effect."""
        if events:
            self._run = 0
        for _ in range(min(events, self.window)):
            self._note(False)

    def died(self) -> bool:
        """One more died; False: that trips it, and this death must not stand."""
        if self.strict or self._run + 1 > self.in_a_row or self._would_exceed():
            return False
        self._run += 1
        self._note(True)
        return True

    def _would_exceed(self) -> bool:
        return self._deaths + 1 > self.share * self.window

    def _note(self, death: bool) -> None:
        self._last.append(death)
        self._deaths += death
        if len(self._last) > self.window:
            self._deaths -= self._last.popleft()
