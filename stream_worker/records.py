"""A Kafka record on its way through the worker, read once: an event, or the reason why it is none.

The same parser as the gateway's, with the worker's own limits, which refuse only for safety: what the edge accepted
under its limits is never dead-lettered by a tighter worker.

    content-type: application/cloudevents+json    a structured CloudEvent
    ce_specversion: 1.0                           a binary CloudEvent: attributes in ce_ headers, the value is its data
    anything else                                 an envelope, as the gateway publishes it
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import msgspec

from schemas import cloudevents
from schemas.errors import Reason, Rejected
from schemas.event import Event
from schemas.headers import CONTENT_TYPE, GATEWAY, JSON, TRACEPARENT, RecordHeaders, first
from schemas.record import event_of_record
from stream_worker.outcomes import Dead

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_MS = 253_402_300_799_999  # the end of the year 9999: beyond it Python has no datetime
_HEADERS = 512
_HEADER_BYTES = 32 * 1024
"""What a header may say of a payload that is a string; anything else is as good as none."""


class KafkaRecord(Protocol):
    """The parts of aiokafka's ConsumerRecord that are used. Values are raw bytes; timestamp is in milliseconds."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> Any: ...
    @property
    def value(self) -> Any: ...
    @property
    def headers(self) -> Any: ...


@dataclass(frozen=True, slots=True)
class PlainRecord:
    """A record that was read without the Kafka client. undecodable: a header's name is not UTF-8 (and written escaped)."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    undecodable: bool


class Item(msgspec.Struct, frozen=True, eq=False, gc=False):
    """One record and what was read from it. (A msgspec struct, because millions are made: a frozen dataclass costs 2 us.)

    id: the event id's 16 bytes, b"" where there is no event. Bytes, because they hash and sort in C, as Postgres does.
    event: None where the bytes are no event. dead: why it must not run; set without an event for an unreadable record,
    with one where a readable event breaks a rule (its failure is then the event's own, and a replay can mend it).
    key_matches: the Kafka key belongs to the event's source.
    """

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: RecordHeaders
    id: bytes
    event: Event | None
    dead: Dead | None
    key_matches: bool

    def __repr__(self) -> str:  # coordinates only: a repr may reach a log
        return f"<{self.topic}/{self.partition}@{self.offset}>"

    @property
    def from_gateway(self) -> bool:
        """True when a gateway published it and remembers it itself. A forged header only costs a short insert."""
        return bool(self.headers) and first(self.headers, GATEWAY) is not None

    @property
    def traceparent(self) -> bytes | None:
        """The creation context, unchecked: a CloudEvent's own, or the record's."""
        kind = first(self.headers, CONTENT_TYPE)
        if kind is not None and kind != JSON and self.value is not None and cloudevents.is_structured(kind):
            own = cloudevents.traceparent_of(self.value)
        else:
            own = first(self.headers, cloudevents.KAFKA_TRACEPARENT)
        return own or first(self.headers, TRACEPARENT)

    @property
    def appended_ms(self) -> int:
        """The broker's append time. A record can carry any 64-bit number here; it is clamped to what can be stored."""
        return min(max(self.timestamp, 0), _LAST_MS)

    @property
    def appended_at(self) -> datetime:
        """The same as a time."""
        return instant(self.appended_ms)

    @property
    def content_hash(self) -> bytes:
        """Names these very bytes, to count how often they came back: 16 bytes over key and value."""
        digest = hashlib.blake2b(digest_size=16)
        for part in (self.key, self.value):
            digest.update(b"\x00" if part is None else b"\x01" + len(part).to_bytes(8, "big") + part)
        return digest.digest()


def read(record: KafkaRecord, check: Callable[[Event], None], *, refuse_key_mismatch: bool = False) -> Item:
    """Parse a record.

    Args:
        check: raises Rejected where a registered payload schema does not fit.
        refuse_key_mismatch: dead-letter a record whose Kafka key does not belong to its source.
    """
    event: Event | None = None
    dead: Dead | None = None
    id_bytes, matches, key, value, headers = b"", True, record.key, record.value, record.headers
    try:
        if headers:
            _refuse_headers(record)
        if value is None:
            raise Rejected("The record has no value.", reason=Reason.NULL_VALUE)
        event = event_of_record(value, headers)
        id_bytes = event.id_bytes
        matches = key_matches(key, event)
        if refuse_key_mismatch and not matches:
            dead = Dead(Reason.KEY_MISMATCH, "parse")
        else:
            check(event)
    except Rejected as refusal:
        dead = Dead(refusal.reason, "parse" if event is None else "schema")
    return Item(
        record.topic,
        record.partition,
        record.offset,
        record.timestamp,
        key,
        value,
        headers,
        id_bytes,
        event,
        dead,
        matches,
    )


def instant(milliseconds_since_epoch: int) -> datetime:
    """A time from Kafka's count."""
    return _EPOCH + timedelta(milliseconds=milliseconds_since_epoch)


def milliseconds(moment: datetime) -> int:
    """A time as Kafka counts it."""
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def key_matches(key: bytes | None, event: Event) -> bool:
    """True when the record's key is its source, or `source:ordering_key`."""
    return key == event.source.encode() or (event.ordering_key is not None and key == event.partition_key(spread=True))


def _refuse_headers(record: KafkaRecord) -> None:
    """Raises: Rejected: they cannot be read, or are more than an event's could be."""
    if isinstance(record, PlainRecord) and record.undecodable:
        raise Rejected("The record cannot be decoded.", reason=Reason.UNDECODABLE)
    headers = record.headers
    if len(headers) > _HEADERS or sum([len(name) + len(value or b"") for name, value in headers]) > _HEADER_BYTES:
        raise Rejected("The record's headers are too many or too large.", reason=Reason.HEADERS_TOO_LARGE)
