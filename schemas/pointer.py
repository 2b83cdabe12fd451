"""JSON Pointer (RFC 6901): one value inside a document."""

from __future__ import annotations

import re
from typing import Any, Final

ABSENT: Final = object()
"""What a pointer that leads nowhere leads to; None would be a JSON null."""

_POINTER: Final = re.compile(r"(?:/(?:[^/~]|~[01])*)*")
_INDEX: Final = re.compile(r"0|[1-9][0-9]{0,8}")


def parse(text: str) -> tuple[str, ...]:
    """The pointer's tokens; none for "", the whole document.

    Raises:
        ValueError: it is no pointer.
    """
    if not _POINTER.fullmatch(text):
        raise ValueError("must be a JSON Pointer: each part after a /, with ~1 for / and ~0 for ~")
    return tuple(token.replace("~1", "/").replace("~0", "~") for token in text.split("/")[1:])


def resolve(document: Any, tokens: tuple[str, ...]) -> Any:
    """The value that these tokens lead to, or `ABSENT`."""
    value = document
    for token in tokens:
        if isinstance(value, dict) and token in value:
            value = value[token]
        elif isinstance(value, list) and _INDEX.fullmatch(token) and int(token) < len(value):
            value = value[int(token)]
        else:
            return ABSENT
    return value
