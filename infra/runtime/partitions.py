"""Day partitions of `events`: made ahead, dropped when expired.

Bounds are UTC days. Each partition is made or dropped in a transaction of its own that waits only briefly for its
locks, because everyone who comes later queues behind a waiting DDL statement; a day that could not be locked is
reported as busy and is due again at the next run (partitions are made two weeks ahead, so there is time).

The DDL itself is in database functions that run with their owner's rights (migration 0001), so a worker keeps the
partitions without being allowed any DDL. They assume READ COMMITTED, the default.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Literal, TypeAlias

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from infra.runtime.sql import statements

Connection: TypeAlias = asyncpg.Connection | PoolConnectionProxy

DAYS_AHEAD = 14
# Below Postgres's deadlock_timeout (1 s): where maintenance and a worker wait for each other, maintenance gives way.
LOCK_TIMEOUT = 0.5

_SQL = statements("infra.runtime", "partitions.sql")


class _Lock(Enum):
    """The lock did not come in time."""

    BUSY = 0


_BUSY: Final = _Lock.BUSY


@dataclass(frozen=True, slots=True)
class Ensured:
    """What `ensure_partitions` did. Days are UTC.

    made: partitions that this call made. moved: rows it moved into them out of the default partition.
    busy: days still without a partition of their own, because a lock did not come in time.
    """

    made: tuple[dt.date, ...] = ()
    moved: int = 0
    busy: tuple[dt.date, ...] = ()


@dataclass(frozen=True, slots=True)
class Dropped:
    """What `drop_expired` did. Days are UTC.

    dropped: partitions that are gone. held: expired ones kept because they hold RETRYING or FAILED events.
    busy: expired ones that could not be locked in time.
    """

    dropped: tuple[dt.date, ...] = ()
    held: tuple[dt.date, ...] = ()
    busy: tuple[dt.date, ...] = ()


async def ensure_partitions(
    conn: Connection, days_ahead: int = DAYS_AHEAD, lock_timeout: float = LOCK_TIMEOUT
) -> Ensured:
    """Make every missing day partition from yesterday to `days_ahead`, and of every day found in the default.

    Rows of such a day leave the default in the transaction that makes its partition, so no reader misses them. Several
    processes may call this at once: one makes a day, the others find it made.

    Args:
        conn: outside a transaction, with a command_timeout.
        lock_timeout: seconds to wait for each lock.

    Raises:
        asyncpg.PostgresError: anything but a lock that did not come, for example 42501 where the role lacks the grants
            of migrations/roles.sql.
    """
    days: list[dt.date] = [row["day"] for row in await conn.fetch(_SQL["missing_days"], days_ahead)]
    moved = {day: await _one(conn, lock_timeout, "make_partition", day) for day in days}
    made = {day: rows for day, rows in moved.items() if isinstance(rows, int)}
    return Ensured(tuple(made), sum(made.values()), tuple(day for day in days if moved[day] is _BUSY))


async def drop_expired(conn: Connection, retention_days: int, lock_timeout: float = LOCK_TIMEOUT) -> Dropped:
    """Drop the partitions whose youngest possible row is older than `retention_days`, never a mass DELETE.

    One that holds a RETRYING or FAILED event stays: its replay would find no row to update.

    Args:
        conn: outside a transaction, with a command_timeout.
        retention_days: at least 1.
        lock_timeout: seconds to wait for each lock.

    Raises:
        ValueError: retention_days below 1.
        asyncpg.PostgresError: as `ensure_partitions`.
    """
    if retention_days < 1:
        raise ValueError("retention_days must be at least 1.")
    days: list[dt.date] = [row["day"] for row in await conn.fetch(_SQL["expired_days"], retention_days)]
    gone = {day: await _one(conn, lock_timeout, "drop_partition", day, retention_days) for day in days}
    return Dropped(
        dropped=tuple(day for day in days if gone[day] is True),
        held=tuple(day for day in days if gone[day] is False),
        busy=tuple(day for day in days if gone[day] is _BUSY),
    )


async def default_rows(conn: Connection) -> int:
    """Rows in the default partition. More than none means that partitions were not made in time: an alarm."""
    return int(await conn.fetchval(_SQL["default_rows"]))


async def _one(conn: Connection, lock_timeout: float, statement: str, *args: Any) -> Any | Literal[_Lock.BUSY]:
    """The value of one statement run in a transaction of its own; BUSY on 55P03 (lock not available) or 40P01."""
    try:
        async with conn.transaction():
            await conn.execute(_SQL["limit_lock_wait"], str(round(lock_timeout * 1000)))
            return await conn.fetchval(_SQL[statement], *args)
    except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
        return _BUSY
