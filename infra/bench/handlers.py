"""The handlers that the worker's benchmarks load, as a user would write them: one SQL statement for each event, or for each
batch."""

from __future__ import annotations

from collections.abc import Sequence

from schemas.errors import Permanent
from stream_worker import Event, Transaction, handler, on_start


@on_start
async def tables(tx: Transaction) -> None:
    """One row for each effect."""
    await tx.execute("CREATE TABLE IF NOT EXISTS bench_effects (event_id uuid NOT NULL, amount bigint NOT NULL)")


@handler(type="bench.effect")
async def effect(event: Event, tx: Transaction) -> None:
    """One statement; a negative amount is refused for good."""
    amount = event.data["amount"]
    if amount < 0:
        raise Permanent("amounts are positive")
    await tx.execute("INSERT INTO bench_effects (event_id, amount) VALUES ($1, $2)", event.id, amount)


@handler(type="bench.effects", batch=True)
async def effects(events: Sequence[Event], tx: Transaction) -> None:
    """The same effects, all of them by one round trip."""
    rows = [(event.id, event.data["amount"]) for event in events]
    await tx.executemany("INSERT INTO bench_effects (event_id, amount) VALUES ($1, $2)", rows)
