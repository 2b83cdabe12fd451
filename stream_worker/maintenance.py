"""What a worker does beside its work: day partitions made ahead, expired ones dropped, rows astray counted, old keys
forgotten where that was asked for.

Every worker tries, once an hour; the database lets one at a time through (an advisory lock), and the others find the work
done. What cannot be done now is told and tried again: a worker never stops for it, because rows then go to the default
partition, whose size is an alarm.
"""

from __future__ import annotations

import asyncio
from typing import cast

import asyncpg

from infra.runtime import log, partitions
from stream_worker.metrics import Metrics
from stream_worker.window import forget_old_keys

_LOG = log.get(__name__)
_HOUR = 3_600.0
_ACQUIRE_TIMEOUT = 10.0


async def keep_house(
    pool: asyncpg.Pool,
    metrics: Metrics,
    retention_days: int | None,
    window_days: int | None = None,
    every: float = _HOUR,
) -> None:
    """Run for ever; the caller cancels it.

    Args:
        retention_days: drop partitions of `events` older than this, None: keep all.
        window_days: forget keys of events older than this, None: never.
        every: seconds between two rounds.
    """
    while True:
        try:
            async with pool.acquire(timeout=_ACQUIRE_TIMEOUT) as connection:
                db = cast(asyncpg.Connection, connection)
                await _round(db, metrics, retention_days)
                if window_days:
                    await _forget(db, metrics, window_days)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            _LOG.warning(
                "Partitions or old keys could not be looked after; tried again in an hour.",
                action="maintenance_failed",
                why=getattr(error, "sqlstate", None) or type(error).__name__,
            )
        await asyncio.sleep(every)


async def _round(db: asyncpg.Connection, metrics: Metrics, retention_days: int | None) -> None:
    ensured = await partitions.ensure_partitions(db)
    metrics.default_rows.set(await partitions.default_rows(db))
    dropped = await partitions.drop_expired(db, retention_days) if retention_days else partitions.Dropped()
    if ensured.made or dropped.dropped:
        _LOG.info(
            "Partitions were looked after.",
            action="maintenance",
            made=len(ensured.made),
            rows_moved=ensured.moved,
            dropped=len(dropped.dropped),
            held_for_open_failures=len(dropped.held),
        )


async def _forget(db: asyncpg.Connection, metrics: Metrics, window_days: int) -> None:
    forgotten = await forget_old_keys(db, window_days)
    metrics.forgotten_keys.inc(forgotten)
    if forgotten:
        _LOG.info("Keys older than the dedup window were forgotten.", action="keys_forgotten", keys=forgotten)
