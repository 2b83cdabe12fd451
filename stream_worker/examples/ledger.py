"""A double-entry ledger: every transfer is two postings that sum to zero, every balance is the sum of its postings.

Money moves from the debit account to the credit account. An account is opened by its first use, at zero, and never falls
below it; one named `external:...` stands for the world outside and may, which is how money comes in:

    {"debit_account": "external:bank", "credit_account": "acc-100", "amount": 1500, "currency": "KES", ...}

A transfer without funds is refused, and a refusal is a result: it is recorded and the event is PROCESSED. It is not
`Permanent`, because a dead letter can be replayed, and the money must not move weeks after the customer was told no.

All accounts of a batch are opened, then locked, each by one statement in one order before anything is read: two partitions
that pay each other's accounts wait for each other, but never in a circle.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from uuid import UUID

from schemas.payloads.payment import TransactionInitiated, TransferRequested
from stream_worker import Event, Transaction, handler, on_start

Transfer = TransferRequested | TransactionInitiated
Account = tuple[str, str]
"""Name and currency: a balance is in one currency."""
Posting = tuple[UUID, str, str, Decimal]
"""A row of example_postings or example_refusals: event, account, currency, amount."""

_TABLES = """
CREATE TABLE IF NOT EXISTS example_accounts (
    account text,
    currency text,
    balance numeric NOT NULL DEFAULT 0 CHECK (balance >= 0 OR account LIKE 'external:%'),
    PRIMARY KEY (account, currency)
);
CREATE TABLE IF NOT EXISTS example_postings (
    event_id uuid NOT NULL,
    account text NOT NULL,
    currency text NOT NULL,
    amount numeric NOT NULL CHECK (amount <> 0),
    FOREIGN KEY (account, currency) REFERENCES example_accounts
);
CREATE TABLE IF NOT EXISTS example_refusals (LIKE example_postings INCLUDING CONSTRAINTS)
"""

_OPEN = """
INSERT INTO example_accounts (account, currency)
SELECT account, currency FROM unnest($1::text[], $2::text[]) AS used (account, currency)
ORDER BY account, currency
ON CONFLICT DO NOTHING
"""

_LOCK = """
SELECT account, currency, balance
FROM unnest($1::text[], $2::text[]) AS used (account, currency) JOIN example_accounts USING (account, currency)
ORDER BY account, currency
FOR NO KEY UPDATE OF example_accounts
"""

_SET_BALANCES = """
UPDATE example_accounts AS known SET balance = new.balance
FROM unnest($1::text[], $2::text[], $3::numeric[]) AS new (account, currency, balance)
WHERE known.account = new.account AND known.currency = new.currency
"""

_COLUMNS = ("event_id", "account", "currency", "amount")


@on_start
async def create_ledger(tx: Transaction) -> None:
    """Balances, postings and refusals."""
    await tx.execute(_TABLES)


@handler(type="transfer_requested", batch=True)
@handler(type="transaction_initiated", batch=True)
async def post_transfers(events: Sequence[Event], tx: Transaction, transfers: Sequence[Transfer]) -> None:
    """Post these transfers, in their order."""
    accounts = {account for transfer in transfers for account in _accounts(transfer)}
    columns = tuple(zip(*accounts, strict=True))
    await tx.execute(_OPEN, *columns)
    rows = await tx.fetch(_LOCK, *columns)
    balances = {(row["account"], row["currency"]): row["balance"] for row in rows}
    postings, refusals = post(
        balances, [(event.id, transfer) for event, transfer in zip(events, transfers, strict=True)]
    )
    names, currencies = zip(*balances, strict=True)
    await tx.execute(_SET_BALANCES, names, currencies, list(balances.values()))
    await tx.copy_records_to_table("example_postings", records=postings, columns=_COLUMNS)
    await tx.copy_records_to_table("example_refusals", records=refusals, columns=_COLUMNS)


def post(
    balances: dict[Account, Decimal], transfers: Iterable[tuple[UUID, Transfer]]
) -> tuple[list[Posting], list[Posting]]:
    """Postings and refusals of these transfers, made in turn; `balances` is changed to what they leave."""
    postings: list[Posting] = []
    refusals: list[Posting] = []
    for event_id, transfer in transfers:
        debit, credit = _accounts(transfer)
        if balances[debit] < transfer.amount and not transfer.debit_account.startswith("external:"):
            refusals.append((event_id, *debit, transfer.amount))
            continue
        balances[debit] -= transfer.amount
        balances[credit] += transfer.amount
        postings.append((event_id, *debit, -transfer.amount))
        postings.append((event_id, *credit, transfer.amount))
    return postings, refusals


def _accounts(transfer: Transfer) -> tuple[Account, Account]:
    return (transfer.debit_account, transfer.currency), (transfer.credit_account, transfer.currency)
