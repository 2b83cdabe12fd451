"""Typed payloads for handlers."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from schemas.errors import Invalid, Permanent, Reason
from schemas.event import parse_envelope
from schemas.payloads.payment import TransactionInitiated, TransferRequested
from schemas.payloads.vehicle import GpsLocationUpdate
from stream_worker.examples.typed import typed
from tests.worker_kit import envelope

TRANSFER = {
    "transfer_id": "t",
    "debit_account": "a",
    "credit_account": "b",
    "amount": "12345678901234567890.10",
    "currency": "KES",
}


def test_a_payload_is_its_model_and_exact() -> None:
    payload = typed(
        parse_envelope(envelope("k", TRANSFER, type="transfer_requested")), TransactionInitiated, TransferRequested
    )
    assert isinstance(payload, TransferRequested)
    assert payload.amount == Decimal("12345678901234567890.10")


def test_another_kind_of_payload_is_permanent() -> None:
    with pytest.raises(Permanent, match="The payload is a TransferRequested"):
        typed(parse_envelope(envelope("k", TRANSFER, type="transfer_requested")), GpsLocationUpdate)


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"payload": {}}, Reason.SCHEMA_INVALID),
        ({"schema_version": "9"}, Reason.SCHEMA_UNKNOWN),
        ({"type": "unheard_of"}, Reason.SCHEMA_UNKNOWN),
    ],
)
def test_a_payload_without_its_schema_is_refused(members: dict[str, Any], reason: Reason) -> None:
    given = {"type": "transfer_requested", **members}
    payload = given.pop("payload", TRANSFER)
    with pytest.raises(Invalid) as refusal:
        typed(parse_envelope(envelope("k", payload, **given)), TransferRequested)
    assert refusal.value.reason is reason
