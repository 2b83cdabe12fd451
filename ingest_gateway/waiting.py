"""Requests that wait for what becomes of their events (`Prefer: wait=N`).

One poller for all of them: while somebody waits, one statement every `interval` asks for the events of all, so Postgres sees
as much of a thousand that wait as of one. No more than `most` wait at a time, in each process; who finds no room is
answered at once, and so is everybody when the process begins to stop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from ingest_gateway.events import Found, StatusUnavailable

Status = Mapping[str, Any]
"""An event's status as `GET /api/v1/events/{id}` tells it."""

_FINAL: Final = frozenset({"PROCESSED", "FAILED"})
_INTERVAL: Final = 0.05
_PAUSE: Final = 1.0
"""Between two questions while the database does not answer."""


class Waiting:
    """Those who wait, in one process.

    Args:
        find: the status of each of these events that is known. Raises: StatusUnavailable.
        most: who may wait at a time. longest: seconds that anybody may.
    """

    def __init__(
        self,
        find: Callable[[Sequence[UUID]], Awaitable[Mapping[UUID, Found]]],
        most: int,
        longest: float,
        interval: float = _INTERVAL,
        pause: float = _PAUSE,
    ) -> None:
        self._find = find
        self._most = most
        self.longest = longest
        self._interval = interval
        self._pause = pause
        self._waited: dict[UUID, set[asyncio.Future[Status | None]]] = {}
        self._poller: asyncio.Task[None] | None = None
        self._closed = False
        self.count = 0

    @property
    def room(self) -> bool:
        """May one more wait."""
        return self.count < self._most and not self._closed

    async def outcome(self, event_id: UUID, seconds: float) -> Status | None:
        """What became of this event, once it is processed or has failed; None if that takes longer."""
        waiter: asyncio.Future[Status | None] = asyncio.get_running_loop().create_future()
        waiters = self._waited.setdefault(event_id, set())
        waiters.add(waiter)
        self.count += 1
        if self._poller is None or self._poller.done():
            self._poller = asyncio.create_task(self._poll(), name="outcomes")
        try:
            await asyncio.wait((waiter,), timeout=seconds)
        finally:
            self.count -= 1
            waiters.discard(waiter)
            if not waiters and self._waited.get(event_id) is waiters:
                del self._waited[event_id]
        return waiter.result() if waiter.done() else None

    def close(self) -> None:
        """Nobody waits any longer, from now on."""
        self._closed = True
        for event_id in list(self._waited):
            self._settle(event_id, None)

    async def _poll(self) -> None:
        while self._waited:
            try:
                found = await self._find(list(self._waited))
            except StatusUnavailable:
                await asyncio.sleep(self._pause)
                continue
            for event_id, event in found.items():
                if event.status["status"] in _FINAL:
                    self._settle(event_id, event.status)
            await asyncio.sleep(self._interval)

    def _settle(self, event_id: UUID, status: Status | None) -> None:
        for waiter in self._waited.pop(event_id, ()):
            if not waiter.done():
                waiter.set_result(status)
