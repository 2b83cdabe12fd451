"""Rows of `events` and of `event_keys` as COPY reads them: a pure encoder. A batch writes thousands of rows in which most columns
repeat, so what repeats is encoded once and joined (`infra/runtime/copy_format.py`, which puts them in the order of their ids).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from datetime import datetime
from typing import Final, Literal

from infra.runtime import copy_format
from infra.runtime.copy_format import INT32_FOLLOWS, INT64_FOLLOWS, NULL, int32, int64, text, time
from schemas.fingerprint import BYTES as FINGERPRINT_BYTES
from stream_worker.records import Item

Status = Literal["PROCESSED", "RETRYING", "FAILED"]

COLUMNS: Final = (
    "event_id",
    "source",
    "schema_version",
    "type",
    "payload_encoding",
    "idempotency_key",
    "ordering_key",
    "occurred_at",
    "payload",
    "status",
    "handled_by",
    "received_at",
    "processed_at",
    "attempts",
    "topic",
    "partition",
    "offset",
)
"""What stands together repeats together."""

KEY_COLUMNS: Final = ("event_id", "fingerprint", "state", "runs", "partition", "record_offset")
"""Of `event_keys`; its other columns have defaults."""

_ID_FOLLOWS = copy_format.row_of_uuid(len(COLUMNS))
_KEY_FOLLOWS = copy_format.row_of_uuid(len(KEY_COLUMNS))
_FINGERPRINT_FOLLOWS = int32(FINGERPRINT_BYTES)

Row = tuple[Item, datetime, Status, str | None, int]
"""An item with an event, when it was first seen, what it is now, the handler that ran, how often it ran."""


class EventRows:
    """The new rows of one batch.

    Args:
        now: the transaction's time; becomes `processed_at` of what was processed.
    """

    def __init__(self, now: datetime) -> None:
        self._now = now
        self._rows: list[bytes] = []
        self._kinds: dict[tuple[str, str, str | None, str], bytes] = {}
        self._ends: dict[tuple[datetime, Status, str | None, int, str, int], bytes] = {}

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._rows)

    def extend(self, rows: Sequence[Row]) -> None:
        """Add rows."""
        kinds, ends, add, join = self._kinds, self._ends, self._rows.append, b"".join
        for item, accepted_at, status, handled_by, attempts in rows:
            event = item.event
            assert event is not None  # noqa: S101
            kind = event.source, event.schema_version, event.type, event.payload_encoding
            middle = kinds.get(kind)
            if middle is None:
                middle = kinds[kind] = b"".join(map(text, kind))
            end = accepted_at, status, handled_by, attempts, item.topic, item.partition
            last = ends.get(end)
            if last is None:
                last = ends[end] = self._end(*end)
            key, payload = event.idempotency_key.encode(), event.payload
            row = (
                _ID_FOLLOWS,
                item.id,
                middle,
                int32(len(key)),
                key,
                NULL if event.ordering_key is None else text(event.ordering_key),
                NULL if event.occurred_at is None else time(event.occurred_at),
                int32(len(payload)),
                payload,
                last,
                int64(item.offset),
            )
            add(join(row))

    def encoded(self) -> bytes:
        """All of them, as COPY reads them, by id."""
        return copy_format.whole(self._rows)

    def _end(
        self, accepted_at: datetime, status: Status, handled_by: str | None, attempts: int, topic: str, partition: int
    ) -> bytes:
        """What follows the payload, and the length of the offset that ends the row."""
        return b"".join(
            (
                text(status),
                text(handled_by),
                time(accepted_at),
                time(self._now) if status == "PROCESSED" else NULL,
                INT32_FOLLOWS + int32(attempts),
                text(topic),
                INT32_FOLLOWS + int32(partition),
                INT64_FOLLOWS,
            )
        )


def key_rows(items: Sequence[Item]) -> bytes:
    """The rows of `event_keys` for these events, all of one partition, which run now for the first time, as COPY reads them, by id."""
    middle = text("stored") + INT32_FOLLOWS + int32(1) + INT32_FOLLOWS + int32(items[0].partition) + INT64_FOLLOWS
    before, between = len(_KEY_FOLLOWS), len(_FINGERPRINT_FOLLOWS)
    row = struct.Struct(f">{before}s16s{between}s{FINGERPRINT_BYTES}s{len(middle)}sq").pack
    rows = []
    for item in items:
        assert item.event is not None  # noqa: S101
        rows.append(row(_KEY_FOLLOWS, item.id, _FINGERPRINT_FOLLOWS, item.event.fingerprint, middle, item.offset))
    return copy_format.whole(rows)
