"""SQL kept as SQL: every statement has a name and a sentence, in one file per process.

A file is a list of blocks, and perhaps comments before the first of them:

    -- name: look_keys
    -- What is known of these events.
    SELECT ...;

The statements are read once, at import, into read-only mappings; whatever does not look like this is an error.

Arrays of a whole batch go as text (`$1::text::uuid[]`), which Postgres reads faster than the driver encodes: that asks of each
element, through two abstract classes, whether it is an array itself. A statement takes such a text by `unnest` in its FROM,
never by ANY, which would read it again for each row of a scan.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from importlib import resources
from types import MappingProxyType

_BLOCK = re.compile(r"^-- name: ", re.MULTILINE)
_HEADER = re.compile(r"(\w+)\n-- \S.*\n")


def statements(package: str, file: str = "queries.sql") -> Mapping[str, str]:
    """The named statements of `file` inside `package`: name -> SQL text, without its comments.

    Raises:
        ValueError: no statement, a repeated name, one without a sentence or without SQL, or SQL before the first name.
    """
    where = f"{package}/{file}"
    named: dict[str, str] = {}
    for name, body in _blocks(where, resources.files(package).joinpath(file).read_text(encoding="utf-8")):
        if name in named:
            raise ValueError(f"{where} names {name} twice.")
        if not body:
            raise ValueError(f"{where}: {name} has no SQL.")
        named[name] = body
    if not named:
        raise ValueError(f"{where} holds no named statement.")
    return MappingProxyType(named)


def uuid_array(ids: Iterable[bytes]) -> str:
    """The text of a uuid[] of these ids of 16 bytes."""
    return "{" + ",".join([each.hex() for each in ids]) + "}"


def bytea_array(values: Iterable[bytes]) -> str:
    """The text of a bytea[]."""
    return "{" + ",".join(['"\\\\x' + each.hex() + '"' for each in values]) + "}"


def integer_array(values: Iterable[int]) -> str:
    """The text of an int[] or bigint[]."""
    return "{" + ",".join(map(str, values)) + "}"


def _blocks(where: str, text: str) -> Iterator[tuple[str, str]]:
    before, *blocks = _BLOCK.split(text)
    if _without_comments(before):
        raise ValueError(f"{where} has SQL before the first name.")
    for block in blocks:
        header = _HEADER.match(block)
        if header is None:
            name = block.partition("\n")[0]
            raise ValueError(f"{where}: {name} needs a sentence, as a comment on the line below its name.")
        yield header[1], _without_comments(block[header.end() :])


def _without_comments(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.startswith("--")).strip().rstrip(";").rstrip()
