"""What every payload model is made of: the base class and the field types of money and identity.

A model that derives from `Payload` takes a JSON object with exactly its members. Strict, so that a text is never read
as a number nor 1 as true; closed (`extra="forbid"`), so that a misspelt optional member is an error of the sender today
and not a missing value in a year, and so that adding an optional member is no breaking change; frozen, because a
handler's input is a record of what happened.

A custom validator reports through `broken_rule`: its sentence is shown to senders and operators.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, StringConstraints, WithJsonSchema
from pydantic_core import CoreSchema

from schemas.payloads.strict import broken_rule, closed_over_json


class Payload(BaseModel):
    """Base of every registered payload: strict as JSON is strict, closed, frozen."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return closed_over_json(handler(source), cls, handler.resolve_ref_schema)


def decimal_schema(pattern: str, **bounds: float) -> WithJsonSchema:
    """The JSON Schema of a decimal that comes as a number or, by `pattern`, as text."""
    return WithJsonSchema({"anyOf": [{"type": "number", **bounds}, {"type": "string", "pattern": pattern}]})


Identifier = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[!-~]+$")]
"""A name that a system gave: 1 to 128 visible ASCII characters. Case matters."""

Label = Annotated[str, StringConstraints(min_length=1, max_length=256)]
"""Short text for people."""

Amount = Annotated[
    Decimal,
    Field(gt=0, max_digits=24, decimal_places=4),
    decimal_schema(r"^(?!0+(\.0+)?$)(0|[1-9][0-9]{0,19})(\.[0-9]{1,4}0*)?$", exclusiveMinimum=0),
]
"""Money to move: above zero, up to 20 digits before the point and 4 after (fits numeric(24, 4)), every digit kept. The
direction is said by the field or the type, never by a sign."""

Price = Annotated[
    Decimal,
    Field(ge=0, max_digits=24, decimal_places=4),
    decimal_schema(r"^(0|[1-9][0-9]{0,19})(\.[0-9]{1,4}0*)?$", minimum=0),
]
"""Money asked for one unit; zero for what is given away."""

Currency = Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")]
"""An ISO 4217 code by its shape: the list changes (ZWG in 2024, XCG in 2025) and a new code must not stop payments."""

Country = Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}$")]
"""An ISO 3166-1 alpha-2 code by its shape."""

Quantity = Annotated[int, Field(ge=1, le=1_000_000)]
"""How many of one thing: whole and at least one."""

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""A SHA-256 digest, lower-case hexadecimal."""

_NO_MINOR_UNIT = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF"
_THOUSANDTHS = "BHD IQD JOD KWD LYD OMR TND"
_TEN_THOUSANDTHS = "CLF UYW"
_MINOR_UNITS = {
    **dict.fromkeys(_NO_MINOR_UNIT.split(), 0),
    **dict.fromkeys(_THOUSANDTHS.split(), 3),
    **dict.fromkeys(_TEN_THOUSANDTHS.split(), 4),
}
_COMMON_MINOR_UNIT = 2


def check_payable(amount: Decimal, currency: str) -> None:
    """Refuse an amount that cannot be paid in its currency: more decimals than its minor unit has (ISO 4217 list one).

    Raises:
        PydanticCustomError: naming the rule.
    """
    exponent: Any = amount.normalize().as_tuple().exponent
    if -exponent > _MINOR_UNITS.get(currency, _COMMON_MINOR_UNIT):
        raise broken_rule("must have an amount without more decimal places than its currency")
