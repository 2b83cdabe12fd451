"""Jobs that run stored events or skip offsets are audited too (pre-deploy).

Revision 0005. Gateways and workers know nothing of it. Going back loses the rows of the new kinds of jobs.
"""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

KINDS = "'replay', 'retry', 'discard', 'reconcile'"

COMMENTS = {
    "": "One row an operator''s job: failures sent back, discarded or reconciled, stored events run, offsets skipped.",
    "kind": "replay, retry, discard, reconcile, run or skip.",
}
FORMER_COMMENTS = {
    "": "One row an operator''s job that sent failures back, discarded or reconciled them.",
    "kind": "replay, retry, discard or reconcile.",
}


def upgrade() -> None:
    """Let in the new kinds."""
    _allow(f"{KINDS}, 'run', 'skip'")
    _comment(COMMENTS)


def downgrade() -> None:
    """Forget the jobs that the former release does not know."""
    op.execute("DELETE FROM public.replay_jobs WHERE kind IN ('run', 'skip')")
    _allow(KINDS)
    _comment(FORMER_COMMENTS)


def _allow(kinds: str) -> None:
    op.execute("ALTER TABLE public.replay_jobs DROP CONSTRAINT replay_jobs_kind_check")
    op.execute(f"ALTER TABLE public.replay_jobs ADD CONSTRAINT replay_jobs_kind_check CHECK (kind IN ({kinds}))")


def _comment(comments: dict[str, str]) -> None:
    for column, comment in comments.items():
        what = f'COLUMN public.replay_jobs."{column}"' if column else "TABLE public.replay_jobs"
        op.execute(f"COMMENT ON {what} IS '{comment}'")
