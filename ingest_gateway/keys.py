"""Keys in Postgres: the table `event_keys`, the arbiter between gateways and workers.

Each statement is a transaction of its own, committed synchronously: a crash of the database after an answer cannot take the
row with it. Rows that an insert does not return are read by a second statement; one statement's snapshot would be older than
the row it lost to.

Many keys go by COPY where those before them were all new: it costs the server 10 us a key in place of 25. A key that is there
undoes it, and the insert follows; where workers are as quick as the gateway that is no rare thing (they insert the row of a
record that has none), so it is a guess, made as rarely as it is wrong.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Awaitable, Mapping, Sequence
from typing import Final, TypeVar

import asyncpg

from infra.runtime import log, postgres
from infra.runtime.copy_format import INT32_FOLLOWS, INT64_FOLLOWS, MANY, int32, row_of_uuid, whole
from infra.runtime.optimism import Optimism
from infra.runtime.sql import bytea_array, integer_array, statements, uuid_array
from ingest_gateway.connections import Connections, Unavailable
from ingest_gateway.decide import Known, Remembered
from ingest_gateway.metrics import Metrics
from ingest_gateway.pipeline import StoreBusy, StoreDown
from ingest_gateway.settings import GatewaySettings
from schemas.fingerprint import BYTES as FINGERPRINT_BYTES

_LOG = log.get(__name__)
_SQL = statements("ingest_gateway")
_LOCK_TIMEOUT: Final = 0.05
_NONE: Final = "{}"
_ID_FOLLOWS: Final = row_of_uuid(len(Remembered._fields))
_FINGERPRINT_FOLLOWS: Final = int32(FINGERPRINT_BYTES)
_ROW: Final = struct.Struct(f">{len(_ID_FOLLOWS)}s16s4s{FINGERPRINT_BYTES}s4si4sq").pack
T = TypeVar("T")


class PostgresKeys:
    """The key store in Postgres. One connection for each micro-batch in flight and one for what is deferred."""

    def __init__(self, settings: GatewaySettings, metrics: Metrics) -> None:
        self._look_timeout = settings.gateway_look_timeout
        self._remember_timeout = settings.gateway_remember_timeout
        self._republish_after = settings.republish_after
        self._look_seconds = metrics.look_seconds
        self._remember_seconds = metrics.remember_seconds
        self._was_down = False
        self._optimism = Optimism()
        self._settings = settings
        self.connections = Connections(self._connect, settings.gateway_batches + 1)

    async def _connect(self) -> asyncpg.Connection:
        """A connection that has already prepared its statements: a new server process takes longer over the first than
        a look-up's deadline allows on a busy machine."""
        longest = max(self._look_timeout, self._remember_timeout)
        deadlines = postgres.Deadlines(command=5.0, statement=longest, lock=_LOCK_TIMEOUT, idle_in_transaction=5.0)
        connection = await postgres.connect(self._settings, name="plutus-gateway-keys", deadlines=deadlines)
        try:
            with contextlib.suppress(asyncpg.LockNotAvailableError):
                await connection.fetch(_SQL["look_keys"], _NONE, 0)
                await connection.fetch(_SQL["remember_keys"], _NONE, _NONE, _NONE, _NONE)
        except BaseException:
            connection.terminate()
            raise
        return connection

    def prepare(self) -> None:
        """Connect ahead of the first event: a look-up's deadline is shorter than a connection takes."""
        self.connections.prepare(self._settings.gateway_batches)

    async def look(self, ids: Sequence[bytes]) -> Mapping[bytes, Known]:
        """The rows of those ids that have one. Raises: StoreDown."""
        with self._look_seconds.time():
            return await self._known(ids, self._look_timeout)

    async def remember(self, keys: Sequence[Remembered]) -> Mapping[bytes, Known]:
        """Insert what has no row; the rows that were there before. Raises: StoreDown, StoreBusy."""
        deadline = asyncio.get_running_loop().time() + self._remember_timeout
        with self._remember_seconds.time():
            if len(keys) >= MANY and self._optimism.allowed and await self._copied(keys):
                return {}
            ordered = sorted(keys)  # by id
            left = max(0.001, deadline - asyncio.get_running_loop().time())
            answer = await self._fetch(_SQL["remember_keys"], *_columns(ordered), timeout=left)
            count, inserted = answer[0]
            self._optimism.asked(len(ordered) - count)
            if count == len(ordered):
                return {}
            mine = {each.bytes for each in inserted or ()}
            others = [key.event_id for key in ordered if key.event_id not in mine]
            return await self._known(others, max(0.001, deadline - asyncio.get_running_loop().time()))

    async def close(self) -> None:
        """Give the connections back to the server."""
        await self.connections.close()

    async def _copied(self, keys: Sequence[Remembered]) -> bool:
        """Insert keys that are probably all new; False: none was. Raises: StoreDown."""
        copy = self.connections.copy("event_keys", Remembered._fields, _rows(keys), timeout=self._remember_timeout)
        try:
            await self._answered(copy)
        except (asyncpg.UniqueViolationError, StoreBusy):
            self._optimism.wrong()
            return False
        self._optimism.right()
        return True

    async def _known(self, ids: Sequence[bytes], timeout: float) -> dict[bytes, Known]:
        rows = await self._fetch(_SQL["look_keys"], uuid_array(ids), self._republish_after, timeout=timeout)
        return {row[0].bytes: Known(row[1], row[2], row[3], row[4]) for row in rows}

    async def _fetch(self, statement: str, *arguments: object, timeout: float) -> list[asyncpg.Record]:
        return await self._answered(self.connections.fetch(statement, *arguments, timeout=timeout))

    async def _answered(self, asked: Awaitable[T]) -> T:
        try:
            answer = await asked
        except asyncpg.LockNotAvailableError:
            raise StoreBusy from None
        except asyncpg.UniqueViolationError:
            raise  # of a COPY: the server is well
        except asyncpg.PostgresError as error:
            self._say_down(f"SQLSTATE {error.sqlstate}")
            raise StoreDown from None
        except Unavailable as error:
            self._say_down(str(error))
            raise StoreDown from None
        self._was_down = False
        return answer

    def _say_down(self, why: str) -> None:
        if not self._was_down:
            self._was_down = True
            _LOG.warning("Postgres does not answer; deduplication is deferred.", action="dedup_store_down", why=why)


def _rows(keys: Sequence[Remembered]) -> bytes:
    """As COPY reads them, by id."""
    rows = [
        _ROW(_ID_FOLLOWS, event_id, _FINGERPRINT_FOLLOWS, fingerprint, INT32_FOLLOWS, partition, INT64_FOLLOWS, offset)
        for event_id, fingerprint, partition, offset in keys
    ]
    return whole(rows)


def _columns(keys: Sequence[Remembered]) -> tuple[str, str, str, str]:
    ids, fingerprints, partitions, offsets = zip(*keys, strict=True)
    return (
        uuid_array(ids),
        bytea_array(fingerprints),
        integer_array(partitions),
        integer_array(offsets),
    )
