"""The ways in which others write down where a dead letter came from: Kafka Connect, Spring, Kafka Streams, share groups.

Tools for dead letters know one of these dialects. On request a dead letter of ours speaks Connect's or Spring's beside our
own `plutus-dlq-*`; read are all of them. Pure: headers in, headers or values out.

    dialect   headers                                  numbers                       source
    plutus    plutus-dlq-*                             decimal text                  schemas.headers
    connect   __connect.errors.*                       decimal text                  KIP-298
    spring    kafka_dlt-*                              big-endian, 4 and 8 bytes     KafkaHeaders, DeadLetterRecordManager
    streams   __streams.errors.*                       decimal text                  KIP-1034
    share     __dlq.errors.*                           decimal text                  KIP-1191
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from schemas.headers import DEAD_LETTER_PREFIX, RecordHeaders, first

CONNECT: Final = "__connect.errors."
SPRING: Final = "kafka_dlt-"
STREAMS: Final = "__streams.errors."
SHARE: Final = "__dlq.errors."

About = Mapping[str, str | int | None]
"""What is known of a failure, by the names of `schemas.headers.dead_letter_headers`, and `group`, the consumer group."""

_INT32 = 4
_INT64 = 8
# Connect's stages (org.apache.kafka.connect.runtime.errors.Stage) that come nearest to our steps.
_STAGES = {"parse": "VALUE_CONVERTER", "schema": "VALUE_CONVERTER"}
_STAGE = "TASK_PUT"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a dead letter came from. dialect: that told so. timestamp: milliseconds, where it tells."""

    dialect: str
    topic: str
    partition: int
    offset: int
    timestamp: int | None = None


def extra_headers(dialects: Sequence[str], about: About) -> list[tuple[str, bytes]]:
    """The headers that say in these dialects what ours say; empty for none. To stand after ours: a replay sends back what
    stands before them.

    Args:
        dialects: of `connect` and `spring`, each once at most.
        about: a missing or None fact is left out. `attempts` and `failure-id` have no word in either.

    Raises:
        ValueError: a dialect that is not written here.
    """
    unknown = sorted(set(dialects) - WRITERS.keys())
    if unknown:
        raise ValueError(f"Dead letters are not written in {', '.join(unknown)}, but in {', '.join(WRITERS)}.")
    return [header for dialect in dialects for header in WRITERS[dialect](about)]


def _connect(about: About) -> list[tuple[str, bytes]]:
    facts = {
        "topic": about.get("topic"),
        "partition": about.get("partition"),
        "offset": about.get("offset"),
        "connector.name": about.get("group") or "plutus",
        "task.id": about.get("partition"),
        "stage": _STAGES.get(str(about.get("step")), _STAGE),
        "class.name": "stream_worker",
        "exception.class.name": about.get("error-class") or about.get("reason"),
        "exception.message": about.get("reason"),
    }
    return [(f"{CONNECT}{name}", str(fact).encode()) for name, fact in facts.items() if fact is not None]


def _spring(about: About) -> list[tuple[str, bytes]]:
    facts = {
        "original-topic": _text(about.get("topic")),
        "original-partition": _number(about.get("partition"), _INT32),
        "original-offset": _number(about.get("offset"), _INT64),
        "original-timestamp": _number(about.get("timestamp"), _INT64),
        "original-timestamp-type": b"LogAppendTime",
        "original-consumer-group": _text(about.get("group")),
        "exception-fqcn": _text(about.get("error-class") or about.get("reason")),
        "exception-message": _text(about.get("reason")),
    }
    return [(f"{SPRING}{name}", fact) for name, fact in facts.items() if fact is not None]


WRITERS: Final[Mapping[str, Callable[[About], list[tuple[str, bytes]]]]] = {"connect": _connect, "spring": _spring}
"""The dialects that dead letters are written in on request."""


def origin(headers: RecordHeaders) -> Origin | None:
    """Where a dead letter came from, by the first dialect that tells topic, partition and offset; None: none does.

    A record that died more than once bears Spring's origin headers more than once: the first is the origin.
    """
    for dialect, prefix, names, number in _READERS:
        topic, partition, offset, timestamp = (first(headers, prefix + name) for name in names)
        found = (_decoded(topic), number(partition, _INT32), number(offset, _INT64))
        if found[0] and found[1] is not None and found[2] is not None:
            return Origin(dialect, found[0], found[1], found[2], number(timestamp, _INT64))
    return None


def _from_text(value: bytes | None, size: int) -> int | None:
    """A decimal number that fits into so many bytes."""
    if value is None or not value.isdigit() or len(value) > _LONGEST_NUMBER:
        return None
    found = int(value)
    return found if found < 1 << (8 * size - 1) else None


def _from_bytes(value: bytes | None, size: int) -> int | None:
    """A big-endian number of exactly so many bytes."""
    if value is None or len(value) != size:
        return None
    found = int.from_bytes(value, "big", signed=True)
    return found if found >= 0 else None


_LONGEST_NUMBER = 19
_PLAIN = ("topic", "partition", "offset", "timestamp")
_ORIGINAL = ("original-topic", "original-partition", "original-offset", "original-timestamp")
_READERS: Final = (
    ("plutus", DEAD_LETTER_PREFIX, _PLAIN, _from_text),
    ("connect", CONNECT, _PLAIN, _from_text),
    ("spring", SPRING, _ORIGINAL, _from_bytes),
    ("streams", STREAMS, _PLAIN, _from_text),
    ("share", SHARE, _PLAIN, _from_text),
)


def _decoded(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None


def _text(fact: str | int | None) -> bytes | None:
    return None if fact is None else str(fact).encode()


def _number(fact: str | int | None, size: int) -> bytes | None:
    return None if fact is None else int(fact).to_bytes(size, "big", signed=True)
