"""How fast a topic is drained: workers, or a peer, on a topic that is full already.

The clock starts at the first sight of every process having settled something, so that no start counts, neither of a
Python process nor of a JVM; it ends when all is settled.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final

from infra.bench.contest import Measured
from infra.bench.ground import SQL, Failed, Ground, Running, Topics

_LIMIT: Final = 900.0
_STALLED: Final = 60.0
_POLL: Final = 0.1
"""Seconds between two looks at our claims, which cost next to nothing; the end of a drain is known as exactly as that."""
_COUNT: Final = 0.25
"""Seconds between two counts of rows, which every contestant's server has to bear."""
_POINTS: Final = 100


@dataclass(frozen=True)
class Filled:
    """A topic full of records. events: how many of them become rows."""

    topics: Topics
    records: int
    events: int


@dataclass
class Course:
    """A drain as it is seen: when it began, how far it is, what it uses.

    Args:
        processes: those whose CPU and memory count.
    """

    processes: Sequence[Running]
    began: float
    idle: float
    at_begin: int
    records: int = 0
    ended: float = 0.0
    cpu_at_begin: float = 0.0
    sizes: list[tuple[float, float]] = field(default_factory=list)

    @classmethod
    def begin(cls, processes: Sequence[Running], records: int, idle: float) -> Course:
        """The clock starts now; or, where all is over already, at `idle`, when it had not begun: the rate is then too low
        rather than none."""
        now = time.monotonic()
        return cls(processes, now, idle, records, records, now, cpu_of(processes))

    def look(self, records: int) -> None:
        """So many are settled now.

        Raises:
            Failed: a process died, or nothing has moved for a long time.
        """
        now = time.monotonic()
        if records > self.records:
            self.records, self.ended = records, now
        self.sizes.append((round(now - self.began, 1), max(each.largest_mib() for each in self.processes)))
        for each in self.processes:
            if each.child.death() is not None:
                raise Failed(each.child.obituary())
        if now - self.ended > _STALLED or now - self.began > _LIMIT:
            raise Failed(f"{self.records:,} records were settled after {now - self.began:.0f} s, and no more")

    def measured(self) -> Measured:
        """What came of it. `share` says how much of it was seen: give it more records where that is little."""
        settled, seconds = self.records - self.at_begin, self.ended - self.began
        if settled <= 0:
            return Measured({"rate": self.records / (self.began - self.idle), "share": 0.0})
        cpu = cpu_of(self.processes) - self.cpu_at_begin
        return Measured(
            {
                "rate": settled / seconds,
                "cpu_us": cpu / settled * 1e6,
                "largest_mib": max(size for _, size in self.sizes),
                "share": settled / self.records,
            },
            tuple(self.sizes[:: 1 + len(self.sizes) // _POINTS]),
        )


def cpu_of(processes: Sequence[Running]) -> float:
    """CPU that they have used together."""
    return sum(each.cpu_seconds() for each in processes)


def drain(
    ground: Ground, dsn: str, filled: Filled, processes: int, handlers: str = "", *, count_rows: bool = True
) -> Measured:
    """Workers drain a topic into a database, as a new group.

    Args:
        count_rows: count the events rows at each look, as it is done to the peers, and at the end; not in tables that
            are large already.
    """
    group = f"bench.{uuid.uuid4().hex[:12]}"
    more = {"WORKER_HANDLERS": handlers} if handlers else {}
    with ExitStack() as stack:
        workers = [
            stack.enter_context(ground.worker(number, dsn, filled.topics, group, **more))
            for number in range(1, processes + 1)
        ]
        idle = _until_begun(ground, workers)
        with ground.asking(dsn) as ask:
            counted = 0.0

            def settled() -> int:
                nonlocal counted
                if count_rows and time.monotonic() - counted > _COUNT:
                    ask(lambda db: db.fetchval(SQL["stored"]))
                    counted = time.monotonic()
                return int(ask(lambda db: db.fetchval(SQL["settled"], group, filled.topics.events)))

            measured = _watched(Course.begin(workers, settled(), idle), settled, filled.records, _POLL)
    if count_rows:
        stored = int(ground.ask(dsn, lambda db: db.fetchval(SQL["stored"])))
        if stored != filled.events:
            raise Failed(f"{stored:,} events are stored where {filled.events:,} should be")
    return measured


def drain_by(ground: Ground, dsn: str, filled: Filled, name: str, argv: Sequence[str], env: dict[str, str]) -> Measured:
    """A peer's command drains a topic into the table `drained`."""
    with ground.program(name, argv, env) as running, ground.asking(dsn) as ask:
        idle = time.monotonic()

        def rows() -> int:
            return int(ask(lambda db: db.fetchval(SQL["drained"])))

        ground.until(running, lambda: rows() > 0)
        return _watched(Course.begin([running], rows(), idle), rows, filled.events, _COUNT)


def _watched(course: Course, settled: Callable[[], int], records: int, poll: float) -> Measured:
    while course.records < records:
        time.sleep(poll)
        course.look(settled())
    return course.measured()


def _until_begun(ground: Ground, workers: Sequence[Running]) -> float:
    """Wait until each worker has settled something; the moment at which the last of them was seen not to have."""
    idle = time.monotonic()
    for each in workers:

        def begun(worker: Running = each) -> bool:
            nonlocal idle
            looked = time.monotonic()
            if worker.counters().get("processing_success_total", 0.0) > 0:
                return True
            idle = looked
            return False

        ground.until(each, begun)
    return idle
