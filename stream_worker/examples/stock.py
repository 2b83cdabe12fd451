"""Stock that never falls below zero: a paid order takes what is there, and what is missing is back-ordered.

The order is paid, so running short is no failure: each line says how much was reserved, the rest is what purchasing must
get. A product that the stock does not know is `Permanent`: the order is dead-lettered as a whole, and replayed once
somebody has entered the product.

Two shops sell the same products, so the batch locks all of them in one order before it takes any. The CHECK is the last
line of defence, should anybody else's statement be wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from uuid import UUID

from schemas.payloads.order import PaymentCompleted
from stream_worker import Event, Permanent, Transaction, handler, on_start

Line = tuple[UUID, str, str, int, int]
"""A row of example_order_lines: event, order, sku, ordered, reserved."""

_TABLES = """
CREATE TABLE IF NOT EXISTS example_stock (
    sku text PRIMARY KEY,
    on_hand bigint NOT NULL CHECK (on_hand >= 0)
);
CREATE TABLE IF NOT EXISTS example_order_lines (
    event_id uuid NOT NULL,
    order_id text NOT NULL,
    sku text NOT NULL REFERENCES example_stock,
    ordered bigint NOT NULL CHECK (ordered > 0),
    reserved bigint NOT NULL CHECK (reserved BETWEEN 0 AND ordered),
    back_ordered bigint GENERATED ALWAYS AS (ordered - reserved) STORED
)
"""

_LOCK = "SELECT sku, on_hand FROM example_stock WHERE sku = ANY ($1) ORDER BY sku FOR UPDATE"

_TAKE = """
UPDATE example_stock SET on_hand = on_hand - taken
FROM unnest($1::text[], $2::bigint[]) AS line (sku, taken)
WHERE example_stock.sku = line.sku
"""


@on_start
async def create_stock(tx: Transaction) -> None:
    """What is on hand, and what each order got."""
    await tx.execute(_TABLES)


@handler(type="payment_completed", batch=True)
async def reserve_stock(events: Sequence[Event], tx: Transaction, orders: Sequence[PaymentCompleted]) -> None:
    """Take the products of these paid orders out of the stock."""
    skus = {item.sku for order in orders for item in order.items}
    on_hand = {row["sku"]: row["on_hand"] for row in await tx.fetch(_LOCK, list(skus))}
    if on_hand.keys() != skus:
        raise Permanent("The order names a product that the stock does not know.")
    before = dict(on_hand)
    lines = reserve(on_hand, [(event.id, order) for event, order in zip(events, orders, strict=True)])
    await tx.execute(_TAKE, list(skus), [before[sku] - on_hand[sku] for sku in skus])
    await tx.copy_records_to_table(
        "example_order_lines", records=lines, columns=("event_id", "order_id", "sku", "ordered", "reserved")
    )


def reserve(on_hand: dict[str, int], orders: Iterable[tuple[UUID, PaymentCompleted]]) -> list[Line]:
    """The lines of these orders, served in turn; `on_hand` is what is left afterwards."""
    lines = []
    for event_id, order in orders:
        for item in order.items:
            reserved = min(item.quantity, on_hand[item.sku])
            on_hand[item.sku] -= reserved
            lines.append((event_id, order.order_id, item.sku, item.quantity, reserved))
    return lines
