"""The events that are sent: one shape for every contestant, about 200 bytes of payload, a key of its own each.

`load.lua` makes the same ones inside wrk. Pure.
"""

from __future__ import annotations

from typing import Final

SOURCES: Final = 600
"""Enough that the halves of the partitions, which two workers get, hold about as many records."""
BATCH: Final = 500
"""Events of one NDJSON request."""
ACCOUNTS: Final = 2_000
"""Accounts between which the ledger's transfers go."""

_NOTE: Final = "leave it with the neighbours on the second floor, thank you!"


def source(n: int) -> str:
    """Who sends the n-th event."""
    return f"till-{n % SOURCES}"


def key(prefix: str, n: int) -> str:
    """The n-th event's idempotency key; a run's own prefix makes it new."""
    return f"{prefix}-{n}"


def order(prefix: str, n: int, kind: str | None = None, amount: int | None = None) -> bytes:
    """An order, as an envelope on one line. `kind`: its type, where a handler is to find it."""
    typed = "" if kind is None else f'"type":"{kind}",'
    return (
        f'{{"source":"{source(n)}","schema_version":"1.0",{typed}"idempotency_key":"{key(prefix, n)}",'
        f'"payload":{{"order":"o-{n}","amount":{n if amount is None else amount},"currency":"KES",'
        '"lines":[{"sku":"A1","quantity":2},{"sku":"B2","quantity":1}],'
        f'"note":"{_NOTE}"}}}}'
    ).encode()


def transfer(prefix: str, n: int) -> bytes:
    """A transfer for the ledger: in turn from outside to an account, and between two accounts."""
    debit = "external:bank" if n % 2 else f"acc-{n % ACCOUNTS}"
    return (
        f'{{"source":"{source(n)}","schema_version":"1.0","type":"transfer_requested",'
        f'"idempotency_key":"{key(prefix, n)}","payload":{{"transfer_id":"t-{n}","debit_account":"{debit}",'
        f'"credit_account":"acc-{(n * 7 + 1) % ACCOUNTS}","amount":"{n % 90 + 10}.50","currency":"KES",'
        '"reference":"monthly settlement"}}'
    ).encode()


def batch(prefix: str, n: int, size: int = BATCH) -> bytes:
    """The n-th request of so many orders, as NDJSON."""
    return b"\n".join(order(prefix, n * size + each) for each in range(size))
