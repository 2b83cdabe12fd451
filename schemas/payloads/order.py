"""A shop, from the first look at a page to the paid order.

`payment_completed` carries what stock needs: each line's sku and quantity.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import ConfigDict, Field, StringConstraints, model_validator

from schemas.payloads.base import Amount, Currency, Identifier, Payload, Price, Quantity, check_payable

Page = Annotated[str, StringConstraints(min_length=1, max_length=2_048, pattern=r"^[!-~]+$")]
"""A URL, or its path: ASCII as it goes over the wire."""


class PageView(Payload):
    """A visitor was shown a page."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"visitor_id": "v-81f3", "page": "/shoes?size=42", "customer_id": "c-1001"}]}
    )

    visitor_id: Identifier = Field(description="The browser or device, before anyone signed in.")
    page: Page
    referrer: Page | None = None
    customer_id: Identifier | None = Field(default=None, description="Who it is, once signed in.")


class ProductClick(Payload):
    """A visitor chose a product out of a list."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"visitor_id": "v-81f3", "sku": "SHOE-42-BLK", "page": "/shoes", "position": 3}]
        }
    )

    visitor_id: Identifier
    sku: Identifier
    page: Page | None = Field(default=None, description="Where the list was shown.")
    position: Annotated[int, Field(ge=1, le=100_000)] | None = Field(
        default=None, description="Rank in the list, from 1."
    )
    customer_id: Identifier | None = None


class AddToCart(Payload):
    """A quantity of one product was put into a cart."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"cart_id": "cart-77", "customer_id": "c-1001", "sku": "SHOE-42-BLK", "quantity": 1, "unit_price": 59.9,
                 "currency": "EUR"}
            ]
        }
    )  # fmt: skip

    cart_id: Identifier
    sku: Identifier
    quantity: Quantity
    unit_price: Price
    currency: Currency
    customer_id: Identifier | None = None

    @model_validator(mode="after")
    def _payable(self) -> Self:
        check_payable(self.unit_price, self.currency)
        return self


class LineItem(Payload):
    """One product of an order."""

    sku: Identifier
    quantity: Quantity
    unit_price: Price | None = Field(default=None, description="Before tax and discount, in the order's currency.")


LineItems = Annotated[tuple[LineItem, ...], Field(min_length=1, max_length=1_000)]
"""At least one; a sku may stand in several lines (wrapped as a gift, or not)."""


class CheckoutStarted(Payload):
    """A customer went to pay for a cart."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "cart_id": "cart-77",
                    "customer_id": "c-1001",
                    "items": [{"sku": "SHOE-42-BLK", "quantity": 1, "unit_price": 59.9}],
                    "amount": 64.8,
                    "currency": "EUR",
                }
            ]
        }
    )

    cart_id: Identifier
    customer_id: Identifier | None = Field(default=None, description="Absent for a guest.")
    items: LineItems
    amount: Price = Field(description="What is asked for, with tax, shipping and discount.")
    currency: Currency

    @model_validator(mode="after")
    def _payable(self) -> Self:
        check_payable(self.amount, self.currency)
        return self


class PaymentCompleted(Payload):
    """An order was paid: its products leave the stock."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "order_id": "o-5001",
                    "payment_id": "pay-9c1",
                    "customer_id": "c-1001",
                    "items": [{"sku": "SHOE-42-BLK", "quantity": 1}, {"sku": "SOCK-M", "quantity": 3}],
                    "amount": 74.7,
                    "currency": "EUR",
                }
            ]
        }
    )

    order_id: Identifier
    payment_id: Identifier | None = Field(default=None, description="The payment service's name for the payment.")
    customer_id: Identifier | None = Field(default=None, description="Absent for a guest.")
    items: LineItems
    amount: Amount = Field(description="What was paid, with tax, shipping and discount.")
    currency: Currency

    @model_validator(mode="after")
    def _payable(self) -> Self:
        check_payable(self.amount, self.currency)
        return self


TYPES: dict[str, type[Payload]] = {
    "page_view": PageView,
    "product_click": ProductClick,
    "add_to_cart": AddToCart,
    "checkout_started": CheckoutStarted,
    "payment_completed": PaymentCompleted,
}
