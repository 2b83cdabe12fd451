"""Kafka record headers: the names we write, and the dead-letter set. Values are UTF-8 text, numbers in decimal.

Nothing is copied from HTTP headers into a record. A dead letter keeps the record's own headers and adds ours; the ones
from an earlier dead-lettering of the same record are replaced, so a replay that fails again tells of its last failure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

RecordHeaders = Sequence[tuple[str, bytes | None]]

CONTENT_TYPE: Final = "content-type"
TRACEPARENT: Final = "traceparent"
GATEWAY: Final = "plutus-gateway"
"""Set by the gateway: it remembers such a record itself, so a worker must not make it wait behind a handler."""
PAYLOAD_ENCODING: Final = "plutus-payload-encoding"
"""Of an event whose payload is a JSON string that stands for a body of another kind: `text` or `base64` (`schemas.opaque`)."""

JSON: Final = b"application/json"
DEAD_LETTER_PREFIX: Final = "plutus-dlq-"


def gateway_headers(traceparent: bytes | None = None, payload_encoding: str = "json") -> list[tuple[str, bytes | None]]:
    """The headers of a record that the gateway publishes."""
    headers: list[tuple[str, bytes | None]] = [(CONTENT_TYPE, JSON), (GATEWAY, b"1")]
    if payload_encoding != "json":
        headers.append((PAYLOAD_ENCODING, payload_encoding.encode()))
    if traceparent is not None:
        headers.append((TRACEPARENT, traceparent))
    return headers


def first(headers: RecordHeaders, name: str) -> bytes | None:
    """The first value of a header, None where it is absent or null."""
    for header, value in headers:
        if header == name:
            return value
    return None


def dead_letter_headers(original: RecordHeaders, about: dict[str, str | int | None]) -> list[tuple[str, bytes | None]]:
    """The record's own headers, then `plutus-dlq-<name>` for each fact of `about` that is not None.

    The facts: failure-id, reason, step, error-class, topic, partition, offset, timestamp, attempts. Never payload text.
    """
    kept = [header for header in original if not header[0].startswith(DEAD_LETTER_PREFIX)]
    ours = [(f"{DEAD_LETTER_PREFIX}{name}", str(fact).encode()) for name, fact in about.items() if fact is not None]
    return [*kept, *ours]


def without_dead_letter_headers(headers: RecordHeaders) -> list[tuple[str, bytes | None]]:
    """The headers a record had before it was dead-lettered: what a replay sends."""
    return [header for header in headers if not header[0].startswith(DEAD_LETTER_PREFIX)]


def original_headers(dead_letter: RecordHeaders) -> list[tuple[str, bytes | None]]:
    """The headers that a record had before it became this dead letter: all that stand before ours. What stands after them
    says the same in other dialects (`schemas.dialects`)."""
    ours = next((n for n, (name, _) in enumerate(dead_letter) if name.startswith(DEAD_LETTER_PREFIX)), len(dead_letter))
    return list(dead_letter[:ours])
