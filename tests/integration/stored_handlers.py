"""Handlers that come after their events: one that takes a while, in a transaction that can be killed."""

from __future__ import annotations

from stream_worker import Event, Permanent, Transaction, handler, on_start


@on_start
async def tables(tx: Transaction) -> None:
    """No constraint: an effect that comes twice shows."""
    await tx.execute("CREATE TABLE IF NOT EXISTS effects (n bigserial, event_id uuid, note text)")


@handler(type="late")
async def late(event: Event, tx: Transaction) -> None:
    """One effect each, slowly enough to be killed on the way."""
    if event.data == "bad":
        raise Permanent
    await tx.execute("SELECT pg_sleep(0.002)")
    await tx.execute("INSERT INTO effects (event_id, note) VALUES ($1, $2)", event.id, event.idempotency_key)
