"""Which handler an event finds, and what may be registered."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from schemas.errors import Invalid, Permanent
from schemas.event import Event, parse_envelope
from schemas.payloads.base import Payload
from schemas.registry import Registry as SchemaRegistry
from stream_worker import handlers
from stream_worker.handlers import Handler, Registry
from tests.worker_kit import envelope


async def one(event: Event, tx: Any) -> None:
    """A handler of one event."""


async def other(event: Event, tx: Any) -> None:
    """Another."""


async def many(events: Sequence[Event], tx: Any) -> None:
    """A handler of many."""


def event(source: str = "shop", payload: Any = None, **members: Any) -> Event:
    return parse_envelope(envelope("k", payload, source=source, **members))


def found(registry: Registry, source: str, type: str | None) -> str | None:
    handler = registry.find(event(source, **({} if type is None else {"type": type})))
    return handler.name if handler else None


@pytest.mark.parametrize(
    ("source", "type", "name"),
    [
        ("shop", "paid", "exact"),
        ("kiosk", "paid", "by_type"),
        ("shop", "clicked", "by_source"),
        ("shop", None, "by_source"),
        ("kiosk", "clicked", None),
        ("kiosk", None, None),
    ],
)
def test_the_more_exact_match_wins(source: str, type: str | None, name: str | None) -> None:
    registry = Registry()
    registry.handler(source="shop", name="by_source")(one)
    registry.handler(type="paid", name="by_type")(one)
    registry.handler(source="shop", type="paid", name="exact")(one)
    assert found(registry, source, type) == name


VERSIONS: list[dict[str, Any]] = [
    {"type": "paid"},
    {"type": "paid", "version": ">=2,<3"},
    {"type": "paid", "version": "2.1"},
    {"type": "paid", "version": ">=3"},
    {"source": "kiosk", "type": "paid", "version": "<2"},
    {"source": "kiosk"},
]


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(
    ("source", "type", "version", "match"),
    [
        ("shop", "paid", "1.0", 0),
        ("shop", "paid", "weird", 0),
        ("shop", "paid", "2", 1),
        ("shop", "paid", "2.10", 1),
        ("shop", "paid", "2.1.0", 2),
        ("shop", "paid", "3", 3),
        ("kiosk", "paid", "1.9", 4),
        ("kiosk", "paid", "2.1", 2),
        ("kiosk", "paid", "weird", 0),
        ("kiosk", "clicked", "1.0", 5),
        ("kiosk", None, "9", 5),
        ("shop", "clicked", "1.0", None),
    ],
)
def test_one_version_before_a_range_before_every_version(
    order: int, source: str, type: str | None, version: str, match: int | None
) -> None:
    registry = Registry()
    for number, each in list(enumerate(VERSIONS))[::order]:
        registry.handler(**each, name=f"h{number}")(one)
    sent = event(source, schema_version=version, **({} if type is None else {"type": type}))
    for _ in range(2):  # looked for, then remembered
        handler = registry.find(sent)
        assert (handler and handler.name) == (None if match is None else f"h{match}")


def test_what_is_remembered_is_forgotten_when_a_handler_is_added() -> None:
    registry = Registry()
    assert registry.find(event(type="paid")) is None
    registry.handler(type="paid")(one)
    assert registry.find(event(type="paid")) is not None


def test_what_senders_make_up_does_not_fill_the_memory() -> None:
    registry = Registry()
    registry.handler(type="paid")(one)
    for number in range(5000):
        registry.find(event(f"s{number}", type=f"t{number}", schema_version="1.0"))
    assert len(registry._found) == 1
    for number in range(5000):
        registry.find(event(type="paid", schema_version=f"1.{number}"))
    assert len(registry._found) <= 1024


@pytest.mark.parametrize(
    ("first", "second"),
    [("1.0", "1"), (">=1", ">=2,<3"), (">=1,<3", ">2"), ("<=2", ">=2"), (None, None), ("v1", "v1")],
)
def test_two_handlers_that_are_equally_exact_are_refused(first: str | None, second: str | None) -> None:
    registry = Registry()
    registry.handler(type="paid", version=first)(one)
    registry.handler(type="refunded", version=second)(other)
    registry.handler(source="shop", type="paid", version=second)(other)
    with pytest.raises(ValueError, match=r"Two handlers match .*: one and other"):
        registry.handler(type="paid", version=second)(other)
    assert len(registry.registrations) == 3


@pytest.mark.parametrize("seconds", [0, -1.5, float("nan")])
def test_a_deadline_that_is_none_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="above zero"):
        Registry().handler(type="paid", timeout=seconds)


def test_handlers_that_ask_for_more_time_than_there_is_are_named() -> None:
    registry = Registry()
    registry.handler(type="a", timeout=18.5, name="slow")(one)
    registry.handler(type="b", timeout=18, name="just")(one)
    registry.handler(type="c")(other)
    assert registry.slower_than(18) == ["slow"]


def test_an_empty_registry_finds_nothing() -> None:
    assert Registry().find(event(type="paid")) is None


def test_it_is_named_after_its_function_and_the_decorator_returns_the_function() -> None:
    registry = Registry()
    assert registry.handler(type="paid")(one) is one
    assert registry.handler(type="refunded", batch=True, timeout=2.5)(many) is many
    assert registry.find(event(type="paid")) == Handler("one", one)
    assert registry.find(event(type="refunded")) == Handler("many", many, batch=True, timeout=2.5)
    assert registry.names() == ["many", "one"]


def test_a_function_registered_for_several_types_is_one_handler() -> None:
    registry = Registry()
    registry.handler(type="paid", batch=True)(registry.handler(type="refunded", batch=True)(many))
    assert registry.find(event(type="paid")) == registry.find(event(type="refunded"))
    assert registry.names() == ["many"]


def test_a_handler_that_matches_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a type, a source, or both"):
        Registry().handler()


def test_two_handlers_for_the_same_match_are_refused() -> None:
    registry = Registry()
    registry.handler(type="paid")(one)
    with pytest.raises(ValueError, match="Two handlers match source=None, type='paid'"):
        registry.handler(type="paid")(other)


async def test_it_is_called_with_one_event_or_with_all() -> None:
    calls: list[Any] = []

    async def note(given: Any, tx: Any) -> None:
        calls.append(given)

    events = [event(type="a"), event(type="b")]
    await Handler("note", note).invoke(events[:1], None)  # type: ignore[arg-type]
    await Handler("note", note, batch=True).invoke(events, None)  # type: ignore[arg-type]
    assert calls == [events[0], events]


class OrderV1(Payload):
    total: int


class OrderV2(Payload):
    total: int
    currency: str


def orders() -> Registry:
    schemas = SchemaRegistry()
    schemas.register(OrderV1, type="order", version="1.0")
    schemas.register(OrderV2, type="order", version="2.0", follows="1.0", upcast=lambda old: {**old, "currency": "KES"})
    schemas.register(OrderV1, type="other", version="1.0")
    return Registry(schemas=schemas)


async def test_a_payload_comes_as_its_newest_model() -> None:
    registry = orders()
    given: list[BaseModel] = []

    @registry.handler(type="order")
    async def take(event: Event, tx: Any, payload: OrderV2) -> None:
        given.append(payload)

    @registry.handler(type="order", source="bulk", batch=True)
    async def take_all(events: Sequence[Event], tx: Any, payloads: Sequence[OrderV2]) -> None:
        given.extend(payloads)

    for sent in (event(type="order", payload={"total": 1}), event("bulk", type="order", payload={"total": 2})):
        handler = registry.find(sent)
        assert handler is not None
        await handler.invoke([sent], None)  # type: ignore[arg-type]
    assert given == [OrderV2(total=1, currency="KES"), OrderV2(total=2, currency="KES")]


@pytest.mark.parametrize(
    ("members", "error", "reason"),
    [
        ({"type": "order", "payload": {"total": "1"}}, Invalid, "schema_invalid"),
        ({"type": "order", "payload": {"total": 1}, "schema_version": "7"}, Invalid, "schema_unknown"),
        ({"type": "other", "payload": {"total": 1}}, Permanent, "is a OrderV1, which the handler take does not take"),
    ],
)
async def test_a_payload_that_does_not_fit_is_refused(
    members: dict[str, Any], error: type[Exception], reason: str
) -> None:
    registry = orders()

    @registry.handler(type="order")
    @registry.handler(type="other")
    async def take(event: Event, tx: Any, payload: OrderV2) -> None:
        raise AssertionError("not reached")

    sent = event(**members)
    handler = registry.find(sent)
    assert handler is not None
    with pytest.raises(error) as refused:
        await handler.invoke([sent], None)  # type: ignore[arg-type]
    assert reason in (str(refused.value), getattr(refused.value, "reason", "")) or reason in str(refused.value)


async def test_hooks_are_kept_in_order() -> None:
    registry = Registry()

    async def first(tx: Any) -> None: ...

    async def second(tx: Any) -> None: ...

    assert registry.on_start(first) is first
    registry.on_start(second)
    assert registry.hooks == [first, second]


def test_modules_are_imported_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handlers, "REGISTRY", Registry())
    monkeypatch.setattr(handlers, "handler", handlers.REGISTRY.handler)
    for name in ("plutus_test_a", "plutus_test_b"):
        source = f"from stream_worker.handlers import handler\n@handler(type={name!r})\nasync def {name}(e, tx): ..."
        (tmp_path / f"{name}.py").write_text(source)
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    assert handlers.load(" plutus_test_a, ,plutus_test_b").names() == ["plutus_test_a", "plutus_test_b"]
    assert handlers.load("").names() == ["plutus_test_a", "plutus_test_b"]


def test_a_module_that_is_not_there_is_named() -> None:
    with pytest.raises(ImportError, match="no_such_handlers"):
        handlers.load("no_such_handlers")
