"""Heads of requests that have been read before: the same bytes again mean the same, so they need no parser.

A client says the same above each of its events, but for the length. What is kept is what the HTTP parser made of a request
that came as a whole, with a body of the length it announced: these bytes up to the first empty line, met where a request may
begin and with as many bytes behind them, are that head and that body again. Anything else is the parser's.
"""

from __future__ import annotations

from typing import Final

from ingest_gateway.head import Head

_END: Final = b"\r\n\r\n"
_LONGEST: Final = 2048
_MOST: Final = 512
"""Heads of so many bytes, and so many of them: a megabyte for each process."""


class KnownHeads:
    """Those of one listening socket in one process."""

    def __init__(self) -> None:
        self._heads: dict[bytes, Head] = {}

    def find(self, data: bytes) -> tuple[Head, bytes] | None:
        """Head and body, where this is one whole request under a known head."""
        end = _head_end(data)
        head = self._heads.get(data[:end])
        if head is None or len(data) - end != head.content_length:
            return None
        return head, data[end:]

    def learn(self, data: bytes, head: Head) -> None:
        """Keep what was read from this, unless it does not come as above or will hardly come again.

        Args:
            data: from where a request may begin to the end of what came with it.
            head: as it was read from it.
        """
        end = _head_end(data)
        if len(data) - end != head.content_length or head.traceparent is not None:
            return
        if len(self._heads) >= _MOST:
            self._heads.clear()  # who sends another head each time costs the others one reading of theirs
        self._heads[data[:end]] = head


def _head_end(data: bytes) -> int:
    """Where a head ends that begins this; where none does, so little that no request is that long."""
    return data.find(_END, 0, _LONGEST) + len(_END)
