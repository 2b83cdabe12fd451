"""Who gets in: a bound on the events in flight and on their bytes, and a fair share for each source. Pure.

    below the bound                    everybody
    between the bound and its reserve  a source that holds less than its share: the bound divided by the sources in flight
    at the reserve's end               nobody

The reserve is on top of the bound, so that one source alone may use the whole of the bound, and another one still gets in.
Whoever is above its share gets in again only as its own events are done; those of others take the places between.

Only sources with something in flight are remembered, so strangers with ten thousand names cost nothing.
"""

from __future__ import annotations

from typing import Final

_RESERVE: Final = 4
"""The reserve is the bound divided by this."""


class Admission:
    """Counts what is in flight in one process.

    Args:
        events: the bound. size: the most bytes that may be in flight.
    """

    def __init__(self, events: int, size: int) -> None:
        self._bound = events
        self._most = events + events // _RESERVE
        self._size = size
        self._held: dict[str, int] = {}
        self._bytes = 0
        self.in_flight = 0

    @property
    def full(self) -> bool:
        """Nobody gets in, whoever it is: to be asked before anything is read."""
        return self.in_flight >= self._most or self._bytes >= self._size

    @property
    def roomy(self) -> bool:
        """Everybody gets in: neither crowded nor full."""
        return self.in_flight < self._bound and self._bytes < self._size

    @property
    def crowded(self) -> bool:
        """Not everybody gets in: whose event it is has to be known."""
        return self.in_flight >= self._bound

    def enter(self, source: str, size: int) -> bool:
        """Whether an event of this source and size gets in. Who does has to `leave`."""
        held = self._held.get(source, 0)
        if self.full or (self.crowded and held >= self._share(held)):
            return False
        self._held[source] = held + 1
        self._bytes += size
        self.in_flight += 1
        return True

    def leave(self, source: str, size: int) -> None:
        """The event is answered."""
        held = self._held[source] - 1
        if held:
            self._held[source] = held
        else:
            del self._held[source]
        self._bytes -= size
        self.in_flight -= 1

    def _share(self, held: int) -> int:
        return max(self._bound // (len(self._held) + (held == 0)), 1)
