"""Replay jobs: who sent what back, discarded or reconciled, when, and how far it came (pre-deploy).

Revision 0004. Gateways and workers know nothing of it. Going back loses the audit.
"""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

REPLAY_JOBS = """
CREATE TABLE public.replay_jobs (
    job_id uuid DEFAULT gen_random_uuid() CONSTRAINT replay_jobs_pkey PRIMARY KEY,
    kind text NOT NULL,
    who text NOT NULL,
    role text NOT NULL DEFAULT SESSION_USER,
    request jsonb NOT NULL,
    status text NOT NULL DEFAULT 'running',
    progress jsonb,
    counts jsonb NOT NULL DEFAULT '{}',
    started_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT replay_jobs_kind_check CHECK (kind IN ('replay', 'retry', 'discard', 'reconcile')),
    CONSTRAINT replay_jobs_status_check CHECK (status IN ('running', 'stopped', 'done'))
)
"""

REPLAY_JOBS_STARTED = "CREATE INDEX replay_jobs_started_at_idx ON public.replay_jobs (started_at)"

COMMENTS = {
    "": "One row an operator''s job that sent failures back, discarded or reconciled them.",
    "job_id": "Row id; plutus dlq replay --resume takes it.",
    "kind": "replay, retry, discard or reconcile.",
    "who": "User and host that ran the command, as they call themselves.",
    "role": "Login role it ran under.",
    "request": "What was asked for: filters and options, never a payload.",
    "status": "running, stopped (may be resumed) or done; running for long after updated_at: it died.",
    "progress": "Where it goes on when it is resumed.",
    "counts": "How many were read, sent and left out, and why.",
    "started_at": "When it began.",
    "updated_at": "Its latest sign of life.",
}


def upgrade() -> None:
    """Make the table."""
    for statement in (REPLAY_JOBS, REPLAY_JOBS_STARTED, *_comments()):
        op.execute(statement)


def downgrade() -> None:
    """Drop it."""
    op.execute("DROP TABLE public.replay_jobs")


def _comments() -> list[str]:
    statements = []
    for column, comment in COMMENTS.items():
        what = f'COLUMN public.replay_jobs."{column}"' if column else "TABLE public.replay_jobs"
        statements.append(f"COMMENT ON {what} IS '{comment}'")
    return statements
