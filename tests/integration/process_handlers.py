"""Handlers for a whole worker: typed, on SQLAlchemy's session, in a thread, emitting; every run leaves a row."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from schemas.payloads.payment import TransferRequested
from stream_worker import Event, Transaction, handler, in_thread, on_start
from stream_worker.emit import emit


@on_start
async def tables(tx: Transaction) -> None:
    """One row per effect, without any constraint."""
    await tx.execute("CREATE TABLE IF NOT EXISTS posted (event_id uuid, amount numeric)")
    await tx.execute("CREATE TABLE IF NOT EXISTS told (parent text, digest int)")


@handler(type="transfer_requested", version=">=1,<2")
async def post(event: Event, tx: AsyncSession, payload: TransferRequested) -> None:
    """Leave a row and tell of it."""
    await tx.execute(
        text("INSERT INTO posted VALUES (:event_id, :amount)"), {"event_id": event.id, "amount": payload.amount}
    )
    await emit(event, tx, type="posted", source="ledger", schema_version="1.0", payload={"amount": payload.amount})


@handler(type="posted", batch=True)
async def tell(events: Sequence[Event], tx: Transaction) -> None:
    """Leave a row for each."""
    digest = await in_thread(sum, range(1000))
    rows = [(event.idempotency_key, digest) for event in events]
    await tx.copy_records_to_table("told", records=rows, columns=["parent", "digest"])
