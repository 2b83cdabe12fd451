"""A few Postgres connections for statements that must answer within a deadline, waiting for a connection included.

A pool's `acquire` under a short deadline leaks sessions when it is cancelled at the wrong moment, and its `release` makes
a round trip of its own. Here a connection is handed over between statements without either, new ones are made beside the
statements and never under their deadline, and one whose statement did not end well is terminated, not waited for.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import asyncpg

from infra.runtime.postgres import copy_rows

T = TypeVar("T")


class Unavailable(Exception):
    """No connection could be had, or it broke, or no answer came in time."""


class Connections:
    """At most `size` connections, one statement at a time on each.

    Args:
        connect: makes a connection, under its own deadline.
        size: how many there may be.
    """

    def __init__(self, connect: Callable[[], Awaitable[asyncpg.Connection]], size: int) -> None:
        self._connect = connect
        self._size = size
        self._open: set[asyncpg.Connection] = set()
        self._idle: list[asyncpg.Connection] = []
        self._waiting: deque[asyncio.Future[asyncpg.Connection]] = deque()
        self._connecting: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def open(self) -> int:
        """Connections there are: what pg_stat_activity shows."""
        return len(self._open)

    def prepare(self, count: int) -> None:
        """Make so many connections now, beside everything else, so that the first statement finds one."""
        for _ in range(count):
            self._grow()

    async def fetch(self, statement: str, *arguments: Any, timeout: float) -> list[asyncpg.Record]:
        """The rows of one statement, in a transaction of its own.

        Raises:
            Unavailable: nothing came back within `timeout` seconds. asyncpg.PostgresError: the server's refusal.
        """
        return await self._run(lambda connection, left: connection.fetch(statement, *arguments, timeout=left), timeout)

    async def copy(self, table: str, columns: Sequence[str], rows: bytes, *, timeout: float) -> None:
        """Insert rows in COPY's binary format, all or none, in a transaction of their own.

        Raises:
            Unavailable: it is not known within `timeout` seconds. asyncpg.PostgresError: the server's refusal.
        """
        await self._run(lambda connection, left: copy_rows(connection, table, columns, rows, left), timeout)

    async def _run(self, call: Callable[[asyncpg.Connection, float], Awaitable[T]], timeout: float) -> T:
        """What a call with a connection, and the seconds that are left for it, returns."""
        deadline = asyncio.get_running_loop().time() + timeout
        connection = await self._take(timeout)
        try:
            answer = await call(connection, max(0.001, deadline - asyncio.get_running_loop().time()))
        except asyncpg.PostgresError:
            self._give(connection)  # the server answered: the connection is as good as before, or closed
            raise
        except (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
            self._drop(connection)
            raise Unavailable(type(error).__name__) from None
        except BaseException:
            self._drop(connection)
            raise
        self._give(connection)
        return answer

    async def close(self) -> None:
        """Terminate every connection; there is nothing to wait for, as each statement is its own transaction."""
        self._closed = True
        for task in self._connecting:
            task.cancel()
        await asyncio.gather(*self._connecting, return_exceptions=True)
        for connection in list(self._open):
            self._drop(connection)

    async def _take(self, timeout: float) -> asyncpg.Connection:
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection
            self._open.discard(connection)
        if self._closed:
            raise Unavailable("closed")
        waiter: asyncio.Future[asyncpg.Connection] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        self._grow()
        try:
            await asyncio.wait((waiter,), timeout=timeout)
        except asyncio.CancelledError:
            if waiter.done() and waiter.exception() is None:
                self._give(waiter.result())  # handed over in the very turn in which we were cancelled
            waiter.cancel()
            raise
        if not waiter.done():
            waiter.cancel()
            raise Unavailable("no_connection")
        return waiter.result()

    def _give(self, connection: asyncpg.Connection) -> None:
        if connection.is_closed() or self._closed:
            self._drop(connection)
            return
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return
        self._idle.append(connection)

    def _drop(self, connection: asyncpg.Connection) -> None:
        self._open.discard(connection)
        connection.terminate()
        if not self._closed and any(not waiter.done() for waiter in self._waiting):
            self._grow()

    def _grow(self) -> None:
        if len(self._open) + len(self._connecting) < self._size:
            task = asyncio.create_task(self._add(), name="postgres-connect")
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    async def _add(self) -> None:
        try:
            connection = await self._connect()
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            # Everybody who waits learns it now instead of at their deadline; nobody else will make one for them.
            while self._waiting:
                waiter = self._waiting.popleft()
                if not waiter.done():
                    waiter.set_exception(Unavailable(type(error).__name__))
            return
        self._open.add(connection)
        self._give(connection)
