"""API keys of senders: how one is made, and the file that says which sources each may write.

    billing = { sha256 = "<64 hexadecimal digits>", sources = ["shop", "till"] }
    migration = { sha256 = "...", sources = ["*"] }                                # every source

The file holds digests, so reading it is of no use to a thief. A plain SHA-256 is enough for that, and costs a microsecond: a
key is 256 random bits, which nobody finds by trying, and the slow hashes are for passwords, which people choose. To rotate a
key, add a line beside the old one, hand the new key over, take the old line out: no restart.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import Field

from infra.runtime.declared import Declaration, Mistakes, fitted, read

EVERY_SOURCE: Final = "*"
NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_PREFIX: Final = "plutus_"
"""Makes a key that strayed into a text or a repository easy to find."""
_RANDOM_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Grant:
    """What the holder of one key may do."""

    name: str
    sources: frozenset[str]

    def covers(self, source: str) -> bool:
        """May it write this source."""
        return source in self.sources or EVERY_SOURCE in self.sources


Grants = Mapping[bytes, Grant]
"""Digest of a key -> what it may do."""


class _Line(Declaration):
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    sources: tuple[str, ...] = Field(min_length=1, strict=False)


def new_key() -> str:
    """A key that nobody has."""
    return _PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)


def digest(key: bytes) -> bytes:
    """What is kept of a key."""
    return hashlib.sha256(key).digest()


def line(name: str, key: str, sources: Sequence[str]) -> str:
    """The line of the file for this key."""
    listed = ", ".join(json.dumps(source) for source in sources)
    return f'{name} = {{ sha256 = "{digest(key.encode()).hex()}", sources = [{listed}] }}'


def load(path: Path) -> tuple[Grants, tuple[Path, ...]]:
    """What the file grants; it names no other files.

    Raises:
        Mistakes: all at once.
    """
    mistakes: list[str] = []
    grants: dict[bytes, Grant] = {}
    for name, table in read(path).items():
        if not NAME.fullmatch(name):
            mistakes.append(f"{name}: a name has 1 to 64 letters, digits, underscores and hyphens")
        found = fitted(_Line, table, name, mistakes)
        if found is not None:
            key = bytes.fromhex(found.sha256)
            if key in grants:
                mistakes.append(f"{name}.sha256: is the key of {grants[key].name} too")
            grants[key] = Grant(name, frozenset(found.sources))
    if mistakes:
        raise Mistakes(mistakes)
    return grants, ()
