"""`POST /api/v1/ingest/batch`: many events in one request, each with a result of its own, in their order.

    application/json                      a JSON array of envelopes
    application/x-ndjson                  an envelope a line; blank lines are nothing
    application/cloudevents-batch+json    a JSON array of structured CloudEvents

The body is read piece by piece, no further than its limit, and only a whole one is looked at: a refusal of the batch (too
large, too many, empty, no JSON array) and a connection that was cut mean that nothing of it was taken. From then on each item
stands for itself. All of them are submitted as one, in their order, so that copies inside a batch find each other.

Bounded for all requests together: the bytes of bodies held in memory (more: 429), and the requests whose items are in flight;
others wait with their body, as long as an event may wait for its micro-batch (longer: 429).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

import msgspec

from infra.runtime.telemetry import parse_traceparent
from ingest_gateway.answers import results_answer
from ingest_gateway.head import Head, check_coding, is_json
from ingest_gateway.intake import Disconnected, Intake, Receive, Submission
from ingest_gateway.outcomes import Overloaded
from ingest_gateway.problems import Answer
from schemas import cloudevents, json_text
from schemas.errors import Invalid, Malformed, Reason, Rejected, TooLarge, UnsupportedMedia
from schemas.event import encode, one_line, parse_envelope
from schemas.limits import Limits

ACCEPT: Final = b"application/json, application/x-ndjson, application/cloudevents-batch+json"

_UTF8: Final = rb'[ \t]*(?:;[ \t]*charset[ \t]*=[ \t]*"?utf-8"?[ \t]*)?'
_NDJSON = re.compile(rb"application/x-ndjson" + _UTF8, re.IGNORECASE)
_CLOUDEVENTS = re.compile(re.escape(cloudevents.BATCH) + _UTF8, re.IGNORECASE)
_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])
_BLANK_LINES: Final = 1_000
_VALUES_PER_ITEM: Final = 200
_TURN_BYTES: Final = 64 * 1024
"""What is parsed before others get a turn of the loop."""

Split = Callable[[bytes, Limits], Iterable[bytes]]
Read = Callable[[bytes, Limits], Submission]


class Policy(NamedTuple):
    """How much of batches a process works on at once. wait: seconds for a turn."""

    requests: int
    bytes_held: int
    wait: float


class _Full(Exception):
    """No memory is left for bodies of batches."""


class Bulk:
    """The endpoint of one process.

    Args:
        intake: takes the items. limits: of an item, and of a batch (`batch_items`, `batch_bytes`).
        refusal: the answer to one too many.
    """

    def __init__(
        self, route: str, intake: Intake, limits: Limits, policy: Policy, refusal: Callable[[], Overloaded]
    ) -> None:
        self._route = route
        self._intake = intake
        self._limits = limits
        self._policy = policy
        self._refusal = refusal
        self._turns = asyncio.Semaphore(policy.requests)
        self._held = 0

    async def __call__(self, head: Head, receive: Receive) -> Answer:
        """The answer to a batch. Raises: Disconnected."""
        began = self._intake.now()
        body = bytearray()
        try:
            grant = self._intake.identify(head)
            split, read = _way(head)
            await self._fill(body, head, receive)
            async with asyncio.timeout(self._policy.wait):
                await self._turns.acquire()
            try:
                items = await self._items(split(bytes(body), self._limits), read)
                results = await self._intake.take_many(self._route, items, head.traceparent, began, grant)
                return results_answer(results)
            finally:
                self._turns.release()
        except (_Full, TimeoutError):
            return self._intake.refused(self._refusal(), began)
        except Rejected as error:
            return self._intake.rejected(error, began, accept=ACCEPT)
        except Disconnected:
            self._intake.disconnected(began)
            raise
        finally:
            self._held -= len(body)

    async def _fill(self, body: bytearray, head: Head, receive: Receive) -> None:
        """Read the whole body, counting what is held.

        Raises:
            TooLarge: announced or found to be longer than the limit. Disconnected: cut short.
            _Full: bodies of other requests leave no room for it.
        """
        limit = self._limits.batch_bytes
        more = True
        while more:
            if len(body) > limit or (head.content_length or 0) > limit:
                raise TooLarge(f"The batch is larger than {limit} bytes.")
            if self._held > self._policy.bytes_held:
                raise _Full
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Disconnected
            piece = message.get("body", b"")
            body += piece
            self._held += len(piece)
            more = message.get("more_body", False)
        if len(body) > limit:
            raise TooLarge(f"The batch is larger than {limit} bytes.")

    async def _items(self, raws: Iterable[bytes], read: Read) -> list[Submission | Rejected]:
        """Each item as it was read, or why it was not."""
        items: list[Submission | Rejected] = []
        since_turn = 0
        for raw in raws:
            try:
                items.append(read(raw, self._limits))
            except Rejected as error:
                items.append(error)
            since_turn += len(raw)
            if since_turn > _TURN_BYTES:
                since_turn = 0
                await asyncio.sleep(0)
        if not items:
            raise Invalid("The batch is empty.")
        return items


def is_batch(content_type: bytes | None) -> bool:
    """True for a batch of CloudEvents."""
    if content_type is None or content_type == b"application/json":
        return False
    return _CLOUDEVENTS.fullmatch(content_type.strip()) is not None


def _way(head: Head) -> tuple[Split, Read]:
    """How to read a batch of this content type.

    Raises:
        UnsupportedMedia: it is none of a batch's. Malformed: a key beside the items.
    """
    kind = (head.content_type or b"").strip()
    if is_json(kind):
        way: tuple[Split, Read] = (_array, _envelope)
    elif _NDJSON.fullmatch(kind):
        way = (_lines, _envelope)
    elif _CLOUDEVENTS.fullmatch(kind):
        way = (_array, _cloudevent)
    else:
        raise UnsupportedMedia(f"Content-Type must be one of {ACCEPT.decode()}, in UTF-8.")
    check_coding(head)
    if head.idempotency_keys is not None:
        raise Malformed("Idempotency-Key names one event; in a batch each item has its own key.", reason=Reason.BAD_ID)
    return way


def _envelope(raw: bytes, limits: Limits) -> Submission:
    return Submission(parse_envelope(raw, limits), one_line(raw), None)


def _cloudevent(raw: bytes, limits: Limits) -> Submission:
    event, own = cloudevents.structured(raw, limits)
    return Submission(event, encode(event), own if parse_traceparent(own) else None)


def _lines(body: bytes, limits: Limits) -> list[bytes]:
    """The lines that hold something."""
    if body.count(b"\n") > limits.batch_items + _BLANK_LINES:
        raise _too_many(limits)
    lines = [line for line in body.split(b"\n") if line and not line.isspace()]
    if len(lines) > limits.batch_items:
        raise _too_many(limits)
    return lines


def _array(body: bytes, limits: Limits) -> list[bytes]:
    """The texts of the array's elements."""
    most = limits.batch_items * _VALUES_PER_ITEM
    if json_text.has_more_values(body, most):
        raise TooLarge(f"The batch holds more than {most} values.")
    try:
        elements = _ARRAY.decode(body)
    except msgspec.ValidationError:
        raise Invalid("The batch must be a JSON array.", reason=Reason.NOT_OBJECT) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Malformed("The batch is not JSON in UTF-8.") from None
    except RecursionError:
        raise Malformed("The batch is nested too deeply.", reason=Reason.TOO_DEEP) from None
    if len(elements) > limits.batch_items:
        raise _too_many(limits)
    return [bytes(element) for element in elements]


def _too_many(limits: Limits) -> TooLarge:
    return TooLarge(f"The batch holds more than {limits.batch_items} items.")
