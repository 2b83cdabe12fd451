"""Parked events and keys, and what a claim remembers of a death (pre-deploy).

Revision 0002. A worker of the release before writes claims without knowing the new columns: their defaults say "released,
not marked", which is how it behaves. Going back loses events that wait for a retry: drain them first.
"""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

PARKED_KEYS = """
CREATE TABLE public.parked_keys (
    order_key text CONSTRAINT parked_keys_pkey PRIMARY KEY,
    topic text NOT NULL,
    "partition" integer NOT NULL,
    attempts integer NOT NULL,
    parked_at timestamptz NOT NULL DEFAULT now(),
    next_at timestamptz NOT NULL
)
"""

PARKED_KEYS_DUE = 'CREATE INDEX parked_keys_due_idx ON public.parked_keys (topic, "partition", next_at)'

PARKED_EVENTS = """
CREATE TABLE public.parked_events (
    order_key text NOT NULL,
    event_id uuid CONSTRAINT parked_events_pkey PRIMARY KEY,
    topic text NOT NULL,
    "partition" integer NOT NULL,
    "offset" bigint NOT NULL,
    appended_at timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    attempts integer NOT NULL,
    key bytea,
    value bytea,
    headers jsonb NOT NULL
)
"""

PARKED_EVENTS_QUEUE = """
CREATE INDEX parked_events_queue_idx ON public.parked_events (order_key, appended_at, "partition", "offset")
"""

CLAIM_COLUMNS = """
ALTER TABLE public.partition_claims
    ADD COLUMN released boolean NOT NULL DEFAULT true,
    ADD COLUMN marked boolean NOT NULL DEFAULT false,
    ADD COLUMN marker_offset bigint,
    ADD COLUMN deaths integer NOT NULL DEFAULT 0
"""

COMMENTS = {
    "parked_keys": {
        "": "Ordering keys whose head waits for a retry; whoever adds behind one or drains it holds its row.",
        "order_key": "Source, or source:ordering_key.",
        "topic": "Topic of the head when it was parked.",
        "partition": "Kafka partition of the head when it was parked; its owner drains the key.",
        "attempts": "Times the head was started.",
        "parked_at": "When the head first had to wait.",
        "next_at": "When the head is due.",
    },
    "parked_events": {
        "": "Events of parked keys in their order, with their original records.",
        "order_key": "The parked key.",
        "event_id": "The event; its row in event_keys says parked.",
        "topic": "Topic of its record.",
        "partition": "Kafka partition of its record.",
        "offset": "Offset of its record.",
        "appended_at": "Broker timestamp of its record.",
        "received_at": "received_at of its row in events, which says RETRYING.",
        "attempts": "Times the handler was started before it was parked.",
        "key": "Original key, byte for byte.",
        "value": "Original value, byte for byte.",
        "headers": "Original headers in order, a list of name with text, base64 or null.",
    },
    "partition_claims": {
        "released": "The owner of this epoch let go in an orderly way; false after a death.",
        "marked": "The owner runs the event at marker_offset right now; committed before it runs.",
        "marker_offset": "Offset of the event that ran alone, last.",
        "deaths": "Owners that died while the event at marker_offset was marked.",
    },
}


def upgrade() -> None:
    """Room for parked keys."""
    for statement in (PARKED_KEYS, PARKED_KEYS_DUE, PARKED_EVENTS, PARKED_EVENTS_QUEUE, CLAIM_COLUMNS, *_comments()):
        op.execute(statement)


def downgrade() -> None:
    """Drop it, with what is parked."""
    op.execute("DROP TABLE public.parked_events")
    op.execute("DROP TABLE public.parked_keys")
    op.execute(
        "ALTER TABLE public.partition_claims DROP COLUMN released, DROP COLUMN marked, DROP COLUMN marker_offset,"
        " DROP COLUMN deaths"
    )


def _comments() -> list[str]:
    statements = []
    for table, comments in COMMENTS.items():
        for column, comment in comments.items():
            what = f'COLUMN public.{table}."{column}"' if column else f"TABLE public.{table}"
            statements.append(f"COMMENT ON {what} IS '{comment}'")
    return statements
