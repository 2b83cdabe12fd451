"""Handlers: the user's code, run once per event, inside the transaction that records the event.

    @handler(type="transfer_requested")                 one event at a time
    async def post(event, tx): ...

    @handler(type="transfer_requested", batch=True)     a list of events in log order, for speed
    async def post_all(events, tx): ...

What it writes through `tx` commits with the event or not at all. It must not commit, roll back or swallow an SQL error
(the batch is then undone and that event dead-lettered). It raises `Retryable` to be run again later, `Permanent` to have
the event dead-lettered; what other exceptions mean is decided in `stream_worker.sqlstate` and `stream_worker.run`.

A handler is found by type, by source, or by both; the more exact one wins. An event that none matches is stored as
PROCESSED with `handled_by` null, or dead-lettered where UNHANDLED=dead.
"""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import asyncpg

from schemas.event import Event

Transaction = asyncpg.Connection
"""The connection whose transaction also records the event: execute, fetch, fetchrow, fetchval, executemany, copy_*."""

StartHook = Callable[[Any], Awaitable[None]]
F = TypeVar("F", bound=Callable[..., Awaitable[None]])


@dataclass(frozen=True, slots=True)
class Handler:
    """One registered handler. A function registered for several types is equal to itself: its events run in one call.

    name: what `events.handled_by` records. function: the user's. batch: it takes a sequence of events.
    timeout: seconds one call may take, None: the worker's setting.
    """

    name: str
    function: Callable[..., Awaitable[None]]
    batch: bool = False
    timeout: float | None = None

    async def invoke(self, events: Sequence[Event], tx: asyncpg.Connection) -> None:
        """Call the function: once with all of `events`, or, one at a time, with the only one."""
        await self.function(events if self.batch else events[0], tx)


@dataclass(slots=True)
class Registry:
    """Handlers by what they match, and hooks run once when a worker starts."""

    _found: dict[tuple[str | None, str | None], Handler] = field(default_factory=dict)
    hooks: list[StartHook] = field(default_factory=list)

    def handler(
        self,
        *,
        type: str | None = None,
        source: str | None = None,
        batch: bool = False,
        name: str | None = None,
        timeout: float | None = None,
    ) -> Callable[[F], F]:
        """Register a coroutine function for events of this type, this source, or both.

        Args:
            type: the event's `type`. source: the event's `source`. At least one is needed.
            batch: the function takes a sequence of events in log order instead of one.
            name: recorded in `events.handled_by`; the function's name by default.
            timeout: seconds one call may take; WORKER_HANDLER_TIMEOUT by default.

        Raises:
            ValueError: nothing to match, or something already matches exactly this.
        """
        if type is None and source is None:
            raise ValueError("A handler needs a type, a source, or both.")

        def register(function: F) -> F:
            if (source, type) in self._found:
                raise ValueError(f"Two handlers match source={source!r}, type={type!r}: keep one.")
            self._found[source, type] = Handler(name or function.__name__, function, batch, timeout)
            return function

        return register

    def on_start(self, function: StartHook) -> StartHook:
        """Register a coroutine function that gets a transaction when a worker starts, one worker at a time.

        Meant for tables that an example or a test brings along (`CREATE TABLE IF NOT EXISTS`); a product's own tables
        belong into its migrations.
        """
        self.hooks.append(function)
        return function

    def find(self, event: Event) -> Handler | None:
        """The handler of this event: source and type, else type, else source."""
        found = self._found
        if not found:
            return None
        return (
            found.get((event.source, event.type)) or found.get((None, event.type)) or found.get((event.source, None))
            if event.type is not None
            else found.get((event.source, None))
        )

    def names(self) -> list[str]:
        """The names of all handlers, sorted."""
        return sorted({each.name for each in self._found.values()})


REGISTRY = Registry()
"""The registry that `handler` fills and a worker process reads."""

handler = REGISTRY.handler
on_start = REGISTRY.on_start


def load(modules: str) -> Registry:
    """Import the comma-separated modules, whose decorators fill `REGISTRY`.

    Raises:
        ImportError: a module that cannot be imported, named.
    """
    for module in filter(None, (part.strip() for part in modules.split(","))):
        importlib.import_module(module)
    return REGISTRY
