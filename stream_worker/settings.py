"""The worker's settings: what both processes share, and its own. See `infra.runtime.settings` for the rules."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from infra.runtime import explain
from infra.runtime.settings import Port, RuntimeSettings, Seconds


class WorkerSettings(RuntimeSettings):
    """Settings of `python -m stream_worker`."""

    worker_handlers: str = Field("", description="Python modules with handlers, comma-separated; imported at start.")
    worker_metrics_host: str = Field("127.0.0.1", description="Address of /metrics, /healthz and /readyz.")
    worker_metrics_port: Port = Field(0, description="Port of /metrics, /healthz and /readyz; 0: any free one, logged.")
    # Few: batches that wait for each other grow, and cost less an event; each holds its records in memory.
    worker_db_connections: int = Field(
        3,
        ge=1,
        le=100,
        description="Batches that run side by side, one connection each; more where handlers wait for what is far away.",
    )
    worker_batch_records: int = Field(3_000, ge=1, le=20_000, description="Records in one transaction at most.")
    worker_batch_bytes: int = Field(8 << 20, ge=65_536, description="Bytes in one transaction at most.")
    worker_buffer_bytes: int = Field(
        24 << 20, ge=1 << 20, description="Fetched and unprocessed bytes, over all partitions."
    )
    worker_session_timeout: Seconds = Field(30.0, description="Without a heartbeat for this long, others take over.")
    worker_instance_id: str | None = Field(
        None, description="Static group membership: a name of this worker, stable over restarts."
    )
    worker_metadata_max_age: Seconds = Field(
        30.0, description="New partitions of the topic are noticed within this time."
    )
    worker_handler_timeout: Seconds = Field(5.0, description="Deadline of one handler call.")
    worker_retry_attempts: int = Field(
        8, ge=1, le=1_000, description="Runs of an event that asks for a retry, before it is dead-lettered."
    )
    worker_retry_max_age: Seconds = Field(
        86_400.0, description="An event that still asks for a retry after this long is dead-lettered."
    )
    worker_retry_in_place: int = Field(
        1,
        ge=0,
        le=100,
        description="Retries that hold the partition, 5 ms each, before the event is parked and others go on.",
    )
    worker_retry_base: Seconds = Field(0.1, description="First wait before a retry; doubles each time, with jitter.")
    worker_retry_ceiling: Seconds = Field(
        60.0, description="Longest wait before a retry, unless the handler asks for more."
    )
    worker_hold_ceiling: Seconds = Field(
        10.0, description="Longest wait while the database or the dead letters are down."
    )
    breaker_deaths_in_a_row: int = Field(
        50, ge=1, description="Events of a partition that may die in a row in handlers before it only probes."
    )
    breaker_share: float = Field(0.5, gt=0, le=1, description="The same as a share of the last 200 handled events.")
    breaker_probe_ceiling: Seconds = Field(30.0, description="Longest wait between two probes of an open breaker.")
    worker_drain: Seconds = Field(20.0, description="Deadline of a stop or a rebalance for what is in flight.")
    events_retention_days: int | None = Field(
        None, ge=1, description="Drop whole day partitions of events older than this; unset: keep all."
    )
    dedup_window_days: int | None = Field(
        None,
        ge=1,
        description="Forget the keys of events older than this: a copy sent later is a new event. Must exceed the "
        "retention of both topics; unset: never.",
    )
    unhandled: Literal["store", "dead"] = Field(
        "store",
        description="Events that no handler matches: store them as PROCESSED, or dead-letter them (no_handler).",
    )
    key_mismatch: Literal["process", "dead"] = Field(
        "process", description="Records whose Kafka key is not their source: process and count, or dead-letter them."
    )
    dlq_header_dialects: tuple[Literal["connect", "spring"], ...] = Field(
        (), description="Dialects that dead letters' headers also speak, beside ours: a JSON list of connect, spring."
    )
    replay_limit: int = Field(10, ge=1, description="How often one event may run, and the same bytes be dead-lettered.")

    worker_watchdog: Seconds = Field(
        120.0, description="With records waiting and none fetched for this long, the worker ends to start anew."
    )

    @property
    def transaction_budget(self) -> float:
        """Seconds of handlers in one transaction: a third of the session time-out, the rest waits for the next."""
        return self.worker_session_timeout / 3

    @property
    def idle_in_transaction(self) -> float:
        """Seconds after which Postgres ends a frozen worker's transaction: before the session ends."""
        return self.worker_session_timeout * 0.6

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.worker_handler_timeout < self.idle_in_transaction:
            raise ValueError("WORKER_HANDLER_TIMEOUT must be shorter than 0.6 x WORKER_SESSION_TIMEOUT")
        return self


if __name__ == "__main__":
    explain.main(WorkerSettings)
