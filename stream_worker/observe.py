"""What a settled batch leaves behind for operators: counters, one wide log line, spans. Never a payload.

The only module of the worker that turns outcomes into metrics.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from opentelemetry.trace import SpanKind

from infra.runtime import log
from infra.runtime.telemetry import Telemetry
from stream_worker.batch import Result
from stream_worker.metrics import Metrics
from stream_worker.outcomes import Dead, Duplicate, Outcome, Parked, Redelivered, Retry, Stored
from stream_worker.parking import Drained
from stream_worker.records import Item

_LOG = log.get(__name__)
_LINKS = 64
_NAMES: dict[type[Outcome], str] = {
    Stored: "stored",
    Duplicate: "duplicate",
    Redelivered: "redelivered",
    Parked: "parked",
    Dead: "dead",
    Retry: "retry",
}


def _place(item: Item) -> dict[str, str | int]:
    return {"messaging.destination.partition.id": str(item.partition), "messaging.kafka.offset": item.offset}


class Observer:
    """Counts, logs and traces batches of one worker."""

    def __init__(self, metrics: Metrics, telemetry: Telemetry, group: str) -> None:
        self._metrics = metrics
        self._telemetry = telemetry
        self._group = group

    @contextmanager
    def batch(self, items: Sequence[Item]) -> Iterator[None]:
        """A `process` span around a batch: child of the creation context of a single event, linked to those of many."""
        if not self._telemetry.enabled:
            yield
            return
        first = items[0]
        contexts = [item.traceparent for item in items[:_LINKS]]
        alone = len(items) == 1
        places = {item.partition for item in items}
        with self._telemetry.span(
            f"process {first.topic}",
            SpanKind.CONSUMER,
            parent=contexts[0] if alone else None,
            links=() if alone else contexts,
            attributes={
                "messaging.system": "kafka",
                "messaging.operation.name": "process",
                "messaging.operation.type": "process",
                "messaging.destination.name": first.topic,
                "messaging.consumer.group.name": self._group,
                "messaging.batch.message_count": len(items),
                **(_place(first) if len(places) == 1 else {}),
            },
        ):
            yield

    def settled(self, items: Sequence[Item], result: Result, seconds: float) -> None:
        """Count what became of a batch that is durable."""
        metrics = self._metrics
        counts = self._count(result.outcomes)
        metrics.key_mismatch.inc([item.key_matches for item, _ in result.outcomes].count(False))
        metrics.batch_records.observe(len(items))
        metrics.batch_seconds.observe(seconds)
        metrics.age_seconds.observe(max(0.0, time.time() - items[0].appended_ms / 1000))
        _LOG.debug(
            "A batch is settled.",
            action="batch_settled",
            partition=items[0].partition,
            first_offset=items[0].offset,
            next_offset=result.next_offset,
            milliseconds=round(seconds * 1000),
            **counts,
        )

    def drained(self, drained: Drained, seconds: float) -> None:
        """Count what left the queue of a parked key."""
        counts = self._count(drained.outcomes)
        self._metrics.unparked.inc(len(drained.outcomes))
        if drained.retry is not None:
            self._metrics.retries.labels(drained.retry.reason.value).inc()
        _LOG.debug(
            "A parked key was drained as far as it goes.",
            action="key_drained",
            waits_on=drained.retry is not None,
            milliseconds=round(seconds * 1000),
            **counts,
        )

    def _count(self, outcomes: Sequence[tuple[Item, Outcome]]) -> Counter[str]:
        counts = Counter([_NAMES[type(outcome)] for _, outcome in outcomes])
        if counts["parked"] or counts["dead"]:
            self._count_reasons(outcomes)
        metrics = self._metrics
        metrics.success.inc(counts["stored"])
        metrics.failure.inc(counts["dead"])
        metrics.duplicates.inc(counts["duplicate"])
        metrics.redelivered.inc(counts["redelivered"])
        metrics.parked.inc(counts["parked"])
        return counts

    def _count_reasons(self, outcomes: Sequence[tuple[Item, Outcome]]) -> None:
        for _, outcome in outcomes:
            match outcome:
                case Parked(Retry(reason)):
                    self._metrics.retries.labels(reason.value).inc()
                case Dead(reason):
                    self._metrics.dead_letters.labels(reason.value).inc()
