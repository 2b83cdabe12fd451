"""The worker's metrics: every name, its help and its labels, in one place. Labels are closed sets, or partition numbers.

Nothing here is labelled by id, key, source or type: those are unbounded, and a hostile one would blind the scrape.
"""

from __future__ import annotations

from importlib import metadata

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_RECORDS = (1, 10, 50, 100, 500, 1_000, 2_000, 5_000)


class Metrics:
    """All metrics of one worker process, on a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        # The contract's names.
        self.success = self._counter("processing_success_total", "Events that took effect (stored, handler run).")
        self.failure = self._counter("processing_failure_total", "Records that were dead-lettered.")
        # What became of records.
        self.duplicates = self._counter(
            "plutus_worker_duplicates_total", "Records whose event had taken effect before."
        )
        self.redelivered = self._counter("plutus_worker_redelivered_total", "Records that were already dead-lettered.")
        self.dead_letters = self._counter("plutus_worker_dead_letters_total", "Records refused, by reason.", "reason")
        self.dead_letters_sent = self._counter(
            "plutus_worker_dead_letters_sent_total", "Dead letters that the broker acknowledged."
        )
        self.emitted = self._counter(
            "plutus_worker_emitted_total", "Events that handlers emitted and the broker acknowledged."
        )
        self.retries = self._counter(
            "plutus_worker_retries_total", "Events put off to be run again, by reason.", "reason"
        )
        self.key_mismatch = self._counter(
            "plutus_worker_key_mismatch_total", "Records whose Kafka key is missing or is not their source."
        )
        # Batches.
        self.holds = self._counter(
            "plutus_worker_holds_total", "Batches put off because the database could not take them."
        )
        self.alarms = self._counter("plutus_worker_alarms_total", "Batches held until a person acts: a bad deploy.")
        self.batch_records = self._histogram("plutus_worker_batch_records", "Records in a batch.", _RECORDS)
        self.batch_seconds = self._histogram(
            "plutus_worker_batch_seconds", "One batch, from its first read to its commit."
        )
        self.age_seconds = self._histogram(
            "plutus_worker_event_age_seconds",
            "From the broker's append to the commit of the effect, oldest of a batch.",
        )
        self.parked = self._counter("plutus_worker_parked_total", "Events that began to wait in Postgres.")
        self.unparked = self._counter("plutus_worker_unparked_total", "Parked events that took effect or died.")
        self.parked_keys = self._gauge(
            "plutus_worker_parked_keys",
            "Ordering keys of a partition that wait for a retry (50: or more).",
            "partition",
        )
        self.breaker_open = self._gauge(
            "plutus_worker_breaker_open",
            "1 while too many events died in a row and the partition only probes.",
            "partition",
        )
        # The group.
        self.rebalances = self._counter("plutus_worker_rebalances_total", "Times partitions were assigned anew.")
        self.fenced = self._counter(
            "plutus_worker_fenced_total", "Batches dropped because another worker owns the partition."
        )
        self.offset_differences = self._counter(
            "plutus_worker_offset_differences_total", "Assignments where Kafka's and Postgres's next offset differed."
        )
        self.lost_records = self._counter(
            "plutus_worker_lost_records_total", "Records that Kafka deleted before they were processed."
        )
        self.commit_failures = self._counter("plutus_worker_commit_failures_total", "Commits of offsets that failed.")
        self.commit_seconds = self._histogram("plutus_worker_offset_commit_seconds", "One commit of offsets to Kafka.")
        self.assigned = self._gauge("plutus_worker_partitions_assigned", "Partitions this worker owns.")
        self.lag = self._gauge("plutus_worker_lag_records", "Records of a partition not yet processed.", "partition")
        self.oldest = self._gauge(
            "plutus_worker_oldest_unprocessed_timestamp_seconds",
            "Append time of a partition's oldest fetched record that is not yet processed; 0: none.",
            "partition",
        )
        self.paused = self._gauge(
            "plutus_worker_partition_paused",
            "1 while a partition waits for a retry, the database or Kafka.",
            "partition",
        )
        # The process.
        self.buffered_bytes = self._gauge("plutus_worker_buffered_bytes", "Fetched and unprocessed bytes.")
        self.loop_tick = self._gauge(
            "plutus_worker_loop_last_tick_timestamp_seconds", "When the poll loop last went round."
        )
        self.producer_swaps = self._counter(
            "plutus_worker_producer_swaps_total", "Times the Kafka producer was replaced."
        )
        self.forgotten_keys = self._counter(
            "plutus_worker_forgotten_keys_total", "Keys older than the dedup window that were deleted."
        )
        self.default_rows = self._gauge(
            "plutus_worker_events_default_partition_rows", "Rows in the default partition of events: should be 0."
        )
        Info("plutus_worker_build", "Version of this worker.", registry=self.registry).info(
            {"version": metadata.version("plutus")}
        )

    def forget(self, partition: int) -> None:
        """Drop the series of a partition that is no longer ours, so that no stale lag is reported."""
        for gauge in (self.lag, self.oldest, self.paused, self.parked_keys, self.breaker_open):
            try:
                gauge.remove(str(partition))
            except KeyError:
                continue

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...] = _SECONDS) -> Histogram:
        return Histogram(name, text, buckets=buckets, registry=self.registry)
