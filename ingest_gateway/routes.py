"""The ways in. A way in turns a request into events, submits them to the pipeline and turns outcomes into answers.

`POST /api/v1/ingest` takes one JSON envelope. It is plain ASGI in front of the FastAPI application, which costs a third of
a FastAPI route and is documented in `openapi.py` all the same. Another way in is another endpoint in the `Shell`'s table.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol

from opentelemetry.trace import SpanKind

from infra.runtime import log
from infra.runtime.telemetry import Telemetry, parse_traceparent, traceparent
from ingest_gateway.head import Head, Scope, check_json, idempotency_key, read_head
from ingest_gateway.metrics import Metrics
from ingest_gateway.outcomes import Accepted, Conflict, Duplicate, NotAccepted, Outcome, Overloaded, Unknown
from ingest_gateway.pipeline import Pipeline
from ingest_gateway.problems import Answer, Kind, conflict, problem, rejected
from ingest_gateway.settings import GatewaySettings
from schemas.errors import Malformed, Rejected, TooLarge
from schemas.event import Event, encode, one_line, parse_envelope

INGEST: Final = "/api/v1/ingest"
EVENTS: Final = "/api/v1/events/"

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_NOT_ACCEPTED_RETRY: Final = 2
_UNKNOWN_RETRY: Final = 1
_CLOSE: Final = (b"connection", b"close")
_JSON: Final = (b"content-type", b"application/json")
_ACCEPTED_BODY: Final = '{"event_id":"%s","status":"accepted"}'
_DEFERRED_BODY: Final = '{"event_id":"%s","status":"accepted","dedup":"deferred"}'
_DUPLICATE_BODY: Final = '{"event_id":"%s","status":"duplicate"}'


_LOG = log.get(__name__)


class Disconnected(Exception):
    """The client went away before its request was complete."""


class Endpoint(Protocol):
    """One way in, for requests whose head has been read."""

    async def __call__(self, head: Head, receive: Receive) -> Answer:
        """The answer to a POST. Raises: Disconnected."""


class Shell:
    """The outermost application: rules for every request, then the endpoints by exact path, then everything else.

    Args:
        endpoints: path -> endpoint; these take POST alone.
        app: serves every other path.
        draining: says whether connections should be given back.
    """

    def __init__(self, endpoints: Mapping[str, Endpoint], app: App, draining: Callable[[], bool]) -> None:
        self._endpoints = endpoints
        self._app = app
        self._draining = draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            head = read_head(scope)
        except Rejected as error:
            await reply(send, rejected(error), close=True)
            return
        endpoint = self._endpoints.get(scope["path"])
        if endpoint is None:
            await self._app(scope, receive, send)
        elif scope["method"] != "POST":
            allow = [(b"allow", b"POST")]
            await reply(send, problem(Kind.METHOD_NOT_ALLOWED, "This path takes POST.", headers=allow))
        else:
            try:
                answer = await endpoint(head, receive)
            except Disconnected:
                return
            except Exception as error:
                # The one edge where an unforeseen error becomes an answer: nothing of it reaches the client.
                _LOG.error("A request failed in a way it must not.", action="request_crashed", exc_info=error)
                answer = problem(Kind.INTERNAL_ERROR, "The gateway failed. Send the event again with the same key.")
            # What was refused unread is still on its way: closing spares reading it.
            await reply(send, answer, close=answer.status == 413 or self._draining())


async def reply(send: Send, answer: Answer, *, close: bool = False) -> None:
    """Send a whole answer; `close`: and then close the connection."""
    headers = [*answer.headers, _CLOSE] if close else answer.headers
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})


class Ingest:
    """`POST /api/v1/ingest`: one event in a JSON envelope.

    Args:
        check: checks the payload against its registered schema, raising Invalid.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        metrics: Metrics,
        settings: GatewaySettings,
        telemetry: Telemetry,
        check: Callable[[Event], None],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._pipeline = pipeline
        self._metrics = metrics
        self._limits = settings.limits
        self._telemetry = telemetry
        self._check = check
        self._clock = clock

    async def __call__(self, head: Head, receive: Receive) -> Answer:
        began = self._clock()
        refusal = self._pipeline.overloaded
        if refusal is not None:
            self._metrics.count(refusal, self._clock() - began)
            return outcome_answer(refusal, "")
        try:
            event, wire = await self._read(head, receive)
        except Rejected as error:
            self._metrics.count_rejected(error.reason, self._clock() - began)
            return rejected(error)
        except Disconnected:
            self._metrics.count_disconnected(self._clock() - began)
            raise
        try:
            outcome = await self._submit(event, wire, head.traceparent)
        except asyncio.CancelledError:
            # The server cancels what the grace period of a stop did not finish. The record may be on its way, and the
            # sender is told so; the task ends with this answer all the same.
            outcome = Unknown("stopping")
        self._metrics.count(outcome, self._clock() - began)
        return outcome_answer(outcome, str(event.id))

    async def _read(self, head: Head, receive: Receive) -> tuple[Event, bytes]:
        """The event, and the record's value: the sender's own text where it says everything."""
        check_json(head)
        key = None
        if head.idempotency_keys is not None:
            key = idempotency_key(head.idempotency_keys, self._limits.key_chars)
        body = await read_body(head, receive, self._limits.body_bytes)
        event = parse_envelope(body, self._limits, idempotency_key=key)
        self._check(event)
        return event, one_line(body) if key is None else encode(event)

    async def _submit(self, event: Event, wire: bytes, parent: bytes | None) -> Outcome:
        if not self._telemetry.enabled:
            # A valid trace of the sender's reaches the worker even when this process records nothing.
            known = parent if parent is not None and parse_traceparent(parent) else None
            return await self._pipeline.submit(event, wire, known)
        attributes = {"http.request.method": "POST", "http.route": INGEST, "messaging.message.id": str(event.id)}
        with self._telemetry.span(f"POST {INGEST}", SpanKind.SERVER, parent=parent, attributes=attributes) as span:
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


def outcome_answer(outcome: Outcome, event_id: str) -> Answer:
    """The HTTP answer to an outcome: the table of ARCHITECTURE.md, in one place."""
    match outcome:
        case Accepted():
            body = ((_DEFERRED_BODY if outcome.deferred else _ACCEPTED_BODY) % event_id).encode()
            location = (b"location", (EVENTS + event_id).encode())
            return Answer(202, [_JSON, (b"content-length", b"%d" % len(body)), location], body)
        case Duplicate():
            body = (_DUPLICATE_BODY % event_id).encode()
            location = (b"location", (EVENTS + event_id).encode())
            replayed = (b"idempotent-replayed", b"true")
            return Answer(200, [_JSON, (b"content-length", b"%d" % len(body)), location, replayed], body)
        case Conflict():
            return conflict()
        case NotAccepted():
            return problem(
                Kind.NOT_ACCEPTED,
                "Nothing was written. Send the event again.",
                retry_after=_NOT_ACCEPTED_RETRY,
            )
        case Unknown():
            return problem(
                Kind.OUTCOME_UNKNOWN,
                "Kafka did not acknowledge the event in time. Send it again with the same key; it takes effect once.",
                retry_after=_UNKNOWN_RETRY,
            )
        case Overloaded():
            return problem(
                Kind.OVERLOADED, "Send the event again after the time given.", retry_after=outcome.retry_after
            )
