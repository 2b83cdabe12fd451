"""SQL kept as SQL: every statement has a name and a sentence, in one file per process.

A file is a list of blocks:

    -- name: look_keys
    -- What is known of these events.
    SELECT ...;

The statements are read once, at import, into read-only mappings; a missing sentence or a repeated name is an error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import resources
from types import MappingProxyType

_HEADER = re.compile(r"^-- name: (\w+)\n-- (.+)\n", re.MULTILINE)


def statements(package: str, file: str = "queries.sql") -> Mapping[str, str]:
    """The named statements of `file` inside `package`: name -> SQL text, without its comments.

    Raises:
        ValueError: no statement, a repeated name, or text before the first name.
    """
    text = resources.files(package).joinpath(file).read_text()
    found = list(_HEADER.finditer(text))
    if not found:
        raise ValueError(f"{package}/{file} holds no named statement.")
    named: dict[str, str] = {}
    for this, following in zip(found, [*found[1:], None], strict=True):
        body = text[this.end() : following.start() if following else len(text)]
        if this[1] in named:
            raise ValueError(f"{package}/{file} names {this[1]} twice.")
        named[this[1]] = "\n".join(line for line in body.splitlines() if not line.startswith("--")).strip().rstrip(";")
    return MappingProxyType(named)
