"""The registry: which schema, which errors, which version."""

from __future__ import annotations

import json
import traceback
from decimal import Decimal
from random import Random
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from schemas import registry as registry_module
from schemas.errors import FieldError, Invalid, Permanent, Reason
from schemas.event import Event, parse_envelope
from schemas.payloads import TYPES, VERSION
from schemas.payloads.base import Amount, Payload
from schemas.payloads.payment import TransferRequested
from schemas.registry import Registry, default
from tests.unit.schemas.spelling import spell, values

DEFAULT = default()
TRANSFER: dict[str, Any] = {
    "transfer_id": "tr-1",
    "debit_account": "acc-1",
    "credit_account": "acc-2",
    "amount": Decimal("10.50"),
    "currency": "KES",
}
EXAMPLES = [(name, example) for name, model in TYPES.items() for example in model.model_json_schema()["examples"]]
seeds = st.integers(0, 2**32).map(Random)


class OrderV1(Payload):
    total: Annotated[Decimal, Field(gt=0)]


class OrderV2(Payload):
    total: Amount
    currency: str


class OrderV3(Payload):
    amount: Amount
    currency: str


def add_currency(payload: dict[str, Any]) -> dict[str, Any]:
    return {**payload, "currency": "EUR"}


def rename_total(payload: dict[str, Any]) -> dict[str, Any]:
    return {"amount": payload["total"], "currency": payload["currency"]}


def event(kind: str | None, payload: str, version: str = VERSION, source: str = "shop") -> Event:
    type_member = "" if kind is None else f'"type":{json.dumps(kind)},'
    head = f'{{"source":"{source}","schema_version":"{version}","idempotency_key":"k",{type_member}"payload":'
    return parse_envelope(head.encode() + payload.encode() + b"}")


def transfer(**members: Any) -> Event:
    changed = {name: value for name, value in {**TRANSFER, **members}.items() if value is not ...}
    return event("transfer_requested", spell(changed, Random(0)))


def orders() -> Registry:
    made = Registry()
    made.register(OrderV1, type="order", version="1.0")
    made.register(OrderV2, type="order", version="2.0", follows="1.0", upcast=add_currency)
    made.register(OrderV3, type="order", version="3.0", follows="2.0", upcast=rename_total)
    return made


def refusal(of: Event, by: Registry = DEFAULT) -> Invalid:
    with pytest.raises(Invalid) as refused:
        by.check(of)
    return refused.value


def test_a_fitting_payload_passes_and_is_typed() -> None:
    DEFAULT.check(transfer())
    typed = DEFAULT.typed(transfer())
    assert isinstance(typed, TransferRequested)
    assert (typed.debit_account, typed.amount, typed.reference) == ("acc-1", Decimal("10.5"), None)


@pytest.mark.parametrize(
    "text",
    ["12345678901234.10", "12345678901234567890.1234", "99999999999999999999", "1e19", "0.0001", '"12345678901234.10"'],
)
def test_money_keeps_every_digit(text: str) -> None:
    typed = DEFAULT.typed(event("transfer_requested", _transfer_text(text)))
    assert isinstance(typed, TransferRequested)
    assert typed.amount == Decimal(text.strip('"'))


def _transfer_text(amount: str) -> str:
    members = {name: value for name, value in TRANSFER.items() if name not in {"amount", "currency"}}
    return json.dumps({**members, "currency": "CLF"})[:-1] + f',"amount":{amount}}}'


@pytest.mark.parametrize(
    "amount",
    ["10.00001", "0", "-1", "123456789012345678901", "1e30", "true", "null", '"1e3"', '"01"', '" 1"', '"NaN"', "[]"],
)
def test_what_is_no_amount_is_refused(amount: str) -> None:
    refused = refusal(event("transfer_requested", _transfer_text(amount)))
    assert (refused.reason, refused.pointer) == (Reason.SCHEMA_INVALID, "/payload/amount")


def test_every_broken_rule_is_told_at_once() -> None:
    refused = refusal(transfer(transfer_id=..., debit_account="", amount=Decimal(-1), currency="kes", note="x", more=1))
    assert refused.errors == (
        FieldError("/payload/debit_account", "must be no shorter than 1 in characters"),
        FieldError("/payload/amount", "must be greater than 0"),
        FieldError("/payload/currency", "must match the pattern ^[A-Z]{3}$"),
        FieldError("/payload/transfer_id", "is missing"),
        FieldError("/payload", "has a member that its schema does not know"),
    )
    assert refused.pointer == "/payload/debit_account"
    assert refused.message == (
        "/payload/debit_account must be no shorter than 1 in characters (the first of 5 broken rules)."
    )
    assert refused.reason is Reason.SCHEMA_INVALID


@pytest.mark.parametrize("text", ["null", "[]", '"x"', "1", "true"])
def test_a_payload_that_is_no_object_is_refused(text: str) -> None:
    assert refusal(event("transfer_requested", text)).errors == (FieldError("/payload", "must be an object"),)


def test_pointers_lead_into_arrays() -> None:
    items = '[{"sku":"A","quantity":1},{"sku":"B","quantity":0,"CANARY7f3":1},7]'
    of = event("payment_completed", f'{{"order_id":"o","items":{items},"amount":1,"currency":"EUR"}}')
    assert refusal(of).errors == (
        FieldError("/payload/items/1/quantity", "must be at least 1"),
        FieldError("/payload/items/1", "has a member that its schema does not know"),
        FieldError("/payload/items/2", "must be an object"),
    )


def test_an_unregistered_event_passes_unread() -> None:
    unread = msgspec.structs.replace(event("something_else", "{}"), payload=b"no JSON at all")
    DEFAULT.check(unread)
    DEFAULT.check(msgspec.structs.replace(unread, type=None))
    DEFAULT.check(msgspec.structs.replace(unread, type="page_view", schema_version="9.0"))


@pytest.mark.parametrize("of", [event("something_else", "{}"), event("page_view", "{}", "2.0"), event(None, "{}")])
def test_row_77_a_strict_registry_refuses_what_has_no_schema(of: Event) -> None:
    refused = refusal(of, default(strict=True))
    assert (refused.reason, refused.pointer) == (Reason.SCHEMA_UNKNOWN, "/schema_version")


def test_a_strict_registry_passes_what_fits() -> None:
    default(strict=True).check(transfer())


def test_what_has_no_schema_cannot_be_typed() -> None:
    with pytest.raises(Invalid) as refused:
        DEFAULT.typed(event("something_else", "{}"))
    assert refused.value.reason is Reason.SCHEMA_UNKNOWN


def test_a_schema_may_belong_to_a_source_and_the_type_comes_first() -> None:
    made = Registry()
    made.register(OrderV1, source="shop", version="1.0")
    made.register(OrderV3, type="order", version="1.0")
    assert isinstance(made.typed(event(None, '{"total":1}')), OrderV1)
    assert isinstance(made.typed(event("other", '{"total":1}')), OrderV1)
    assert isinstance(made.typed(event("order", '{"amount":1,"currency":"EUR"}')), OrderV3)
    assert made.find(event("other", "{}", source="elsewhere")) is None


def test_a_handler_gets_the_newest_version_whatever_was_sent() -> None:
    newest = OrderV3(amount=Decimal("12345678901234.10"), currency="EUR")
    made = orders()
    sent = {
        "1.0": '{"total":12345678901234.10}',
        "2.0": '{"total":12345678901234.10,"currency":"EUR"}',
        "3.0": '{"amount":12345678901234.10,"currency":"EUR"}',
    }
    for version, payload in sent.items():
        assert made.typed(event("order", payload, version)) == newest


def test_each_version_is_checked_by_its_own_schema() -> None:
    made = orders()
    made.check(event("order", '{"total":1}', "1.0"))
    assert refusal(event("order", '{"total":1}', "2.0"), made).pointer == "/payload/currency"
    assert refusal(event("order", '{"total":0}', "1.0"), made).pointer == "/payload/total"
    with pytest.raises(Invalid):
        made.typed(event("order", '{"total":0}', "1.0"))


def test_a_wrong_upcast_is_permanent_and_holds_no_value() -> None:
    made = Registry()
    made.register(OrderV1, type="order", version="1.0")
    made.register(
        OrderV2, type="order", version="2.0", follows="1.0", upcast=lambda payload: {**payload, "CANARY7f3": 7}
    )
    with pytest.raises(Permanent, match=r"order/2\.0 is wrong: /payload/currency is missing") as failed:
        made.typed(event("order", '{"total":1}', "1.0"))
    assert "CANARY" not in str(failed.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"version": "1.0"}, "give one of them"),
        ({"version": "1.0", "type": "a", "source": "b"}, "give one of them"),
        ({"version": "1.0", "type": "order"}, "registered already"),
        ({"version": "4.0", "type": "order", "follows": "3.0"}, "needs both"),
        ({"version": "4.0", "type": "order", "upcast": dict}, "needs both"),
        ({"version": "4.0", "type": "order", "follows": "0.9", "upcast": dict}, "which is not registered"),
        ({"version": "4.0", "type": "order", "follows": "1.0", "upcast": dict}, "which has a follower already"),
    ],
)
def test_a_wrong_registration_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        orders().register(OrderV1, **arguments)


def test_a_refused_registration_leaves_no_trace() -> None:
    made = orders()
    with pytest.raises(ValueError, match="follower"):
        made.register(OrderV1, type="order", version="4.0", follows="1.0", upcast=dict)
    assert made.find(event("order", "{}", "4.0")) is None


@pytest.mark.parametrize(("kind", "example"), EXAMPLES)
def test_equal_payloads_get_equal_answers(kind: str, example: dict[str, Any]) -> None:
    exact = json.loads(json.dumps(example), parse_float=Decimal, parse_int=Decimal)

    @given(seeds)
    def check(random: Random) -> None:
        DEFAULT.check(event(kind, spell(exact, random)))

    check()


@given(values, seeds, seeds)
def test_equal_payloads_get_equal_refusals(value: Any, first: Random, second: Random) -> None:
    answers = []
    for random in (first, second):
        refused = refusal(transfer_with(value, random))
        answers.append((refused.message, refused.errors))
    assert answers[0] == answers[1]


def transfer_with(value: Any, random: Random) -> Event:
    return event("transfer_requested", spell({"amount": value, "currency": "KES", "reference": value}, random))


hostile = st.recursive(
    st.sampled_from(["CANARY7f3", "CANARY7f3" * 500, "", None, True, Decimal("-7.25e30"), Decimal(0)]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["CANARY7f3", "sku", "a/~b"]), inner, max_size=3)
    ),
    max_leaves=4,
)


@given(st.sampled_from(EXAMPLES), st.data(), seeds)
def test_no_refusal_holds_anything_of_the_payload(
    example: tuple[str, dict[str, Any]], data: st.DataObject, random: Random
) -> None:
    kind, members = example
    names = data.draw(st.lists(st.sampled_from([*members, "CANARY7f3"]), min_size=1))
    payload = {**json.loads(json.dumps(members), parse_float=Decimal, parse_int=Decimal)}
    payload.update({name: data.draw(hostile) for name in names})
    of = event(kind, spell(payload, random))
    try:
        DEFAULT.check(of)
    except Invalid:
        refused = refusal(of)
        assert "CANARY" not in f"{refused.message} {refused.pointer} {refused.errors}"
        assert "7.25" not in refused.message


def test_a_traceback_of_a_refusal_holds_nothing_of_the_payload() -> None:
    refused = refusal(transfer(reference="CANARY7f3" * 100, note="CANARY7f3"))
    assert len(refused.errors) == 2
    assert "CANARY" not in "".join(traceback.format_exception(refused))


def test_a_number_like_a_bomb_is_read_at_once() -> None:
    for text in ("0e999999999", "1e-999999999", "0.0e-999999999"):
        assert refusal(event("transfer_requested", _transfer_text(text))).pointer == "/payload/amount"
    DEFAULT.typed(event("fuel_level", '{"vehicle_id":"v","percent":0e999999999}'))
    DEFAULT.typed(event("fuel_level", '{"vehicle_id":"v","percent":1e-999999999}'))


@pytest.mark.parametrize("text", ["1.7976931348623157e308", "1" + "0" * 308, "-" + "9" * 308])
def test_the_largest_numbers_are_read(text: str) -> None:
    assert refusal(event("fuel_level", f'{{"vehicle_id":"v","percent":{text}}}')).pointer == "/payload/percent"
    assert refusal(event("heart_rate_reading", f'{{"patient_id":"p","bpm":{text}}}')).pointer == "/payload/bpm"


def test_any_pydantic_model_can_be_registered() -> None:
    class Loose(BaseModel):
        at: float
        tags: dict[str, int] = {}

    made = Registry()
    made.register(Loose, type="loose", version="1")
    assert made.typed(event("loose", '{"at":1.5,"more":1}', "1")) == Loose(at=1.5)
    refused = refusal(event("loose", '{"at":1.5,"tags":{"CANARY7f3":"x"}}', "1"), made)
    assert refused.pointer == "/payload/tags"


def test_exported_schemas_have_stable_names() -> None:
    made = Registry()
    made.register(OrderV1, type="a/b c%", version="1.0")
    made.register(OrderV1, source="https://shop.example/x", version="2")
    exported = made.export()
    assert list(exported) == [
        "tag:plutus,2026:schema/source/https%3A%2F%2Fshop.example%2Fx/2",
        "tag:plutus,2026:schema/type/a%2Fb%20c%25/1.0",
    ]
    for uri, schema in exported.items():
        assert (schema["$id"], schema["$schema"]) == (uri, "https://json-schema.org/draft/2020-12/schema")


def test_the_default_registry_holds_the_five_domains() -> None:
    assert len(DEFAULT.export()) == len(TYPES) == 19
    assert registry_module.default() is not DEFAULT


def test_it_tells_what_is_registered_and_what_typed_gives() -> None:
    made = orders()
    made.register(OrderV1, source="shop", version="7")
    assert made.registered() == [
        ("order", None, "1.0", OrderV3),
        ("order", None, "2.0", OrderV3),
        ("order", None, "3.0", OrderV3),
        (None, "shop", "7", OrderV1),
    ]
