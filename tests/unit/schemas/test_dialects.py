"""Dead letters in other people's words: what we write, and golden records of theirs that we read."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.dialects import WRITERS, Origin, extra_headers, origin
from schemas.headers import dead_letter_headers

ABOUT: dict[str, str | int | None] = {
    "failure-id": "3f0d8a1e-7f0d-4b5a-9d55-0e6f4b1a2c3d",
    "reason": "handler_error",
    "step": "handle",
    "error-class": "KeyError",
    "topic": "plutus.events",
    "partition": 258,
    "offset": 66_051,
    "timestamp": 1_772_323_200_123,
    "attempts": 3,
    "group": "plutus",
}

GOLDEN = {
    # As each project's own code writes them, headers of the record itself in front.
    "connect": [
        ("trace", b"\xff"),
        ("__connect.errors.topic", b"orders"),
        ("__connect.errors.partition", b"3"),
        ("__connect.errors.offset", b"1234567890123"),
        ("__connect.errors.connector.name", b"orders-sink"),
        ("__connect.errors.task.id", b"0"),
        ("__connect.errors.stage", b"VALUE_CONVERTER"),
        ("__connect.errors.class.name", b"org.apache.kafka.connect.json.JsonConverter"),
        ("__connect.errors.exception.class.name", b"org.apache.kafka.connect.errors.DataException"),
    ],
    "spring": [
        ("kafka_dlt-exception-fqcn", b"java.lang.IllegalStateException"),
        ("kafka_dlt-original-topic", b"orders"),
        ("kafka_dlt-original-partition", b"\x00\x00\x00\x03"),
        ("kafka_dlt-original-offset", b"\x00\x00\x01\x1f\x71\xfb\x04\xcb"),
        ("kafka_dlt-original-timestamp", b"\x00\x00\x01\x9c\xa6\xe0\xd4\x7b"),
        ("kafka_dlt-original-timestamp-type", b"CreateTime"),
        # It died again on its way through the retry topic: the first is the origin.
        ("kafka_dlt-original-topic", b"orders-retry-0"),
        ("kafka_dlt-original-partition", b"\x00\x00\x00\x00"),
        ("kafka_dlt-original-offset", b"\x00\x00\x00\x00\x00\x00\x00\x00"),
    ],
    "streams": [
        ("__streams.errors.exception", b"java.lang.ArithmeticException"),
        ("__streams.errors.message", b""),
        ("__streams.errors.topic", b"orders"),
        ("__streams.errors.partition", b"3"),
        ("__streams.errors.offset", b"1234567890123"),
    ],
    "share": [
        ("__dlq.errors.topic", b"orders"),
        ("__dlq.errors.partition", b"3"),
        ("__dlq.errors.offset", b"1234567890123"),
        ("__dlq.errors.group", b"readers"),
        ("__dlq.errors.delivery.count", b"5"),
        ("__dlq.errors.message", b"Offset delivery count exceeded the threshold."),
    ],
}


@pytest.mark.parametrize("dialect", GOLDEN)
def test_golden_records_tell_their_origin(dialect: str) -> None:
    found = origin(GOLDEN[dialect])
    assert found is not None
    assert (found.dialect, found.topic, found.partition, found.offset) == (dialect, "orders", 3, 1_234_567_890_123)
    assert found.timestamp == (1_772_326_278_267 if dialect == "spring" else None)


def test_our_own_comes_first() -> None:
    ours = dead_letter_headers(GOLDEN["connect"], ABOUT)
    assert origin(ours) == Origin("plutus", "plutus.events", 258, 66_051, 1_772_323_200_123)


def test_connect_is_written_as_text() -> None:
    assert dict(extra_headers(["connect"], ABOUT)) == {
        "__connect.errors.topic": b"plutus.events",
        "__connect.errors.partition": b"258",
        "__connect.errors.offset": b"66051",
        "__connect.errors.connector.name": b"plutus",
        "__connect.errors.task.id": b"258",
        "__connect.errors.stage": b"TASK_PUT",
        "__connect.errors.class.name": b"stream_worker",
        "__connect.errors.exception.class.name": b"KeyError",
        "__connect.errors.exception.message": b"handler_error",
    }
    parsed = dict(extra_headers(["connect"], {**ABOUT, "step": "parse", "error-class": None}))
    assert parsed["__connect.errors.stage"] == b"VALUE_CONVERTER"
    assert parsed["__connect.errors.exception.class.name"] == b"handler_error"


def test_spring_is_written_with_big_endian_numbers() -> None:
    assert dict(extra_headers(["spring"], ABOUT)) == {
        "kafka_dlt-original-topic": b"plutus.events",
        "kafka_dlt-original-partition": b"\x00\x00\x01\x02",
        "kafka_dlt-original-offset": b"\x00\x00\x00\x00\x00\x01\x02\x03",
        "kafka_dlt-original-timestamp": struct.pack(">q", 1_772_323_200_123),
        "kafka_dlt-original-timestamp-type": b"LogAppendTime",
        "kafka_dlt-original-consumer-group": b"plutus",
        "kafka_dlt-exception-fqcn": b"KeyError",
        "kafka_dlt-exception-message": b"handler_error",
    }


def test_none_both_and_unknown() -> None:
    assert extra_headers([], ABOUT) == []
    both = extra_headers(["spring", "connect"], ABOUT)
    assert both == extra_headers(["spring"], ABOUT) + extra_headers(["connect"], ABOUT)
    with pytest.raises(ValueError, match="streams"):
        extra_headers(["streams"], ABOUT)


@given(
    st.sampled_from(sorted(WRITERS)),
    st.text("abc.-_", min_size=1),
    st.integers(0, 2**31 - 1),
    st.integers(0, 2**63 - 1),
)
def test_what_is_written_reads_back(dialect: str, topic: str, partition: int, offset: int) -> None:
    about = {**ABOUT, "topic": topic, "partition": partition, "offset": offset}
    found = origin(extra_headers([dialect], about))
    assert found is not None
    assert (found.dialect, found.topic, found.partition, found.offset) == (dialect, topic, partition, offset)


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("trace", b"x")],
        [("__connect.errors.topic", b"orders"), ("__connect.errors.partition", b"3")],
        [("__dlq.errors.topic", b"\xff"), ("__dlq.errors.partition", b"3"), ("__dlq.errors.offset", b"1")],
        [("__dlq.errors.topic", b"t"), ("__dlq.errors.partition", b"-3"), ("__dlq.errors.offset", b"1")],
        [("__dlq.errors.topic", b"t"), ("__dlq.errors.partition", b"3"), ("__dlq.errors.offset", b"9" * 5_000)],
        [("__dlq.errors.topic", b"t"), ("__dlq.errors.partition", None), ("__dlq.errors.offset", b"1")],
        [
            ("kafka_dlt-original-topic", b"t"),
            ("kafka_dlt-original-partition", b"3"),
            ("kafka_dlt-original-offset", b"1"),
        ],
    ],
)
def test_half_an_origin_is_none(headers: list[tuple[str, bytes | None]]) -> None:
    assert origin(headers) is None


@given(st.lists(st.tuples(st.sampled_from([name for rows in GOLDEN.values() for name, _ in rows]), st.binary())))
def test_any_headers_are_read_without_an_error(headers: list[tuple[str, bytes | None]]) -> None:
    found = origin(headers)
    assert found is None or (found.partition >= 0 and found.offset >= 0)
