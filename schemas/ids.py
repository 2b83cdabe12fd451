"""The event id: a pure function of (source, idempotency key), so any producer in any language can compute it.

    event_id = UUIDv5(PLUTUS_NAMESPACE, source + "\\n" + idempotency_key)      (RFC 9562 section 5.5)

Control characters are refused in both parts, so the newline makes the pair unambiguous. No coordination is needed to
know an event's id: it is the same over HTTP, Kafka and replay, and when the database is down.
"""

from __future__ import annotations

import hashlib
from uuid import UUID

PLUTUS_NAMESPACE = UUID("843d5e91-1cfd-5cba-9297-323abc873570")
"""Fixed for ever: UUIDv5 of the URL namespace and `tag:plutus,2026:event-id`."""
_NAMESPACE_BYTES = PLUTUS_NAMESPACE.bytes
_VERSION_CLEAR = ~((0xF000 << 64) | (0xC000 << 48))
_VERSION_5 = (5 << 76) | (0x8000 << 48)


def event_id(source: str, idempotency_key: str) -> UUID:
    """The id of the event that `source` calls `idempotency_key`. Both are ASCII and already validated."""
    digest = hashlib.sha1(_NAMESPACE_BYTES + f"{source}\n{idempotency_key}".encode(), usedforsecurity=False)
    number = int.from_bytes(digest.digest()[:16], "big")
    return UUID(int=(number & _VERSION_CLEAR) | _VERSION_5)


def partition_key(source: str, ordering_key: str | None = None) -> bytes:
    """The Kafka key of an event: its source, or `source:ordering_key` where a source opted into spreading."""
    return source.encode() if ordering_key is None else f"{source}:{ordering_key}".encode()
