"""A handler that refuses its events until `cli_luck` says otherwise; what it does shows in `cli_effects`."""

from __future__ import annotations

from stream_worker import Event, Permanent, Transaction, handler, on_start


@on_start
async def create(tx: Transaction) -> None:
    """One row that decides, and a table without any key: an effect that happened twice shows."""
    await tx.execute("CREATE TABLE IF NOT EXISTS cli_effects (event_id uuid)")
    await tx.execute("CREATE TABLE IF NOT EXISTS cli_luck (bad boolean)")
    await tx.execute("INSERT INTO cli_luck SELECT true WHERE NOT EXISTS (SELECT FROM cli_luck)")


@handler(type="unlucky")
async def be_unlucky(event: Event, tx: Transaction) -> None:
    """Refuse, or do it."""
    if await tx.fetchval("SELECT bad FROM cli_luck"):
        raise Permanent
    await tx.execute("INSERT INTO cli_effects VALUES ($1)", event.id)
