"""Payload schemas: which model a payload must fit, and how an older version becomes the newest.

    registry = Registry()
    registry.register(OrderV1, type="order", version="1.0")
    registry.register(OrderV2, type="order", version="2.0", follows="1.0", upcast=add_currency)

The gateway calls `check` at the edge and the worker calls it again, because direct producers skip the edge; a handler
calls `typed` and always gets the newest version's model. A schema is found by the event's type and schema_version, else by
its source and schema_version. An event without a schema passes, or is refused where the registry is strict.

Numbers reach a model exactly, as int or Decimal, and in one form however they were spelled: 72, 72.0 and 7.2e1 are one
whole number, so that payloads with equal fingerprints get equal answers. (pydantic's own JSON reader would round
12345678901234567890.10 to a double first.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec
from pydantic import BaseModel, ValidationError
from pydantic.json_schema import GenerateJsonSchema

from schemas import payloads
from schemas.errors import Invalid, Permanent, Reason
from schemas.event import Event
from schemas.json_text import canonical_number
from schemas.rules import broken_rules, member_names

Upcast = Callable[[dict[str, Any]], dict[str, Any]]
"""A pure function: the payload of one version as a dict, exact numbers as int or Decimal, to that of the next."""

JsonSchema = dict[str, Any]
Model = type[BaseModel]


def _exact(text: str) -> int | Decimal:
    # By way of the canonical spelling: int(Decimal("0e999999999")) would take for ever.
    number = Decimal(canonical_number(text))
    return int(number) if number == number.to_integral_value() else Decimal(text)


_DECODER = msgspec.json.Decoder(float_hook=_exact)


class _Export(GenerateJsonSchema):
    """JSON Schema without a title per member: pydantic's repeat the name."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


@dataclass(slots=True)
class PayloadSchema:
    """One registered schema.

    uri: its `$id`, stable for ever.
    model: the pydantic model.
    names: every member name it knows, of nested objects too.
    newer: the schema that follows it, with the function that brings a payload there.
    """

    uri: str
    model: type[BaseModel]
    names: frozenset[str]
    newer: tuple[PayloadSchema, Upcast] | None = None

    @property
    def newest(self) -> type[BaseModel]:
        """The model of the last schema that follows it: what `Registry.typed` gives."""
        return self.model if self.newer is None else self.newer[0].newest

    def validate(self, payload: Any) -> BaseModel:
        """The model of a decoded payload.

        Raises:
            Invalid: SCHEMA_INVALID, with every broken rule in `errors` and no value of the payload anywhere.
        """
        try:
            return self.model.model_validate(payload)
        except ValidationError as error:
            errors = broken_rules(error, self.names)
        first = errors[0]
        others = f" (the first of {len(errors)} broken rules)" if len(errors) > 1 else ""
        raise Invalid(
            f"{first.pointer} {first.detail}{others}.",
            reason=Reason.SCHEMA_INVALID,
            pointer=first.pointer,
            errors=errors,
        )

    def export(self) -> JsonSchema:
        """Its JSON Schema (draft 2020-12) with a stable `$id`."""
        body = self.model.model_json_schema(schema_generator=_Export)
        return {"$schema": GenerateJsonSchema.schema_dialect, "$id": self.uri, **body}


class Registered(NamedTuple):
    """One registered schema: of a type or else of a source, in one version."""

    type: str | None
    source: str | None
    version: str
    newest: Model


@dataclass(slots=True)
class Registry:
    """Payload schemas by (type, version) or (source, version).

    strict: refuse events that have no schema.
    """

    strict: bool = False
    _by_type: dict[tuple[str | None, str], PayloadSchema] = field(default_factory=dict)
    _by_source: dict[tuple[str, str], PayloadSchema] = field(default_factory=dict)

    def register(
        self,
        model: type[BaseModel],
        *,
        version: str,
        type: str | None = None,
        source: str | None = None,
        follows: str | None = None,
        upcast: Upcast | None = None,
    ) -> None:
        """Add the schema of one version of one type's, or one source's, payload.

        Args:
            version: the `schema_version` that events of it carry.
            type: the event type, or else source: the source, whose payload it is.
            follows: the version before it, already registered; upcast: brings a payload from there to here.

        Raises:
            ValueError: neither or both of type and source; registered before; `follows` unknown, or followed already, or
                without `upcast`.
        """
        if (type is None) == (source is None):
            raise ValueError("A payload schema belongs to a type or to a source: give one of them.")
        if (follows is None) != (upcast is None):
            raise ValueError("A version that follows another needs both: follows and upcast.")
        found: dict[Any, PayloadSchema] = self._by_source if type is None else self._by_type
        kind, name = ("source", source) if type is None else ("type", type)
        if (name, version) in found:
            raise ValueError(f"The schema of {kind} {name}, version {version}, is registered already.")
        uri = f"tag:plutus,2026:schema/{kind}/{quote(str(name), safe='')}/{quote(version, safe='')}"
        made = PayloadSchema(uri, model, member_names(model.model_json_schema()))
        if follows is not None and upcast is not None:
            older = found.get((name, follows))
            if older is None or older.newer is not None:
                state = "is not registered" if older is None else "has a follower already"
                raise ValueError(f"Version {version} of {kind} {name} cannot follow {follows}, which {state}.")
            older.newer = (made, upcast)
        found[name, version] = made

    def find(self, event: Event) -> PayloadSchema | None:
        """The schema of this event's payload, None where it has none."""
        if event.type is not None:
            found = self._by_type.get((event.type, event.schema_version))
            if found is not None:
                return found
        return self._by_source.get((event.source, event.schema_version)) if self._by_source else None

    def check(self, event: Event) -> None:
        """Pass if the payload fits its schema, or has none and the registry is not strict.

        Raises:
            Invalid: SCHEMA_INVALID with the pointer of the first broken rule and all of them in `errors`, or
                SCHEMA_UNKNOWN.
        """
        schema = self.find(event)
        if schema is not None:
            schema.validate(_DECODER.decode(event.payload))
        elif self.strict:
            raise _unknown()

    def typed(self, event: Event) -> BaseModel:
        """The payload as the newest version's model.

        Raises:
            Invalid: as `check`; SCHEMA_UNKNOWN also where the registry is not strict.
            Permanent: an upcast gave a payload that the newer schema refuses, which a corrected release can replay.
        """
        schema = self.find(event)
        if schema is None:
            raise _unknown()
        payload = _DECODER.decode(event.payload)
        model = schema.validate(payload)
        while schema.newer is not None:
            schema, upcast = schema.newer
            payload = upcast(payload)
            try:
                model = schema.validate(payload)
            except Invalid as error:
                raise Permanent(f"The upcast to {schema.uri} is wrong: {error.message}") from None
        return model

    def registered(self) -> list[Registered]:
        """What there is, types first, in the order of registration."""
        types = [Registered(name, None, version, found.newest) for (name, version), found in self._by_type.items()]
        sources = [Registered(None, name, version, found.newest) for (name, version), found in self._by_source.items()]
        return types + sources

    def export(self) -> dict[str, JsonSchema]:
        """Every registered schema by its `$id`, sorted."""
        schemas = [*self._by_type.values(), *self._by_source.values()]
        return {schema.uri: schema.export() for schema in sorted(schemas, key=lambda schema: schema.uri)}


def default(*, strict: bool = False) -> Registry:
    """A registry that holds the five domains of `schemas.payloads`."""
    registry = Registry(strict=strict)
    for name, model in payloads.TYPES.items():
        registry.register(model, type=name, version=payloads.VERSION)
    return registry


def _unknown() -> Invalid:
    return Invalid(
        "No payload schema is registered for this event's type or source with this schema_version.",
        reason=Reason.SCHEMA_UNKNOWN,
        pointer="/schema_version",
    )
