"""The gateway's metrics: every name, help text and label in one place. Label values come from closed sets only.

A process has one `Metrics` with a registry of its own. Across processes counters and histograms are summed; a gauge is
summed too, unless `MAXIMA` names it.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics

from ingest_gateway.access import Denied
from ingest_gateway.outcomes import Accepted, Conflict, Duplicate, NotAccepted, Outcome, Overloaded, Unknown
from schemas.errors import Reason

disable_created_metrics()  # type: ignore[no-untyped-call]

REJECTED: Final = "rejected"
DISCONNECTED: Final = "disconnected"
_OUTCOMES: Final[dict[type[Outcome], str]] = {
    Accepted: "accepted",
    Duplicate: "duplicate",
    Conflict: "conflict",
    NotAccepted: "not_accepted",
    Unknown: "outcome_unknown",
    Overloaded: "overloaded",
}
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_EVENTS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
MAXIMA: Final = frozenset(
    {"gateway_dedup_breaker_state", "plutus_build_info", "process_start_time_seconds", "process_max_fds"}
)
"""Gauges of which the largest of all processes is shown, not the sum."""


class Metrics:
    """One process's metrics; use the attributes, each is documented by its help text."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = self._counter(
            "ingest_requests_total", "Events submitted over HTTP, by what became of them.", "outcome"
        )
        self.created = self._counter(
            "raw_events_created_total", "Events accepted for the first time and acknowledged by Kafka."
        )
        self.duplicate = self._counter("raw_events_duplicate_total", "Events that had been accepted before.")
        self._rejected = self._counter(
            "gateway_rejected_total", "Events refused for what they are, or for who sends them, by reason.", "reason"
        )
        self._duration = self._histogram(
            "gateway_request_duration_seconds",
            "From the headers of a request to its answer; a batch once for each outcome in it.",
            "outcome",
        )
        self.in_flight = self._gauge("gateway_in_flight", "Events being looked up, published or remembered.")
        self.waiting = self._gauge("gateway_waiting", "Requests that wait for an outcome (Prefer: wait=N).")
        self.batch_events = self._histogram("gateway_batch_events", "Events of one publication.", buckets=_EVENTS)
        self.produce_seconds = self._histogram(
            "gateway_produce_duration_seconds", "From handing events to the producer until all are answered for."
        )
        self.look_seconds = self._histogram("gateway_dedup_look_duration_seconds", "Key look-ups.")
        self.remember_seconds = self._histogram("gateway_dedup_remember_duration_seconds", "Remembering keys.")
        self.deferred = self._counter(
            "gateway_dedup_deferred_total", "Events accepted before their key was remembered."
        )
        self.deferred_waiting = self._gauge("gateway_dedup_deferred_waiting", "Keys in memory, still to be remembered.")
        self.deferred_dropped = self._gauge(
            "gateway_dedup_deferred_dropped", "Keys given up since the start because the memory for them was full."
        )
        self.breaker_state = self._gauge(
            "gateway_dedup_breaker_state", "Breaker in front of Postgres: 0 closed, 1 half-open, 2 open."
        )
        self.producer_swaps = self._counter("gateway_producer_swaps_total", "Kafka producers that had to be replaced.")
        self.stale_file = self._gauge(
            "gateway_declaration_stale",
            "Processes in which a changed file is not in force because of its mistakes.",
            "setting",
        )
        self.log_lines_dropped = self._gauge("gateway_log_lines_dropped", "Log lines lost because the sink was stuck.")
        build = self._gauge("plutus_build_info", "Always 1; the labels say what runs.", "process", "version")
        build.labels("gateway", version()).set(1)
        names = (*_OUTCOMES.values(), REJECTED, DISCONNECTED)
        self._by_outcome = {name: (self._requests.labels(name), self._duration.labels(name)) for name in names}
        self._by_reason = {reason: self._rejected.labels(reason.value) for reason in (*Reason, *Denied)}

    def count(self, outcome: Outcome, seconds: float) -> None:
        """An event was submitted and answered `seconds` after its request began."""
        requests, duration = self._by_outcome[_OUTCOMES[type(outcome)]]
        requests.inc()
        duration.observe(seconds)
        if isinstance(outcome, Accepted):
            self.created.inc()
            if outcome.deferred:
                self.deferred.inc()
        elif isinstance(outcome, Duplicate):
            self.duplicate.inc()

    def count_batch(self, outcomes: Sequence[Outcome], refused: Sequence[Reason | Denied], seconds: float) -> None:
        """Items of a batch were answered together: each counts as an event, their one duration once for each outcome."""
        kinds = [type(outcome) for outcome in outcomes]
        for kind in set(kinds):
            self._count(_OUTCOMES[kind], kinds.count(kind), seconds)
        self.created.inc(kinds.count(Accepted))
        self.duplicate.inc(kinds.count(Duplicate))
        self.deferred.inc(sum(isinstance(each, Accepted) and each.deferred for each in outcomes))
        if refused:
            self._count(REJECTED, len(refused), seconds)
            for reason in set(refused):
                self._by_reason[reason].inc(refused.count(reason))

    def _count(self, outcome: str, count: int, seconds: float) -> None:
        requests, duration = self._by_outcome[outcome]
        requests.inc(count)
        duration.observe(seconds)

    def count_rejected(self, reason: Reason | Denied, seconds: float) -> None:
        """An event was refused before it was submitted."""
        requests, duration = self._by_outcome[REJECTED]
        requests.inc()
        duration.observe(seconds)
        self._by_reason[reason].inc()

    def count_disconnected(self, seconds: float) -> None:
        """The client went away before its request was complete."""
        requests, duration = self._by_outcome[DISCONNECTED]
        requests.inc()
        duration.observe(seconds)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, *labels: str, buckets: tuple[float, ...] = _SECONDS) -> Histogram:
        return Histogram(name, text, labels, registry=self.registry, buckets=buckets)


class ParentMetrics:
    """What the parent of several processes knows, shown beside their sums."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.processes = Gauge("gateway_processes", "Gateway processes that are alive.", registry=self.registry)
        self.restarts = Counter(
            "gateway_process_restarts_total", "Gateway processes that died and were replaced.", registry=self.registry
        )


def version() -> str:
    """The installed version of Plutus."""
    try:
        return metadata.version("plutus")
    except metadata.PackageNotFoundError:
        return "unknown"
