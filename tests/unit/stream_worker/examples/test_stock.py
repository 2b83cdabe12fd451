"""The arithmetic of the stock: first come, first served, never below zero, nothing lost."""

from __future__ import annotations

from collections import Counter
from uuid import UUID, uuid5

from hypothesis import given
from hypothesis import strategies as st

from schemas.ids import PLUTUS_NAMESPACE
from schemas.payloads.order import PaymentCompleted
from stream_worker.examples.stock import reserve

SKUS = ("shoe", "sock", "hat")


def order(n: int, **quantities: int) -> tuple[UUID, PaymentCompleted]:
    items = [{"sku": sku, "quantity": quantity} for sku, quantity in quantities.items()]
    payload = {"order_id": f"o-{n}", "items": items, "amount": 1, "currency": "EUR"}
    return uuid5(PLUTUS_NAMESPACE, str(n)), PaymentCompleted.model_validate(payload)


def test_what_is_missing_is_not_reserved() -> None:
    on_hand = {"shoe": 3, "sock": 1}
    first, second = order(1, shoe=2), order(2, sock=1, shoe=2)
    assert reserve(on_hand, [first, second]) == [
        (first[0], "o-1", "shoe", 2, 2),
        (second[0], "o-2", "sock", 1, 1),
        (second[0], "o-2", "shoe", 2, 1),
    ]
    assert on_hand == {"shoe": 0, "sock": 0}


@given(
    on_hand=st.fixed_dictionaries(dict.fromkeys(SKUS, st.integers(0, 20))),
    wanted=st.lists(st.dictionaries(st.sampled_from(SKUS), st.integers(1, 9), min_size=1), max_size=12),
)
def test_laws(on_hand: dict[str, int], wanted: list[dict[str, int]]) -> None:
    left = dict(on_hand)
    lines = reserve(left, [order(n, **quantities) for n, quantities in enumerate(wanted)])
    reserved: Counter[str] = Counter()
    for _, _, sku, ordered, got in lines:
        assert 0 <= got <= ordered
        reserved[sku] += got
    assert len(lines) == sum(map(len, wanted))
    assert all(left[sku] >= 0 and left[sku] + reserved[sku] == on_hand[sku] for sku in SKUS)
    short = {sku for _, _, sku, ordered, got in lines if got < ordered}
    assert all(left[sku] == 0 for sku in short)
