"""A copy of the test's database, in which every run of a handler begins with the same rows.

One copy, brought back before each run: a copy for each would take most of the time.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlsplit

import asyncpg

from infra.runtime.sql import statements
from stream_worker.handlers import StartHook

_SQL = statements("stream_worker.testing")
_CONNECT: Final = 10.0
_COMMAND: Final = 60.0


async def connect(database_url: str) -> asyncpg.Connection:
    """A connection with deadlines."""
    return await asyncpg.connect(database_url, timeout=_CONNECT, command_timeout=_COMMAND)


@asynccontextmanager
async def connected(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection for a while."""
    db = await connect(database_url)
    try:
        yield db
    finally:
        await db.close(timeout=_CONNECT)


async def run_hooks(database_url: str, hooks: Sequence[StartHook]) -> None:
    """What a worker does at its start."""
    if hooks:
        async with connected(database_url) as db, db.transaction():
            for hook in hooks:
                await hook(db)


@asynccontextmanager
async def copied(original: asyncpg.Connection, database_url: str, hooks: Sequence[StartHook]) -> AsyncIterator[str]:
    """URL of a copy on the same server, in which these hooks have run; gone afterwards.

    Args:
        original: a connection to the database to copy. database_url: how it was reached.

    Raises:
        RuntimeError: the role may not create databases, or others are connected to this one.
    """
    name = f"plutus_test_{uuid.uuid4().hex[:12]}"
    source = await original.fetchval(_SQL["quoted_database"])
    try:
        await original.execute(f"CREATE DATABASE {name} TEMPLATE {source}")
    except asyncpg.InsufficientPrivilegeError:
        raise RuntimeError("The role may not create databases: give it CREATEDB on the test server.") from None
    except asyncpg.ObjectInUseError:
        raise RuntimeError("Others are connected to the test database, so it cannot be copied.") from None
    try:
        copy = urlsplit(database_url)._replace(path=f"/{name}").geturl()
        await run_hooks(copy, hooks)
        async with connected(copy) as db:
            await db.execute(_SQL["keep_seed"])
        yield copy
    finally:
        await original.execute(f"DROP DATABASE {name} WITH (FORCE)")


async def restore(copy: asyncpg.Connection) -> None:
    """Bring a copy back to how it was."""
    await copy.execute(_SQL["restore_seed"])
