"""A handler that holds its transaction open for a while."""

from __future__ import annotations

from stream_worker import Event, Transaction, handler


@handler(type="slow")
async def slow(event: Event, tx: Transaction) -> None:
    """Take its time while the batch's rows are written and not committed: longer than any wait that is not for it."""
    await tx.execute("SELECT pg_sleep(1.5)")
