"""The tables of Plutus as SQLAlchemy sees them, and the engine that migrations and operator queries use.

This is the recorded schema: a test builds one database from `metadata` and one from the migrations and wants the same
catalogue, so neither can move alone. What SQLAlchemy has no word for (partitions, the claim trigger, the maintenance
functions) lives in the migrations only. Gateway and worker write through asyncpg and their own SQL; nothing on the hot
path imports this module.
"""

from __future__ import annotations

import asyncpg
from pydantic import Field
from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP, UUID
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from infra.runtime.postgres import tls
from infra.runtime.settings import RuntimeSettings

_CONNECT_TIMEOUT = 5.0
_NOW = text("now()")
_TIME = TIMESTAMP(timezone=True)

# Postgres's own names for constraints, so that the catalogue reads as if it had been written by hand.
metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "ck": "%(table_name)s_%(constraint_name)s_check",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
    }
)

event_keys = Table(
    "event_keys",
    metadata,
    # Fixed-width columns first: no padding in the one table that is read and written for every event.
    Column("event_id", UUID, primary_key=True, comment="UUIDv5 of source and idempotency key."),
    Column(
        "accepted_at",
        _TIME,
        nullable=False,
        server_default=_NOW,
        comment="When the key was first seen; becomes events.received_at, so the event is found by it.",
    ),
    Column("record_offset", BigInteger, nullable=False, comment="Offset of the record that created the event."),
    Column("partition", Integer, nullable=False, comment="Kafka partition of the record that created the event."),
    Column(
        "runs",
        Integer,
        nullable=False,
        server_default=text("0"),
        comment="Replays of this event that were claimed; the replay limit counts here.",
    ),
    Column("fingerprint", LargeBinary, nullable=False, comment="Version byte and hash of the canonical payload."),
    Column(
        "state",
        Text,
        nullable=False,
        server_default=text("'accepted'"),
        comment="accepted, parked (waits for a retry), stored (took effect) or failed (dead letter).",
    ),
    CheckConstraint("state IN ('accepted', 'parked', 'stored', 'failed')", name="state"),
    Index("event_keys_accepted_at_idx", "accepted_at", postgresql_using="brin"),
    comment="The arbiter: the first row of an id decides for gateway and worker alike.",
    # Room for the one update (accepted -> stored) on the same page, and a vacuum that does not wait for a fifth of a
    # table that only grows.
    postgresql_with={
        "fillfactor": 80,
        "autovacuum_vacuum_scale_factor": 0.02,
        "autovacuum_vacuum_insert_scale_factor": 0.02,
        "autovacuum_analyze_scale_factor": 0.02,
        "autovacuum_vacuum_cost_limit": 2000,
    },
)

events = Table(
    "events",
    metadata,
    Column("event_id", UUID, nullable=False, comment="The id of event_keys."),
    Column("source", Text, nullable=False, comment="Who sent it."),
    Column("idempotency_key", Text, nullable=False, comment="The sender's name for it, unique within the source."),
    Column("schema_version", Text, nullable=False, comment="Version of the payload's schema."),
    Column("type", Text, comment="What happened, where the sender says so."),
    Column("ordering_key", Text, comment="Sub-key within the source whose events stay in order."),
    Column("occurred_at", _TIME, comment="When it happened, by the sender's clock."),
    Column("payload", JSON, nullable=False, comment="As sent, digit for digit; json, not jsonb, for that reason."),
    Column(
        "payload_encoding",
        Text,
        nullable=False,
        server_default=text("'json'"),
        comment="json, or text or base64 where the body was not JSON and payload is a string.",
    ),
    Column("status", Text, nullable=False, comment="PROCESSED, RETRYING or FAILED; RECEIVED has no row here yet."),
    Column("handled_by", Text, comment="Name of the handler that ran; null where none matched."),
    Column("received_at", _TIME, nullable=False, comment="event_keys.accepted_at; decides the partition."),
    Column("processed_at", _TIME, server_default=_NOW, comment="When the status became what it is."),
    Column("attempts", Integer, nullable=False, server_default=text("1"), comment="Times the handler was started."),
    Column("topic", Text, nullable=False, comment="Topic of the record that was processed."),
    Column("partition", Integer, nullable=False, comment="Kafka partition of that record."),
    Column("offset", BigInteger, nullable=False, comment="Offset of that record."),
    PrimaryKeyConstraint("received_at", "event_id"),
    CheckConstraint("payload_encoding IN ('json', 'text', 'base64')", name="payload_encoding"),
    CheckConstraint("status IN ('PROCESSED', 'RETRYING', 'FAILED')", name="status"),
    comment="One row an event, whatever its outcome; partitioned by UTC day of received_at.",
    postgresql_partition_by="RANGE (received_at)",
)

failures = Table(
    "failures",
    metadata,
    Column("failure_id", UUID, primary_key=True, server_default=text("gen_random_uuid()"), comment="Row id."),
    Column("event_id", UUID, comment="The event, where the record could be read that far."),
    Column("source", Text, comment="Who sent it, where known."),
    Column("reason", Text, nullable=False, comment="Why it failed: one of schemas.errors.Reason."),
    Column("step", Text, nullable=False, comment="Where in the pipeline it failed."),
    Column("error_class", Text, comment="Class of the exception; never its message."),
    Column("topic", Text, nullable=False, comment="Topic of the failed record."),
    Column("partition", Integer, nullable=False, comment="Kafka partition of the failed record."),
    Column("offset", BigInteger, nullable=False, comment="Offset of the failed record."),
    Column(
        "appended_at",
        _TIME,
        nullable=False,
        comment="Broker timestamp of the failed record; tells a record from another at the same offset of a new topic.",
    ),
    Column("attempts", Integer, nullable=False, server_default=text("1"), comment="Times the handler was started."),
    Column("status", Text, nullable=False, server_default=text("'open'"), comment="open, replayed or discarded."),
    Column("first_at", _TIME, nullable=False, server_default=_NOW, comment="First failure."),
    Column("last_at", _TIME, nullable=False, server_default=_NOW, comment="Latest failure or change of status."),
    Column("next_at", _TIME, comment="When the next attempt is due, while one is."),
    Column("key", LargeBinary, comment="Original key, byte for byte."),
    Column("value", LargeBinary, comment="Original value, byte for byte."),
    Column(
        "headers",
        JSONB,
        nullable=False,
        server_default=text("'[]'"),
        comment="Original headers in order, a list of name with text, base64 or null.",
    ),
    Column("content_hash", LargeBinary, comment="Hash of key and value; counts replays of what cannot be read."),
    Column("dlq_partition", Integer, comment="Partition of the dead-letter record, once acknowledged."),
    Column("dlq_offset", BigInteger, comment="Offset of the dead-letter record; null means it is still to be sent."),
    Column("dlq_at", _TIME, comment="Broker timestamp of the dead-letter record; a later copy is a replay."),
    UniqueConstraint("topic", "partition", "offset", "appended_at"),
    CheckConstraint("status IN ('open', 'replayed', 'discarded')", name="status"),
    Index("failures_outbox_idx", "topic", "partition", "offset", postgresql_where=text("dlq_offset IS NULL")),
    Index("failures_event_id_idx", "event_id", postgresql_where=text("event_id IS NOT NULL")),
    Index(
        "failures_content_idx",
        "reason",
        "content_hash",
        # Any `content_hash = $1` implies this, so every count can use the index, whatever else it asks.
        postgresql_where=text("content_hash IS NOT NULL"),
    ),
    Index("failures_status_last_at_idx", "status", "last_at"),
    comment="What could not be processed, with its original bytes; the outbox of the dead-letter topic.",
)

partition_claims = Table(
    "partition_claims",
    metadata,
    Column("group", Text, nullable=False, comment="Consumer group."),
    Column("topic", Text, nullable=False, comment="Topic."),
    Column("partition", Integer, nullable=False, comment="Kafka partition."),
    Column("epoch", BigInteger, nullable=False, comment="Grows by one each time a worker takes the partition."),
    Column("next_offset", BigInteger, comment="First offset whose effects are not in this database."),
    Column(
        "open",
        Boolean,
        nullable=False,
        server_default=text("false"),
        comment="True only inside a batch's transaction; the trigger refuses to commit it.",
    ),
    Column("claimed_at", _TIME, nullable=False, server_default=_NOW, comment="When this epoch began."),
    Column(
        "released",
        Boolean,
        nullable=False,
        server_default=text("true"),
        comment="The owner of this epoch let go in an orderly way; false after a death.",
    ),
    Column(
        "marked",
        Boolean,
        nullable=False,
        server_default=text("false"),
        comment="The owner runs the event at marker_offset right now; committed before it runs.",
    ),
    Column("marker_offset", BigInteger, comment="Offset of the event that ran alone, last."),
    Column(
        "deaths",
        Integer,
        nullable=False,
        server_default=text("0"),
        comment="Owners that died while the event at marker_offset was marked.",
    ),
    PrimaryKeyConstraint("group", "topic", "partition"),
    comment="The fence: a worker writes for a partition only while its epoch is the newest.",
    # A dozen rows, two versions a batch: leave the page empty so that every update stays on it.
    postgresql_with={"fillfactor": 10},
)

parked_keys = Table(
    "parked_keys",
    metadata,
    Column("order_key", Text, primary_key=True, comment="Source, or source:ordering_key."),
    Column("topic", Text, nullable=False, comment="Topic of the head when it was parked."),
    Column(
        "partition",
        Integer,
        nullable=False,
        comment="Kafka partition of the head when it was parked; its owner drains the key.",
    ),
    Column("attempts", Integer, nullable=False, comment="Times the head was started."),
    Column("parked_at", _TIME, nullable=False, server_default=_NOW, comment="When the head first had to wait."),
    Column("next_at", _TIME, nullable=False, comment="When the head is due."),
    Index("parked_keys_due_idx", "topic", "partition", "next_at"),
    comment="Ordering keys whose head waits for a retry; whoever adds behind one or drains it holds its row.",
)

parked_events = Table(
    "parked_events",
    metadata,
    Column("order_key", Text, nullable=False, comment="The parked key."),
    Column("event_id", UUID, primary_key=True, comment="The event; its row in event_keys says parked."),
    Column("topic", Text, nullable=False, comment="Topic of its record."),
    Column("partition", Integer, nullable=False, comment="Kafka partition of its record."),
    Column("offset", BigInteger, nullable=False, comment="Offset of its record."),
    Column("appended_at", _TIME, nullable=False, comment="Broker timestamp of its record."),
    Column("received_at", _TIME, nullable=False, comment="received_at of its row in events, which says RETRYING."),
    Column("attempts", Integer, nullable=False, comment="Times the handler was started before it was parked."),
    Column("key", LargeBinary, comment="Original key, byte for byte."),
    Column("value", LargeBinary, comment="Original value, byte for byte."),
    Column(
        "headers",
        JSONB,
        nullable=False,
        comment="Original headers in order, a list of name with text, base64 or null.",
    ),
    Index("parked_events_queue_idx", "order_key", "appended_at", "partition", "offset"),
    comment="Events of parked keys in their order, with their original records.",
)

emitted_events = Table(
    "emitted_events",
    metadata,
    Column("n", BigInteger, Identity(always=True), nullable=False, comment="Order of publication."),
    Column("parent_id", UUID, nullable=False, comment="The event whose handler emitted it."),
    Column(
        "ordinal",
        Integer,
        nullable=False,
        comment="Its number among those of its parent; with parent_id it makes the idempotency key.",
    ),
    Column(
        "topic",
        Text,
        nullable=False,
        comment="Topic of the claim under which it was emitted; it is published there.",
    ),
    Column("partition", Integer, nullable=False, comment="Kafka partition of that claim; its owner publishes it."),
    Column("source", Text, nullable=False, comment="Source of the emitted event."),
    Column("type", Text, comment="Its type."),
    Column("schema_version", Text, nullable=False, comment="Its schema version."),
    Column("ordering_key", Text, comment="Its sub-key within the source; spreads the source over partitions."),
    Column("payload", Text, nullable=False, comment="Its payload as it will be sent."),
    Column(
        "emitted_at",
        _TIME,
        nullable=False,
        server_default=_NOW,
        comment="When it was emitted; an old one says that publishing is stuck.",
    ),
    PrimaryKeyConstraint("parent_id", "ordinal"),
    Index("emitted_events_queue_idx", "topic", "partition", "n"),
    comment="Outbox of the events that handlers emit; a row is deleted once the broker has acknowledged its record.",
)

replay_jobs = Table(
    "replay_jobs",
    metadata,
    Column(
        "job_id",
        UUID,
        primary_key=True,
        server_default=text("gen_random_uuid()"),
        comment="Row id; plutus dlq replay --resume takes it.",
    ),
    Column("kind", Text, nullable=False, comment="replay, retry, discard, reconcile, run or skip."),
    Column("who", Text, nullable=False, comment="User and host that ran the command, as they call themselves."),
    Column("role", Text, nullable=False, server_default=text("SESSION_USER"), comment="Login role it ran under."),
    Column("request", JSONB, nullable=False, comment="What was asked for: filters and options, never a payload."),
    Column(
        "status",
        Text,
        nullable=False,
        server_default=text("'running'"),
        comment="running, stopped (may be resumed) or done; running for long after updated_at: it died.",
    ),
    Column("progress", JSONB, comment="Where it goes on when it is resumed."),
    Column(
        "counts",
        JSONB,
        nullable=False,
        server_default=text("'{}'"),
        comment="How many were read, sent and left out, and why.",
    ),
    Column("started_at", _TIME, nullable=False, server_default=_NOW, comment="When it began."),
    Column("updated_at", _TIME, nullable=False, server_default=_NOW, comment="Its latest sign of life."),
    CheckConstraint("kind IN ('replay', 'retry', 'discard', 'reconcile', 'run', 'skip')", name="kind"),
    CheckConstraint("status IN ('running', 'stopped', 'done')", name="status"),
    Index("replay_jobs_started_at_idx", "started_at"),
    comment="One row an operator's job: failures sent back, discarded or reconciled, stored events run, offsets skipped.",
)


class DatabaseSettings(RuntimeSettings):
    """The settings of a command that talks to Postgres alone: the brokers need not be named."""

    kafka_bootstrap_servers: str = Field("unused:1", description="Not used by commands that only talk to Postgres.")


async def connect(settings: RuntimeSettings, *, name: str, command_timeout: float) -> asyncpg.Connection:
    """One connection outside the pools, for maintenance and operators.

    Args:
        name: application_name, shown in pg_stat_activity.
        command_timeout: seconds the client waits for one answer.

    Raises:
        OSError, TimeoutError, asyncpg.PostgresError: as asyncpg does.
    """
    return await asyncpg.connect(
        settings.dsn,
        ssl=tls(settings),
        timeout=_CONNECT_TIMEOUT,
        command_timeout=command_timeout,
        # A role may have a schema of its own name first in its path; our tables are in `public`.
        server_settings={"application_name": name, "search_path": "public", "timezone": "UTC"},
    )


def engine(settings: RuntimeSettings, *, name: str, command_timeout: float = 60.0) -> AsyncEngine:
    """An SQLAlchemy engine without a pool. asyncpg reads the DSN, so both ways in take the same URL.

    Parameters stay out of SQLAlchemy's error texts: they may be payloads.
    """

    async def creator() -> asyncpg.Connection:
        return await connect(settings, name=name, command_timeout=command_timeout)

    return create_async_engine("postgresql+asyncpg://", async_creator=creator, poolclass=NullPool, hide_parameters=True)
