"""The words for a broken payload schema: pydantic's errors as pointers and fixed sentences.

A sentence names the rule and what the schema says, never what the sender sent; a pointer names only members that the
schema knows, and stops before the first that it does not, because a member's name is input too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from schemas.errors import FieldError
from schemas.payloads.strict import RULE

MOST_ERRORS = 100
"""How many broken rules are reported of one payload: a hostile one breaks thousands."""

_OBJECT = "must be an object"
_ARRAY = "must be an array"
_MOMENT = "must be an RFC 3339 date and time with a zone"
_DAY = "must be a date as YYYY-MM-DD"
_NUMBER = "must be a number"
_OTHER = "breaks a rule of its schema"

_SENTENCES: Mapping[str, str] = {
    "missing": "is missing",
    "extra_forbidden": "has a member that its schema does not know",
    "none_required": "must be null",
    "string_type": "must be a string",
    "string_too_short": "must be no shorter than {min_length} in characters",
    "string_too_long": "must be no longer than {max_length} in characters",
    "string_pattern_mismatch": "must match the pattern {pattern}",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
    "float_type": _NUMBER,
    "finite_number": "must be a finite number",
    "decimal_type": "must be a number, or a string that holds one",
    "decimal_parsing": "must be a number, or a string that holds one",
    "decimal_max_digits": "must have no more than {max_digits} digits",
    "decimal_max_places": "must have no more than {decimal_places} decimal places",
    "decimal_whole_digits": "must have no more than {whole_digits} digits before the decimal point",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "multiple_of": "must be a multiple of {multiple_of}",
    "too_short": "must have no fewer than {min_length} items",
    "too_long": "must have no more than {max_length} items",
    "model_type": _OBJECT,
    "model_attributes_type": _OBJECT,
    "dataclass_type": _OBJECT,
    "dict_type": _OBJECT,
    "list_type": _ARRAY,
    "tuple_type": _ARRAY,
    "set_type": _ARRAY,
    "frozen_set_type": _ARRAY,
    "datetime_type": _MOMENT,
    "datetime_parsing": _MOMENT,
    "timezone_aware": _MOMENT,
    "date_type": _DAY,
    "date_parsing": _DAY,
    "uuid_type": "must be a UUID",
    "uuid_parsing": "must be a UUID",
    "url_type": "must be a URL",
    "url_parsing": "must be a URL",
    "union_tag_invalid": "must have a discriminator that its schema knows",
    "union_tag_not_found": "must have a discriminator",
}
"""By pydantic's error type. What is filled in comes from the schema; an error type not listed gets `_OTHER`."""


def broken_rules(error: ValidationError, names: frozenset[str], *, under: str = "/payload") -> tuple[FieldError, ...]:
    """Every broken rule of a payload, at most `MOST_ERRORS`, in the schema's order.

    Args:
        error: what pydantic raised.
        names: the member names that the schema knows (`member_names`).
        under: the pointer of the payload.
    """
    found = error.errors(include_url=False, include_input=False)
    places = {place for each in found for place in _prefixes(each["loc"])}
    told: dict[FieldError, None] = {}
    for each in found:
        if each["type"] in {"too_short", "too_long"} and each["loc"] in places:
            continue  # pydantic counts valid items only: the items' own errors say it all
        told[FieldError(under + _pointer(each["type"], each["loc"], names), _sentence(each))] = None
    return tuple(told)[:MOST_ERRORS]


def member_names(schema: Any) -> frozenset[str]:
    """Every property name anywhere in a JSON Schema."""
    return frozenset(_names(schema))


def _names(schema: Any) -> Iterator[str]:
    if isinstance(schema, list):
        for part in schema:
            yield from _names(part)
    elif isinstance(schema, dict):
        properties = schema.get("properties")
        if isinstance(properties, dict):
            yield from properties
        for part in schema.values():
            yield from _names(part)


def _prefixes(place: tuple[int | str, ...]) -> Iterator[tuple[int | str, ...]]:
    return (place[:length] for length in range(len(place)))


def _pointer(kind: str, place: tuple[int | str, ...], names: frozenset[str]) -> str:
    """RFC 6901. `place` also holds pydantic's own marks (a union's branch, a key's turn): those end it as well."""
    tokens: list[str] = []
    for part in place[:-1] if kind == "extra_forbidden" else place:
        if isinstance(part, str) and part not in names:
            break
        tokens.append(str(part).replace("~", "~0").replace("/", "~1"))
    return "".join(f"/{token}" for token in tokens)


def _sentence(error: Mapping[str, Any]) -> str:
    if error["type"] == RULE:
        return str(error["msg"])
    try:
        return _SENTENCES.get(error["type"], _OTHER).format_map(error.get("ctx", {}))
    except KeyError:  # a model's own error that borrows one of pydantic's names
        return _OTHER
