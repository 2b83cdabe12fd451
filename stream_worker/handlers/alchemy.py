"""The transaction as SQLAlchemy's, for handlers that ask for it by annotation.

    from sqlalchemy import insert
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

    @handler(type="stock_counted")
    async def count(event: Event, tx: AsyncConnection) -> None:
        await tx.execute(insert(counts).values(event_id=event.id, counted=event.data["counted"]))

    @handler(type="customer_moved")
    async def move(event: Event, tx: AsyncSession) -> None:
        customer = await tx.get_one(Customer, event.data["customer"])
        customer.city = event.data["city"]

Both work on the very connection and inside the very transaction that records the event. SQLAlchemy believes that it owns
them, so it is lent something that behaves so: its BEGIN, COMMIT and ROLLBACK become a savepoint, its release and a
rollback to it, and its close does nothing.

- Nobody need commit: what a handler leaves open is flushed and kept when it returns. `commit()` keeps what was done so
  far for the event, which still commits or rolls back with its batch; `rollback()` undoes what was done since.
- Closing the connection or session first undoes what it has not committed, as it does anywhere.
- An error is the driver's own by the time the worker judges it, so the same SQLSTATE has the same outcome in both
  worlds. One that the handler swallows breaks the transaction here as there; inside `begin_nested()` it may be caught.
- Types that SQLAlchemy knows to be JSON come as Python values. It sets no codec on the connection, so in textual SQL
  without types JSON comes as text, as asyncpg has it.
- A lent transaction costs two short round trips a call, and statements are prepared once a batch: the batch form pays.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Any, Final

import asyncpg
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.exc import DBAPIError, PendingRollbackError, StatementError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.pool import NullPool

from schemas.errors import Permanent

_STATEMENTS: Final = 100


class _Savepoint:
    """What SQLAlchemy takes for a transaction: a savepoint of ours, and nothing once the loan is over."""

    def __init__(self, loan: _Loan) -> None:
        self._loan = loan
        self._nested = loan.tx.transaction()

    async def start(self) -> None:
        await self._nested.start()

    async def commit(self) -> None:
        await self._nested.commit()

    async def rollback(self) -> None:
        if not self._loan.over:  # afterwards the worker's own savepoint undoes it
            await self._nested.rollback()


class _Loan:
    """What SQLAlchemy takes for a connection of its own. Everything but its end is the lent connection's."""

    def __init__(self, tx: asyncpg.Connection) -> None:
        self.tx = tx
        self.over = False
        self._prepared: dict[str, Any] = {}

    async def prepare(self, operation: str, *, name: str | None = None) -> Any:
        """Once for each text: the loan outlives the many short connections that SQLAlchemy makes of it."""
        found = self._prepared.get(operation)
        if found is None:
            if len(self._prepared) >= _STATEMENTS:
                self._prepared.clear()
            found = self._prepared[operation] = await self.tx.prepare(operation, name=name)
        return found

    def forget(self) -> None:
        """After an error, which a table that has changed may be behind: prepare anew."""
        self._prepared.clear()

    def transaction(self, **_: Any) -> _Savepoint:
        """Isolation and the rest are the worker's transaction's."""
        return _Savepoint(self)

    async def close(self, timeout: float = 0) -> None:
        """Not ours to close."""

    def terminate(self) -> None:
        """Not ours to close."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tx, name)


class LentDialect(PGDialect_asyncpg):
    """asyncpg's dialect, which leaves the connection as it was: no codecs that our COPY would meet afterwards."""

    supports_statement_cache = True
    supports_native_json_deserialization = False
    dialect_injects_custom_json_deserializer = False

    async def setup_asyncpg_json_codec(self, conn: Any) -> None:
        """SQLAlchemy reads JSON itself."""

    async def setup_asyncpg_jsonb_codec(self, conn: Any) -> None:
        """SQLAlchemy reads JSON itself."""


_LOAN: ContextVar[_Loan] = ContextVar("plutus_loan")


async def _creator() -> Any:
    return _LOAN.get()


@functools.cache
def _engine() -> AsyncEngine:
    """One for the process: it asks the server's version once. Values stay out of its error texts."""
    registry.register("plutus.lent", __name__, LentDialect.__name__)
    return create_async_engine("plutus+lent://", async_creator=_creator, poolclass=NullPool, hide_parameters=True)


def _loan(tx: asyncpg.Connection) -> _Loan:
    """The loan of this connection; the last one of this task where it is the same, with what it has prepared.

    A pool hands out another object at each acquire, and what was prepared before is void then.
    """
    last = _LOAN.get(None)
    if last is not None and last.tx is tx:
        last.over = False
        return last
    made = _Loan(tx)
    _LOAN.set(made)
    return made


@asynccontextmanager
async def lent(tx: asyncpg.Connection, kind: type) -> AsyncIterator[AsyncConnection | AsyncSession]:
    """The transaction as an AsyncConnection, or as an AsyncSession of this class; kept when the block ends well.

    Raises:
        the driver's own exception where SQLAlchemy wrapped one; Permanent: a session was left behind after an error.
    """
    loan = _loan(tx)
    with _unwrapped(loan):
        connection = await _engine().connect()
        session = kind(bind=connection, expire_on_commit=False) if issubclass(kind, AsyncSession) else None
        try:
            yield connection if session is None else session
            await _keep(session or connection)
        finally:
            loan.over = True
            if session is not None:
                await session.close()
            await connection.close()


@contextmanager
def _unwrapped(loan: _Loan) -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        loan.forget()
        raise _drivers(error) from None
    except PendingRollbackError:
        raise Permanent("An error of the session was swallowed: roll it back, or use begin_nested().") from None
    except StatementError as error:
        raise error.orig or error from None


async def _keep(transaction: AsyncConnection | AsyncSession) -> None:
    """Flush and release the savepoint. Where an SQL error was swallowed, the worker's own savepoint will say so."""
    try:
        await transaction.commit()
    except DBAPIError as error:
        if not isinstance(_drivers(error), asyncpg.InFailedSQLTransactionError):
            raise


def _drivers(error: DBAPIError) -> BaseException:
    """The driver's own exception. (`driver_exception` has none for a statement that a changed table made invalid.)"""
    return (error.orig and error.orig.__cause__) or error.orig or error


async def fetchval(tx: AsyncConnection | AsyncSession, statement: str, *arguments: Any) -> Any:
    """The first value of one statement with $1, $2 ..., run as a part of what SQLAlchemy has under way."""
    connection = await tx.connection() if isinstance(tx, AsyncSession) else tx
    return (await connection.exec_driver_sql(statement, arguments)).scalar()
