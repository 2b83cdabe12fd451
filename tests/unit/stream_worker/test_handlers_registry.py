"""Which handler an event finds, and what may be registered."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from schemas.event import Event, parse_envelope
from stream_worker import handlers
from stream_worker.handlers import Handler, Registry
from tests.worker_kit import envelope


async def one(event: Event, tx: Any) -> None:
    """A handler of one event."""


async def other(event: Event, tx: Any) -> None:
    """Another."""


async def many(events: Sequence[Event], tx: Any) -> None:
    """A handler of many."""


def event(source: str = "shop", **members: Any) -> Event:
    return parse_envelope(envelope("k", {}, source=source, **members))


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
