"""The worker: reads the events topic per partition, makes each event take effect once in Postgres, keeps what failed.

Who writes a handler needs three things, all importable from here: `Event`, the transaction, and
"raise `Retryable` or `Permanent`":

    from stream_worker import Event, Transaction, handler

    @handler(type="card_swipe")
    async def post_to_ledger(event: Event, tx: Transaction) -> None:
        await tx.execute("INSERT INTO ...", ...)
"""

from schemas.errors import Permanent, Retryable
from schemas.event import Event
from stream_worker.handlers import Transaction, handler, in_thread, on_start

__all__ = ["Event", "Permanent", "Retryable", "Transaction", "handler", "in_thread", "on_start"]
