"""The heart of the gateway: look, publish, remember, in micro-batches. Knows no HTTP, no Kafka client and no SQL.

    look        what `event_keys` knows of the ids       known: duplicate or conflict, answered now
    publish     acks=all; the ack names the record       not acked: not accepted, or unknown
    remember    the key with the record's coordinates    the row that stands decides: mine, a duplicate, a conflict

A batch of events is submitted as a whole: one future for all of them, and no task of its own for any.

Equal ids share one flight: a follower is answered only when the first has its own answer. While a batch is in flight the next
one gathers until it is full or has lingered, so load makes batches larger and each costs one round trip per step: what a batch
costs Kafka, Postgres and this process is half of what a few events cost. Batches reach their publish step in the order in which
they were made, so events submitted in order are enqueued in order.

After an ack nothing turns into a refusal: what cannot be remembered now is deferred. Postgres being away costs
deduplication here, never events; the worker's own unique key remains.
"""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec

from infra.runtime import log
from infra.runtime.producer import Receipt
from infra.runtime.producer import Result as Published
from ingest_gateway.admission import Admission
from ingest_gateway.breaker import Breaker
from ingest_gateway.decide import Known, Remembered, against, remembered
from ingest_gateway.outcomes import (
    DUPLICATE,
    NotAccepted,
    Outcome,
    Overloaded,
    Unknown,
    for_follower,
)
from ingest_gateway.pace import Pace
from schemas.event import Event

_LOG = log.get(__name__)
_SWEEP = 0.25


class StoreDown(Exception):
    """The key store did not answer in time, or refused."""


class StoreBusy(Exception):
    """The key store is well, but another transaction holds one of the rows."""


class KeyStore(Protocol):
    """Where keys are remembered; the arbiter between gateways and workers."""

    async def look(self, ids: Sequence[bytes]) -> Mapping[bytes, Known]:
        """The rows of those ids that have one.

        Raises:
            StoreDown: within the look-up deadline there was no answer. StoreBusy: the table is locked (a migration).
        """

    async def remember(self, keys: Sequence[Remembered]) -> Mapping[bytes, Known]:
        """Insert a row for each key that has none, durably; return the rows that were there before.

        Raises:
            StoreDown: it is not known what was inserted. StoreBusy: nothing was.
        """


class Publisher(Protocol):
    """The way into Kafka."""

    async def publish(self, flights: Sequence[Flight]) -> Sequence[Published]:
        """Publish in the given order per partition; calls are enqueued in the order in which they are made.

        Answers for each: Receipt, NotAccepted (certainly not in Kafka) or Unknown, within its own deadline.
        """


class Memory(Protocol):
    """Where acknowledged keys wait until they can be remembered."""

    def add(self, keys: Sequence[Remembered]) -> None:
        """Take these keys over; bounded, so it may have to drop."""


class Settles(Protocol):
    """Who waits for an outcome: a future, or a place in a batch."""

    def done(self) -> bool:
        """Whether it has been told."""

    def set_result(self, outcome: Outcome, /) -> None:
        """Tell it, once."""


class _Group:
    """The outcomes of a batch, in its order, and the future that is done when all are there."""

    __slots__ = ("missing", "outcomes", "settled")

    def __init__(self, size: int, settled: asyncio.Future[None]) -> None:
        self.outcomes: list[Outcome | None] = [None] * size
        self.missing = size
        self.settled = settled


class _Place(msgspec.Struct, eq=False):
    """One event's place in a batch."""

    group: _Group
    position: int

    def done(self) -> bool:
        """Whether its outcome is known."""
        return self.group.outcomes[self.position] is not None

    def set_result(self, outcome: Outcome, /) -> None:
        """Its outcome; the last one of a batch settles it."""
        group = self.group
        group.outcomes[self.position] = outcome
        group.missing -= 1
        if not group.missing and not group.settled.done():
            group.settled.set_result(None)


class _Following:
    """One event of a batch behind another one of its id: told, or submitted on its own, once that one is settled."""

    __slots__ = ("_again", "_place", "_same")

    def __init__(self, place: Settles, same: bool, again: Callable[[], None]) -> None:
        self._place = place
        self._same = same
        self._again = again

    def done(self) -> bool:
        """Whether its outcome is known."""
        return self._place.done()

    def set_result(self, leader: Outcome, /) -> None:
        """The outcome of the one before."""
        outcome = for_follower(leader, same_payload=self._same)
        if outcome is None:
            self._again()
        else:
            self._place.set_result(outcome)


class _Entered:
    """One admitted event, which leaves once its outcome is told."""

    __slots__ = ("_admission", "_settles", "_size", "_source", "_told")

    def __init__(self, admission: Admission, source: str, size: int, settles: Callable[[Outcome], None]) -> None:
        self._admission = admission
        self._source = source
        self._size = size
        self._settles = settles
        self._told = False

    def done(self) -> bool:
        """Whether its outcome is known."""
        return self._told

    def set_result(self, outcome: Outcome, /) -> None:
        """Its outcome."""
        self._told = True
        self._admission.leave(self._source, self._size)
        self._settles(outcome)


class Flight(msgspec.Struct, eq=False):
    """One event on its way, and everybody who waits for it.

    event: what was submitted. wire: the record's value. traceparent: W3C trace header of its creation, or None.
    """

    event: Event
    wire: bytes
    traceparent: bytes | None
    settled: Settles
    arrived: float
    followers: list[Settles] = []
    republished: bool = False


class Policy(NamedTuple):
    """How the pipeline batches and what it bounds. Times in seconds.

    batches: most in flight. linger: how long the first event of a batch that is not full waits for those in flight.
    """

    batch_size: int
    batches: int
    max_in_flight: int
    queue_timeout: float
    reject_in_outage: bool
    bytes_in_flight: int = 64 * 1024 * 1024
    linger: float = 0.0


class Pipeline:
    """One per process, used from its event loop.

    Args:
        store: the key store. publisher: the way into Kafka. memory: takes what could not be remembered.
        breaker: keeps from asking a store that does not answer.
        policy: sizes and bounds.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        store: KeyStore,
        publisher: Publisher,
        memory: Memory,
        breaker: Breaker,
        policy: Policy,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._publisher = publisher
        self._memory = memory
        self._breaker = breaker
        self._policy = policy
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._pace = Pace(clock())
        self._flights: dict[bytes, Flight] = {}
        self._queue: deque[Flight] = deque()
        self._batches: set[asyncio.Task[None]] = set()
        self._kick_scheduled = False
        self._sweep_scheduled = False
        self._lingering = False
        self._last_turn: asyncio.Future[None] | None = None
        self._admission = Admission(policy.max_in_flight, policy.bytes_in_flight)
        self._batched = 0

    @property
    def in_flight(self) -> int:
        """Events being worked on."""
        return self._admission.in_flight + self._batched

    @property
    def overloaded(self) -> Overloaded | None:
        """The refusal to give now, before any work on a request; None while there is room for somebody. Events of
        batches do not count here: whoever submits batches bounds how many there are."""
        return self.refusal() if self._admission.full else None

    @property
    def roomy(self) -> bool:
        """Whether everybody gets in."""
        return self._admission.roomy

    @property
    def crowded(self) -> bool:
        """Whether it depends on an event's source if it gets in."""
        return self._admission.crowded

    def refusal(self) -> Overloaded:
        """The answer to one too many: come back when what is in flight should be done."""
        return Overloaded(self._pace.seconds_for(self.in_flight, self._clock()))

    async def submit(self, event: Event, wire: bytes, traceparent: bytes | None = None) -> Outcome:
        """What becomes of one event. Events submitted one after the other (without waiting) keep their order per key.

        Args:
            wire: the envelope on one line, the record's value.
            traceparent: W3C trace header for the record.
        """
        if not self._admission.enter(event.source, len(wire)):
            return self.refusal()
        try:
            while True:
                leader = self._flights.get(event.id_bytes)
                if leader is None:
                    settled: asyncio.Future[Outcome] = self._loop.create_future()
                    self._lead(event, wire, traceparent, settled)
                    return await settled
                waiter = self._loop.create_future()
                leader.followers.append(waiter)
                same = leader.event.fingerprint == event.fingerprint
                outcome = for_follower(await waiter, same_payload=same)
                if outcome is not None:
                    return outcome
        finally:
            self._admission.leave(event.source, len(wire))

    def submit_to(
        self, event: Event, wire: bytes, traceparent: bytes | None, settles: Callable[[Outcome], None]
    ) -> None:
        """As `submit`, for who waits by a call in place of a task: `settles` is called once, at once where the event does
        not get in."""
        if self._admission.enter(event.source, len(wire)):
            entered = _Entered(self._admission, event.source, len(wire), settles)
            self._join(event, wire, traceparent, entered)
        else:
            settles(self.refusal())

    async def submit_many(self, events: Sequence[tuple[Event, bytes, bytes | None]]) -> list[Outcome]:
        """What becomes of each event of a batch: (event, wire, traceparent) as for `submit`, and their order is kept.

        Cut off by a cancellation it ends as ever, with Unknown for what is still on its way.
        """
        if not events:
            return []
        group = _Group(len(events), self._loop.create_future())
        self._batched += len(events)
        try:
            now = self._clock()
            for position, (event, wire, traceparent) in enumerate(events):
                place = _Place(group, position)
                if event.id_bytes in self._flights:
                    self._join(event, wire, traceparent, place)
                else:
                    flight = self._flights[event.id_bytes] = Flight(event, wire, traceparent, place, now)
                    self._queue.append(flight)
            self._kick_soon()
            await group.settled
        except asyncio.CancelledError:
            pass
        finally:
            self._batched -= len(events)
        return [Unknown("stopping") if outcome is None else outcome for outcome in group.outcomes]

    def abandon(self) -> None:
        """Tell whoever still waits that it is not known what becomes of their event: the process ends now."""
        for flight in list(self._flights.values()):
            self._settle(flight, Unknown("stopping"))
        self._queue.clear()

    async def drain(self) -> None:
        """Wait until nothing is in flight. Each flight has its deadlines, so this ends."""
        while self._queue or self._batches:
            self._kick()
            await asyncio.wait(set(self._batches))

    def _join(self, event: Event, wire: bytes, traceparent: bytes | None, place: Settles) -> None:
        leader = self._flights.get(event.id_bytes)
        if leader is None:
            self._lead(event, wire, traceparent, place)
        else:
            same = leader.event.fingerprint == event.fingerprint
            again = functools.partial(self._join, event, wire, traceparent, place)
            leader.followers.append(_Following(place, same, again))

    def _lead(self, event: Event, wire: bytes, traceparent: bytes | None, settled: Settles) -> None:
        flight = Flight(event, wire, traceparent, settled, self._clock())
        self._flights[event.id_bytes] = flight
        self._queue.append(flight)
        self._kick_soon()

    def _kick_soon(self) -> None:
        """Not at once: what else arrives in this turn of the loop joins the same batch."""
        if not self._kick_scheduled:
            self._kick_scheduled = True
            self._loop.call_soon(self._kick)

    def _kick(self) -> None:
        """Start batches while there is work and room."""
        self._kick_scheduled = False
        while self._queue and len(self._batches) < self._policy.batches and self._is_due():
            size = min(len(self._queue), self._policy.batch_size)
            flights = [self._queue.popleft() for _ in range(size)]
            before, turn = self._last_turn, self._loop.create_future()
            self._last_turn = turn
            batch = self._loop.create_task(self._fly(flights, before, turn), name="micro-batch")
            self._batches.add(batch)
            batch.add_done_callback(lambda done, flights=flights, turn=turn: self._landed(done, flights, turn))  # type: ignore[misc]
        if self._queue and not self._sweep_scheduled:
            self._sweep_scheduled = True
            self._loop.call_later(_SWEEP, self._sweep)

    def _is_due(self) -> bool:
        """Whether the next batch starts now; if not, it is looked at again once its first event has lingered."""
        if not self._batches or len(self._queue) >= self._policy.batch_size:
            return True
        left = self._queue[0].arrived + self._policy.linger - self._clock()
        if left > 0 and not self._lingering:
            self._lingering = True
            self._loop.call_later(left, self._lingered)
        return left <= 0

    def _lingered(self) -> None:
        self._lingering = False
        self._kick()

    def _sweep(self) -> None:
        """Refuse what has waited for a batch too long; it was never given to Kafka."""
        self._sweep_scheduled = False
        oldest = self._clock() - self._policy.queue_timeout
        while self._queue and self._queue[0].arrived < oldest:
            self._settle(self._queue.popleft(), NotAccepted("queue_timeout"))
        self._kick()

    def _landed(self, batch: asyncio.Task[None], flights: list[Flight], turn: asyncio.Future[None]) -> None:
        self._batches.discard(batch)
        if not turn.done():
            turn.set_result(None)
        error = None if batch.cancelled() else batch.exception()
        if error is not None:
            _LOG.error("A micro-batch failed in a way it must not.", action="batch_crashed", exc_info=error)
        if error is not None or batch.cancelled():  # one that ended as it should has told everybody
            for flight in flights:
                if not flight.settled.done() and self._flights.get(flight.event.id_bytes) is flight:
                    self._settle(flight, Unknown("internal_error"))
        self._pace.note(len(flights), self._clock())
        self._kick()

    def _settle(self, flight: Flight, outcome: Outcome) -> None:
        self._flights.pop(flight.event.id_bytes, None)  # an abandoned one is not there any more
        if not flight.settled.done():
            flight.settled.set_result(outcome)
        for follower in flight.followers:
            if not follower.done():
                follower.set_result(outcome)

    async def _fly(
        self, flights: list[Flight], before: asyncio.Future[None] | None, turn: asyncio.Future[None]
    ) -> None:
        known = await self._look(flights)
        fresh = flights if known is None else self._answer_known(flights, known)
        if before is not None and not before.done():
            await asyncio.wait((before,))
        # Whoever is woken by this runs only once the publish below has begun.
        turn.set_result(None)
        if known is None and self._policy.reject_in_outage:
            for flight in flights:
                self._settle(flight, NotAccepted("dedup_unavailable"))
            return
        if not fresh:
            return
        acked = self._answer_unpublished(fresh, await self._publisher.publish(fresh))
        if acked:
            await self._remember(acked, looked=known is not None)

    async def _look(self, flights: list[Flight]) -> Mapping[bytes, Known] | None:
        """The known rows; None when the store cannot be asked now."""
        if not self._breaker.allows():
            return None
        try:
            known = await self._store.look([flight.event.id_bytes for flight in flights])
        except StoreBusy:
            return None
        except StoreDown:
            self._breaker.failed()
            return None
        self._breaker.succeeded()
        return known

    def _answer_known(self, flights: list[Flight], known: Mapping[bytes, Known]) -> list[Flight]:
        """Answer those whose key is known; the rest, and what is due to be published again."""
        if not known:
            return flights
        fresh = []
        for flight in flights:
            row = known.get(flight.event.id_bytes)
            outcome = None if row is None else against(flight.event, row)
            if outcome is None or (row is not None and row.overdue and outcome is DUPLICATE):
                flight.republished = outcome is not None
                fresh.append(flight)
            else:
                self._settle(flight, outcome)
        return fresh

    def _answer_unpublished(self, flights: list[Flight], results: Sequence[Published]) -> list[tuple[Flight, Receipt]]:
        """Answer those that Kafka did not acknowledge, and copies of known events; the rest with their receipts."""
        acked = []
        for flight, result in zip(flights, results, strict=True):
            if not isinstance(result, Receipt):
                self._settle(flight, result)
            elif flight.republished:
                self._settle(flight, DUPLICATE)
            else:
                acked.append((flight, result))
        return acked

    async def _remember(self, acked: list[tuple[Flight, Receipt]], *, looked: bool) -> None:
        keys = [Remembered(f.event.id_bytes, f.event.fingerprint, r.partition, r.offset) for f, r in acked]
        standing = await self._try_remember(keys) if looked else None
        if standing is None:
            self._memory.add(keys)
        deferred = standing is None
        for flight, receipt in acked:
            row = standing.get(flight.event.id_bytes) if standing else None
            self._settle(flight, remembered(flight.event, receipt, row, deferred=deferred))

    async def _try_remember(self, keys: list[Remembered]) -> Mapping[bytes, Known] | None:
        """The rows that were there before mine; None when it has to be done later."""
        if not self._breaker.allows():
            return None
        try:
            standing = await self._store.remember(keys)
        except StoreBusy:
            return None
        except StoreDown:
            self._breaker.failed()
            return None
        self._breaker.succeeded()
        return standing
