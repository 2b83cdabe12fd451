"""Which versions of a schema a handler takes: one, a range, or all of them. Pure.

    "1.0"       one version, and its other spellings: 1 and 1.0.0
    ">=1.0,<2"  a range; bounds are >=, >, <= and <, at most one on each side
    None        every version

Versions are dotted numbers and compared number by number, so 1.10 is later than 1.9; a missing number is zero. A version
that is something else (`2024-05-01`, `v2`) is matched as text by the same text, and lies in no range.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

Numbers = tuple[int, ...]
"""A dotted version without its trailing zeros, so that equal versions are equal and later ones are greater."""
Key = Numbers | str
"""What a version is compared by: its numbers, or itself where it has none."""

_DOTTED = re.compile(r"\d{1,18}(?:\.\d{1,18}){0,15}", re.ASCII)
_BOUND = re.compile(r"(>=|<=|>|<)\s*(.+)", re.ASCII)


def key(version: str) -> Key:
    """What this version is compared by."""
    if not _DOTTED.fullmatch(version):
        return version
    parts = [int(part) for part in version.split(".")]
    while parts and parts[-1] == 0:
        parts.pop()
    return tuple(parts)


@dataclass(frozen=True, slots=True)
class Range:
    """Versions from `low` to `high` (None: without an end); `*_in`: the bound itself belongs to it."""

    low: Numbers = ()
    low_in: bool = True
    high: Numbers | None = None
    high_in: bool = False

    def takes(self, version: Key) -> bool:
        """Whether the version lies in it."""
        if isinstance(version, str):
            return False
        above = version > self.low or (self.low_in and version == self.low)
        return above and (self.high is None or version < self.high or (self.high_in and version == self.high))

    @property
    def empty(self) -> bool:
        """Whether no version can lie in it."""
        if self.high is None or self.low < self.high:
            return False
        return self.low > self.high or not (self.low_in and self.high_in)

    def common(self, other: Range) -> Range:
        """The versions that lie in both."""
        low, low_out = max((self.low, not self.low_in), (other.low, not other.low_in))
        highs = [(each.high, each.high_in) for each in (self, other) if each.high is not None]
        high, high_in = min(highs, default=(None, False))
        return Range(low, not low_out, high, high_in)


def parse(spec: str) -> Key | Range:
    """What a handler's `version=` says: one version, or a range.

    Raises:
        ValueError: a range that is malformed, has two bounds on one side, or in which no version lies.
    """
    text = spec.strip()
    if not any(sign in text for sign in "<>,"):
        if not text or not text.isascii() or not text.isprintable() or " " in text:
            raise ValueError(f"version={spec!r} is neither a version nor a range such as '>=1.0,<2'.")
        return key(text)
    bounds = [_bound(part.strip(), spec) for part in text.split(",")]
    lows = [(numbers, "=" in sign) for sign, numbers in bounds if sign.startswith(">")]
    highs = [(numbers, "=" in sign) for sign, numbers in bounds if sign.startswith("<")]
    if len(lows) > 1 or len(highs) > 1:
        raise ValueError(f"version={spec!r} has two bounds on one side.")
    found = Range(*(lows[0] if lows else ((), True)), *(highs[0] if highs else (None, False)))
    if found.empty:
        raise ValueError(f"version={spec!r} is a range in which no version lies.")
    return found


def _bound(part: str, spec: str) -> tuple[str, Numbers]:
    found = _BOUND.fullmatch(part)
    numbers = key(found[2]) if found else part
    if found is None or isinstance(numbers, str):
        raise ValueError(f"version={spec!r}: {part!r} is no bound such as '>=1.0'; bounds are dotted numbers.")
    return found[1], numbers
