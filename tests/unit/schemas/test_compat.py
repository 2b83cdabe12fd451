"""The compatibility check: what it lets pass, no payload can tell from the old schema."""

from __future__ import annotations

import copy
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, create_model

from schemas.compat import Break, breaks, breaks_between
from schemas.registry import Registry
from tests.unit.schemas.json_schema import accepts


class Base(BaseModel):
    model_config = ConfigDict(extra="forbid")


def schema_of(**fields: Any) -> dict[str, Any]:
    """The JSON Schema of a closed model with these fields: a type, or (type, default)."""
    shaped: dict[str, Any] = {name: each if isinstance(each, tuple) else (each, ...) for name, each in fields.items()}
    return create_model("Payload", __base__=Base, **shaped).model_json_schema()


class Leaf(Base):
    name: str


class Tight(Base):
    name: Annotated[str, Field(max_length=3)]


OLD: dict[str, Any] = {"a": int, "b": (str | None, None)}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (OLD, OLD),
        (OLD, {**OLD, "c": (int, 0)}),
        (OLD, {"b": (str | None, None), "a": int}),
        ({"a": int}, {"a": (int, 1)}),
        ({"a": int}, {"a": float}),
        ({"a": int}, {"a": int | None}),
        ({"a": int}, {"a": int | str}),
        ({"a": str | int}, {"a": int | bool | str}),
        ({"a": Literal["x"]}, {"a": Literal["x", "y"]}),
        ({"a": Literal["x"]}, {"a": str}),
        ({"a": Annotated[int, Field(ge=1, le=9)]}, {"a": Annotated[int, Field(ge=0, le=10)]}),
        ({"a": Annotated[float, Field(gt=0, lt=9)]}, {"a": Annotated[float, Field(ge=0, le=9)]}),
        ({"a": Annotated[float, Field(ge=1)]}, {"a": Annotated[float, Field(gt=0)]}),
        (
            {"a": Annotated[str, Field(min_length=2, max_length=3, pattern="^x")]},
            {"a": Annotated[str, Field(max_length=4)]},
        ),
        ({"a": list[int]}, {"a": list[int | None]}),
        ({"a": Annotated[list[int], Field(min_length=1)]}, {"a": list[int]}),
        ({"a": dict[str, int]}, {"a": dict[str, float]}),
        ({"a": Tight}, {"a": Leaf}),
        ({"a": (str, "x")}, {"a": (str | None, "x")}),
        ({"a": list[Tight] | None}, {"a": list[Leaf] | None}),
    ],
)
def test_what_widens_may_keep_its_version(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert breaks(schema_of(**old), schema_of(**new)) == []


@pytest.mark.parametrize(
    ("old", "new", "where", "what"),
    [
        (OLD, {**OLD, "c": int}, "/c", "became required"),
        (OLD, {"a": int}, "/b", "was removed"),
        (OLD, {"a": int, "bee": (str | None, None)}, "/b", "was removed"),
        (OLD, {"a": int, "b": (str | None)}, "/b", "became required"),
        ({"a": int}, {"a": str}, "/a", "the type integer became refused"),
        ({"a": float}, {"a": int}, "/a", "the type number became refused"),
        ({"a": int | None}, {"a": int}, "/a", "the type null became refused"),
        ({"a": int | str | None}, {"a": int | None}, "/a", "alternative 2 was removed"),
        ({"a": str}, {"a": Literal["x"]}, "/a", "became a fixed list of values"),
        ({"a": Literal["x", "y"]}, {"a": Literal["x"]}, "/a", "a value was removed"),
        ({"a": int}, {"a": Annotated[int, Field(ge=0)]}, "/a", "minimum became narrower"),
        ({"a": Annotated[int, Field(le=9)]}, {"a": Annotated[int, Field(le=8)]}, "/a", "maximum became narrower"),
        (
            {"a": Annotated[float, Field(ge=0)]},
            {"a": Annotated[float, Field(gt=0)]},
            "/a",
            "exclusiveMinimum became narrower",
        ),
        ({"a": str}, {"a": Annotated[str, Field(max_length=9)]}, "/a", "maxLength became narrower"),
        ({"a": str}, {"a": Annotated[str, Field(pattern="^x")]}, "/a", "pattern changed"),
        ({"a": list[int]}, {"a": list[str]}, "/a/*", "the type integer became refused"),
        ({"a": list[int]}, {"a": Annotated[list[int], Field(max_length=5)]}, "/a", "maxItems became narrower"),
        ({"a": dict[str, float]}, {"a": dict[str, int]}, "/a/*", "the type number became refused"),
        ({"a": Leaf}, {"a": Tight}, "/a/name", "maxLength became narrower"),
        ({"a": list[Leaf] | None}, {"a": list[Tight] | None}, "/a", "alternative 1 was removed"),
        ({"a": (int, 1)}, {"a": (int, 2)}, "/a", "default changed"),
        ({"a": tuple[int, Leaf]}, {"a": tuple[int, Tight]}, "/a", "prefixItems changed"),
    ],
)
def test_what_narrows_needs_a_new_version(old: dict[str, Any], new: dict[str, Any], where: str, what: str) -> None:
    found = breaks(schema_of(**old), schema_of(**new))
    assert any(each.pointer == where and each.change.startswith(what) for each in found), found


def test_an_open_object_that_closes_breaks() -> None:
    opened = {"type": "object", "properties": {"a": {}}}
    assert breaks(opened, {**opened, "additionalProperties": False}) == [Break("", "unknown members became refused")]
    narrowed = {"type": "object", "properties": {"a": {}, "b": {"type": "string"}}}
    assert breaks(opened, narrowed) == [Break("/b", "got a rule, and could hold anything before")]


def test_a_model_that_contains_itself_comes_to_an_end() -> None:
    class Tree(Base):
        children: list[Tree] = []
        label: str

    class NewTree(Base):
        children: list[NewTree] = []
        label: Annotated[str, Field(max_length=5)]

    assert breaks(Tree.model_json_schema(), Tree.model_json_schema()) == []
    assert breaks(Tree.model_json_schema(), NewTree.model_json_schema())


def test_true_is_not_one() -> None:
    assert breaks({"enum": [True]}, {"enum": [1]}) == [Break("", "a value was removed from the list of values")]


def test_a_keyword_without_a_rule_must_not_change() -> None:
    assert breaks({"propertyNames": {"minLength": 1}}, {"propertyNames": {"minLength": 2}})
    reference = {"propertyNames": {"$ref": "#/$defs/N"}}
    assert breaks({**reference, "$defs": {"N": {}}}, {**reference, "$defs": {"N": {"minLength": 2}}})
    assert not breaks({**reference, "$defs": {"N": {}}}, {**reference, "$defs": {"N": {}}})


def test_one_branch_of_a_discriminated_union() -> None:
    class Cat(Base):
        kind: Literal["cat"]
        lives: int

    class Dog(Base):
        kind: Literal["dog"]

    class CatWithFewLives(Base):
        kind: Literal["cat"]
        lives: Annotated[int, Field(le=9)]

    both = schema_of(pet=Annotated[Cat | Dog, Field(discriminator="kind")])
    fewer = schema_of(pet=Annotated[CatWithFewLives | Dog, Field(discriminator="kind")])
    assert breaks(both, both) == []
    assert breaks(both, fewer)


def test_a_removed_schema_breaks_and_a_new_one_does_not() -> None:
    one, two = Registry(), Registry()
    one.register(Leaf, type="leaf", version="1.0")
    two.register(Leaf, type="leaf", version="1.0")
    two.register(Tight, type="leaf", version="2.0", follows="1.0", upcast=dict)
    assert breaks_between(one.export(), two.export()) == []
    assert breaks_between(two.export(), one.export()) == [
        Break("tag:plutus,2026:schema/type/leaf/2.0", "the schema was removed")
    ]
    three = Registry()
    three.register(Tight, type="leaf", version="1.0")
    assert breaks_between(one.export(), three.export()) == [
        Break("tag:plutus,2026:schema/type/leaf/1.0#/name", "maxLength became narrower")
    ]


small = st.integers(-2, 4)
payload_values = st.recursive(
    st.one_of(st.none(), st.booleans(), small, st.sampled_from([0.5, 1.0]), st.sampled_from(["", "a", "bb", "ccc"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=5,
)
numeric = st.fixed_dictionaries(
    {"type": st.sampled_from(["integer", "number", ["number", "null"]])},
    optional={"minimum": small, "maximum": small, "exclusiveMinimum": small, "exclusiveMaximum": small},
)
textual = st.fixed_dictionaries(
    {"type": st.just("string")},
    optional={"minLength": st.integers(0, 3), "maxLength": st.integers(0, 3), "pattern": st.sampled_from(["^a", "b$"])},
)
listed = st.one_of(
    st.fixed_dictionaries(
        {"enum": st.lists(st.one_of(small, st.booleans(), st.sampled_from(["a", "bb"])), max_size=3)}
    ),
    st.fixed_dictionaries({"const": st.one_of(small, st.booleans())}),
)


def _compound(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    objects = st.fixed_dictionaries(
        {},
        optional={
            "type": st.just("object"),
            "properties": st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
            "required": st.lists(st.sampled_from("abc"), max_size=2, unique=True),
            "additionalProperties": st.booleans() | inner,
        },
    )
    arrays = st.fixed_dictionaries(
        {"type": st.just("array")},
        optional={"items": inner, "minItems": st.integers(0, 2), "maxItems": st.integers(0, 3)},
    )
    either = st.fixed_dictionaries(
        {"anyOf": st.lists(inner, min_size=1, max_size=3)},
        optional={"type": st.sampled_from(["integer", "string", "object"])},
    )
    return st.one_of(objects, arrays, either)


leaves: st.SearchStrategy[Any] = st.one_of(numeric, textual, listed)
schemas: st.SearchStrategy[Any] = st.recursive(leaves, _compound, max_leaves=6)


@given(schemas, schemas, st.lists(payload_values, min_size=1, max_size=20))
def test_whatever_the_old_schema_accepts_a_compatible_new_one_accepts(old: Any, new: Any, payloads: list[Any]) -> None:
    if not breaks(old, new):
        assert [each for each in payloads if accepts(old, each) and not accepts(new, each)] == []


def _places(schema: Any) -> list[dict[str, Any]]:
    inner = schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ()
    found = [place for part in inner for place in _places(part)]
    return [schema, *found] if isinstance(schema, dict) else found


@given(schemas, st.data(), st.lists(payload_values, min_size=1, max_size=20))
def test_so_does_a_new_one_that_is_the_old_one_changed_in_one_place(
    old: Any, data: st.DataObject, payloads: list[Any]
) -> None:
    new = copy.deepcopy(old)
    place = data.draw(st.sampled_from(_places(new)))
    keyword = data.draw(st.sampled_from(sorted(place) or ["type"]))
    if data.draw(st.booleans()):
        place.pop(keyword, None)
    else:
        place.update(
            {key: value for key, value in data.draw(schemas).items() if key in {*place, "minimum", "anyOf", "enum"}}
        )
    if not breaks(old, new):
        assert [each for each in payloads if accepts(old, each) and not accepts(new, each)] == []


@given(schemas)
def test_a_schema_may_take_its_own_place(schema: Any) -> None:
    assert breaks(schema, copy.deepcopy(schema)) == []
