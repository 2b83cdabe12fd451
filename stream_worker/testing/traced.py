"""The transaction with something at every await: what a handler is given where faults are planted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import asyncpg

Before = Callable[[], Awaitable[None]]

_AWAITED: Final = {
    *("execute", "executemany", "fetch", "fetchrow", "fetchval", "fetchmany"),
    *("copy_from_query", "copy_from_table", "copy_records_to_table", "copy_to_table"),
    *("start", "commit", "rollback"),
}


class Traced:
    """A connection, or a prepared statement or a transaction of one, that awaits `before` before each of its own awaits.

    (Cursors are passed through: what a cursor fetches can be asked for again.)
    """

    def __init__(self, inner: Any, before: Before) -> None:
        self._inner = inner
        self._before = before

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name not in _AWAITED:
            return found

        async def traced(*arguments: Any, **named: Any) -> Any:
            await self._before()
            return await found(*arguments, **named)

        return traced

    async def prepare(self, *arguments: Any, **named: Any) -> Traced:
        """As asyncpg's; the statement is traced too."""
        await self._before()
        return Traced(await self._inner.prepare(*arguments, **named), self._before)

    def transaction(self, **options: Any) -> Traced:
        """As asyncpg's: a savepoint, traced."""
        return Traced(self._inner.transaction(**options), self._before)

    async def __aenter__(self) -> None:
        await self._before()
        await self._inner.__aenter__()

    async def __aexit__(self, *raised: Any) -> None:
        if raised[0] is None:
            await self._before()
        await self._inner.__aexit__(*raised)


def connection(traced: Traced) -> asyncpg.Connection:
    """For the type checker it is the connection that it stands for."""
    return traced  # type: ignore[return-value]
