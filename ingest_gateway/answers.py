"""Outcomes as HTTP answers: the table of ARCHITECTURE.md, in one place.

A batch answers 200 with a result for each item, in their order: the status that a request of its own would have had, with the
event's id or the problem. Only where no item was taken and sending again may help, the whole is a 503 with `Retry-After`, which
holds the results too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from ingest_gateway.outcomes import Accepted, Conflict, Duplicate, NotAccepted, Outcome, Overloaded, Unknown
from ingest_gateway.problems import Answer, Kind, conflict, encoded, problem, rejected
from schemas.errors import Rejected
from schemas.ids import id_text

EVENTS: Final = "/api/v1/events/"

_NOT_ACCEPTED_RETRY: Final = 2
_UNKNOWN_RETRY: Final = 1
_JSON: Final = (b"content-type", b"application/json")
_ACCEPTED_BODY: Final = '{"event_id":"%s","status":"accepted"}'
_DEFERRED_BODY: Final = '{"event_id":"%s","status":"accepted","dedup":"deferred"}'
_DUPLICATE_BODY: Final = '{"event_id":"%s","status":"duplicate"}'
_ACCEPTED_ITEM: Final = '{"status":202,"event_id":"%s"}'
_DEFERRED_ITEM: Final = '{"status":202,"event_id":"%s","dedup":"deferred"}'
_DUPLICATE_ITEM: Final = '{"status":200,"event_id":"%s"}'


def with_outcome(answer: Answer, outcome: Mapping[str, Any] | None, seconds: float) -> Answer:
    """An answer to who asked to wait: what it says, the event's status where it became known, and that the wish was granted.

    Args:
        outcome: the status as `GET /api/v1/events/{id}` tells it; None where nothing became of the event in this time.
        seconds: how long was waited at most.
    """
    body = answer.body
    if outcome is not None:
        body = b'%b,"outcome":%b}' % (body[:-1], orjson.dumps(outcome))
    kept = [header for header in answer.headers if header[0] != b"content-length"]
    length, applied = (b"content-length", b"%d" % len(body)), (b"preference-applied", b"wait=%d" % seconds)
    return Answer(answer.status, [*kept, length, applied], body)


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


def results_answer(results: Sequence[Rejected | tuple[bytes, Outcome]]) -> Answer:
    """The answer to a batch: what became of each item, or why it was refused."""
    items = b"[%b]" % b",".join([_item(result) for result in results])
    kinds = {type(result[1]) for result in results if not isinstance(result, Rejected)}
    if not kinds.isdisjoint((Accepted, Duplicate)) or kinds.isdisjoint((NotAccepted, Unknown)):
        return encoded(200, b'{"results":%b}' % items, media_type=b"application/json")
    unknown = Unknown in kinds
    return problem(
        Kind.OUTCOME_UNKNOWN if unknown else Kind.NOT_ACCEPTED,
        "No event of the batch was accepted for certain. Send it again with the same keys; each event takes effect once.",
        retry_after=_UNKNOWN_RETRY if unknown else _NOT_ACCEPTED_RETRY,
        results=orjson.Fragment(items),
    )


def _item(result: Rejected | tuple[bytes, Outcome]) -> bytes:
    if isinstance(result, Rejected):
        answer = rejected(result)
    else:
        id_bytes, outcome = result
        if isinstance(outcome, Accepted):
            return ((_DEFERRED_ITEM if outcome.deferred else _ACCEPTED_ITEM) % id_text(id_bytes)).encode()
        if isinstance(outcome, Duplicate):
            return (_DUPLICATE_ITEM % id_text(id_bytes)).encode()
        answer = outcome_answer(outcome, "")
    return b'{"status":%d,"problem":%b}' % (answer.status, answer.body)
