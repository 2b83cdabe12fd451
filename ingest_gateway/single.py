"""`POST /api/v1/ingest`: one event in a JSON envelope, its key in the body or in `Idempotency-Key`."""

from __future__ import annotations

from ingest_gateway.head import Head, check_json, idempotency_key
from ingest_gateway.intake import Reader, Receive, Submission, read_body
from schemas.event import encode, one_line, parse_envelope
from schemas.limits import Limits


def single(limits: Limits) -> Reader:
    """The reader of one event."""

    async def read(head: Head, receive: Receive) -> Submission:
        check_json(head)
        key = None
        if head.idempotency_keys is not None:
            key = idempotency_key(head.idempotency_keys, limits.key_chars)
        body = await read_body(head, receive, limits.body_bytes)
        event = parse_envelope(body, limits, idempotency_key=key)
        return Submission(event, one_line(body) if key is None else encode(event), head.traceparent)

    return read
