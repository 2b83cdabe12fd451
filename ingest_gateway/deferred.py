"""Keys that Kafka has acknowledged and Postgres could not be told of: kept in memory, remembered once it is back.

Losing them costs no event: the worker inserts the missing row from the record. Until then a repeated key is accepted
again, and absorbed there.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final

from infra.runtime import log
from ingest_gateway.breaker import Breaker
from ingest_gateway.decide import Remembered
from ingest_gateway.pipeline import KeyStore, StoreBusy, StoreDown

_LOG = log.get(__name__)
_CHUNK: Final = 500
_SHORTEST: Final = 0.05
_LONGEST: Final = 2.0
_TRIES: Final = 3


class Deferred:
    """A bounded queue of keys and the task that empties it.

    Args:
        store: where they go. breaker: shared with the pipeline, so only one of both tries a store that is down.
        bound: most keys kept; beyond it new ones are dropped and counted.
        sleep: waits that many seconds.
    """

    def __init__(
        self,
        store: KeyStore,
        breaker: Breaker,
        bound: int,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._breaker = breaker
        self._bound = bound
        self._sleep = sleep
        self._keys: deque[Remembered] = deque()
        self._any = asyncio.Event()
        self.dropped = 0
        self.remembered = 0

    @property
    def waiting(self) -> int:
        """Keys still to be remembered."""
        return len(self._keys)

    def add(self, keys: Sequence[Remembered]) -> None:
        """Take these keys over; what does not fit is dropped and counted."""
        room = max(0, self._bound - len(self._keys))
        self._keys.extend(keys[:room])
        if len(keys) > room:
            if not self.dropped:
                _LOG.warning(
                    "Keys to remember no longer fit into memory.", action="deferred_dropped", bound=self._bound
                )
            self.dropped += len(keys) - room
        if self._keys:
            self._any.set()

    async def run(self) -> None:
        """Remember for ever. A busy row holds up nobody else: it is tried alone, after the others."""
        pause, size = _SHORTEST, _CHUNK
        while True:
            await self._any.wait()
            await self._sleep(pause)
            try:
                done = self._breaker.allows() and await self._remember(size)
            except StoreBusy:
                pause, size = _SHORTEST, 1
                self._keys.rotate(-1)
                continue
            size = _CHUNK
            pause = 0.0 if done else min(max(pause, _SHORTEST) * 2, _LONGEST)

    async def flush(self) -> None:
        """Remember what is left, as far as the store lets; for a process that stops. The caller sets the deadline."""
        failed = 0
        with suppress(StoreBusy):
            while self._keys and failed < _TRIES:
                if await self._remember(_CHUNK):
                    failed = 0
                else:
                    # The first may only have found out that a connection from before an outage is dead.
                    failed += 1
                    await self._sleep(_SHORTEST)
        if self._keys:
            _LOG.warning("Keys were not remembered before the stop.", action="deferred_lost", count=len(self._keys))

    async def _remember(self, size: int) -> bool:
        chunk = [self._keys[position] for position in range(min(size, len(self._keys)))]
        # One statement takes an id once; a second record of it waits for the next chunk and finds the first's row.
        unique = {key.event_id: key for key in reversed(chunk)}
        try:
            await self._store.remember(list(unique.values()))
        except StoreDown:
            self._breaker.failed()
            return False
        self._breaker.succeeded()
        for _ in chunk:
            self._keys.popleft()
        self.remembered += len(chunk)
        if not self._keys:
            self._any.clear()
        return True
