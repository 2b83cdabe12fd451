"""How many records the partitions of a worker take into one transaction. Pure: no clock.

As many as allowed, until a deadlock or a serialization failure shows that their handlers lock the same rows in different
orders. Then one record at a time, because one event's locks seldom form a circle, and every circle costs the second that
the server waits before it looks for one (deadlock_timeout). All partitions together: the victim may well be the smaller
one. It stays so for a while, twice as long after each further conflict, and then grows again.
"""

from __future__ import annotations

from dataclasses import dataclass, field

_CALM = 1_000
_LONGEST_CALM = 256_000


@dataclass(slots=True)
class BatchSize:
    """limit: records in one transaction at most. now: how many it is."""

    limit: int
    now: int = field(init=False)
    _calm: int = field(init=False, default=_CALM)
    _left: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.now = self.limit

    def conflict(self) -> None:
        """A transaction was undone by a deadlock or a serialization failure."""
        if self.now == 1:
            return  # one of the large ones that were still under way
        self.now = 1
        self._left = self._calm
        self._calm = min(self._calm * 2, _LONGEST_CALM)

    def settled(self, records: int) -> None:
        """A transaction with so many records was committed."""
        if self.now == self.limit:
            self._calm = max(_CALM, self._calm - records // 2)
            return
        self._left -= records
        if self._left <= 0:
            self.now = min(self.limit, self.now * 2)
