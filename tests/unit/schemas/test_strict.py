"""A plain annotation in a payload model takes JSON's form of it, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from pydantic import AwareDatetime, BaseModel, Field, ValidationError, create_model

from schemas.event import parse_envelope
from schemas.payloads.base import Payload
from schemas.registry import Registry


class Colour(StrEnum):
    RED = "red"


class Point(Payload):
    at: tuple[float, Decimal]


class Shape(Payload):
    corners: tuple[Point, ...]


class Loose(BaseModel):
    count: int


def read(annotation: Any, text: str) -> Any:
    """What a payload's member of this type is, when the payload says `text`."""
    fields: dict[str, Any] = {"value": (annotation, ...)}
    registry = Registry()
    registry.register(create_model("Holder", __base__=Payload, **fields), type="holder", version="1")
    head = b'{"source":"s","schema_version":"1","idempotency_key":"k","type":"holder","payload":{"value":'
    typed: Any = registry.typed(parse_envelope(head + text.encode() + b"}}"))
    return typed.value


@pytest.mark.parametrize(
    ("annotation", "text", "value"),
    [
        (float, "1.5", 1.5),
        (float, "2", 2.0),
        (Annotated[float, Field(ge=0)], "0.1", 0.1),
        (float | None, "1.5", 1.5),
        (list[float], "[1, 2.5]", [1.0, 2.5]),
        (dict[str, float], '{"type": 1.5}', {"type": 1.5}),
        (int, "7.20e1", 72),
        (Decimal, "12345678901234567890.10", Decimal("12345678901234567890.10")),
        (Decimal, "100", Decimal(100)),
        (Decimal, '"-0.10"', Decimal("-0.1")),
        (Annotated[Decimal, Field(max_digits=4)], "12.50", Decimal("12.5")),
        (datetime, '"2026-11-23T10:00:00Z"', datetime(2026, 11, 23, 10, tzinfo=UTC)),
        (AwareDatetime, '"2026-11-23T10:00:00+01:00"', datetime(2026, 11, 23, 9, tzinfo=UTC)),
        (date, '"2026-11-23"', date(2026, 11, 23)),
        (date | None, "null", None),
        (time, '"10:30:00"', time(10, 30)),
        (timedelta, '"PT1M30S"', timedelta(seconds=90)),
        (UUID, '"843d5e91-1cfd-5cba-9297-323abc873570"', UUID("843d5e91-1cfd-5cba-9297-323abc873570")),
        (Colour, '"red"', Colour.RED),
        (tuple[int, ...], "[1, 2]", (1, 2)),
        (set[str], '["a"]', {"a"}),
        (frozenset[str], '["a", "a"]', frozenset({"a"})),
        (Literal["x", 1], "1", 1),
        (Shape, '{"corners": [{"at": [1.5, 2.50]}]}', Shape(corners=(Point(at=(1.5, Decimal("2.5"))),))),
        (Loose, '{"count": "7"}', Loose(count=7)),
        (Annotated[int | float, Field(union_mode="left_to_right")], "1.5", 1.5),
    ],
)
def test_takes(annotation: Any, text: str, value: Any) -> None:
    found = read(annotation, text)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        *[(float, text) for text in ('"1.5"', "true", "null", "[]")],
        *[
            (Decimal, text)
            for text in ("true", '""', '"1e3"', '"NaN"', '"Infinity"', '" 1"', '"1,5"', '"01"', '"٣"', "null")
        ],
        *[(int, text) for text in ("1.5", '"1"', "true")],
        *[(str, text) for text in ("1", "null", '["a"]')],
        *[(bool, text) for text in ("1", '"true"', "0")],
        *[(datetime, text) for text in ("1767225600", '"2026-11-23"', '"2026-11-23T10:00:00"', '"1767225600"', "null")],
        *[
            (date, text)
            for text in ("1767225600", '"2026-11-23T00:00:00Z"', '"20261123"', '"2026-W01-1"', '"2026-02-30"')
        ],
        *[(UUID, text) for text in ("1", '"x"')],
        *[(Colour, text) for text in ("1", '"RED"', '"blue"')],
        *[(tuple[int, ...], text) for text in ('"12"', '{"a":1}', "[true]")],
        (Shape, '{"corners": [{"at": ["1.5", 2]}]}'),
        (Shape, '{"corners": [{"at": [1.5, 2], "more": 1}]}'),
    ],
)
def test_refuses(annotation: Any, text: str) -> None:
    with pytest.raises(Exception, match=r"^/payload/value"):
        read(annotation, text)


def test_a_payload_is_frozen_and_can_be_made_in_python() -> None:
    point = Point(at=(1.5, Decimal(1)))
    with pytest.raises(ValidationError):
        point.at = (2.0, Decimal(2))  # type: ignore[misc]
    assert hash(point) == hash(Point(at=(1.5, Decimal(1))))


def test_a_payload_may_contain_itself() -> None:
    class Tree(Payload):
        weight: float
        children: tuple[Tree, ...] = ()

    tree = Tree.model_validate({"weight": Decimal("1.5"), "children": [{"weight": 2}]})
    assert tree.children[0].weight == 2.0


def test_the_json_schema_is_that_of_the_annotations() -> None:
    def schema(base: type[BaseModel]) -> Mapping[str, Any]:
        fields: dict[str, Any] = {
            "a": (Annotated[float, Field(ge=0)], ...),
            "b": (datetime, ...),
            "c": (tuple[int, ...], ()),
        }
        shown: Mapping[str, Any] = create_model("Holder", __base__=base, **fields).model_json_schema()["properties"]
        return shown

    assert schema(Payload) == schema(BaseModel)
