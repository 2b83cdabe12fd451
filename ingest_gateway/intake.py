"""What every way in shares, so that a new one is only a `Reader`: a function from a request to a `Submission`.

    admission     429 before anything is read, while nobody gets in (`admission.py`). While it depends on the source, which
                  stands in the body, a body that is not there at once is not waited for, and an event of a source above
                  its share is refused once it is read
    reading       the way in's own part. It raises Rejected for what it refuses and Disconnected for a body cut short;
                  nothing of such a request is published. `read_body` reads a body within its limit
    the schema    the payload is checked against its registered schema, whatever way it came in
    the span      one for each request, named by the route; the record carries it on. Without tracing the sender's own goes on
    submission    look, publish, remember (`pipeline.py`); cut off by a stop of the process it is answered outcome_unknown
    the answer    by `answers.outcome_answer`, the same for every way in
    counting      each event once, by what became of it

`Intake.endpoint(route, read)` is the endpoint to enter into the Shell's table. A reader holds no state of its requests. It
builds its event by `schemas.event.build` or `parse_envelope`, nothing else; the value it gives to Kafka is one line, and what
its record must say beside the value stands in the event (`payload_encoding`). Neither headers nor query go into a record.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from typing import Any, Final, NamedTuple

from opentelemetry.trace import SpanKind

from infra.runtime.telemetry import Telemetry, parse_traceparent, traceparent
from ingest_gateway.answers import outcome_answer
from ingest_gateway.head import Head
from ingest_gateway.metrics import Metrics
from ingest_gateway.outcomes import Outcome, Overloaded, Unknown
from ingest_gateway.pipeline import Pipeline
from ingest_gateway.problems import Answer, rejected
from schemas.errors import Malformed, Rejected, TooLarge
from schemas.event import Event

_PATIENCE: Final = 0.1
"""Seconds that a body may take while it depends on its source whether the event gets in."""

Receive = Callable[[], Awaitable[Any]]
Endpoint = Callable[[Head, Receive], Awaitable[Answer]]
"""One way in, for POST requests whose head has been read. Raises: Disconnected."""


class Disconnected(Exception):
    """The client went away before its request was complete."""


class Submission(NamedTuple):
    """One event as a way in read it.

    wire: the record's value, the envelope on one line: the sender's own text where it says everything, else `encode(event)`.
    traceparent: the context of the event's creation, unchecked; None where the request names none.
    """

    event: Event
    wire: bytes
    traceparent: bytes | None


Reader = Callable[[Head, Receive], Awaitable[Submission]]
"""Reads one event. Raises: Rejected, Disconnected."""


class Intake:
    """Takes in events for all ways in of one process.

    Args:
        check: checks the payload against its registered schema, raising Invalid.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        metrics: Metrics,
        telemetry: Telemetry,
        check: Callable[[Event], None],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._pipeline = pipeline
        self._metrics = metrics
        self._telemetry = telemetry
        self._check = check
        self._clock = clock

    def endpoint(self, route: str, read: Reader) -> Endpoint:
        """The endpoint of a way in of single events; `route` is a path without parameters' values."""
        return functools.partial(self._take, route, read)

    async def _take(self, route: str, read: Reader, head: Head, receive: Receive) -> Answer:
        began = self._clock()
        refusal = self._pipeline.overloaded
        if refusal is not None:
            return self._refused(refusal, began)
        try:
            async with asyncio.timeout(_PATIENCE) if self._pipeline.crowded else nullcontext():
                event, wire, parent = await read(head, receive)
            self._check(event)
        except TimeoutError:
            return self._refused(self._pipeline.refusal(), began)
        except Rejected as error:
            self._metrics.count_rejected(error.reason, self._clock() - began)
            return rejected(error)
        except Disconnected:
            self._metrics.count_disconnected(self._clock() - began)
            raise
        try:
            if self._telemetry.enabled:
                outcome = await self._submit_traced(route, event, wire, parent)
            else:
                # A valid trace of the sender's reaches the worker even when this process records nothing.
                known = parent if parent is not None and parse_traceparent(parent) else None
                outcome = await self._pipeline.submit(event, wire, known)
        except asyncio.CancelledError:
            # The server cancels what the grace period of a stop did not finish. The record may be on its way, and the
            # sender is told so; the task ends with this answer all the same.
            outcome = Unknown("stopping")
        self._metrics.count(outcome, self._clock() - began)
        return outcome_answer(outcome, str(event.id))

    def _refused(self, refusal: Overloaded, began: float) -> Answer:
        self._metrics.count(refusal, self._clock() - began)
        return outcome_answer(refusal, "")

    async def _submit_traced(self, route: str, event: Event, wire: bytes, parent: bytes | None) -> Outcome:
        attributes = {"http.request.method": "POST", "http.route": route, "messaging.message.id": str(event.id)}
        with self._telemetry.span(f"POST {route}", SpanKind.SERVER, parent=parent, attributes=attributes) as span:
            outcome = await self._pipeline.submit(event, wire, traceparent(span))
            if span is not None:
                span.set_attribute("plutus.outcome", type(outcome).__name__)
            return outcome


async def read_body(head: Head, receive: Receive, limit: int) -> bytes:
    """The whole body, read no further than the limit.

    Raises:
        TooLarge: announced or found to be longer. Malformed: empty. Disconnected: cut short.
    """
    if head.content_length is not None and head.content_length > limit:
        raise _too_large(limit)
    message = await receive()
    body: bytes = message.get("body", b"")
    if message.get("more_body"):
        parts = bytearray(body)
        while message.get("more_body"):
            if len(parts) > limit:
                raise _too_large(limit)
            message = await receive()
            parts += message.get("body", b"")
        body = bytes(parts)
    if message["type"] == "http.disconnect":
        raise Disconnected
    if len(body) > limit:
        raise _too_large(limit)
    if not body or body.isspace():
        raise Malformed("The body is empty.")
    return body


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"The body is larger than {limit} bytes.")
