"""The words for broken rules hold nothing of the input, whatever pydantic puts into its own."""

from __future__ import annotations

import string
from decimal import Decimal
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, ValidationError, field_validator
from pydantic_core import PydanticCustomError
from pydantic_core._pydantic_core import list_all_errors

from schemas import rules
from schemas.errors import FieldError
from schemas.payloads.strict import broken_rule
from schemas.rules import MOST_ERRORS, broken_rules, member_names

OF_THE_SCHEMA = {
    *("min_length", "max_length", "pattern", "expected", "gt", "ge", "lt", "le", "multiple_of"),
    *("max_digits", "decimal_places", "whole_digits"),
}
"""What pydantic fills in from the schema; `error`, `tag`, `actual_length`, ... come from the input."""


class Inner(BaseModel, extra="forbid"):
    kind: Literal["a"] = "a"
    size: Annotated[int, Field(le=3)] = 0


class Holder(BaseModel, extra="forbid"):
    inner: list[Inner] = []
    free: dict[str, int] = {}
    either: int | list[int] = 0
    said: str = ""

    @field_validator("said")
    @classmethod
    def _say(cls, value: str) -> str:
        if value == "value":
            raise ValueError(f"{value} CANARY7f3")
        if value == "custom":
            raise PydanticCustomError("home_made", "CANARY7f3")
        if value == "borrowed":
            raise PydanticCustomError("greater_than", "CANARY7f3")
        if value == "rule":
            raise broken_rule("must not say that")
        return value


NAMES = member_names(Holder.model_json_schema())


def told(payload: Any) -> tuple[FieldError, ...]:
    with pytest.raises(ValidationError) as refused:
        Holder.model_validate(payload)
    return broken_rules(refused.value, NAMES)


def test_sentences_are_filled_from_the_schema_alone() -> None:
    known: dict[str, Any] = {each["type"]: each["example_context"] or {} for each in list_all_errors()}
    for kind, sentence in rules._SENTENCES.items():
        filled_in = {name for _, name, _, _ in string.Formatter().parse(sentence) if name}
        assert filled_in <= OF_THE_SCHEMA
        assert filled_in <= known[kind].keys()


def test_the_names_of_members_at_any_depth_are_known() -> None:
    assert {"inner", "free", "either", "said", "kind", "size"} == NAMES


def test_pointers_end_before_a_name_that_the_schema_does_not_know() -> None:
    assert told({"CANARY7f3": 1}) == (FieldError("/payload", "has a member that its schema does not know"),)
    assert told({"inner": [{}, {"CANARY7f3": 1}]}) == (
        FieldError("/payload/inner/1", "has a member that its schema does not know"),
    )
    assert told({"size": 1}) == (FieldError("/payload", "has a member that its schema does not know"),)
    assert told({"free": {"CANARY7f3": "x", "size": "y"}}) == (
        FieldError("/payload/free", "breaks a rule of its schema"),
        FieldError("/payload/free/size", "breaks a rule of its schema"),
    )


def test_a_union_is_pointed_at_as_a_whole() -> None:
    assert {each.pointer for each in told({"either": "CANARY7f3"})} == {"/payload/either"}


@pytest.mark.parametrize(
    ("said", "detail"),
    [
        ("value", "breaks a rule of its schema"),
        ("custom", "breaks a rule of its schema"),
        ("borrowed", "breaks a rule of its schema"),
        ("rule", "must not say that"),
    ],
)
def test_a_custom_validator_speaks_by_broken_rule_only(said: str, detail: str) -> None:
    assert told({"said": said}) == (FieldError("/payload/said", detail),)


def test_a_length_is_no_error_beside_those_of_the_items() -> None:
    class Several(BaseModel):
        items: Annotated[list[Inner], Field(min_length=1)]

    with pytest.raises(ValidationError) as refused:
        Several.model_validate({"items": [7]})
    assert broken_rules(refused.value, frozenset({"items"})) == (FieldError("/payload/items/0", "must be an object"),)
    with pytest.raises(ValidationError) as refused:
        Several.model_validate({"items": []})
    assert broken_rules(refused.value, frozenset({"items"})) == (
        FieldError("/payload/items", "must have no fewer than 1 items"),
    )


def test_no_more_than_the_first_errors_are_told() -> None:
    found = told({"inner": [{"size": Decimal(9)}] * 5_000})
    assert len(found) == MOST_ERRORS
    assert found[0] == FieldError("/payload/inner/0/size", "must be at most 3")


def test_member_names_are_escaped_as_in_rfc_6901() -> None:
    class Odd(BaseModel):
        value: int = Field(alias="a/b~c")

    with pytest.raises(ValidationError) as refused:
        Odd.model_validate({"a/b~c": "CANARY7f3"})
    assert broken_rules(refused.value, member_names(Odd.model_json_schema()))[0].pointer == "/payload/a~1b~0c"
