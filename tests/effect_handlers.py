"""Handlers for tests of whole workers: every run of an event leaves a row, so that a double effect shows.

The payload says how to behave: {"do": "fail"} is refused for ever, {"do": "crash"} kills the worker; until the table
`mended` has a row {"do": "later"} asks for a retry and {"do": "bug"} raises.
"""

from __future__ import annotations

import os

from stream_worker import Event, Permanent, Retryable, Transaction, handler, on_start
from stream_worker.emit import emit


@on_start
async def tables(tx: Transaction) -> None:
    """One row per effect, without any constraint."""
    await tx.execute("CREATE TABLE IF NOT EXISTS effects (n bigserial, event_id uuid, source text, note text)")
    await tx.execute("CREATE TABLE IF NOT EXISTS mended (at timestamptz DEFAULT now())")


@handler(type="effect")
async def effect(event: Event, tx: Transaction) -> None:
    """Leave a row, or fail as told."""
    await tx.execute(
        "INSERT INTO effects (event_id, source, note) VALUES ($1, $2, $3)",
        event.id,
        event.source,
        event.idempotency_key,
    )
    todo = event.data.get("do") if isinstance(event.data, dict) else None
    if todo == "fail":
        raise Permanent
    if todo == "crash":
        os._exit(9)
    if todo == "bug" and not await tx.fetchval("SELECT count(*) FROM mended"):
        raise ValueError
    if todo == "later" and not await tx.fetchval("SELECT count(*) FROM mended"):
        raise Retryable


@handler(type="chain")
async def chain(event: Event, tx: Transaction) -> None:
    """Leave a row, and emit an effect."""
    await effect(event, tx)
    await emit(event, tx, type="effect", source="emitted", schema_version="1.0", payload={})
