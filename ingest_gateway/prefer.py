"""`Prefer: wait=N` (RFC 7240 section 4.3): how long a sender is ready to wait for what becomes of its event.

A preference that is not understood is passed over, as the RFC has it; so nothing here is an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

_ELEMENT: Final = re.compile(rb'(?:"(?:[^"\\]|\\.)*"|[^",])*')
_WAIT: Final = re.compile(rb"wait(?:[ \t]*=[ \t]*(.*))?", re.IGNORECASE | re.DOTALL)
_SECONDS: Final = re.compile(rb'("?)([0-9]{1,9})\1')
_COMMA: Final = 0x2C


def wait_seconds(values: Iterable[bytes]) -> int | None:
    """The N of the first `wait=N` in these Prefer headers; None where there is none that can be read."""
    listed = b",".join(values)
    start = 0
    while start < len(listed):
        element = _ELEMENT.match(listed, start)
        assert element is not None  # noqa: S101 - it matches the empty text, too
        end = element.end()
        if end < len(listed) and listed[end] != _COMMA:
            return None  # a quotation that nobody closes: where an element ends cannot be told
        preference = element[0].partition(b";")[0].strip(b" \t")
        found = _WAIT.fullmatch(preference)
        if found is not None:
            seconds = _SECONDS.fullmatch(found[1] or b"")
            return None if seconds is None else int(seconds[2])
        start = end + 1
    return None
