"""The arithmetic of the ledger: whatever the transfers, postings sum to zero and no account falls below its floor."""

from __future__ import annotations

from collections import defaultdict
from decimal import Decimal
from uuid import UUID, uuid5

from hypothesis import given
from hypothesis import strategies as st

from schemas.ids import PLUTUS_NAMESPACE
from schemas.payloads.payment import TransactionInitiated, TransferRequested
from stream_worker.examples.ledger import Account, Transfer, post

NAMES = ("alice", "bob", "external:bank")


def transfer(n: int, debit: str, credit: str, amount: str, currency: str = "KES") -> tuple[UUID, Transfer]:
    members = {"debit_account": debit, "credit_account": credit, "amount": amount, "currency": currency}
    made: Transfer = (
        TransferRequested.model_validate({**members, "transfer_id": f"t{n}"})
        if n % 2
        else TransactionInitiated.model_validate({**members, "transaction_id": f"t{n}"})
    )
    return uuid5(PLUTUS_NAMESPACE, str(n)), made


def opened(*currencies: str) -> dict[Account, Decimal]:
    return {(name, currency): Decimal(0) for name in NAMES for currency in currencies}


def test_money_comes_in_from_outside_and_moves_on() -> None:
    balances = opened("KES")
    transfers = [transfer(1, "external:bank", "alice", "10.50"), transfer(2, "alice", "bob", "0.50")]
    postings, refusals = post(balances, transfers)
    first, second = transfers[0][0], transfers[1][0]
    assert postings == [
        (first, "external:bank", "KES", Decimal("-10.50")),
        (first, "alice", "KES", Decimal("10.50")),
        (second, "alice", "KES", Decimal("-0.50")),
        (second, "bob", "KES", Decimal("0.50")),
    ]
    assert refusals == []
    assert balances == {
        ("alice", "KES"): Decimal(10),
        ("bob", "KES"): Decimal("0.50"),
        ("external:bank", "KES"): Decimal("-10.50"),
    }


def test_without_funds_in_that_currency_a_transfer_is_refused_and_the_next_goes_on() -> None:
    balances = opened("KES", "EUR")
    transfers = [
        transfer(1, "external:bank", "alice", "5", "EUR"),
        transfer(2, "alice", "bob", "5", "KES"),
        transfer(3, "alice", "bob", "5.01", "EUR"),
        transfer(4, "alice", "bob", "5", "EUR"),
    ]
    _, refusals = post(balances, transfers)
    assert refusals == [
        (transfers[1][0], "alice", "KES", Decimal(5)),
        (transfers[2][0], "alice", "EUR", Decimal("5.01")),
    ]
    assert (balances["alice", "EUR"], balances["bob", "EUR"]) == (Decimal(0), Decimal(5))


@st.composite
def some_transfers(draw: st.DrawFn) -> list[tuple[UUID, Transfer]]:
    made = []
    for n in range(draw(st.integers(0, 30))):
        debit, credit = draw(st.permutations(NAMES))[:2]
        amount = draw(st.decimals("0.01", "99999999999999999999.99", places=2))
        made.append(transfer(n, debit, credit, str(amount), draw(st.sampled_from(("KES", "EUR")))))
    return made


@given(some_transfers())
def test_laws(transfers: list[tuple[UUID, Transfer]]) -> None:
    balances = opened("KES", "EUR")
    postings, refusals = post(balances, transfers)
    per_event: dict[tuple[UUID, str], Decimal] = defaultdict(Decimal)
    per_account: dict[Account, Decimal] = defaultdict(Decimal)
    for event, account, currency, amount in postings:
        per_event[event, currency] += amount
        per_account[account, currency] += amount
    assert set(per_event.values()) <= {Decimal(0)}
    assert all(per_account[account] == balance for account, balance in balances.items())
    assert all(balance >= 0 for (name, _), balance in balances.items() if not name.startswith("external:"))
    posted, refused = {row[0] for row in postings}, {row[0] for row in refusals}
    assert posted.isdisjoint(refused)
    assert posted | refused == {event for event, _ in transfers}
