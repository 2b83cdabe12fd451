"""A plain reading of JSON Schema 2020-12, as far as the exported schemas use it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

_TYPES: Mapping[str, Callable[[Any], bool]] = {
    "null": lambda value: value is None,
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: _is_number(value) and value % 1 == 0,
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "string": lambda value: isinstance(value, str),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
}
_ANNOTATIONS = {"$schema", "$id", "$defs", "title", "description", "examples", "default", "format"}


def accepts(schema: Any, value: Any, document: Any = None) -> bool:
    """Does `value` fit `schema`? `document` is what references point into, the schema itself by default."""
    document = schema if document is None else document
    if isinstance(schema, bool):
        return schema
    return all(_fits(keyword, schema, value, document) for keyword in schema if keyword not in _ANNOTATIONS)


def _fits(keyword: str, schema: Mapping[str, Any], value: Any, document: Any) -> bool:
    rule = schema[keyword]
    if keyword in _STRUCTURAL:
        return _STRUCTURAL[keyword](schema, value, document)
    if keyword in _SIMPLE:
        concerns, fits = _SIMPLE[keyword]
        return not concerns(value) or bool(fits(value, rule))
    raise NotImplementedError(f"this reading does not know {keyword}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _same(one: Any, other: Any) -> bool:
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _is(kind: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kind)


def _anything(value: Any) -> bool:
    return True


_SIMPLE: Mapping[str, tuple[Callable[[Any], bool], Callable[[Any, Any], Any]]] = {
    "type": (
        _anything,
        lambda value, rule: any(_TYPES[each](value) for each in ([rule] if isinstance(rule, str) else rule)),
    ),
    "enum": (_anything, lambda value, rule: any(_same(value, each) for each in rule)),
    "const": (_anything, lambda value, rule: any(_same(value, each) for each in [rule])),
    "minimum": (_is_number, lambda value, rule: value >= rule),
    "maximum": (_is_number, lambda value, rule: value <= rule),
    "exclusiveMinimum": (_is_number, lambda value, rule: value > rule),
    "exclusiveMaximum": (_is_number, lambda value, rule: value < rule),
    "minLength": (_is(str), lambda value, rule: len(value) >= rule),
    "maxLength": (_is(str), lambda value, rule: len(value) <= rule),
    "pattern": (_is(str), lambda value, rule: re.search(rule.replace("$", r"\Z"), value)),
    "minItems": (_is(list), lambda value, rule: len(value) >= rule),
    "maxItems": (_is(list), lambda value, rule: len(value) <= rule),
    "required": (_is(dict), lambda value, rule: set(rule) <= value.keys()),
}


def _properties(schema: Mapping[str, Any], value: Any, document: Any) -> bool:
    known = schema["properties"]
    return not isinstance(value, dict) or all(
        accepts(known[name], value[name], document) for name in known.keys() & value
    )


def _additional(schema: Mapping[str, Any], value: Any, document: Any) -> bool:
    if not isinstance(value, dict):
        return True
    unknown = value.keys() - schema.get("properties", {}).keys()
    return all(accepts(schema["additionalProperties"], value[name], document) for name in unknown)


_STRUCTURAL: Mapping[str, Callable[[Mapping[str, Any], Any, Any], bool]] = {
    "properties": _properties,
    "additionalProperties": _additional,
    "items": lambda schema, value, document: (
        not isinstance(value, list) or all(accepts(schema["items"], each, document) for each in value)
    ),
    "anyOf": lambda schema, value, document: any(accepts(each, value, document) for each in schema["anyOf"]),
    "oneOf": lambda schema, value, document: sum(accepts(each, value, document) for each in schema["oneOf"]) == 1,
    "$ref": lambda schema, value, document: accepts(
        document["$defs"][schema["$ref"].removeprefix("#/$defs/")], value, document
    ),
}
