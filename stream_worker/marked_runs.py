"""Which events run beside which, after a worker has died.

Each event then runs by itself in its partition, marked durably before (`partition.py`), and what was marked when the next worker dies
is suspected. But several partitions have an event marked at a time, and where all of them begin at one moment the same innocents are
marked again, death after death. So a suspect runs while no other marked event does: the next death names it alone, or it is cleared.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class MarkedRuns:
    """Of one worker. Who waits to run alone keeps those who come later from beginning."""

    def __init__(self) -> None:
        self._gate = asyncio.Lock()
        self._beside = 0
        self._nobody = asyncio.Event()
        self._nobody.set()

    @asynccontextmanager
    async def beside_others(self) -> AsyncIterator[None]:
        """Run a marked event that nobody suspects."""
        async with self._gate:
            self._beside += 1
            self._nobody.clear()
        try:
            yield
        finally:
            self._beside -= 1
            if not self._beside:
                self._nobody.set()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Run a suspect."""
        async with self._gate:
            await self._nobody.wait()
            yield
