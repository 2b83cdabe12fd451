"""COPY's binary format, read back by the words of the manual."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from schemas.event import Event, parse_envelope
from stream_worker.event_rows import COLUMNS, KEY_COLUMNS, EventRows, key_rows
from stream_worker.records import Item
from tests.harness import envelope

NOW = datetime(2026, 11, 27, 20, 41, 3, 123457, tzinfo=UTC)
BEFORE = NOW - timedelta(seconds=3, microseconds=1)


def item(event: Event, offset: int = 7) -> Item:
    return Item("t", 3, offset, 0, b"k", b"v", (), event.id.bytes, event, None, True)


def read_back(data: bytes, columns: Sequence[str] = COLUMNS) -> list[dict[str, bytes | None]]:
    """Rows of columns, None for NULL."""
    assert data[:19] == b"PGCOPY\n\xff\r\n\x00" + bytes(8)
    rows, at = [], 19
    while (count := struct.unpack_from(">h", data, at)[0]) != -1:
        assert count == len(columns)
        at += 2
        row: dict[str, bytes | None] = {}
        for name in columns:
            (length,) = struct.unpack_from(">i", data, at)
            at += 4
            row[name] = None if length == -1 else data[at : at + length]
            at += max(length, 0)
        rows.append(row)
    assert at + 2 == len(data)
    return rows


def moment(value: bytes | None) -> datetime | None:
    if value is None:
        return None
    return datetime(2000, 1, 1, tzinfo=UTC) + timedelta(microseconds=struct.unpack(">q", value)[0])


def test_no_rows_are_a_whole_file_too() -> None:
    assert read_back(EventRows(NOW).encoded()) == []


def test_every_column_is_what_it_was() -> None:
    body = envelope(
        "shop",
        "k",
        {"é": 12345678901234567890.5},
        type="sale",
        ordering_key="till-1",
        occurred_at="1969-12-31T23:59:59.5+02:00",
    )
    event = parse_envelope(body)
    rows = EventRows(NOW)
    rows.extend([(item(event), BEFORE, "PROCESSED", "book", 2)])
    (row,) = read_back(rows.encoded())
    assert UUID(bytes=row["event_id"]) == event.id
    assert (row["source"], row["idempotency_key"], row["schema_version"]) == (b"shop", b"k", b"1.0")
    assert (row["type"], row["ordering_key"], row["payload_encoding"]) == (b"sale", b"till-1", b"json")
    assert row["payload"] == event.payload
    assert moment(row["occurred_at"]) == datetime(1969, 12, 31, 23, 59, 59, 500000, tzinfo=timezone(timedelta(hours=2)))
    assert (row["status"], row["handled_by"], row["topic"]) == (b"PROCESSED", b"book", b"t")
    assert (moment(row["received_at"]), moment(row["processed_at"])) == (BEFORE, NOW)
    assert [int.from_bytes(row[name] or b"", signed=True) for name in ("attempts", "partition", "offset")] == [2, 3, 7]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(("a", "b")),
            st.sampled_from((None, "t", "u")),
            st.sampled_from(("PROCESSED", "RETRYING", "FAILED")),
            st.sampled_from((None, "h")),
            st.sampled_from((NOW, BEFORE)),
            st.integers(1, 3),
        ),
        max_size=12,
    )
)
def test_what_is_encoded_once_never_leaks_into_another_row(
    facts: list[tuple[str, str | None, str, str | None, datetime, int]],
) -> None:
    rows = EventRows(NOW)
    for number, (source, kind, status, handled_by, since, attempts) in enumerate(facts):
        members = {} if kind is None else {"type": kind}
        event = parse_envelope(envelope(source, f"k{number}", number, **members))
        rows.extend([(item(event, number), since, status, handled_by, attempts)])  # type: ignore[list-item]
    found = read_back(rows.encoded())
    assert found == sorted(found, key=lambda row: row["event_id"] or b"")
    found.sort(key=lambda row: row["offset"] or b"")
    for number, (row, fact) in enumerate(zip(found, facts, strict=True)):
        source, kind, status, handled_by, since, attempts = fact
        assert row["source"] == source.encode()
        assert row["type"] == (None if kind is None else kind.encode())
        assert row["status"] == status.encode()
        assert row["handled_by"] == (None if handled_by is None else handled_by.encode())
        assert moment(row["received_at"]) == since
        assert moment(row["processed_at"]) == (NOW if status == "PROCESSED" else None)
        assert int.from_bytes(row["attempts"] or b"") == attempts
        assert int.from_bytes(row["offset"] or b"") == number


def test_rows_of_event_keys_in_the_order_of_their_ids() -> None:
    events = [parse_envelope(envelope("shop", f"k{number}", number)) for number in range(5)]
    rows = read_back(key_rows([item(event, 2**40 + n) for n, event in enumerate(events)]), KEY_COLUMNS)
    made = [
        {
            "event_id": event.id.bytes,
            "fingerprint": event.fingerprint,
            "state": b"stored",
            "runs": struct.pack(">i", 1),
            "partition": struct.pack(">i", 3),
            "record_offset": struct.pack(">q", 2**40 + n),
        }
        for n, event in enumerate(events)
    ]
    ordered = sorted(made, key=lambda row: row["event_id"])
    assert rows == ordered != made
