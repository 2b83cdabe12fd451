"""The test kit for handlers: a real Postgres, the worker's own rules, no Kafka.

    from stream_worker.outcomes import Stored
    from stream_worker.testing import chaos, emitted, event, run

    async def test_a_paid_order_is_shipped(database_url: str) -> None:
        paid = event({"order_id": "o-1"}, type="order_paid")
        (ran,) = await run(ship, paid, database_url=database_url)
        assert ran.outcome == Stored("ship"), ran.error
        assert [e.type for e in await emitted(database_url)] == ["parcel_ordered"]

    async def test_whatever_happens_it_is_shipped_once(database_url: str) -> None:
        orders = [event({"order_id": f"o-{n}"}, type="order_paid") for n in range(3)]
        await chaos(ship, orders, database_url=database_url)

`database_url` is a migrated database of the test's own (`alembic upgrade head`, or a copy of one: CREATE DATABASE ...
TEMPLATE); what the handler's module brings along with `on_start` is run first. `run` tells the outcome of each event.
`chaos` feeds the handler duplicates, a crash at each await of its transaction, an error of each statement, a retry and a
replay, each on a copy of the database, and compares all tables with one clean run.

As a fixture of pytest, in a conftest.py that has a fixture `database_url`:

    import functools
    import pytest
    from stream_worker import testing

    @pytest.fixture
    def chaos(database_url):
        return functools.partial(testing.chaos, database_url=database_url)
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from schemas import event as events
from schemas import json_text
from schemas.event import Event
from stream_worker.emit import unpublished
from stream_worker.handlers import Handler, Registry
from stream_worker.outcomes import Outcome
from stream_worker.testing.bench import PARTITION, TOPIC, Bench, given
from stream_worker.testing.chaos import NotIdempotent, Report, chaos
from stream_worker.testing.copies import connected, run_hooks

__all__ = ["NotIdempotent", "Ran", "Report", "chaos", "emitted", "event", "run"]

_MOST = 10_000
_KEYS = itertools.count(1)
_ENCODER = msgspec.json.Encoder(decimal_format="number")


def event(
    payload: Any,
    *,
    type: str | None = None,
    source: str = "test",
    key: str | None = None,
    schema_version: str = "1.0",
    ordering_key: str | None = None,
    occurred_at: datetime | None = None,
) -> Event:
    """An event as a sender would send it.

    Args:
        payload: what becomes JSON (Decimal to the last digit). key: the idempotency key; another at each call by default.

    Raises:
        Rejected: it breaks a rule of its members.
    """
    text = _ENCODER.encode(payload)
    return events.build(
        source=source,
        schema_version=schema_version,
        idempotency_key=key or f"test-{next(_KEYS)}",
        payload=text,
        document=json_text.load(text),
        type=type,
        ordering_key=ordering_key,
        occurred_at=None if occurred_at is None else occurred_at.isoformat(),
    )


class Ran(NamedTuple):
    """What became of one event. error: what the handler raised last for it, None where it returned."""

    event: Event
    outcome: Outcome
    error: BaseException | None


async def run(
    handler: Handler | Registry | Callable[..., Awaitable[None]],
    events: Event | Iterable[Event],
    *,
    database_url: str,
    timeout: float = 5.0,
) -> list[Ran]:
    """Run a handler for these events as a worker would, in one batch; what is committed stays.

    Args:
        handler: a decorated function or a Handler, which gets every event; or a Registry.
        database_url: a migrated database of the test's own.
        timeout: seconds one call of the handler may take, where it does not say.

    Returns:
        one for each event in order. An event that must wait (Retry) is the last: those after it wait too.

    Raises:
        Hold: the database, or the deploy, is at fault (a table that is not there); its cause says how.
    """
    sent = [events] if isinstance(events, Event) else list(events)
    under_test = given(handler)
    await run_hooks(database_url, under_test.hooks)
    async with Bench(database_url, under_test, timeout=timeout) as bench:
        settled = await bench.deliver(bench.append(sent), patient=False)
        return [
            Ran(event, outcome, bench.errors.get(event.id)) for event, (_, outcome) in zip(sent, settled, strict=False)
        ]


async def emitted(database_url: str) -> list[Event]:
    """What handlers that `run` has run have emitted, in order; a worker would publish it now."""
    async with connected(database_url) as db:
        return [event for _, event in await unpublished(db, TOPIC, PARTITION, _MOST)]
