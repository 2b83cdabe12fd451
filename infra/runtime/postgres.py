"""Postgres pools, with every deadline set: by the client, by the server, and on the way to a free connection.

The server's own limits bound what a frozen process can hold: a transaction left idle ends before the Kafka session
does, so a successor never waits for it longer than that. `synchronous_commit` is on: a row that was reported is there
after a crash.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import asyncpg

from infra.runtime.settings import RuntimeSettings

_CONNECT_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds a connection grants, by who keeps the time.

    command: the client gives up waiting for an answer. statement, lock, idle_in_transaction: the server ends it.
    """

    command: float
    statement: float
    lock: float
    idle_in_transaction: float


async def pool(settings: RuntimeSettings, *, name: str, size: int, deadlines: Deadlines) -> asyncpg.Pool:
    """A pool of at most `size` connections; connects on first use, so a database that is down does not stop a start.

    Args:
        name: application_name, shown in pg_stat_activity.
    """
    return await asyncpg.create_pool(
        settings.dsn, min_size=0, max_size=size, **_arguments(settings, name=name, deadlines=deadlines)
    )


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
