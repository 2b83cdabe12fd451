"""May this JSON Schema take the place of that one, under the same version?

It may if every payload that the old schema accepts is accepted by the new one and means the same. That is what senders
who were told a version rely on, and what keeps a replayed event readable. What is new must therefore be optional, and
what is narrower needs a new version with an upcast. A wider schema passes; roll it out to the workers before the gateways,
or a worker of the old release refuses what a new gateway took in.

The check is on the safe side: a keyword it does not know must not change at all.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

Schema = Mapping[str, Any]

_ANNOTATIONS = frozenset({"title", "description", "examples", "deprecated", "$comment", "$schema", "$id", "$defs"})
_LOWER_BOUNDS = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_UPPER_BOUNDS = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
_MAY_GO = frozenset({"pattern", "format", "multipleOf", "uniqueItems"})
_OWN_RULES = frozenset(
    {*_LOWER_BOUNDS, *_UPPER_BOUNDS, "type", "enum", "const", "default"}
    | {"properties", "required", "additionalProperties", "items", "anyOf", "oneOf"}
)
_TYPES = ("array", "boolean", "integer", "null", "number", "object", "string")


class Break(NamedTuple):
    """One breaking change: where in the schema (JSON Pointer) and what."""

    pointer: str
    change: str


def breaks_between(old: Mapping[str, Schema], new: Mapping[str, Schema]) -> list[Break]:
    """Breaking changes between two exports (`Registry.export`): of each schema by its `$id`, and removed ones."""
    found = [Break(uri, "the schema was removed") for uri in old if uri not in new]
    for uri in old.keys() & new.keys():
        found += [Break(f"{uri}#{each.pointer}", each.change) for each in breaks(old[uri], new[uri])]
    return sorted(found)


def breaks(old: Schema, new: Schema) -> list[Break]:
    """Every reason why `new` may not take the place of `old`; none if it may."""
    return sorted(set(_Comparison(old, new).of(old, new, "")))


class _Comparison:
    """The two documents that references point into, and the pairs on the way, for models that contain themselves."""

    def __init__(self, old: Schema, new: Schema) -> None:
        self._old, self._new = old, new
        self._open: set[tuple[str, str]] = set()

    def of(self, old: Any, new: Any, at: str) -> Iterator[Break]:
        pair = (_reference(old), _reference(new))
        if all(pair):
            if pair in self._open:
                return
            self._open.add(pair)
        old, new = _resolve(old, self._old), _resolve(new, self._new)
        if "default" in old and old["default"] != new.get("default"):
            yield Break(at, "default changed: the same payload means something else")
        old, new = _without(old, "default"), _without(new, "default")
        if "anyOf" in old or "anyOf" in new:
            yield from self._branches(old, new, at)
        else:
            for rule in (_types, _values, _bounds, self._others, self._objects, self._items):
                yield from rule(old, new, at)
        self._open.discard(pair)

    def _branches(self, old: Schema, new: Schema, at: str) -> Iterator[Break]:
        """Each branch of the old must fit some branch of the new."""
        rest_old, rest_new = _without(old, "anyOf"), _without(new, "anyOf")
        if "anyOf" in old and "anyOf" in new:
            yield from self.of(rest_old, rest_new, at)
            rest_old = {}
        elif "anyOf" in new:
            yield from self.of(rest_old, rest_new, at)
        for turn, branch in enumerate(old.get("anyOf", [rest_old])):
            tries = [list(self.of(branch, option, at)) for option in new.get("anyOf", [rest_new])]
            if all(tries):
                yield tries[0][0] if len(tries) == 1 else Break(at, f"alternative {turn + 1} was removed")

    def _objects(self, old: Schema, new: Schema, at: str) -> Iterator[Break]:
        before, after = old.get("properties", {}), new.get("properties", {})
        for name in sorted(set(new.get("required", ())) - set(old.get("required", ()))):
            yield Break(f"{at}/{_token(name)}", "became required")
        for name in sorted(before):
            if name in after:
                yield from self.of(before[name], after[name], f"{at}/{_token(name)}")
            elif new.get("additionalProperties", True) is not True:
                yield Break(f"{at}/{_token(name)}", "was removed, and unknown members are refused")
        yield from self._unknown_members(old, new, at)

    def _unknown_members(self, old: Schema, new: Schema, at: str) -> Iterator[Break]:
        before, after = old.get("additionalProperties", True), new.get("additionalProperties", True)
        if before is False:
            return
        for name in sorted(new.get("properties", {}).keys() - old.get("properties", {}).keys()):
            yield Break(f"{at}/{_token(name)}", "got a rule, and could hold anything before")
        if after is False:
            yield Break(at, "unknown members became refused")
        elif isinstance(after, Mapping):
            yield from self.of({} if before is True else before, after, f"{at}/*")

    def _others(self, old: Schema, new: Schema, at: str) -> Iterator[Break]:
        """Keywords without a rule of their own: some may go, else nothing may change."""
        same_definitions = self._old.get("$defs") == self._new.get("$defs")
        for keyword in sorted((old.keys() | new.keys()) - _ANNOTATIONS - _OWN_RULES):
            if keyword not in new and keyword in _MAY_GO:
                continue
            refers = not same_definitions and "'$ref'" in repr(old.get(keyword))
            if refers or _text(old.get(keyword)) != _text(new.get(keyword)):
                yield Break(at, f"{keyword} changed")

    def _items(self, old: Schema, new: Schema, at: str) -> Iterator[Break]:
        if "items" in new:
            yield from self.of(old.get("items", {}), new["items"], f"{at}/*")


def _types(old: Schema, new: Schema, at: str) -> Iterator[Break]:
    for name in sorted(_type_set(old) - _type_set(new)):
        if not (name == "integer" and "number" in _type_set(new)):
            yield Break(at, f"the type {name} became refused")


def _values(old: Schema, new: Schema, at: str) -> Iterator[Break]:
    allowed = _value_list(new)
    if allowed is None:
        return
    before = _value_list(old)
    if before is None:
        yield Break(at, "became a fixed list of values")
    elif not {_text(value) for value in before} <= {_text(value) for value in allowed}:
        yield Break(at, "a value was removed from the list of values")


def _bounds(old: Schema, new: Schema, at: str) -> Iterator[Break]:
    for keyword in _LOWER_BOUNDS:
        if keyword in new and not _at_least_as_narrow(old, keyword, new[keyword], 1):
            yield Break(at, f"{keyword} became narrower")
    for keyword in _UPPER_BOUNDS:
        if keyword in new and not _at_least_as_narrow(old, keyword, new[keyword], -1):
            yield Break(at, f"{keyword} became narrower")


def _at_least_as_narrow(old: Schema, keyword: str, bound: float, sign: int) -> bool:
    """Did the old schema keep this bound already, by the keyword itself or by its inclusive or exclusive twin?"""
    if keyword in old and float(old[keyword]) * sign >= bound * sign:
        return True
    exclusive = keyword.startswith("exclusive")
    twin = keyword[9].lower() + keyword[10:] if exclusive else "exclusive" + keyword[0].upper() + keyword[1:]
    if twin not in old:
        return False
    distance = (float(old[twin]) - bound) * sign
    return distance > 0 if exclusive else distance >= 0


def _type_set(schema: Schema) -> set[str]:
    declared = schema.get("type", _TYPES)
    return {declared} if isinstance(declared, str) else set(declared)


def _value_list(schema: Schema) -> list[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    values: list[Any] | None = schema.get("enum")
    return values


def _reference(schema: Any) -> str:
    return str(schema.get("$ref", "")) if isinstance(schema, Mapping) else ""


def _resolve(schema: Any, document: Schema) -> Schema:
    """The schema itself: references into `$defs` followed, their siblings kept; `true` is the empty schema; `oneOf`, which
    pydantic writes where a discriminator keeps the branches apart, is read as `anyOf`."""
    if schema is True:
        return {}
    if schema is False:
        return {"enum": []}
    while "$ref" in schema:
        target = document["$defs"][schema["$ref"].removeprefix("#/$defs/")]
        schema = {**target, **_without(schema, "$ref")}
    if "oneOf" in schema:
        schema = {**_without(schema, "oneOf"), "anyOf": schema["oneOf"]}
    result: Schema = schema
    return result


def _without(schema: Schema, keyword: str) -> Schema:
    return {key: value for key, value in schema.items() if key != keyword}


def _text(value: Any) -> str:
    """JSON text, because Python takes 1 and True for equal."""
    return json.dumps(value, sort_keys=True)


def _token(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
