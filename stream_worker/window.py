"""The dedup window, where it is bounded: keys of events that took effect longer ago are forgotten.

A key may go once no copy of its event can come any more. Copies come from the two topics, so the window must exceed the
retention of both, which a worker checks before it starts; and the dead letter of an event may be much younger than the
event, so a key stays for a whole window after the last that was heard of any of its failures (interleaving 11). Keys of
events that wait, are dead, or were never processed stay for ever.

One worker at a time (an advisory lock) looks once, then deletes page by page with a pause in between: nobody waits behind
it for longer than a page takes, and it passes over keys that somebody holds.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

import asyncpg

from infra.runtime.sql import statements

_SQL = statements("stream_worker", "window.sql")
_PAUSE = 0.02
_LOOK_TIMEOUT = 600.0


async def forget_old_keys(db: asyncpg.Connection, days: int, *, pause: float = _PAUSE) -> int:
    """Delete the keys that may go; returns how many went. Nothing happens while another worker is at it.

    Args:
        db: a connection outside any transaction, whose session nobody else uses meanwhile.
        pause: seconds between two pages.

    Raises:
        asyncpg.PostgresError: 42501 where the role lacks the DELETE that migrations/roles.sql speaks of.
    """
    window = timedelta(days=days)
    if not await db.fetchval(_SQL["try_lock_window"]):
        return 0
    try:
        # One look at the table for all pages: it may take longer than any statement of the work.
        await db.execute(_SQL["take_time"])
        await db.execute(_SQL["find_old_keys"], window, timeout=_LOOK_TIMEOUT)
        forgotten = 0
        while found := await db.fetch(_SQL["next_old_keys"]):
            forgotten += len(await db.fetch(_SQL["forget_keys"], sorted(row[0] for row in found), window))
            await asyncio.sleep(pause)
        return forgotten
    finally:
        if not db.is_closed():
            await db.reset(timeout=_LOOK_TIMEOUT)
