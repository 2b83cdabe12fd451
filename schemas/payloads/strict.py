"""Strict for JSON: what makes a plain annotation mean in a payload model what its author expects.

A payload reaches a model decoded, because pydantic's own JSON reader rounds numbers (`schemas.registry`). pydantic in
strict mode would then refuse a text for a `datetime` and an array for a `tuple`, for in Python those are other types. JSON
has no such types, so here each takes its one JSON form and nothing else:

    float, Decimal   a number; Decimal also a text that holds one, as payment interfaces send it to be safe from floats
    datetime         an RFC 3339 text with a zone, by the rule of the envelope's `occurred_at`
    date             an RFC 3339 full-date
    tuple, set, Enum, UUID, ...   the array, the value, the text

`closed_over_json` rewrites the model's core schema once, when the class is made.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Any, LiteralString, cast

from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from schemas.event import instant

RULE = "plutus_rule"
"""The error type whose message `schemas.rules` passes on as it is."""
_DECIMAL = re.compile(r"-?(?:0|[1-9][0-9]{0,39})(?:\.[0-9]{1,39})?")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def broken_rule(sentence: LiteralString) -> PydanticCustomError:
    """The error to raise in a validator: what the member must be, as "must ...".

    Args:
        sentence: fixed text; never format input into it, it reaches answers and logs.
    """
    return PydanticCustomError(RULE, sentence)


def closed_over_json(schema: CoreSchema, owner: type, resolve: Callable[[CoreSchema], CoreSchema]) -> CoreSchema:
    """The core schema of a model that takes JSON's forms, strictly.

    Args:
        schema: what pydantic made of the annotations.
        owner: the model; nested models, dataclasses and typed dictionaries keep their own rules.
        resolve: gives what a reference stands for (`GetCoreSchemaHandler.resolve_ref_schema`).
    """

    def rewritten(node: Any) -> Any:
        if isinstance(node, list | tuple):
            return type(node)(rewritten(each) for each in node)
        if not isinstance(node, dict):
            return node
        if node.get("type") == "definition-ref":
            target = resolve(cast(CoreSchema, node))
            return (
                _leaf({key: each for key, each in target.items() if key != "ref"}) if target["type"] == "enum" else node
            )
        if node.get("type") == "model" and node["cls"] is not owner:
            return node
        return _leaf({key: each if key in _OPAQUE else rewritten(each) for key, each in node.items()})

    return cast(CoreSchema, rewritten(schema))


def _leaf(inner: dict[str, Any]) -> Any:
    kind = inner.get("type")
    if isinstance(kind, str) and kind in _READ:
        return core_schema.no_info_before_validator_function(_READ[kind], cast(CoreSchema, inner))
    if isinstance(kind, str) and kind in _LENIENT:
        return {**inner, "strict": False}
    return inner


def _float(value: object) -> object:
    return float(value) if isinstance(value, Decimal | int) and not isinstance(value, bool) else value


def _decimal(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool):
        return Decimal(value)
    return Decimal(value) if isinstance(value, str) and _DECIMAL.fullmatch(value) else value


def _datetime(value: object) -> object:
    if isinstance(value, datetime):
        return value
    try:
        return instant(value)
    except ValueError:
        raise broken_rule("must be an RFC 3339 date and time with a zone") from None


def _date(value: object) -> object:
    if isinstance(value, date):
        return value
    try:
        return date.fromisoformat(value) if isinstance(value, str) and _DATE.fullmatch(value) else value
    except ValueError:
        return value


_READ: Mapping[str, Callable[[Any], Any]] = {"float": _float, "decimal": _decimal, "datetime": _datetime, "date": _date}
_LENIENT = frozenset({"tuple", "set", "frozenset", "enum", "uuid", "time", "timedelta", "bytes", "lax-or-strict"})
_OPAQUE = frozenset({"metadata", "serialization", "default", "expected", "cls", "config"})
"""Keys of a core schema that hold no schema."""
