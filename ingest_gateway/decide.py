"""What a row of `event_keys` means for an event: the gateway's decisions, without a database and without Kafka."""

from __future__ import annotations

from typing import NamedTuple

from infra.runtime.producer import Receipt
from ingest_gateway.outcomes import CONFLICT, DUPLICATE, Accepted, NotAccepted, Outcome, Unknown
from schemas.event import Event
from schemas.fingerprint import version_of


class Known(NamedTuple):
    """What a row of `event_keys` says: the record that made the event. `overdue`: still not stored, and old."""

    fingerprint: bytes
    partition: int
    offset: int
    overdue: bool = False


class Remembered(NamedTuple):
    """A key to remember: the acknowledged record of an event. Members are named as the columns of `event_keys`."""

    event_id: bytes
    fingerprint: bytes
    partition: int
    record_offset: int


def against(event: Event, row: Known) -> Outcome:
    """An event against the row of its id, which another record made."""
    try:
        same = event.fingerprint_in(version_of(row.fingerprint)) == row.fingerprint
    except ValueError:
        return NotAccepted("fingerprint_version")  # a newer release wrote the row; it can answer
    return DUPLICATE if same else CONFLICT


def remembered(event: Event, receipt: Receipt, row: Known | None, *, deferred: bool) -> Outcome:
    """The outcome of an acknowledged record. The row that stands decides, by the record it names: a worker may have
    inserted it from my own record before I could."""
    if row is None or (row.partition, row.offset) == (receipt.partition, receipt.offset):
        return Accepted(receipt.partition, receipt.offset, deferred)
    outcome = against(event, row)
    return Unknown(outcome.why) if isinstance(outcome, NotAccepted) else outcome
