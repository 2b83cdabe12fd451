"""Postgres pools, with every deadline set: by the client, by the server, and on the way to a free connection.

The server's own limits bound what a frozen process can hold: a transaction left idle ends before the Kafka session
does, so a successor never waits for it longer than that. `synchronous_commit` is on: a row that was reported is there
after a crash.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

import asyncpg

from infra.runtime.settings import RuntimeSettings

_CONNECT_TIMEOUT = 5.0
_ACQUIRE_TIMEOUT = 10.0
_COMMIT: Final = "COMMIT;"


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds a connection grants, by who keeps the time.

    command: the client gives up waiting for an answer. statement, lock, idle_in_transaction: the server ends it.
    """

    command: float
    statement: float
    lock: float
    idle_in_transaction: float


class Session(asyncpg.Connection):
    """A connection of the pool that clears its session with the COMMIT that ends a transaction.

    Whoever takes a connection next must not find another's settings, advisory locks, cursors or subscriptions. The pool asks the
    server to forget them when a connection comes back: one round trip more for each batch, which is spared where a transaction was
    the last that ran here and has ended so.
    """

    _cleared = False

    def transaction(self, **options: Any) -> asyncpg.transaction.Transaction:
        """As ever; what runs in it may leave something behind."""
        self._cleared = False
        return super().transaction(**options)

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:
        """As ever; asyncpg ends a transaction with this very COMMIT. With another one the pool clears the session."""
        if query != _COMMIT or args:
            return str(await super().execute(query, *args, timeout=timeout))
        status = await super().execute(f"{_COMMIT}\n{super().get_reset_query()}", timeout=timeout)
        self._cleared = True
        return str(status)

    def get_reset_query(self) -> str:
        """What the pool has the server do when the connection comes back; "": nothing is left to do."""
        return "" if self._cleared else str(super().get_reset_query())


async def pool(settings: RuntimeSettings, *, name: str, size: int, deadlines: Deadlines) -> asyncpg.Pool:
    """A pool of at most `size` connections; connects on first use, so a database that is down does not stop a start.

    Args:
        name: application_name, shown in pg_stat_activity.
    """
    return await asyncpg.create_pool(
        settings.dsn,
        min_size=0,
        max_size=size,
        connection_class=Session,
        **_arguments(settings, name=name, deadlines=deadlines),
    )


@asynccontextmanager
async def borrowed(pool: asyncpg.Pool, places: asyncio.Semaphore) -> AsyncIterator[asyncpg.Connection]:
    """A connection of the pool, for whoever has one of the places: first come, first served.

    Raises:
        TimeoutError, OSError, asyncpg.PostgresError: none can be had within ten seconds.
    """
    async with places:
        acquired = await pool.acquire(timeout=_ACQUIRE_TIMEOUT)
        try:
            yield cast(asyncpg.Connection, acquired)
        finally:
            # `release` is shielded and resets the session; a broken connection is dropped by the pool.
            with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                await pool.release(acquired, timeout=_ACQUIRE_TIMEOUT)


async def connect(settings: RuntimeSettings, *, name: str, deadlines: Deadlines) -> asyncpg.Connection:
    """One connection with the same deadlines, for who keeps it longer than a statement.

    Raises:
        OSError, TimeoutError, asyncpg.PostgresError: the database cannot be reached or refuses.
    """
    connection: asyncpg.Connection = await asyncpg.connect(
        settings.dsn, **_arguments(settings, name=name, deadlines=deadlines)
    )
    return connection


async def copy_rows(
    db: asyncpg.Connection, table: str, columns: Sequence[str], rows: bytes, timeout: float | None = None
) -> None:
    """Insert rows in COPY's binary format (`copy_format.py`), all or none.

    Raises:
        asyncpg.PostgresError: the server's refusal; whoever is in a transaction has lost it.
    """
    # A view, because the driver takes plain bytes for the path of a file.
    source: Any = memoryview(rows)
    await db.copy_to_table(table, source=source, columns=columns, format="binary", timeout=timeout)


def _arguments(settings: RuntimeSettings, *, name: str, deadlines: Deadlines) -> dict[str, Any]:
    return {
        "timeout": _CONNECT_TIMEOUT,
        "command_timeout": deadlines.command,
        "ssl": tls(settings),
        "server_settings": {
            "application_name": name,
            "synchronous_commit": "on",
            "timezone": "UTC",
            "statement_timeout": _ms(deadlines.statement),
            "lock_timeout": _ms(deadlines.lock),
            "idle_in_transaction_session_timeout": _ms(deadlines.idle_in_transaction),
        },
    }


def tls(settings: RuntimeSettings) -> ssl.SSLContext | Literal["require", False]:
    """What asyncpg's `ssl` argument takes. "require" encrypts without checking who answers; "verify-full" checks."""
    if settings.database_ssl == "disable":
        return False
    if settings.database_ssl == "require":
        return "require"
    return ssl.create_default_context(
        cafile=str(settings.database_ssl_cafile) if settings.database_ssl_cafile else None
    )


def _ms(seconds: float) -> str:
    return str(round(seconds * 1000))
