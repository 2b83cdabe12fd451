"""What every way in shares, so that a new one is only a `Reader`: a function from a request to a `Submission`.

    admission     429 before anything is read, while nobody gets in (`admission.py`). While it depends on the source, which
                  stands in the body, a body that is not there at once is not waited for, and an event of a source above
                  its share is refused once it is read
    the sender    where API keys are declared: 401 before anything is read, 403 before anything is looked up (`senders.py`)
    reading       the way in's own part. It raises Rejected for what it refuses and Disconnected for a body cut short;
                  nothing of such a request is published. `read_body` reads a body within its limit
    the schema    the payload is checked against its registered schema, whatever way it came in
    the span      one for each request, named by the route; the record carries it on. Without tracing the sender's own goes on
    submission    look, publish, remember (`pipeline.py`); cut off by a stop of the process it is answered outcome_unknown
    the answer    by `answers.outcome_answer`, the same for every way in
    waiting       for what becomes of the event, where the sender asks for it (`waiting.py`)
    counting      each event once, by what became of it

A batch (`bulk.py`) has the same parts for many events at once: `take_many` in place of check, span, submission and counting.

`Intake.endpoint(route, read)` is the endpoint to enter into the Shell's table. A reader holds no state of its requests. It
builds its event by `schemas.event.build` or `parse_envelope`, nothing else; the value it gives to Kafka is one line, and what
its record must say beside the value stands in the event (`payload_encoding`). Neither headers nor query go into a record.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from typing import Any, Final, NamedTuple
from uuid import UUID

from opentelemetry.trace import SpanKind

from infra.runtime.api_keys import Grant
from infra.runtime.telemetry import Telemetry, parse_traceparent, traceparent
from ingest_gateway.answers import outcome_answer, with_outcome
from ingest_gateway.head import Head
from ingest_gateway.metrics import Metrics
from ingest_gateway.outcomes import Accepted, Duplicate, Outcome, Overloaded, Unknown
from ingest_gateway.pipeline import Pipeline
from ingest_gateway.prefer import wait_seconds
from ingest_gateway.problems import ACCEPT, Answer, rejected
from ingest_gateway.senders import Identify, check_source
from ingest_gateway.waiting import Waiting
from schemas.errors import Malformed, Rejected, TooLarge
from schemas.event import Event
from schemas.ids import id_text

_PATIENCE: Final = 0.1
"""Seconds that a body may take while it depends on its source whether the event gets in."""

Receive = Callable[[], Awaitable[Any]]
Endpoint = Callable[[Head, Receive], Awaitable[Answer]]
"""One way in, for POST requests whose head has been read. Raises: Disconnected."""


class Disconnected(Exception):
    """The client went away before its request was complete."""


class Submission(NamedTuple):
    """One event as a way in read it, or one item of a batch.

    wire: the record's value, the envelope on one line: the sender's own text where it says everything, else `encode(event)`.
    traceparent: the context of the event's creation, unchecked; None where the request names none.
    """

    event: Event
    wire: bytes
    traceparent: bytes | None


Result = Rejected | tuple[bytes, Outcome]
"""What became of one item: why it was refused, or its event's id and outcome."""
Reader = Callable[[Head, Receive], Awaitable[Submission]]
"""Reads one event. Raises: Rejected, Disconnected."""

PlainReader = Callable[[Head, bytes], Submission]
"""Reads one event of a body that is there as a whole. Raises: Rejected."""

Reply = Callable[[Answer], None]


class Intake:
    """Takes in events for all ways in of one process.

    Args:
        check: checks the payload against its registered schema, raising Invalid.
        identify: who sends; None: nobody asks.
        waiting: those who ask to wait; None: nobody may.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        metrics: Metrics,
        telemetry: Telemetry,
        check: Callable[[Event], None],
        clock: Callable[[], float] = time.perf_counter,
        identify: Identify | None = None,
        waiting: Waiting | None = None,
    ) -> None:
        self._pipeline = pipeline
        self._metrics = metrics
        self._telemetry = telemetry
        self._check = check
        self._clock = clock
        self._identify = identify
        self._waiting = waiting
        self._plain = identify is None and not telemetry.enabled

    def endpoint(self, route: str, read: Reader, *, identify: Identify | None = None) -> Endpoint:
        """The endpoint of a way in of single events.

        Args:
            route: a path without parameters' values.
            identify: in place of the one that every way in has.
        """
        return functools.partial(self._take, route, read, identify or self._identify)

    def identify(self, head: Head) -> Grant | None:
        """What the sender of this request may write, None where it is not asked. Raises: Rejected."""
        return None if self._identify is None else self._identify(head)

    def now(self) -> float:
        """The clock that durations are taken by."""
        return self._clock()

    def refused(self, refusal: Overloaded, began: float) -> Answer:
        """Count and answer a request that came when there was no room. `began`: by `now`."""
        self._metrics.count(refusal, self._clock() - began)
        return outcome_answer(refusal, "")

    def rejected(self, error: Rejected, began: float, *, accept: bytes = ACCEPT) -> Answer:
        """Count and answer a request that was refused for what it is."""
        self._metrics.count_rejected(error.reason, self._clock() - began)
        return rejected(error, accept=accept)

    def disconnected(self, began: float) -> None:
        """Count a request that was cut."""
        self._metrics.count_disconnected(self._clock() - began)

    async def take_many(
        self,
        route: str,
        items: Sequence[Submission | Rejected],
        parent: bytes | None,
        began: float,
        grant: Grant | None = None,
    ) -> list[Result]:
        """What becomes of each item of a batch, in its order; what could not be read stays refused.

        Args:
            items: one whose submission has no traceparent of its own gets the request's. parent: the request's.
            grant: what the sender may write; None: anything.
        """
        checked = [item if isinstance(item, Rejected) else self._checked(item, grant) for item in items]
        good = [item for item in checked if not isinstance(item, Rejected)]
        refused = [item.reason for item in checked if isinstance(item, Rejected)] if len(good) < len(checked) else []
        outcomes = await self._submit_many(route, good, parent)
        self._metrics.count_batch(outcomes, refused, self._clock() - began)
        if not refused:
            return list(zip([item.event.id_bytes for item in good], outcomes, strict=True))
        told = iter(outcomes)
        return [item if isinstance(item, Rejected) else (item.event.id_bytes, next(told)) for item in checked]

    def _checked(self, item: Submission, grant: Grant | None) -> Submission | Rejected:
        try:
            if grant is not None:
                check_source(grant, item.event.source)
            self._check(item.event)
        except Rejected as error:
            return error
        return item

    async def _submit_many(self, route: str, items: list[Submission], parent: bytes | None) -> list[Outcome]:
        if not self._telemetry.enabled:
            known = _valid(parent)
            return await self._pipeline.submit_many(_traced(items, known))
        attributes = {
            "http.request.method": "POST",
            "http.route": route,
            "messaging.batch.message_count": len(items),
        }
        with self._telemetry.span(f"POST {route}", SpanKind.SERVER, parent=parent, attributes=attributes) as span:
            return await self._pipeline.submit_many(_traced(items, traceparent(span)))

    @property
    def hurries(self) -> bool:
        """Whether `take_now` may serve a request: nobody is asked who it is or refused for want of room, nothing is traced."""
        return self._plain and self._pipeline.roomy

    def take_now(self, read: PlainReader, head: Head, body: bytes, reply: Reply) -> None:
        """The short way to the same end, for a request that is there as a whole: no task and no future for each.

        Args:
            reply: called once, now or later.
        """
        began = self._clock()
        try:
            event, wire, parent = read(head, body)
            self._check(event)
        except Rejected as error:
            reply(self.rejected(error, began))
            return

        def settled(outcome: Outcome) -> None:
            self._metrics.count(outcome, self._clock() - began)
            reply(outcome_answer(outcome, id_text(event.id_bytes)))

        known = _valid(parent)
        self._pipeline.submit_to(event, wire, known, settled)

    async def _take(self, route: str, read: Reader, identify: Identify | None, head: Head, receive: Receive) -> Answer:
        began = self._clock()
        refusal = self._pipeline.overloaded
        if refusal is not None:
            return self.refused(refusal, began)
        try:
            grant = None if identify is None else identify(head)
            async with asyncio.timeout(_PATIENCE) if self._pipeline.crowded else nullcontext():
                event, wire, parent = await read(head, receive)
            if grant is not None:
                check_source(grant, event.source)
            self._check(event)
        except TimeoutError:
            return self.refused(self._pipeline.refusal(), began)
        except Rejected as error:
            return self.rejected(error, began)
        except Disconnected:
            self.disconnected(began)
            raise
        try:
            if self._telemetry.enabled:
                outcome = await self._submit_traced(route, event, wire, parent)
            else:
                # A valid trace of the sender's reaches the worker even when this process records nothing.
                known = _valid(parent)
                outcome = await self._pipeline.submit(event, wire, known)
        except asyncio.CancelledError:
            # The server cancels what the grace period of a stop did not finish. The record may be on its way, and the
            # sender is told so; the task ends with this answer all the same.
            outcome = Unknown("stopping")
        self._metrics.count(outcome, self._clock() - began)
        answer = outcome_answer(outcome, id_text(event.id_bytes))
        if head.prefer is not None and isinstance(outcome, Accepted | Duplicate):
            return await self._waited(answer, event.id, head.prefer)
        return answer

    async def _waited(self, answer: Answer, event_id: UUID, prefer: list[bytes]) -> Answer:
        waiting = self._waiting
        if waiting is None or not waiting.room:
            return answer
        seconds = int(min(wait_seconds(prefer) or 0, waiting.longest))
        if seconds == 0:
            return answer
        return with_outcome(answer, await waiting.outcome(event_id, seconds), seconds)

    async def _submit_traced(self, route: str, event: Event, wire: bytes, parent: bytes | None) -> Outcome:
        attributes = {
            "http.request.method": "POST",
            "http.route": route,
            "messaging.message.id": id_text(event.id_bytes),
        }
        with self._telemetry.span(f"POST {route}", SpanKind.SERVER, parent=parent, attributes=attributes) as span:
            outcome = await self._pipeline.submit(event, wire, traceparent(span))
            if span is not None:
                span.set_attribute("plutus.outcome", type(outcome).__name__)
            return outcome


def _traced(items: list[Submission], trace: bytes | None) -> list[Submission]:
    """The items, those without a trace of their own with this one."""
    if trace is None:
        return items
    return [item if item.traceparent else Submission(item.event, item.wire, trace) for item in items]


async def read_body(head: Head, receive: Receive, limit: int, *, empty: bool = False) -> bytes:
    """The whole body, read no further than the limit.

    Args:
        empty: let one pass that is empty or blank.

    Raises:
        TooLarge: announced or found to be longer. Malformed: empty. Disconnected: cut short.
    """
    if head.content_length is not None:
        check_length(head.content_length, limit)
    message = await receive()
    body: bytes = message.get("body", b"")
    if message.get("more_body"):
        parts = bytearray(body)
        while message.get("more_body"):
            check_length(len(parts), limit)
            message = await receive()
            parts += message.get("body", b"")
        body = bytes(parts)
    if message["type"] == "http.disconnect":
        raise Disconnected
    check_length(len(body), limit)
    if not empty:
        check_not_empty(body)
    return body


def check_length(length: int, limit: int) -> None:
    """Raises: TooLarge."""
    if length > limit:
        raise TooLarge(f"The body is larger than {limit} bytes.")


def check_not_empty(body: bytes) -> None:
    """Raises: Malformed: empty or blank."""
    if not body or body.isspace():
        raise Malformed("The body is empty.")


def _valid(parent: bytes | None) -> bytes | None:
    """The sender's trace header where it is one, else None: no other is carried on."""
    return parent if parent is not None and parse_traceparent(parent) else None
