"""Handlers for the catalogue of bad records: each misbehaves as its type says, having written a row that must not stay."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import asyncpg

from schemas.payloads.usage import FeatureUsed
from stream_worker import Event, Transaction, handler, on_start


@on_start
async def table(tx: Transaction) -> None:
    """One row per effect, without any constraint."""
    await tx.execute("CREATE TABLE IF NOT EXISTS bad_record_effects (event_id uuid)")


async def _leave(event: Event, tx: Transaction) -> None:
    await tx.execute("INSERT INTO bad_record_effects VALUES ($1)", event.id)


@handler(type="good")
async def good(event: Event, tx: Transaction) -> None:
    """Does its work."""
    await _leave(event, tx)


@handler(type="raises")
async def raises(event: Event, tx: Transaction) -> None:
    """A bug."""
    await _leave(event, tx)
    raise KeyError


@handler(type="times_out", timeout=0.05)
async def times_out(event: Event, tx: Transaction) -> None:
    """Waits for what never comes."""
    await _leave(event, tx)
    await asyncio.Event().wait()


@handler(type="swallows")
async def swallows(event: Event, tx: Transaction) -> None:
    """Hides an SQL error, after which the transaction is lost."""
    await _leave(event, tx)
    with suppress(asyncpg.DivisionByZeroError):
        await tx.execute("SELECT 1 / 0")


@handler(type="cancels")
async def cancels(event: Event, tx: Transaction) -> None:
    """Raises what only its caller may."""
    await _leave(event, tx)
    raise asyncio.CancelledError


@handler(type="exits")
async def exits(event: Event, tx: Transaction) -> None:
    """Wants the process to end."""
    await _leave(event, tx)
    raise SystemExit(1)


@handler(type="feature_used")
async def typed(event: Event, tx: Transaction, payload: FeatureUsed) -> None:
    """Asks for its payload as a model."""
    await _leave(event, tx)
