"""A worker of one partition without Kafka: its parser, its batches and its rules, on a real Postgres."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

import asyncpg

from schemas import event as events
from schemas.event import Event
from schemas.headers import RecordHeaders
from stream_worker import records, store
from stream_worker.backoff import Backoff
from stream_worker.batch import Processor, Result
from stream_worker.handlers import REGISTRY, Handler, Registry, StartHook
from stream_worker.outcomes import Outcome
from stream_worker.records import Item
from stream_worker.run import Hold, Runner
from stream_worker.store import Claim
from stream_worker.testing.copies import connect
from stream_worker.testing.traced import Traced, connection

GROUP: Final = "stream_worker.testing"
TOPIC: Final = "stream_worker.testing"
PARTITION: Final = 0
_START_MS: Final = 1_700_000_000_000
_BUDGET: Final = 60.0
_BATCH: Final = 500
_FOR_EVER: Final = 1 << 30
_RESTARTS: Final = 3
_LOST: Final = (Hold, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)


class Fault:
    """What happens to a handler beside its work. This one: nothing."""

    async def before_statement(self, tx: asyncpg.Connection) -> None:
        """The handler is about to use its transaction."""

    async def returned(self, tx: asyncpg.Connection, given: Sequence[Event]) -> None:
        """The handler has returned."""


@dataclass(frozen=True, slots=True)
class Given:
    """What is under test: which handler an event finds, what its modules bring along, and whether payloads fit."""

    find: Callable[[Event], Handler | None]
    hooks: Sequence[StartHook]
    check: Callable[[Event], None]


def given(handler: Handler | Registry | Callable[..., Awaitable[None]]) -> Given:
    """What a test names: a decorated function or a Handler, which then gets every event, or a whole registry.

    Raises:
        ValueError: a function that is not registered.
    """
    if isinstance(handler, Registry):
        return Given(handler.find, handler.hooks, handler.schemas.check)
    if isinstance(handler, Handler):
        only, function = handler, handler.function
    else:
        function = handler
        found = [each.handler for each in REGISTRY.registrations if each.handler.function is function]
        if not found:
            raise ValueError("The function is no registered handler: decorate it, or pass a Registry or a Handler.")
        only = found[0]
    hooks = [hook for hook in REGISTRY.hooks if hook.__module__ == function.__module__]
    return Given(lambda event: only, hooks, REGISTRY.schemas.check)


@dataclass
class _Record:
    """A record as the consumer hands it over."""

    offset: int
    timestamp: int
    key: bytes
    value: bytes
    headers: RecordHeaders = ()
    topic: str = TOPIC
    partition: int = PARTITION


@dataclass
class Bench:
    """One worker after the other on one database: when one is lost, the next takes over.

    errors: what the handler raised last, by event id.
    """

    database_url: str
    given: Given
    fault: Fault = field(default_factory=Fault)
    timeout: float = 5.0
    errors: dict[Any, BaseException] = field(default_factory=dict)
    _db: asyncpg.Connection | None = None
    _claim: Claim | None = None
    _next: int = 0
    _now_ms: int = _START_MS
    _failures: dict[int, int] = field(default_factory=dict)
    _wrapped: dict[int, Handler] = field(default_factory=dict)

    async def __aenter__(self) -> Bench:
        await self._take_over()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._db is not None:
            await self._db.close(timeout=5.0)

    @property
    def db(self) -> asyncpg.Connection:
        """The worker's connection."""
        assert self._db is not None  # noqa: S101
        return self._db

    async def _take_over(self) -> None:
        """A new worker: another connection, the next epoch."""
        if self._db is not None:
            self._db.terminate()
        self._db = await connect(self.database_url)
        taken = await store.take_claim(self._db, GROUP, TOPIC, PARTITION)
        self._claim = taken.claim
        self._next = max(self._next, taken.next_offset or 0)

    def append(self, sent: Iterable[Event]) -> list[Item]:
        """Records of these events at the end of the log."""
        return [self._append(event) for event in sent]

    def _append(self, event: Event) -> Item:
        self._now_ms += 1
        record = _Record(self._next, self._now_ms, event.partition_key(), events.encode(event))
        self._next += 1
        return records.read(record, self.given.check)

    async def deliver(self, items: Sequence[Item], *, patient: bool = True) -> list[tuple[Item, Outcome]]:
        """Settle these records, as far as they can be settled; what was settled, in log order.

        Args:
            patient: run an event that must wait again, at once; otherwise it is the last.

        Raises:
            Hold, asyncpg errors: the database, or the deploy, is at fault, whichever worker tries.
        """
        settled: list[tuple[Item, Outcome]] = []
        while items:
            result = await self._until_settled(items)
            settled += result.outcomes
            done = {item.offset for item, _ in result.outcomes}  # some of them beyond the next offset
            items = [item for item in items if item.offset >= result.next_offset and item.offset not in done]
            if result.retry is not None:
                offset = result.retry_offset
                if not patient:
                    return [*settled, (next(item for item in items if item.offset == offset), result.retry)]
                self._failures[offset] = self._failures.get(offset, 0) + 1
        return settled

    async def _until_settled(self, items: Sequence[Item]) -> Result:
        for restarts in range(_RESTARTS + 1):
            try:
                assert self._claim is not None  # noqa: S101
                return await self._processor().process(self.db, self._claim, items, self._failures)
            except _LOST:
                if restarts == _RESTARTS:
                    raise
                await self._take_over()
        raise AssertionError("not reached")

    async def bury(self) -> None:
        """Acknowledge every dead letter: what comes later is a replay."""
        self._now_ms += 1
        for letter in await store.unsent_dead_letters(self.db, TOPIC, PARTITION, _FOR_EVER):
            await store.mark_dead_letter(self.db, letter.failure_id, 0, 0, records.instant(self._now_ms))

    def _processor(self) -> Processor:
        runner = Runner(
            timeout=self.timeout,
            budget=_BUDGET,
            backoff=Backoff(attempts=_FOR_EVER),
            batch=_BATCH,
            in_place=_FOR_EVER,
        )
        return Processor(cast(Registry, _Finds(self._find)), runner, replay_limit=_FOR_EVER - 1)

    def _find(self, event: Event) -> Handler | None:
        handler = self.given.find(event)
        if handler is None:
            return None
        return self._wrapped.setdefault(id(handler), self._wrap(handler))

    def _wrap(self, handler: Handler) -> Handler:
        async def call(what: Any, tx: asyncpg.Connection) -> None:
            sent: list[Event] = list(what) if handler.batch else [what]

            async def before() -> None:
                await self.fault.before_statement(tx)

            try:
                await handler.invoke(sent, connection(Traced(tx, before)))
                await self.fault.returned(tx, sent)
            finally:
                self._note(sent, sys.exception())

        return Handler(handler.name, call, handler.batch, handler.timeout)

    def _note(self, sent: Collection[Event], error: BaseException | None) -> None:
        for event in sent:
            self.errors.pop(event.id, None)
            if error is not None:
                self.errors[event.id] = error


@dataclass(frozen=True, slots=True)
class _Finds:
    """As much of a registry as a batch asks for."""

    find: Callable[[Event], Handler | None]
