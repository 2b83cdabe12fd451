"""Health: alive as long as it answers; ready when an event sent now would be accepted.

Postgres being away does not make the gateway unready, because it accepts all the same, unless DEDUP_OUTAGE=reject says
that it should not.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple


class Check(NamedTuple):
    """One condition for being ready: its name and how to find out, in bounded time."""

    name: str
    holds: Callable[[], Awaitable[bool]]


class Found(NamedTuple):
    """What a check found, and in how many milliseconds."""

    name: str
    ok: bool
    ms: float


async def examine(checks: list[Check], clock: Callable[[], float] = time.perf_counter) -> list[Found]:
    """Run the checks, one after the other."""
    found = []
    for check in checks:
        began = clock()
        ok = await check.holds()
        found.append(Found(check.name, ok, round((clock() - began) * 1000, 1)))
    return found
