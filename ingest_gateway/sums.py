"""Metrics of several processes as one: snapshots that travel, and their sum, which never goes down.

A snapshot is what a registry says at one moment, in plain values. The sum over living processes and the last snapshots of
dead ones (`Totals`) is made in one place, so a counter shown once is never shown smaller again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import Metric

from ingest_gateway.metrics import MAXIMA

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4


class Sample(msgspec.Struct, array_like=True):
    """One line of the exposition: name, labels in order, value."""

    name: str
    labels: dict[str, str]
    value: float


class Family(msgspec.Struct, array_like=True):
    """One metric: name without suffix, help text, type, samples."""

    name: str
    text: str
    kind: str
    samples: list[Sample]


Snapshot = list[Family]


def snapshot(registry: CollectorRegistry) -> Snapshot:
    """What this process's metrics say now."""
    return [
        Family(m.name, m.documentation, m.type, [Sample(s.name, s.labels, s.value) for s in m.samples])
        for m in registry.collect()
    ]


def total(snapshots: Iterable[Snapshot]) -> Snapshot:
    """One snapshot for all: sums, but the largest value of the gauges in `MAXIMA`."""
    families: dict[str, Family] = {}
    values: dict[tuple[str, str, tuple[tuple[str, str], ...]], Sample] = {}
    for one in snapshots:
        for family in one:
            merged = families.setdefault(family.name, Family(family.name, family.text, family.kind, []))
            for sample in family.samples:
                key = (family.name, sample.name, tuple(sample.labels.items()))
                known = values.get(key)
                if known is None:
                    known = values[key] = Sample(sample.name, sample.labels, sample.value)
                    merged.samples.append(known)
                elif family.name in MAXIMA:
                    known.value = max(known.value, sample.value)
                else:
                    known.value += sample.value
    return list(families.values())


def retired(last: Snapshot) -> Snapshot:
    """What stays of a process that died: its counts, not its gauges."""
    return [family for family in last if family.kind in ("counter", "histogram")]


class _Fixed:
    """A collector that says what a snapshot says."""

    def __init__(self, families: Snapshot) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        for family in self._families:
            metric = Metric(family.name, family.text, family.kind)
            for sample in family.samples:
                metric.add_sample(sample.name, sample.labels, sample.value)
            yield metric


def render(families: Snapshot) -> bytes:
    """The Prometheus text format (version 0.0.4) of a snapshot."""
    registry = CollectorRegistry()
    registry.register(_Fixed(families))
    return generate_latest(registry)
