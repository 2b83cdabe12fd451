"""From a POST that is due to the commit that holds its effect, on one machine's clock.

A batch's transaction moves its partition's claim, so the claims tell what is committed. They are read every other
millisecond: what is told is late by that and one read at most, never early.
"""

from __future__ import annotations

import asyncio
import bisect
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

import asyncpg

from infra.bench import bodies
from infra.bench.contest import Measured
from infra.bench.figures import Load, at, curve_of
from infra.bench.ground import SQL
from schemas.ids import event_id

_GLANCE: Final = 0.005
_SETTLE: Final = 15.0


@dataclass
class Commits:
    """What was seen: for each partition, offsets below which all was committed, and since when at most."""

    offsets: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    moments: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))

    def see(self, partition: int, next_offset: int, moment: float) -> None:
        """A look at a claim."""
        known = self.offsets[partition]
        if not known or next_offset > known[-1]:
            known.append(next_offset)
            self.moments[partition].append(moment)

    def moment(self, partition: int, offset: int) -> float | None:
        """When a record was first seen to be committed."""
        place = bisect.bisect_right(self.offsets[partition], offset)
        return self.moments[partition][place] if place < len(self.offsets[partition]) else None


async def watched(dsn: str, topic: str, send: Callable[[], Load], records: int) -> tuple[Load, Commits]:
    """Send, and watch the claims until so many records are committed in all, or long enough afterwards."""
    db = await asyncpg.connect(dsn, timeout=10.0, command_timeout=10.0)
    try:
        commits = Commits()
        sending = asyncio.create_task(asyncio.to_thread(send))
        ended = None
        while True:
            done = await _look(db, topic, commits)
            if sending.done():
                ended = ended or time.monotonic()
                if done >= records or time.monotonic() - ended > _SETTLE:
                    return await sending, commits
            await asyncio.sleep(_GLANCE)
    finally:
        await db.close(timeout=10.0)


async def _look(db: asyncpg.Connection, topic: str, commits: Commits) -> int:
    rows = await db.fetch(SQL["positions"], topic)
    now = time.monotonic()
    for partition, next_offset in rows:
        commits.see(partition, next_offset, now)
    return sum(next_offset for _, next_offset in rows)


def measured(
    load: Load, rate: float, prefix: str, rows: Sequence[asyncpg.Record], commits: Commits, total: int
) -> Measured:
    """Waits of all events that were due.

    Args:
        rows: event id, partition and offset of what is stored.

    Raises:
        ValueError: nothing took effect.
    """
    places = {UUID(int=found.int): (partition, offset) for found, partition, offset in rows}
    waits = []
    for n in range(total):
        place = places.get(event_id(bodies.source(n), bodies.key(prefix, n)))
        moment = commits.moment(*place) if place else None
        if moment is not None:
            waits.append(moment - (load.began + n / rate))
    if not waits:
        raise ValueError("no event took effect in time")
    curve = curve_of(waits)
    values = {
        "p50_ms": at(curve, 50.0),
        "p99_ms": at(curve, 99.0),
        "post_p50_ms": at(load.curve, 50.0),
        "post_p99_ms": at(load.curve, 99.0),
        "unseen": float(total - len(waits)),
    }
    return Measured(values, curve)
