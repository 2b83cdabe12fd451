"""Handlers: the user's code, run once per event, inside the transaction that records the event.

    from collections.abc import Sequence
    from stream_worker import Event, Transaction, handler

    @handler(type="greeting")               # one event at a time
    async def greet(event: Event, tx: Transaction) -> None:
        await tx.execute("INSERT INTO greetings (event_id, text) VALUES ($1, $2)", event.id, event.data["text"])

    @handler(type="wave", batch=True)       # a list of events in log order, for speed
    async def wave(events: Sequence[Event], tx: Transaction) -> None:
        await tx.copy_records_to_table("waves", records=[(event.id,) for event in events], columns=["event_id"])

What it writes through `tx` commits with the event or not at all. It must not commit, roll back or swallow an SQL error
(the batch is then undone and that event dead-lettered). It raises `Retryable` to be run again later, `Permanent` to have
the event dead-lettered; what other exceptions mean is decided in `stream_worker.sqlstate` and `stream_worker.run`.

Which handler an event finds, by source, type and version: `registry`. What a handler may ask for: `signature`. The
payload as a model and the transaction as SQLAlchemy's are asked for by annotation:

    @handler(type="transfer_requested", version=">=1.0,<2", timeout=2.5)
    async def post(event: Event, tx: AsyncSession, payload: TransferRequested) -> None:
        tx.add(Posting(event_id=event.id, account=payload.debit_account, amount=-payload.amount))

The payload is checked and brought to the newest version of its schema first (`schemas.registry`); one that does not fit
is dead-lettered with the schema's reason. SQLAlchemy's side: `alchemy`. CPU-bound work: `threads`. Further events: `emit`
in `stream_worker.emit`. Tests: `stream_worker.testing`.

Deadline: one call may take `timeout=` seconds, WORKER_HANDLER_TIMEOUT where it does not say (of a batch handler, the call
with the whole batch). Past it the call is cancelled, what it wrote is undone, and the event is retried (`handler_timeout`).
It must stay below the time after which Postgres ends an idle transaction, 0.6 x WORKER_SESSION_TIMEOUT.
"""

from __future__ import annotations

import importlib

import asyncpg

from stream_worker.handlers.invoke import Handler
from stream_worker.handlers.registry import F, Registration, Registry, StartHook
from stream_worker.handlers.threads import in_thread

__all__ = [
    "REGISTRY",
    "F",
    "Handler",
    "Registration",
    "Registry",
    "StartHook",
    "Transaction",
    "handler",
    "in_thread",
    "load",
    "on_start",
]

Transaction = asyncpg.Connection
"""The connection whose transaction also records the event: execute, fetch, fetchrow, fetchval, executemany, copy_*."""

REGISTRY = Registry()
"""The registry that `handler` fills and a worker process reads."""

handler = REGISTRY.handler
on_start = REGISTRY.on_start


def load(modules: str) -> Registry:
    """Import the comma-separated modules, whose decorators fill `REGISTRY`.

    Raises:
        ImportError: a module that cannot be imported, named.
    """
    for module in filter(None, (part.strip() for part in modules.split(","))):
        importlib.import_module(module)
    return REGISTRY
