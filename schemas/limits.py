"""The envelope's limits, in one value that both processes are given.

The gateway builds it from its settings; the worker uses `SAFETY`, which refuses only what could hurt it, so that an
edge limit lowered later never dead-letters an event that was already acknowledged.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

DEEPEST = 200
"""The largest depth limit: the JSON writer stops at 254 levels, and an envelope takes some of them."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on one event.

    Bytes are bytes of the document as received; depth counts nested containers of the payload, nodes its values.

    Raises:
        ValueError: a bound below 1, or a depth beyond `DEEPEST`.
    """

    body_bytes: int = 256 * 1024
    depth: int = 64
    nodes: int = 10_000
    key_chars: int = 255
    source_chars: int = 255
    batch_items: int = 1_000
    batch_bytes: int = 4 * 1024 * 1024

    def __post_init__(self) -> None:
        for limit in fields(self):
            if getattr(self, limit.name) < 1:
                raise ValueError(f"The limit {limit.name} must be at least 1.")
        if self.depth > DEEPEST:
            raise ValueError(f"The limit depth must be at most {DEEPEST}.")


EDGE = Limits()
"""The defaults of the HTTP edge."""

SAFETY = Limits(body_bytes=8 * 1024 * 1024)
"""What the worker itself refuses: depth and nodes that could hurt it; bytes are bounded by the topic."""
