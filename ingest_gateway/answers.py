"""Outcomes as HTTP answers: the table of ARCHITECTURE.md, in one place."""

from __future__ import annotations

from typing import Final

from ingest_gateway.outcomes import Accepted, Conflict, Duplicate, NotAccepted, Outcome, Overloaded, Unknown
from ingest_gateway.problems import Answer, Kind, conflict, problem

EVENTS: Final = "/api/v1/events/"

_NOT_ACCEPTED_RETRY: Final = 2
_UNKNOWN_RETRY: Final = 1
_JSON: Final = (b"content-type", b"application/json")
_ACCEPTED_BODY: Final = '{"event_id":"%s","status":"accepted"}'
_DEFERRED_BODY: Final = '{"event_id":"%s","status":"accepted","dedup":"deferred"}'
_DUPLICATE_BODY: Final = '{"event_id":"%s","status":"duplicate"}'


def outcome_answer(outcome: Outcome, event_id: str) -> Answer:
    """The answer to a request of one event."""
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
