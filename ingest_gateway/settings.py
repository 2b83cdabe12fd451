"""The gateway's settings: the environment variables of the same names in capitals, beside those of every process."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from infra.runtime import explain
from infra.runtime.settings import Port, RuntimeSettings, Seconds
from schemas.limits import EDGE, SAFETY, Limits

RECORD_OVERHEAD = 64 * 1024
"""Bytes of a record beside the body: key, headers, batch framing."""


class GatewaySettings(RuntimeSettings):
    """Settings of one gateway. Times are seconds, sizes bytes, unless the name says otherwise."""

    # --- where it listens
    gateway_host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 in a container.")
    gateway_port: Port = Field(8000, description="Port to listen on; 0 takes any free one and logs it.")
    gateway_operator_port: Port = Field(
        0,
        description="Port of its own for /metrics, /healthz, /readyz, /docs, /openapi.json and events' statuses, which the "
        "other port then refuses; 0: one port for all.",
    )
    gateway_operator_host: str = Field("127.0.0.1", description="Address of the operators' port.")
    gateway_tls_certfile: Path | None = Field(
        None,
        description="Certificate chain (PEM) to serve both ports over TLS 1.2 or newer; read again when it changes. "
        "Unset: plain HTTP.",
    )
    gateway_tls_keyfile: Path | None = Field(None, description="Key of the certificate (PEM), without a password.")
    gateway_processes: int = Field(1, ge=1, le=64, description="Processes that share the port.")
    gateway_backlog: int = Field(2048, ge=1, description="Connections the kernel keeps waiting to be accepted.")
    gateway_keep_alive: Seconds = Field(75.0, description="How long an idle connection is kept open.")

    gateway_first_byte_timeout: Seconds = Field(
        10.0, description="How long a new connection may say nothing, and before that, its TLS handshake last."
    )
    gateway_head_timeout: Seconds = Field(5.0, description="How long a request's head may take.")
    gateway_body_timeout: Seconds = Field(15.0, description="How long a request's body may take.")
    gateway_read_timeout: Seconds = Field(10.0, description="How long an answer may wait for its client to read.")
    # Proxies stamp heads with tracing baggage of up to 64 kB, which is theirs to send and costs nobody an event.
    gateway_head_bytes: int = Field(96 * 1024, ge=1024, description="Largest head of a request, or target alone.")
    gateway_headers: int = Field(64, ge=8, description="Most headers of a request.")

    # --- what it takes: never more than a worker lets pass, or what was acknowledged would be dead-lettered
    gateway_body_bytes: int = Field(
        EDGE.body_bytes, ge=1024, le=SAFETY.body_bytes, description="Largest body of one event."
    )
    gateway_depth: int = Field(EDGE.depth, ge=1, le=SAFETY.depth, description="Deepest nesting of a payload.")
    gateway_nodes: int = Field(
        EDGE.nodes, ge=1, le=SAFETY.nodes, description="Most values in a payload, containers included."
    )
    gateway_key_chars: int = Field(EDGE.key_chars, ge=1, le=255, description="Longest idempotency key.")
    gateway_source_chars: int = Field(EDGE.source_chars, ge=1, le=255, description="Longest source.")
    gateway_spread_sources: frozenset[str] = Field(
        frozenset(),
        description="JSON array of sources whose ordering_key chooses the partition; order breaks where this is switched.",
    )

    gateway_webhooks_file: Path | None = Field(
        None, description="TOML file that declares webhooks, see README; read again when it changes. Unset: none."
    )
    gateway_api_keys_file: Path | None = Field(
        None,
        description="TOML file of the senders' API keys, see README; read again when it changes. Unset: nobody is asked.",
    )

    # --- batches of events in one request
    gateway_bulk_items: int = Field(EDGE.batch_items, ge=1, le=10_000, description="Most events of one batch request.")
    gateway_bulk_bytes: int = Field(EDGE.batch_bytes, ge=1024, description="Largest body of one batch request.")
    gateway_bulk_requests: int = Field(
        8, ge=1, le=64, description="Batch requests whose events are in flight at once; others wait for their turn."
    )

    # --- admission and batching
    gateway_max_in_flight: int = Field(
        1024,
        ge=1,
        description="Single events a process works on; up to a quarter more of sources below their share. Others are answered 429.",
    )
    gateway_max_bytes: int = Field(
        64 * 1024 * 1024,
        ge=1024 * 1024,
        description=(
            "Bytes of requests a process holds: a quarter for those still on their way, a quarter for batches, half for single "
            "events in flight. More are answered 429."
        ),
    )
    # Requests of 500 events share one then, where they queue: a tenth less CPU an event than with 512.
    gateway_batch_size: int = Field(1024, ge=1, le=5000, description="Most events of one micro-batch.")
    gateway_batches: int = Field(5, ge=1, le=64, description="Micro-batches in flight; each has its own connection.")
    gateway_linger: float = Field(
        0.05,
        ge=0,
        description="How long events gather for a micro-batch while another is in flight; a full one does not wait.",
    )

    gateway_wait_longest: float = Field(
        30.0, ge=0, description="Longest wait for an event's outcome that Prefer: wait=N is granted; 0: none."
    )
    gateway_waiters: int = Field(
        256, ge=1, description="Requests of a process that may wait for an outcome; more are answered at once."
    )

    # --- Kafka
    gateway_produce_timeout: Seconds = Field(
        5.0, description="Wait for Kafka's acknowledgement before outcome_unknown."
    )
    gateway_queue_timeout: Seconds = Field(2.0, description="Wait for a micro-batch before not_accepted.")

    # --- deduplication
    gateway_look_timeout: Seconds = Field(
        0.1, description="Deadline of a key look-up, waiting for a connection included."
    )
    gateway_remember_timeout: Seconds = Field(0.5, description="Deadline of remembering keys before it is deferred.")
    dedup_outage: Literal["accept", "reject"] = Field(
        "accept", description="While Postgres is away: accept without a look-up, or answer 503 not_accepted."
    )
    republish_after: Seconds = Field(
        600.0, description="A key accepted this long ago and still not stored is published again when it is repeated."
    )
    dedup_deferred_max: int = Field(
        200_000, ge=0, description="Keys kept in memory, to be remembered once Postgres is back; about 300 bytes each."
    )
    breaker_failures: int = Field(5, ge=1, description="Failed database steps in a row that open the breaker.")
    breaker_pause: Seconds = Field(1.0, description="How long an open breaker keeps from trying the database.")

    # --- stopping
    gateway_lame_duck: float = Field(
        1.0, ge=0, description="After SIGTERM: how long requests are still taken while /readyz already says no."
    )
    gateway_drain_timeout: Seconds = Field(8.0, description="After that: how long requests in flight may take.")
    gateway_flush_timeout: Seconds = Field(5.0, description="After that: how long flushing and closing may take.")

    @model_validator(mode="after")
    def _record_fits(self) -> Self:
        if self.gateway_body_bytes + RECORD_OVERHEAD > self.kafka_max_message_bytes:
            raise ValueError(
                f"GATEWAY_BODY_BYTES plus {RECORD_OVERHEAD} must fit into KAFKA_MAX_MESSAGE_BYTES; lower the one or "
                "raise the other (and max.message.bytes of the topic with it)"
            )
        return self

    @model_validator(mode="after")
    def _batch_fits(self) -> Self:
        if self.gateway_bulk_bytes > self.gateway_max_bytes // 4:
            raise ValueError(
                "GATEWAY_BULK_BYTES may be a quarter of GATEWAY_MAX_BYTES at most; lower the one or raise the other"
            )
        return self

    @model_validator(mode="after")
    def _key_and_certificate(self) -> Self:
        if (self.gateway_tls_certfile is None) != (self.gateway_tls_keyfile is None):
            raise ValueError("GATEWAY_TLS_CERTFILE and GATEWAY_TLS_KEYFILE need each other")
        return self

    @property
    def limits(self) -> Limits:
        """The envelope's limits at this edge."""
        return Limits(
            body_bytes=self.gateway_body_bytes,
            depth=self.gateway_depth,
            nodes=self.gateway_nodes,
            key_chars=self.gateway_key_chars,
            source_chars=self.gateway_source_chars,
            batch_items=self.gateway_bulk_items,
            batch_bytes=self.gateway_bulk_bytes,
        )


if __name__ == "__main__":
    explain.main(GatewaySettings)
