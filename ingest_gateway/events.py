"""What became of an event: `GET /api/v1/events/{id}`.

RECEIVED is what `event_keys` says while no worker has stored the event; the other statuses are the event's row. The id is
found through `event_keys` alone, whose acceptance time is the partition key of `events`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Final, NamedTuple
from uuid import UUID

import asyncpg

from infra.runtime import log, postgres
from infra.runtime.sql import statements
from ingest_gateway.connections import Connections, Unavailable
from ingest_gateway.settings import GatewaySettings

_LOG = log.get(__name__)
_SQL = statements("ingest_gateway")
_TIMEOUT: Final = 2.0
_CONNECTIONS: Final = 2
_BY_STATE: Final = {"accepted": "RECEIVED", "parked": "RETRYING", "stored": "PROCESSED", "failed": "FAILED"}


class Found(NamedTuple):
    """An event as it stands.

    source: None until a worker has stored the event; its key alone does not tell it.
    status: the members of the answer; those that do not apply yet are null.
    """

    source: str | None
    status: dict[str, Any]


class StatusUnavailable(Exception):
    """The database does not answer; nothing is known of any event now."""


class EventStatus:
    """Reads the status of events."""

    def __init__(self, settings: GatewaySettings) -> None:
        deadlines = postgres.Deadlines(command=_TIMEOUT, statement=_TIMEOUT, lock=1.0, idle_in_transaction=5.0)
        self.connections = Connections(
            functools.partial(postgres.connect, settings, name="plutus-gateway-events", deadlines=deadlines),
            _CONNECTIONS,
        )

    async def find(self, event_ids: Sequence[UUID]) -> dict[UUID, Found]:
        """Those of these events that are known.

        Raises:
            StatusUnavailable: the database is away.
        """
        try:
            rows = await self.connections.fetch(_SQL["event_status"], event_ids, timeout=_TIMEOUT)
        except asyncpg.PostgresError as error:
            _LOG.warning("An event's status could not be read.", action="status_failed", sqlstate=error.sqlstate)
            raise StatusUnavailable from None
        except Unavailable:
            raise StatusUnavailable from None
        return {row["event_id"]: Found(row["source"], describe(row)) for row in rows}

    async def answers(self) -> bool:
        """Does the database answer now?"""
        try:
            await self.connections.fetch("SELECT 1", timeout=_TIMEOUT)
        except (asyncpg.PostgresError, Unavailable):
            return False
        return True

    async def close(self) -> None:
        """Give the connections back to the server."""
        await self.connections.close()


def describe(row: Any) -> dict[str, Any]:
    """The answer's members from a row of `event_status`."""
    return {
        "event_id": str(row["event_id"]),
        "status": row["status"] or _BY_STATE[row["state"]],
        "received_at": row["accepted_at"],
        "partition": row["partition"],
        "offset": row["record_offset"],
        "processed_at": row["processed_at"],
        "attempts": row["attempts"] or 0,
        "handled_by": row["handled_by"],
        "reason": row["reason"],
        "step": row["step"],
    }
