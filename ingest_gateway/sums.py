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
_Key = tuple[str, str, tuple[tuple[str, str], ...]]
_COUNTING = ("counter", "histogram")


def _key(family: Family, sample: Sample) -> _Key:
    return family.name, sample.name, tuple(sample.labels.items())


def snapshot(registry: CollectorRegistry) -> Snapshot:
    """What this process's metrics say now."""
    return [
        Family(m.name, m.documentation, m.type, [Sample(s.name, s.labels, s.value) for s in m.samples])
        for m in registry.collect()
    ]


def total(snapshots: Iterable[Snapshot]) -> Snapshot:
    """One snapshot for all: sums, but the largest value of the gauges in `MAXIMA`."""
    families: dict[str, Family] = {}
    values: dict[_Key, Sample] = {}
    for one in snapshots:
        for family in one:
            merged = families.setdefault(family.name, Family(family.name, family.text, family.kind, []))
            for sample in family.samples:
                key = _key(family, sample)
                known = values.get(key)
                if known is None:
                    known = values[key] = Sample(sample.name, sample.labels, sample.value)
                    merged.samples.append(known)
                elif family.name in MAXIMA:
                    known.value = max(known.value, sample.value)
                else:
                    known.value += sample.value
    return list(families.values())


class Totals:
    """The sums over processes of which some die. Made in one place and clamped to what was shown before, so a counter never
    goes down, not even by the rounding of a sum in another order, which Prometheus would take for a reset."""

    def __init__(self) -> None:
        self._retired: Snapshot = []
        self._shown: dict[_Key, float] = {}

    def retire(self, last: Snapshot) -> None:
        """A process died: its counts stay, its gauges go."""
        self._retired = total([self._retired, [family for family in last if family.kind in _COUNTING]])

    def over(self, living: Iterable[Snapshot]) -> Snapshot:
        """The sums now, over these processes and the dead."""
        families = total([self._retired, *living])
        for family in families:
            if family.kind in _COUNTING:
                for sample in family.samples:
                    key = _key(family, sample)
                    sample.value = self._shown[key] = max(sample.value, self._shown.get(key, 0.0))
        return families


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
