"""Which handler an event finds.

A handler matches by source, by type, or by both, and for some versions or all. Where several match, the more exact one
wins: source and type before type before source; among those, one version before a range before every version. What would
leave two that are equally exact for some event is refused when it is registered: the same match twice, or two ranges
that overlap.

    handler(type="order")(take_order)                          # every order
    handler(type="order", version=">=2,<3")(take_order_2)      # but those of version 2.x
    handler(type="order", version="2.1")(take_order_2_1)       # and of these, 2.1
    handler(type="order", source="kiosk")(take_kiosks)         # and whatever version a kiosk sends

(Written as calls to have them side by side; `@handler(...)` above a function is the usual form.)

An event that none matches is stored as PROCESSED with `handled_by` null, or dead-lettered where UNHANDLED=dead.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeVar

from schemas import registry as schema_registry
from schemas.event import Event
from stream_worker.handlers import signature, versions
from stream_worker.handlers.invoke import Handler
from stream_worker.handlers.versions import Key, Range

StartHook = Callable[[Any], Awaitable[None]]
F = TypeVar("F", bound=Callable[..., Awaitable[None]])

_REMEMBERED: Final = 1024
Place = tuple[str | None, str | None]
"""Source and type, None: any."""


class Registration(NamedTuple):
    """What was registered, as it was written."""

    source: str | None
    type: str | None
    version: str | None
    handler: Handler


@dataclass(slots=True)
class _Versions:
    """The handlers of one place."""

    one: dict[Key, Handler] = field(default_factory=dict)
    ranges: list[tuple[Range, Handler]] = field(default_factory=list)
    every: Handler | None = None

    def rival(self, version: Key | Range | None) -> Handler | None:
        """The handler that is as exact for some of these versions."""
        if version is None:
            return self.every
        if isinstance(version, Range):
            return next((handler for each, handler in self.ranges if not each.common(version).empty), None)
        return self.one.get(version)

    def add(self, version: Key | Range | None, handler: Handler) -> None:
        """Take a handler that has no rival here."""
        if version is None:
            self.every = handler
        elif isinstance(version, Range):
            self.ranges.append((version, handler))
        else:
            self.one[version] = handler

    def find(self, version: Key) -> Handler | None:
        """One version before a range before every version."""
        found = self.one.get(version)
        if found is None:
            found = next((handler for each, handler in self.ranges if each.takes(version)), self.every)
        return found


@functools.cache
def _schemas() -> schema_registry.Registry:
    return schema_registry.default()


@dataclass(slots=True)
class Registry:
    """Handlers by what they match, and hooks run once when a worker starts.

    hooks: what `on_start` registered, in order. schemas: the payload schemas behind typed payloads.
    """

    hooks: list[StartHook] = field(default_factory=list)
    schemas: schema_registry.Registry = field(default_factory=_schemas)
    registrations: list[Registration] = field(default_factory=list)
    _places: dict[Place, _Versions] = field(default_factory=dict)
    _sources: set[str | None] = field(default_factory=set)
    _types: set[str | None] = field(default_factory=set)
    _found: dict[tuple[str | None, str | None, str], Handler | None] = field(default_factory=dict)

    def handler(
        self,
        *,
        type: str | None = None,
        source: str | None = None,
        version: str | None = None,
        batch: bool = False,
        name: str | None = None,
        timeout: float | None = None,
    ) -> Callable[[F], F]:
        """Register a coroutine function for events of this type, this source, or both.

        Args:
            type: the event's `type`. source: the event's `source`. At least one is needed.
            version: the event's `schema_version`, or a range such as ">=1.0,<2"; every version by default.
            batch: the function takes a sequence of events in log order instead of one.
            name: recorded in `events.handled_by`; the function's name by default.
            timeout: seconds one call may take; WORKER_HANDLER_TIMEOUT by default.

        Raises:
            ValueError: nothing to match; another handler matches as exactly; a version that is none; a function that
                cannot be a handler (see `stream_worker.handlers.signature`); a timeout that is not above zero.
        """
        if type is None and source is None:
            raise ValueError("A handler needs a type, a source, or both.")
        if timeout is not None and not timeout > 0:
            raise ValueError("A handler's timeout must be above zero seconds.")

        parsed = None if version is None else versions.parse(version)

        def register(function: F) -> F:
            asks = signature.read(function, batch=batch)
            made = Handler(name or _name(function), function, batch, timeout, asks, self.schemas.typed)
            # The same object for the same function: neighbours of one handler run in one call.
            made = next((each.handler for each in self.registrations if each.handler == made), made)
            self._add(Registration(source, type, version, made), parsed)
            return function

        return register

    def _add(self, new: Registration, version: Key | Range | None) -> None:
        place = self._places.setdefault((new.source, new.type), _Versions())
        rival = place.rival(version)
        if rival is not None:
            match = f"source={new.source!r}, type={new.type!r}, version={new.version!r}"
            raise ValueError(f"Two handlers match {match}: {rival.name} and {new.handler.name}. Keep one.")
        place.add(version, new.handler)
        self._sources.add(new.source)
        self._types.add(new.type)
        self._found.clear()
        self.registrations.append(new)

    def on_start(self, function: StartHook) -> StartHook:
        """Register a coroutine function that gets a transaction when a worker starts, one worker at a time.

        Meant for tables that an example or a test brings along (`CREATE TABLE IF NOT EXISTS`); a product's own tables
        belong into its migrations.
        """
        self.hooks.append(function)
        return function

    def find(self, event: Event) -> Handler | None:
        """The handler of this event, None where nobody wants it."""
        if not self._places:
            return None
        source, type, version = event.source, event.type, event.schema_version
        # Names that nobody registered are all alike, so that what senders make up cannot fill the memory.
        wanted = (source if source in self._sources else None, type if type in self._types else None, version)
        try:
            return self._found[wanted]
        except KeyError:
            if len(self._found) >= _REMEMBERED:
                self._found.clear()
            found = self._found[wanted] = self._look(*wanted)
            return found

    def match(self, source: str | None, type: str | None, version: str) -> Handler | None:
        """The handler of events like this, None where nobody wants them."""
        return self._look(source, type, version)

    def _look(self, source: str | None, type: str | None, version: str) -> Handler | None:
        compared = versions.key(version)
        for place in ((source, type), (None, type), (source, None)):
            at = self._places.get(place)
            found = at.find(compared) if at is not None else None
            if found is not None:
                return found
        return None

    def slower_than(self, seconds: float) -> list[str]:
        """The names of handlers whose own deadline is longer than this."""
        slow = {each.handler.name for each in self.registrations if (each.handler.timeout or 0) > seconds}
        return sorted(slow)

    def names(self) -> list[str]:
        """The names of all handlers, sorted."""
        return sorted({each.handler.name for each in self.registrations})


def _name(function: Callable[..., Any]) -> str:
    return str(getattr(function, "__name__", type(function).__name__))
