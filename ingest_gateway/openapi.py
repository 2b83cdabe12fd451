"""The OpenAPI description of what FastAPI does not serve itself: the ingest route, by hand, and the problem document."""

from __future__ import annotations

from typing import Any, Final

from ingest_gateway.problems import Kind
from ingest_gateway.routes import INGEST
from schemas.limits import Limits

_SOURCE: Final = r"^(?:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+$"
_VISIBLE: Final = r"^[\x21-\x7e]+$"


def describe(document: dict[str, Any], limits: Limits) -> dict[str, Any]:
    """Add the ingest route and its schemas to FastAPI's document, and return it."""
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas.update(Envelope=_envelope(limits), Accepted=_ACCEPTED, Problem=_PROBLEM)
    paths = document.setdefault("paths", {})
    for operation in [each for methods in paths.values() for each in methods.values()]:
        operation["responses"].pop("422", None)  # FastAPI's own, which it never gives here: what is no id is a 404
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    paths[INGEST] = {"post": _operation(limits)}
    return document


def problem_response(*kinds: Kind, retry: bool = False) -> dict[str, Any]:
    """A response that holds one of these problems (they share a status)."""
    response: dict[str, Any] = {
        "description": "; ".join(f"{kind.title} (`{kind.uri}`)" for kind in kinds),
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    if retry:
        response["headers"] = {"Retry-After": {"description": "Whole seconds.", "schema": {"type": "integer"}}}
    return response


def _operation(limits: Limits) -> dict[str, Any]:
    location = {"Location": {"description": "Where the event's status is.", "schema": {"type": "string"}}}
    replayed = {"Idempotent-Replayed": {"schema": {"const": "true"}}}
    body = {"application/json": {"schema": {"$ref": "#/components/schemas/Accepted"}}}
    return {
        "operationId": "ingest",
        "summary": "Take in one event.",
        "description": (
            "A 2xx answer means that Kafka has the event. The same key with the same payload is a duplicate, however the "
            "payload is spelled; with another payload it is a conflict. Keys do not expire."
        ),
        "parameters": [
            {
                "name": "Idempotency-Key",
                "in": "header",
                "required": False,
                "description": "In place of the member idempotency_key: a string in double quotes, or the bare key.",
                "schema": {"type": "string", "minLength": 1, "maxLength": limits.key_chars + 2},
            }
        ],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Envelope"}}},
        },
        "responses": {
            "202": {"description": "Accepted: the event is in Kafka.", "headers": location, "content": body},
            "200": {"description": "A duplicate.", "headers": {**location, **replayed}, "content": body},
            "400": problem_response(Kind.MALFORMED),
            "408": problem_response(Kind.REQUEST_TIMEOUT),
            "413": problem_response(Kind.CONTENT_TOO_LARGE),
            "415": problem_response(Kind.UNSUPPORTED_MEDIA_TYPE),
            "422": problem_response(Kind.INVALID_EVENT, Kind.IDEMPOTENCY_CONFLICT),
            "429": problem_response(Kind.OVERLOADED, retry=True),
            "500": problem_response(Kind.INTERNAL_ERROR),
            "503": problem_response(Kind.NOT_ACCEPTED, Kind.OUTCOME_UNKNOWN, retry=True),
        },
    }


def _envelope(limits: Limits) -> dict[str, Any]:
    key = {"type": "string", "minLength": 1, "maxLength": limits.key_chars, "pattern": _VISIBLE}
    return {
        "type": "object",
        "additionalProperties": False,
        # The key may stand in the header instead; then the member is not required.
        "required": ["source", "schema_version", "payload"],
        "properties": {
            "source": {"type": "string", "minLength": 1, "maxLength": limits.source_chars, "pattern": _SOURCE},
            "schema_version": {"type": "string", "minLength": 1, "maxLength": 64, "pattern": _VISIBLE},
            "idempotency_key": key,
            "payload": {"description": "Any JSON value; kept as sent, digit for digit."},
            "type": {"type": "string", "minLength": 1, "maxLength": 128, "pattern": _VISIBLE},
            "ordering_key": key,
            "occurred_at": {"type": "string", "format": "date-time"},
        },
    }


_ACCEPTED: Final = {
    "type": "object",
    "required": ["event_id", "status"],
    "properties": {
        "event_id": {"type": "string", "format": "uuid"},
        "status": {"enum": ["accepted", "duplicate"]},
        "dedup": {"const": "deferred", "description": "Accepted before its key could be looked up or remembered."},
    },
}
_PROBLEM: Final = {
    "type": "object",
    "description": "RFC 9457.",
    "required": ["type", "title", "status", "code", "detail"],
    "properties": {
        "type": {"enum": sorted(kind.uri for kind in Kind)},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string", "description": "The exact reason."},
        "detail": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "pointer": {"type": "string", "description": "JSON Pointer (RFC 6901)."},
                    "detail": {"type": "string"},
                },
            },
        },
    },
}
