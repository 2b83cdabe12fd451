"""`POST /api/v1/ingest`: one event, in a JSON envelope or as a CloudEvent, structured or binary.

    application/json, no ce- headers      an envelope; its key in the body or in `Idempotency-Key`
    application/cloudevents+json          a structured CloudEvent
    any ce- header, other content type    a binary CloudEvent; the body is its data, JSON or not

A CloudEvent may carry `Idempotency-Key` too; it must then be its id.
"""

from __future__ import annotations

from infra.runtime.telemetry import parse_traceparent
from ingest_gateway.head import Head, check_coding, check_json, idempotency_key
from ingest_gateway.intake import Intake, Reader, Receive, Reply, Submission, check_length, check_not_empty, read_body
from schemas import cloudevents
from schemas.errors import Malformed, Reason
from schemas.event import encode, one_line, parse_envelope
from schemas.limits import Limits


class Plain:
    """The short cut for what nearly all requests are: an envelope under headers without a choice. A task and two futures for
    each request are a fifth of the CPU that it costs."""

    def __init__(self, intake: Intake, limits: Limits) -> None:
        self._intake = intake
        self._limits = limits

    def wants(self, head: Head) -> bool:
        """Such a request, while nobody is refused for want of room."""
        return (
            head.content_type == b"application/json"
            and not head.has_attributes
            and head.idempotency_keys is None
            and head.content_encoding is None
            and head.prefer is None
            and self._intake.hurries
        )

    def serve(self, head: Head, body: bytes, reply: Reply) -> bool:
        """Read it and submit it; False: there is no room any more."""
        if not self._intake.hurries:
            return False
        self._intake.take_now(self._read, head, body, reply)
        return True

    def _read(self, head: Head, body: bytes) -> Submission:
        check_length(len(body), self._limits.body_bytes)
        check_not_empty(body)
        return Submission(parse_envelope(body, self._limits), one_line(body), head.traceparent)


def single(limits: Limits) -> Reader:
    """The reader of one event."""

    async def read(head: Head, receive: Receive) -> Submission:
        key = None
        if head.idempotency_keys is not None:
            key = idempotency_key(head.idempotency_keys, limits.key_chars)
        if head.content_type != b"application/json" or head.has_attributes:
            structured = head.content_type is not None and cloudevents.is_structured(head.content_type)
            if structured or head.has_attributes:
                return await _cloudevent(head, receive, key, structured=structured)
        check_json(head)
        body = await read_body(head, receive, limits.body_bytes)
        event = parse_envelope(body, limits, idempotency_key=key)
        return Submission(event, one_line(body) if key is None else encode(event), head.traceparent)

    async def _cloudevent(head: Head, receive: Receive, key: str | None, *, structured: bool) -> Submission:
        check_coding(head)
        if structured:
            event, trace = cloudevents.structured(await read_body(head, receive, limits.body_bytes), limits)
        else:
            attributes = cloudevents.http_attributes(head.headers)
            is_json = cloudevents.is_json_type(head.content_type)
            body = await read_body(head, receive, limits.body_bytes, empty=True)
            event, trace = cloudevents.binary(attributes, is_json, body or None, limits)
        if key is not None and key != event.idempotency_key:
            raise Malformed("The Idempotency-Key header and the id differ.", reason=Reason.BAD_ID, pointer="/id")
        return Submission(event, encode(event), trace if parse_traceparent(trace) else head.traceparent)

    return read
