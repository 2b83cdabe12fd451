"""Moving money, and knowing whose it is.

`transaction_initiated` and `transfer_requested` name the account to debit, the account to credit and one positive amount:
a posting of two legs that sum to zero. A card is a token, never its number (PCI DSS 4.0 requirement 3), and a document
is its digest, never its content.
"""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, StringConstraints, model_validator

from schemas.payloads.base import (
    Amount,
    Country,
    Currency,
    Identifier,
    Label,
    Payload,
    Sha256,
    check_payable,
)
from schemas.payloads.strict import broken_rule

_SHORTEST_CARD_NUMBER = 12
_LONGEST_CARD_NUMBER = 19


def _no_card_number(token: str) -> str:
    """Refuse what looks like a primary account number: 12 to 19 digits (ISO/IEC 7812-1), maybe grouped, that pass Luhn."""
    digits = token.replace("-", "").replace(" ", "")
    if not (digits.isdigit() and _SHORTEST_CARD_NUMBER <= len(digits) <= _LONGEST_CARD_NUMBER):
        return token
    doubled = [sum(divmod(int(digit) * (1 + place % 2), 10)) for place, digit in enumerate(reversed(digits))]
    if sum(doubled) % 10 == 0:
        raise broken_rule("must be a token, not a card number")
    return token


CardToken = Annotated[Identifier, AfterValidator(_no_card_number)]


class _Movement(Payload):
    """Money from one account to another."""

    debit_account: Identifier
    credit_account: Identifier
    amount: Amount
    currency: Currency
    reference: Label | None = Field(default=None, description="Shown on both statements.")

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.debit_account == self.credit_account:
            raise broken_rule("must debit one account and credit another")
        check_payable(self.amount, self.currency)
        return self


class TransactionInitiated(_Movement):
    """A transaction between two accounts was begun."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "transaction_id": "tx-3391",
                    "debit_account": "acc-100",
                    "credit_account": "acc-200",
                    "amount": 1500,
                    "currency": "KES",
                    "channel": "mobile",
                }
            ]
        }
    )

    transaction_id: Identifier
    channel: Literal["mobile", "web", "branch", "atm", "agent", "api"] | None = None


class TransferRequested(_Movement):
    """A customer asked to move money from one account to another."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "transfer_id": "tr-7720",
                    "debit_account": "acc-100",
                    "credit_account": "acc-200",
                    "amount": "12345678901234.10",
                    "currency": "KES",
                    "reference": "School fees, term three",
                }
            ]
        }
    )

    transfer_id: Identifier
    requested_by: Identifier | None = Field(default=None, description="The customer or operator who asked.")


class CardSwipe(Payload):
    """A card was used at a terminal or a checkout."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "card_token": "tok_5f2a9c",
                    "terminal_id": "T-0042",
                    "merchant_id": "m-310",
                    "merchant_category_code": "5411",
                    "amount": 23.5,
                    "currency": "EUR",
                    "entry_mode": "contactless",
                    "country": "DE",
                }
            ]
        }
    )

    card_token: CardToken = Field(description="The vault's token of the card.")
    terminal_id: Identifier
    merchant_id: Identifier
    merchant_category_code: Annotated[str, StringConstraints(pattern=r"^[0-9]{4}$")] | None = Field(
        default=None, description="ISO 18245."
    )
    amount: Amount
    currency: Currency
    entry_mode: Literal["chip", "contactless", "magnetic_stripe", "manual", "ecommerce"]
    country: Country | None = Field(default=None, description="Where the terminal stands.")

    @model_validator(mode="after")
    def _sound(self) -> Self:
        check_payable(self.amount, self.currency)
        return self


class KycDocumentUploaded(Payload):
    """A customer handed in a document that proves who they are or where they live."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "customer_id": "c-1001",
                    "document_id": "doc-55",
                    "document_type": "passport",
                    "issuing_country": "KE",
                    "media_type": "image/jpeg",
                    "size_bytes": 482113,
                    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
                    "expires_on": "2031-04-30",
                }
            ]
        }
    )

    customer_id: Identifier
    document_id: Identifier
    document_type: Literal[
        "passport",
        "national_id",
        "driving_licence",
        "residence_permit",
        "proof_of_address",
        "company_register",
        "other",
    ]
    issuing_country: Country | None = None
    media_type: Literal["image/jpeg", "image/png", "image/heic", "image/tiff", "application/pdf"]
    size_bytes: Annotated[int, Field(ge=1, le=1 << 40)]
    sha256: Sha256 = Field(description="Of the stored file, so that it can be proved to be the one uploaded.")
    expires_on: date | None = None


TYPES: dict[str, type[Payload]] = {
    "transaction_initiated": TransactionInitiated,
    "card_swipe": CardSwipe,
    "transfer_requested": TransferRequested,
    "kyc_document_uploaded": KycDocumentUploaded,
}
