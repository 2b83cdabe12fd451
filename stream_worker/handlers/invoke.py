"""One registered handler, and the one way to call it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncpg
from pydantic import BaseModel

from schemas.errors import Permanent
from schemas.event import Event
from stream_worker.handlers.signature import PLAIN, Asks

Typed = Callable[[Event], BaseModel]
"""The payload of an event as the newest model it is registered with."""


def untyped(event: Event) -> BaseModel:
    """For a handler made without payload schemas.

    Raises:
        Permanent: always.
    """
    raise Permanent("The handler asks for a payload model and was registered without payload schemas.")


@dataclass(frozen=True, slots=True)
class Handler:
    """One registered handler. A function registered for several types is equal to itself: its events run in one call.

    name: what `events.handled_by` records. function: the user's. batch: it takes a sequence of events.
    timeout: seconds one call may take, None: the worker's setting. asks: what it takes beside the event and as what.
    typed: gives the payload where it asks for one.
    """

    name: str
    function: Callable[..., Awaitable[None]]
    batch: bool = False
    timeout: float | None = None
    asks: Asks = PLAIN
    typed: Typed = field(default=untyped, compare=False, repr=False)

    async def invoke(self, events: Sequence[Event], tx: asyncpg.Connection) -> None:
        """Call the function: once with all of `events`, or, one at a time, with the only one.

        Raises:
            Rejected: a payload does not fit the schema it is registered with, or has none.
            Permanent: it fits another model than the handler takes.
            whatever the function raises; from SQLAlchemy's errors the driver's own are taken out.
        """
        given: Any = events if self.batch else events[0]
        asks = self.asks
        if asks is PLAIN:
            await self.function(given, tx)
            return
        payloads = [self._payload(event) for event in events] if asks.models else []
        payload = () if not asks.models else (payloads,) if self.batch else (payloads[0],)
        if asks.transaction is None:
            await self.function(given, tx, *payload)
            return
        from stream_worker.handlers.alchemy import lent  # costs a second: only where a handler asks for it

        async with lent(tx, asks.transaction) as transaction:
            await self.function(given, transaction, *payload)

    def _payload(self, event: Event) -> BaseModel:
        payload = self.typed(event)
        if not isinstance(payload, self.asks.models):
            raise Permanent(f"The payload is a {type(payload).__name__}, which the handler {self.name} does not take.")
        return payload
