"""What a worker refuses to start with."""

from __future__ import annotations

import asyncpg
import pytest

from schemas.event import Event
from stream_worker.app import NotSo, refuse_slow
from stream_worker.handlers import Registry
from stream_worker.settings import WorkerSettings


async def nothing(event: Event, tx: asyncpg.Connection) -> None:
    """Any function will do."""


@pytest.mark.parametrize(("timeout", "refused"), [(18.1, True), (18.0, False), (None, False)])
def test_a_handler_may_not_ask_for_more_time_than_its_transaction_has(timeout: float | None, refused: bool) -> None:
    settings = WorkerSettings(
        kafka_bootstrap_servers="x:1", database_url="postgresql://u:p@x/d", worker_session_timeout=30
    )
    registry = Registry()
    registry.handler(type="t", name="ship", timeout=timeout)(nothing)
    if not refused:
        refuse_slow(registry, settings)
        return
    with pytest.raises(NotSo, match="WORKER_SESSION_TIMEOUT: ship"):
        refuse_slow(registry, settings)
