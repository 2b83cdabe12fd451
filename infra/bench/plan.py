"""The benchmarks as data: every scenario, what it measures, who competes, and what is wanted of the result. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from infra.bench.figures import Goal

Bench = Literal["gateway", "worker"]
TITLES: Final[dict[Bench, str]] = {"gateway": "Gateway: HTTP to Kafka", "worker": "Worker: Kafka to Postgres"}


@dataclass(frozen=True)
class Scenario:
    """One row of a table: work, contestants, goals.

    name: for --only. title: for people. contestants: "plutus" and variants of it first, then peers.
    axis: what the curve of each figure shows, "" where there is none: "latency" is milliseconds over percentiles,
    anything else names a course over seconds.
    practice: before the first round the first contestant has a turn that does not count. The broker compiles itself under
    its first load and the disk's first pages cost more; without this, who comes first pays for it.
    """

    bench: Bench
    name: str
    title: str
    contestants: tuple[str, ...]
    goals: tuple[Goal, ...] = ()
    axis: str = ""
    practice: bool = False


SCENARIOS: Final = (
    Scenario(
        "gateway",
        "single",
        "Single POSTs, 2 processes, 256 connections",
        ("plutus", "bento", "kafka-each", "kafka-each-1", "insert-each"),
        (
            Goal("rate", "bento", 0.85, 1.0),
            Goal("rate", "kafka-each", 4.0, 5.0),
            Goal("rate", "kafka-each-1", None),
            Goal("rate", "insert-each", 12.0, 15.0),
        ),
        "latency",
        practice=True,
    ),
    Scenario(
        "gateway",
        "single-1",
        "Single POSTs, 1 process, 256 connections",
        ("plutus", "bento", "kafka-each", "insert-each"),
        (
            Goal("rate", "bento", None),
            Goal("rate", "kafka-each", None),
            Goal("rate", "insert-each", None),
        ),
        "latency",
        practice=True,
    ),
    Scenario(
        "gateway",
        "cpu",
        "CPU per request against a server that does nothing, 1 process",
        ("plutus", "bare"),
        (Goal("cpu_us", "bare", 2.8, 2.2, most=True),),
    ),
    Scenario(
        "gateway",
        "open-loop",
        "2,000 POSTs a second on a schedule, 1 process",
        ("plutus", "bento", "kafka-each"),
        (
            Goal("p50_ms", None, 6.0, most=True),
            Goal("p99_ms", "bento", 2.0, 1.0, most=True),
            Goal("p99_ms", "kafka-each", None, most=True),
        ),
        "latency",
        practice=True,
    ),
    Scenario(
        "gateway",
        "batch",
        "NDJSON batches of 500, 1 process",
        ("plutus", "bento"),
        (Goal("rate", "bento", 0.85, 1.0), Goal("cpu_us", None, None, 20.0, most=True)),
        "latency",
        practice=True,
    ),
    Scenario(
        "gateway",
        "duplicates",
        "Only duplicates, against fresh events, 1 process",
        ("plutus", "plutus-duplicates"),
        (Goal("rate", "plutus", 1.0, who="plutus-duplicates"),),
        "latency",
    ),
    Scenario(
        "gateway",
        "memory",
        "Memory at 1,000 connections, 2 processes, over many events",
        ("plutus",),
        (Goal("largest_mib", None, 150.0, most=True), Goal("flatness", None, 1.05, most=True)),
        "MiB",
    ),
    Scenario(
        "gateway",
        "growth",
        "With many remembered keys, against none, 2 processes",
        ("plutus", "plutus-grown"),
        (Goal("rate", "plutus", 0.85, who="plutus-grown"),),
        "latency",
    ),
    Scenario(
        "worker",
        "drain",
        "Drain with the full promise, 2 processes",
        ("plutus", "bento", "debezium", "copy"),
        (
            Goal("rate", "bento", 1.2, 1.5),
            Goal("rate", "debezium", 2.0, 2.5),
            Goal("rate", "copy", 0.5, 0.6),
        ),
        practice=True,
    ),
    Scenario(
        "worker",
        "drain-1",
        "Drain with the full promise, 1 process",
        ("plutus", "bento"),
        (Goal("rate", "bento", 1.0, 1.1), Goal("cpu_us", None, 16.0, 12.0, most=True)),
        practice=True,
    ),
    Scenario(
        "worker",
        "ledger",
        "The ledger handler, batch form, 2 processes",
        ("plutus",),
        (Goal("rate", None, 15_000, 20_000),),
    ),
    Scenario(
        "worker",
        "each",
        "A handler of one SQL statement for each event, 1 process",
        ("plutus", "faststream"),
        (Goal("rate", None, 2_500, 3_500), Goal("rate", "faststream", 20.0)),
    ),
    Scenario(
        "worker",
        "duplicates",
        "Half of the records duplicates, against none, 2 processes",
        ("plutus", "plutus-duplicates"),
        (Goal("rate", "plutus", 1.0, who="plutus-duplicates"),),
    ),
    Scenario(
        "worker",
        "malformed",
        "1 % malformed, against none, 2 processes",
        ("plutus", "plutus-malformed"),
        (Goal("rate", "plutus", 0.7, 0.9, who="plutus-malformed"),),
    ),
    Scenario(
        "worker",
        "raising",
        "1 % raising in the handler, against none, 1 process",
        ("plutus", "plutus-raising"),
        (Goal("rate", "plutus", 0.5, 0.7, who="plutus-raising"),),
    ),
    Scenario(
        "worker",
        "growth",
        "With many events and keys in the tables, against none, 2 processes",
        ("plutus", "plutus-grown"),
        (Goal("rate", "plutus", 0.75, 0.85, who="plutus-grown"),),
    ),
    Scenario(
        "worker",
        "latency",
        "POST to committed effect, 1,000 events a second on a schedule",
        ("plutus", "plutus-batch"),
        (
            Goal("p50_ms", None, 30.0, 15.0, most=True),
            Goal("p99_ms", None, 150.0, most=True),
            Goal("p50_ms", None, 30.0, 15.0, who="plutus-batch", most=True),
            Goal("p99_ms", None, 150.0, who="plutus-batch", most=True),
        ),
        "latency",
    ),
    Scenario(
        "worker",
        "memory",
        "Memory over many events, 1 process",
        ("plutus",),
        (Goal("largest_mib", None, 200.0, most=True), Goal("flatness", None, 1.05, most=True)),
        "MiB",
    ),
)


def scenarios(bench: Bench, only: Sequence[str] = ()) -> list[Scenario]:
    """The scenarios of a bench, all of them or those that are named, in the order of the table.

    Raises:
        ValueError: there is none of that name; says which there are.
    """
    known = {scenario.name: scenario for scenario in SCENARIOS if scenario.bench == bench}
    if unknown := [name for name in only if name not in known]:
        raise ValueError(f"there is no scenario {', '.join(unknown)}; there are {', '.join(known)}")
    return [scenario for name, scenario in known.items() if not only or name in only]
