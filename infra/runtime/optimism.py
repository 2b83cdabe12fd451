"""Whether the ids of the next batch may be taken for new, without asking first what is known of them. Pure.

Most are new, and a COPY, which finds out by itself, costs the database half of what an insert does that asks. A guess that was
wrong costs a COPY that is undone, dead rows included, so it is made only after a batch in which nothing was known, and after a
wrong one not again for a while, each time for longer.
"""

from __future__ import annotations

_SHORTEST = 8
_LONGEST = 256


class Optimism:
    """Of one partition, or one process, from the outcomes of its batches so far. A new one asks first."""

    def __init__(self) -> None:
        self._batches = 1  # to be asked for before the next guess
        self._penalty = _SHORTEST

    @property
    def allowed(self) -> bool:
        """The next batch may be guessed to be new."""
        return self._batches == 0

    def asked(self, known: int) -> None:
        """A batch was asked for, and so many of its ids were known."""
        self._batches = max(1, self._batches) if known else max(0, self._batches - 1)

    def right(self) -> None:
        """A guess was right."""
        self._penalty = _SHORTEST

    def wrong(self) -> None:
        """A guess was wrong."""
        self._batches = self._penalty
        self._penalty = min(2 * self._penalty, _LONGEST)
