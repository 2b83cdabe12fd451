"""The gateway's scenarios: what each contestant does in one turn."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

from infra.bench import bodies, load, rivals
from infra.bench.contest import Asked, Contestants, Measured, Runner
from infra.bench.figures import Load, at, flatness
from infra.bench.ground import Ground, Running

INGEST: Final = "/api/v1/ingest"
BATCH: Final = "/api/v1/ingest/batch"
_PARTITIONS: Final = 12
_CONNECTIONS: Final = 256
_BATCH_CONNECTIONS: Final = 8
_CROWD: Final = 1_000
_OPEN_RATE: Final = 2_000.0
_KNOWN: Final = 5_000
"""Keys that are sent again and again where all are duplicates; the warm-up makes them known."""
_LONGEST_WARMUP: Final = 60.0
_LOOK: Final = 2.0
"""Seconds of load between two looks at the memory."""

Server = Callable[[], AbstractContextManager[Running]]
"""Starts a contestant that takes events."""


@dataclass(frozen=True)
class _Work:
    """What a contestant is sent. cycle: see `load.lua`. rate: requests a second on a schedule; 0: as fast as it can."""

    kind: str = "order"
    path: str = INGEST
    connections: int = _CONNECTIONS
    cycle: int = 0
    rate: float = 0.0

    @property
    def events(self) -> int:
        """Events of one request."""
        return bodies.BATCH if self.kind == "batch" else 1


@contextmanager
def contestants(scenario: str, ground: Ground, asked: Asked) -> Iterator[Contestants]:
    """Who competes in a scenario, and how; what they keep over the rounds is gone afterwards."""
    stand = _Stand(ground, asked)
    with ExitStack() as kept:
        match scenario:
            case "single" | "single-1":
                yield stand.posts(2 if scenario == "single" else 1)
            case "cpu":
                yield {
                    "plutus": stand.turn(stand.plutus(1), _Work()),
                    "bare": stand.turn(stand.python("bare", 1), _Work()),
                }
            case "open-loop":
                yield stand.open_loop()
            case "batch":
                yield stand.batches()
            case "duplicates":
                repeated = stand.turn(stand.plutus(1), _Work(cycle=_KNOWN))
                yield {"plutus": stand.turn(stand.plutus(1), _Work()), "plutus-duplicates": repeated}
            case "memory":
                yield {"plutus": stand.memory}
            case "growth":
                yield stand.growth(kept)
            case _:
                raise ValueError(f"the gateway has no scenario {scenario}")


@dataclass(frozen=True)
class _Stand:
    """The contestants on this ground."""

    ground: Ground
    asked: Asked

    def posts(self, processes: int) -> Contestants:
        work = _Work()
        # One process of it beside two of ours, too: started without a word about processes, that is what it gets.
        alone = {"kafka-each-1": self.turn(self.python("kafka-each", 1), work)} if processes > 1 else {}
        return {
            "plutus": self.turn(self.plutus(processes), work),
            "bento": rivals.bento_is_absent(self.asked) or self.turn(self.bento("gateway.yaml", INGEST), work),
            "kafka-each": self.turn(self.python("kafka-each", processes), work),
            **alone,
            "insert-each": self.turn(self.python("insert-each", processes), work),
        }

    def open_loop(self) -> Contestants:
        work = _Work(rate=_OPEN_RATE)
        return {
            "plutus": self.turn(self.plutus(1), work),
            "bento": rivals.bento_is_absent(self.asked) or self.turn(self.bento("gateway.yaml", INGEST), work),
            "kafka-each": self.turn(self.python("kafka-each", 1), work),
        }

    def batches(self) -> Contestants:
        work = _Work("batch", BATCH, _BATCH_CONNECTIONS)
        return {
            "plutus": self.turn(self.plutus(1), work),
            "bento": rivals.bento_is_absent(self.asked) or self.turn(self.bento("batch.yaml", BATCH), work),
        }

    def growth(self, kept: ExitStack) -> Contestants:
        """Two databases, kept over all rounds: one begins without a key, one with many."""
        empty, grown = kept.enter_context(self.ground.database()), kept.enter_context(self.ground.database())
        self.ground.grow(grown, self.asked.grown, events=False)
        return {"plutus": self._grown_turn(empty), "plutus-grown": self._grown_turn(grown)}

    def _grown_turn(self, dsn: str) -> Runner:
        cold: dict[str, float] = {}

        def run() -> Measured:
            with self.plutus(2, dsn)() as running:
                url = running.url + INGEST
                if not cold:
                    cold.update(self._warmed_up(url))
                before = self.ground.wal_bytes()
                measured = self._measured(running, _Work())
                values = dict(measured.values)
                written = self.ground.wal_bytes() - before
                # The warm-up of each turn writes too: shared out over all that was taken in between.
                values["wal_bytes"] = written / (values["rate"] * (self.asked.seconds + self.asked.warmup))
                return Measured({**values, **cold}, measured.curve)

        return run

    def _warmed_up(self, url: str) -> dict[str, float]:
        """So many events untimed, of which the first seconds are the cold figure."""
        first = load.closed(url, _CONNECTIONS, self.asked.seconds, "order", _prefix(), own=self.asked.own_load)
        taken = first.answered
        while taken < self.asked.grown_warmup:
            more = load.closed(url, _CONNECTIONS, self.asked.seconds, "order", _prefix(), own=self.asked.own_load)
            taken += max(1, more.answered)
        return {"cold_rate": first.rate}

    def memory(self) -> Measured:
        """The largest process over many events from many connections."""
        with self.plutus(2)() as running:
            course: list[tuple[float, float]] = []
            taken, seconds = 0, 0.0
            while taken < self.asked.long_events:
                seen = load.closed(running.url + INGEST, _CROWD, _LOOK, "order", _prefix(), own=self.asked.own_load)
                taken, seconds = taken + max(1, seen.answered), seconds + seen.seconds
                course.append((round(seconds, 1), running.largest_mib()))
        values = {"largest_mib": max(size for _, size in course), "flatness": flatness(course), "events": float(taken)}
        return Measured(values, tuple(course))

    def turn(self, server: Server, work: _Work) -> Runner:
        """Start, warm up, measure, stop."""

        def run() -> Measured:
            with server() as running:
                return self._measured(running, work)

        return run

    def plutus(self, processes: int, dsn: str | None = None) -> Server:
        @contextmanager
        def start() -> Iterator[Running]:
            with ExitStack() as stack:
                database = dsn or stack.enter_context(self.ground.database())
                yield stack.enter_context(self.ground.gateway(database, self.ground.topics(_PARTITIONS), processes))

        return start

    def python(self, name: str, processes: int) -> Server:
        @contextmanager
        def start() -> Iterator[Running]:
            topics = self.ground.topics(_PARTITIONS)
            with (
                self.ground.database() as dsn,
                rivals.python_gateway(self.ground, name, dsn, topics, processes) as running,
            ):
                self.ground.until_it_takes(running, INGEST)
                yield running

        return start

    def bento(self, config: str, path: str) -> Server:
        @contextmanager
        def start() -> Iterator[Running]:
            topics = self.ground.topics(_PARTITIONS)
            with rivals.bento_gateway(self.ground, self.asked, topics, config) as running:
                self.ground.until_it_takes(running, path)
                yield running

        return start

    def _measured(self, running: Running, work: _Work) -> Measured:
        url, prefix = running.url + work.path, _prefix()
        self._warm_up(url, work, prefix)
        told, before = _told(running), running.cpu_seconds()
        seen = self._load(url, work, self.asked.seconds, prefix if work.cycle else _prefix())
        cpu = running.cpu_seconds() - before
        good = (seen.answered - seen.refused) * work.events
        if good <= 0:
            raise ValueError(f"none of {seen.answered} requests was answered well")
        values = {
            "rate": seen.rate * work.events,
            "cpu_us": cpu / good * 1e6,
            "p50_ms": at(seen.curve, 50.0),
            "p99_ms": at(seen.curve, 99.0),
            "largest_mib": running.largest_mib(),
            "refused": float(seen.refused),
            "broken": float(seen.broken),
            **{name: (value - told[name]) / good for name, value in _told(running).items()},
        }
        return Measured(values, seen.curve)

    def _warm_up(self, url: str, work: _Work, prefix: str) -> None:
        """Some load that does not count; where keys repeat, until all of them are known."""
        seconds = self.asked.warmup
        while self._load(url, work, seconds, prefix).answered < work.cycle:
            seconds *= 2
            if seconds > _LONGEST_WARMUP:
                raise ValueError(f"{work.cycle:,} keys were not known after {_LONGEST_WARMUP:.0f} s")

    def _load(self, url: str, work: _Work, seconds: float, prefix: str) -> Load:
        if work.rate:
            return load.on_schedule(url, work.connections, seconds, work.rate, work.kind, prefix)
        return load.closed(url, work.connections, seconds, work.kind, prefix, work.cycle, own=self.asked.own_load)


def _told(running: Running) -> dict[str, float]:
    """What Plutus itself counts; nothing of a peer. As shares of the good answers they show what was measured."""
    if running.child.command.name != "gateway":
        return {}
    counters = running.counters()
    names = {"created": "raw_events_created_total", "duplicates": "raw_events_duplicate_total"}
    return {name: counters.get(counter, 0.0) for name, counter in names.items()}


def _prefix() -> str:
    """Keys that nobody has used."""
    return uuid.uuid4().hex[:12]
