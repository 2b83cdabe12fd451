"""What every payload model is made of: the strict base class and the field types of money, time, place and identity.

A model that derives from `Payload` takes a JSON object with exactly its members. Strict, so that a text is never read
as a number nor 1 as true; closed (`extra="forbid"`), so that a misspelt optional member is an error of the sender today
and not a missing value in a year, and so that adding an optional member is no breaking change; frozen, because a
handler's input is a record of what happened.

Numbers arrive exact: `schemas.registry` reads them as int or Decimal, never as float. Hence `Amount` and `Price`
for money, and `Measured` beside every `float`: a bare one would refuse every fraction.

A custom validator reports through `broken_rule`: its sentence is shown to senders and operators.
"""

from __future__ import annotations

import re
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, LiteralString

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, WithJsonSchema
from pydantic_core import PydanticCustomError

from schemas.event import instant

RULE = "plutus_rule"
"""The error type whose message `schemas.registry` passes on as it is."""
_DECIMAL_TEXT = re.compile(r"-?(?:0|[1-9][0-9]{0,39})(?:\.[0-9]{1,39})?")


class Payload(BaseModel):
    """Base of every registered payload: strict, closed, frozen."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


def broken_rule(sentence: LiteralString) -> PydanticCustomError:
    """The error to raise in a validator: what the member must be, as "must ...".

    Args:
        sentence: fixed text; never format input into it, it reaches answers and logs.
    """
    return PydanticCustomError(RULE, sentence)


def exact_decimal(value: object) -> object:
    """A JSON number, or its decimal text as payment interfaces send it to be safe from floats."""
    if isinstance(value, int) and not isinstance(value, bool):
        return Decimal(value)
    if isinstance(value, str) and _DECIMAL_TEXT.fullmatch(value):
        return Decimal(value)
    return value


def _float(value: object) -> object:
    return float(value) if isinstance(value, Decimal | int) and not isinstance(value, bool) else value


def _moment(value: object) -> object:
    if isinstance(value, datetime):
        return value
    try:
        return instant(value)
    except ValueError:
        raise broken_rule("must be an RFC 3339 date and time with a zone") from None


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
    BeforeValidator(exact_decimal),
    decimal_schema(r"^(?!0+(\.0+)?$)(0|[1-9][0-9]{0,19})(\.[0-9]{1,4}0*)?$", exclusiveMinimum=0),
]
"""Money to move: above zero, up to 20 digits before the point and 4 after (fits numeric(24, 4)), every digit kept. The
direction is said by the field or the type, never by a sign."""

Price = Annotated[
    Decimal,
    Field(ge=0, max_digits=24, decimal_places=4),
    BeforeValidator(exact_decimal),
    decimal_schema(r"^(0|[1-9][0-9]{0,19})(\.[0-9]{1,4}0*)?$", minimum=0),
]
"""Money asked for one unit; zero for what is given away."""

Measured = BeforeValidator(_float)
"""Marks what a sensor read, as in `Annotated[float, Field(ge=0), Measured]`: a double is more exact than any of them."""

Instant = Annotated[AwareDatetime, BeforeValidator(_moment)]
"""RFC 3339, with a zone; the same rule as the envelope's `occurred_at`."""

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
