"""What an exception means, by its SQLSTATE and by where it was raised (PostgreSQL manual, appendix A).

Our own statements: only the infrastructure can be at fault, so everything holds the partition. Inside a handler:

    hold        the database is unreachable, restarting, full or read-only: no event is to blame (08, 53, 57P01-57P05, 25006)
                or a migration has made a cached plan useless, which a fresh one mends
    hold+alarm  a bad deploy that would fail for every event (28, 42, 0A): never fill the dead-letter topic with it
    dead        this event's own data (22, 54, 23 but for a missing parent row)
    retry       everything else: locks, deadlocks, serialization, time-outs, a parent row that may still come (40, 55, 57014, 23503)

An exception that is not the database's is a retry where it is the network's (OSError, and so TimeoutError), else dead.
"""

from __future__ import annotations

from enum import Enum

import asyncpg


class Verdict(Enum):
    """What to do about an exception."""

    HOLD = "hold"
    HOLD_AND_ALARM = "hold_and_alarm"
    RETRY = "retry"
    DEAD = "dead"


_HOLD_CLASSES = ("08", "53", "58", "XX")
_HOLD_CODES = ("25006", "25P03", "57P01", "57P02", "57P03", "57P04", "57P05")
_DEPLOY_CLASSES = ("28", "42", "0A", "3D", "3F")
_POISON_CLASSES = ("22", "23", "54")
_PARENT_MISSING = "23503"
_CONFLICTS = ("40001", "40P01")


def sqlstate(error: BaseException) -> str | None:
    """The five characters, or None where the server did not raise this."""
    return getattr(error, "sqlstate", None) if isinstance(error, asyncpg.PostgresError) else None


def lost_connection(error: BaseException) -> bool:
    """True for what asyncpg raises when the connection itself is gone, or its state unknown."""
    return isinstance(error, OSError | asyncpg.InterfaceError | asyncpg.InternalClientError) and not isinstance(
        error, asyncpg.exceptions.DataError
    )


def in_handler(error: BaseException) -> Verdict:
    """The verdict on an exception that left a handler."""
    code = sqlstate(error)
    if code is None:
        # The network, and what is no error of the event's at all (a cancellation, an exit), may be better next time. A
        # value that the driver refuses, or a bug, will not: the event is dead until somebody replays it.
        passing = isinstance(error, OSError) or not isinstance(error, Exception)
        return Verdict.RETRY if passing else Verdict.DEAD
    if code in _HOLD_CODES or code[:2] in _HOLD_CLASSES or isinstance(error, asyncpg.InvalidCachedStatementError):
        return Verdict.HOLD
    if code[:2] in _DEPLOY_CLASSES:
        return Verdict.HOLD_AND_ALARM
    if code[:2] in _POISON_CLASSES and code != _PARENT_MISSING:
        return Verdict.DEAD
    return Verdict.RETRY


def is_stale(error: BaseException) -> bool:
    """True for what a migration leaves behind in connections older than it: plans of tables that look different now, of
    indexes that were built anew. A fresh connection tells whether that is all."""
    return (sqlstate(error) or "")[:2] in ("0A", "42")


def is_conflict(error: BaseException) -> bool:
    """True for a deadlock or a serialization failure: the partition re-runs in small steps (it grows again)."""
    return sqlstate(error) in _CONFLICTS
