"""Emitted events: the outbox of what handlers send on (pre-deploy).

Revision 0003. A worker of the release before knows nothing of it and emits nothing. Going back loses events that were
emitted and not yet published: wait until the table is empty first.
"""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

EMITTED_EVENTS = """
CREATE TABLE public.emitted_events (
    n bigint GENERATED ALWAYS AS IDENTITY NOT NULL,
    parent_id uuid NOT NULL,
    ordinal integer NOT NULL,
    topic text NOT NULL,
    "partition" integer NOT NULL,
    source text NOT NULL,
    type text,
    schema_version text NOT NULL,
    ordering_key text,
    payload text NOT NULL,
    emitted_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT emitted_events_pkey PRIMARY KEY (parent_id, ordinal)
)
"""

EMITTED_EVENTS_QUEUE = """
CREATE INDEX emitted_events_queue_idx ON public.emitted_events (topic, "partition", n)
"""

COMMENTS = {
    "": "Outbox of the events that handlers emit; a row is deleted once the broker has acknowledged its record.",
    "n": "Order of publication.",
    "parent_id": "The event whose handler emitted it.",
    "ordinal": "Its number among those of its parent; with parent_id it makes the idempotency key.",
    "topic": "Topic of the claim under which it was emitted; it is published there.",
    "partition": "Kafka partition of that claim; its owner publishes it.",
    "source": "Source of the emitted event.",
    "type": "Its type.",
    "schema_version": "Its schema version.",
    "ordering_key": "Its sub-key within the source; spreads the source over partitions.",
    "payload": "Its payload as it will be sent.",
    "emitted_at": "When it was emitted; an old one says that publishing is stuck.",
}


def upgrade() -> None:
    """Make the outbox."""
    for statement in (EMITTED_EVENTS, EMITTED_EVENTS_QUEUE, *_comments()):
        op.execute(statement)


def downgrade() -> None:
    """Drop it, with what is not published."""
    op.execute("DROP TABLE public.emitted_events")


def _comments() -> list[str]:
    statements = []
    for column, comment in COMMENTS.items():
        what = f'COLUMN public.emitted_events."{column}"' if column else "TABLE public.emitted_events"
        statements.append(f"COMMENT ON {what} IS '{comment}'")
    return statements
