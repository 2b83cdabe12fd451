"""The payloads of the five domains: what an expert expects to pass, and to be refused."""

from __future__ import annotations

import copy
import json
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import Invalid
from schemas.event import Event, parse_envelope
from schemas.payloads import TYPES, VERSION, health, order, payment, usage, vehicle
from schemas.registry import default
from tests.unit.schemas.json_schema import accepts
from tests.unit.schemas.spelling import spell, values

REGISTRY = default()
EXPORTED = REGISTRY.export()
EXAMPLES: dict[str, dict[str, Any]] = {name: model.model_json_schema()["examples"][0] for name, model in TYPES.items()}
CARD_NUMBER = "4242" * 4


def event(kind: str, payload: Any) -> Event:
    body = json.dumps(
        {"source": "s", "schema_version": VERSION, "idempotency_key": "k", "type": kind, "payload": payload},
    )
    return parse_envelope(body.encode())


def changed(kind: str, **members: Any) -> Event:
    """The type's example with these members; `...` leaves one out."""
    return event(kind, {name: value for name, value in {**EXAMPLES[kind], **members}.items() if value is not ...})


def passes(of: Event) -> bool:
    try:
        REGISTRY.check(of)
    except Invalid:
        return False
    return True


def test_the_registered_types() -> None:
    assert list(order.TYPES) == ["page_view", "product_click", "add_to_cart", "checkout_started", "payment_completed"]
    assert list(payment.TYPES) == ["transaction_initiated", "card_swipe", "transfer_requested", "kyc_document_uploaded"]
    assert list(health.TYPES) == ["heart_rate_reading", "medication_administered", "doctor_notes_updated"]
    assert list(vehicle.TYPES) == ["engine_temperature", "gps_location_update", "fuel_level"]
    assert list(usage.TYPES) == ["feature_used", "user_invited", "dashboard_viewed", "export_triggered"]


@pytest.mark.parametrize("kind", TYPES)
def test_every_example_fits_its_model_and_its_exported_schema(kind: str) -> None:
    for example in TYPES[kind].model_json_schema()["examples"]:
        REGISTRY.check(event(kind, example))
        assert accepts(EXPORTED[f"tag:plutus,2026:schema/type/{kind}/1.0"], example)


@pytest.mark.parametrize("kind", TYPES)
def test_every_type_is_described_and_closed(kind: str) -> None:
    schema = EXPORTED[f"tag:plutus,2026:schema/type/{kind}/1.0"]
    assert schema["description"]
    assert schema["additionalProperties"] is False
    assert not passes(changed(kind, one_more_member=1))


@pytest.mark.parametrize("kind", TYPES)
def test_required_members_are_required_and_optional_ones_may_be_null(kind: str) -> None:
    for name, field in TYPES[kind].model_fields.items():
        assert passes(changed(kind, **{name: ...})) != field.is_required()
        if field.default is None:
            assert passes(changed(kind, **{name: None}))


@given(st.sampled_from(list(TYPES)), st.data(), st.integers(0, 2**32).map(Random))
def test_the_exported_schema_accepts_whatever_the_model_accepts(kind: str, data: st.DataObject, random: Random) -> None:
    payload = copy.deepcopy(EXAMPLES[kind])
    near: st.SearchStrategy[Any] = st.sampled_from(
        [0, 1, -1, 90.5, 500, "", "A", "1.50", "0.00", "x" * 300, True, None, [], {}, "2026-01-01"]
    )
    for name in data.draw(st.lists(st.sampled_from([*TYPES[kind].model_fields, "more"]), min_size=1, max_size=3)):
        payload[name] = data.draw(near | values.filter(lambda value: len(str(value)) < 200).map(_plain))
    if passes(event(kind, payload)):
        assert accepts(EXPORTED[f"tag:plutus,2026:schema/type/{kind}/1.0"], payload)


def _plain(value: Any) -> Any:
    return json.loads(spell(value, Random(0)))


@pytest.mark.parametrize(
    ("kind", "members"),
    [
        ("payment_completed", {"items": [{"sku": "A", "quantity": 1}, {"sku": "A", "quantity": 2}]}),
        ("payment_completed", {"items": [{"sku": "A", "quantity": 1_000_000}], "customer_id": None}),
        ("add_to_cart", {"unit_price": 0}),
        ("checkout_started", {"amount": "0.00"}),
        ("transfer_requested", {"amount": 0.01}),
        ("transfer_requested", {"amount": "99999999999999999999.99"}),
        ("transfer_requested", {"amount": 100, "currency": "JPY"}),
        ("transfer_requested", {"amount": "100.00", "currency": "JPY"}),
        ("transfer_requested", {"amount": 1.234, "currency": "KWD"}),
        ("transfer_requested", {"amount": 1.2345, "currency": "CLF"}),
        ("transfer_requested", {"currency": "XCG"}),
        ("card_swipe", {"card_token": "tok_" + CARD_NUMBER}),
        ("card_swipe", {"card_token": "4242424242424241"}),
        ("card_swipe", {"merchant_category_code": "0742"}),
        ("kyc_document_uploaded", {"expires_on": "2024-02-29"}),
        ("heart_rate_reading", {"bpm": 0}),
        ("heart_rate_reading", {"bpm": 320.0}),
        ("heart_rate_reading", {"measured_at": "2026-03-01T08:15:30.123456789+03:00"}),
        ("medication_administered", {"dose": 0.000001, "unit": "[iU]"}),
        ("medication_administered", {"dose": "2.5"}),
        ("gps_location_update", {"lat": 90, "lon": -180}),
        ("gps_location_update", {"heading_deg": 360, "altitude_m": -430.5}),
        ("fuel_level", {"percent": 0}),
        ("fuel_level", {"percent": 100.0}),
        ("engine_temperature", {"celsius": -40}),
        ("export_triggered", {"row_count": 0}),
        ("dashboard_viewed", {"user_id": None}),
        ("page_view", {"page": "https://shop.example/a?b=c%20d#e"}),
    ],
)
def test_passes(kind: str, members: dict[str, Any]) -> None:
    REGISTRY.check(changed(kind, **members))


@pytest.mark.parametrize(
    ("kind", "members", "pointer"),
    [
        ("payment_completed", {"items": []}, "/items"),
        ("payment_completed", {"items": [{"sku": "A", "quantity": 0}]}, "/items/0/quantity"),
        ("payment_completed", {"items": [{"sku": "A", "quantity": 1.5}]}, "/items/0/quantity"),
        ("payment_completed", {"items": [{"sku": "A", "quantity": 1}] * 1_001}, "/items"),
        ("payment_completed", {"items": {"sku": "A", "quantity": 1}}, "/items"),
        ("payment_completed", {"amount": 0}, "/amount"),
        ("add_to_cart", {"unit_price": -0.01}, "/unit_price"),
        ("add_to_cart", {"unit_price": 1.005, "currency": "EUR"}, ""),
        ("product_click", {"position": 0}, "/position"),
        ("page_view", {"page": "a b"}, "/page"),
        ("page_view", {"visitor_id": "x" * 129}, "/visitor_id"),
        ("transfer_requested", {"amount": -5}, "/amount"),
        ("transfer_requested", {"amount": True}, "/amount"),
        ("transfer_requested", {"amount": "five"}, "/amount"),
        ("transfer_requested", {"amount": "100000000000000000000"}, "/amount"),
        ("transfer_requested", {"amount": 100.5, "currency": "JPY"}, ""),
        ("transfer_requested", {"amount": 1.005, "currency": "KES"}, ""),
        ("transfer_requested", {"currency": "kes"}, "/currency"),
        ("transfer_requested", {"currency": "KES\n"}, "/currency"),
        ("transfer_requested", {"credit_account": "acc-100"}, ""),
        ("transaction_initiated", {"channel": "pigeon"}, "/channel"),
        ("card_swipe", {"card_token": CARD_NUMBER}, "/card_token"),
        ("card_swipe", {"card_token": "4242-4242-4242-4242"}, "/card_token"),
        ("card_swipe", {"merchant_category_code": 742}, "/merchant_category_code"),
        ("card_swipe", {"country": "DEU"}, "/country"),
        ("kyc_document_uploaded", {"sha256": "A" * 64}, "/sha256"),
        ("kyc_document_uploaded", {"size_bytes": 0}, "/size_bytes"),
        ("kyc_document_uploaded", {"expires_on": "2023-02-29"}, "/expires_on"),
        ("kyc_document_uploaded", {"expires_on": "2031-04-30T00:00:00Z"}, "/expires_on"),
        ("heart_rate_reading", {"bpm": -1}, "/bpm"),
        ("heart_rate_reading", {"bpm": 501}, "/bpm"),
        ("heart_rate_reading", {"bpm": 72.5}, "/bpm"),
        ("heart_rate_reading", {"bpm": "72"}, "/bpm"),
        ("heart_rate_reading", {"measured_at": "2026-03-01T08:15:30"}, "/measured_at"),
        ("medication_administered", {"dose": 0}, "/dose"),
        ("medication_administered", {"dose": "0.0000001"}, "/dose"),
        ("medication_administered", {"route": "by owl"}, "/route"),
        ("doctor_notes_updated", {"revision": 0}, "/revision"),
        ("gps_location_update", {"lat": 90.000001}, "/lat"),
        ("gps_location_update", {"lon": -180.1}, "/lon"),
        ("gps_location_update", {"lat": "1.5"}, "/lat"),
        ("gps_location_update", {"accuracy_m": -1}, "/accuracy_m"),
        ("fuel_level", {"percent": 100.01}, "/percent"),
        ("engine_temperature", {"celsius": -274}, "/celsius"),
        ("engine_temperature", {"sensor": "nose"}, "/sensor"),
        ("feature_used", {"customer_id": ...}, "/customer_id"),
        ("user_invited", {"role": "king"}, "/role"),
        ("export_triggered", {"format": "xls"}, "/format"),
        ("export_triggered", {"row_count": -1}, "/row_count"),
    ],
)
def test_is_refused(kind: str, members: dict[str, Any], pointer: str) -> None:
    with pytest.raises(Invalid) as refused:
        REGISTRY.check(changed(kind, **members))
    assert [each.pointer for each in refused.value.errors] == [f"/payload{pointer}"]


@pytest.mark.parametrize("kind", usage.TYPES)
def test_every_use_names_the_customer_who_pays(kind: str) -> None:
    assert TYPES[kind].model_fields["customer_id"].is_required()
