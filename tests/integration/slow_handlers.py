"""A handler that holds its transaction open for a while."""

from __future__ import annotations

import asyncio

from stream_worker import Event, Transaction, handler


@handler(type="slow")
async def slow(event: Event, tx: Transaction) -> None:
    """Sleep while the batch's rows are written and not committed."""
    await asyncio.sleep(0.3)
