"""The OpenAPI description of what FastAPI does not serve itself: the ways in, by hand, and the problem document."""

from __future__ import annotations

from typing import Any, Final

from ingest_gateway.problems import Kind
from ingest_gateway.routes import BATCH, INGEST, WEBHOOKS
from schemas.limits import Limits

_SOURCE: Final = r"^(?:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+$"
_VISIBLE: Final = r"^[\x21-\x7e]+$"


def describe(document: dict[str, Any], limits: Limits) -> dict[str, Any]:
    """Add the ways in and their schemas to FastAPI's document, and return it."""
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas.update(
        Envelope=_envelope(limits),
        CloudEvent=_cloudevent(limits),
        Accepted=_ACCEPTED,
        Results=_RESULTS,
        Problem=_PROBLEM,
    )
    paths = document.setdefault("paths", {})
    for operation in [each for methods in paths.values() for each in methods.values()]:
        operation["responses"].pop("422", None)  # FastAPI's own, which it never gives here: what is no id is a 404
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    paths[INGEST] = {"post": _operation(limits)}
    paths[BATCH] = {"post": _batch_operation(limits)}
    paths[f"{WEBHOOKS}{{source}}"] = {"post": _webhook()}
    document["components"]["securitySchemes"] = {"apiKey": _API_KEY}
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
    return {
        "operationId": "ingest",
        "summary": "Take in one event.",
        "description": (
            "A 2xx answer means that Kafka has the event. The same key with the same payload is a duplicate, however the "
            "payload is spelled; with another payload it is a conflict. Keys do not expire. A binary CloudEvent has its "
            "attributes in ce- headers and its data, of any content type, as the body; a batch of CloudEvents is answered "
            "as at the path of batches."
        ),
        "parameters": [
            {
                "name": "Idempotency-Key",
                "in": "header",
                "required": False,
                "description": (
                    "In place of the member idempotency_key, or equal to it: a string in double quotes, or the bare key."
                ),
                "schema": {"type": "string", "pattern": _key_header(limits.key_chars)},
            },
            _PREFER,
        ],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": {"$ref": "#/components/schemas/Envelope"}},
                "application/cloudevents+json": {"schema": {"$ref": "#/components/schemas/CloudEvent"}},
            },
        },
        "security": _OPTIONAL_KEY,
        "responses": _answers(),
    }


def _webhook() -> dict[str, Any]:
    return {
        "operationId": "webhook",
        "summary": "Take in what a provider posts by itself.",
        "description": (
            "Which sources there are, where the key and the type of an event are found and how it is signed stands in the file "
            "that `GATEWAY_WEBHOOKS_FILE` names. The body is kept as it is: JSON as JSON, anything else as a string. A source "
            "of which nothing is declared is not there (404)."
        ),
        "parameters": [
            {
                "name": "source",
                "in": "path",
                "required": True,
                "schema": {"type": "string", "minLength": 1, "maxLength": 64, "pattern": "^[A-Za-z0-9._-]+$"},
            },
            _PREFER,
        ],
        "requestBody": {"required": True, "content": {"*/*": {"schema": {}}}},
        "security": _OPTIONAL_KEY,
        "responses": {**_answers(), "404": problem_response(Kind.NOT_FOUND)},
    }


def _answers() -> dict[str, Any]:
    """What an event may be answered, whatever way it came in."""
    location = {
        "Location": {"description": "Where the event's status is.", "schema": {"type": "string"}},
        "Preference-Applied": {
            "description": "wait=N, where the sender was made to wait.",
            "schema": {"type": "string"},
        },
    }
    replayed = {"Idempotent-Replayed": {"schema": {"const": "true"}}}
    body = {"application/json": {"schema": {"$ref": "#/components/schemas/Accepted"}}}
    challenge = {"WWW-Authenticate": {"description": "What would be accepted.", "schema": {"type": "string"}}}
    return {
        "202": {"description": "Accepted: the event is in Kafka.", "headers": location, "content": body},
        "200": {"description": "A duplicate.", "headers": {**location, **replayed}, "content": body},
        "400": problem_response(Kind.MALFORMED),
        "401": {**problem_response(Kind.UNAUTHENTICATED), "headers": challenge},
        "403": problem_response(Kind.FORBIDDEN_SOURCE),
        "408": problem_response(Kind.REQUEST_TIMEOUT),
        "413": problem_response(Kind.CONTENT_TOO_LARGE),
        "415": problem_response(Kind.UNSUPPORTED_MEDIA_TYPE),
        "422": problem_response(Kind.INVALID_EVENT, Kind.IDEMPOTENCY_CONFLICT),
        "429": problem_response(Kind.OVERLOADED, retry=True),
        "500": problem_response(Kind.INTERNAL_ERROR),
        "503": problem_response(Kind.NOT_ACCEPTED, Kind.OUTCOME_UNKNOWN, retry=True),
    }


def _batch_operation(limits: Limits) -> dict[str, Any]:
    def array(of: str) -> dict[str, Any]:
        items = {"$ref": f"#/components/schemas/{of}"}
        return {"schema": {"type": "array", "minItems": 1, "maxItems": limits.batch_items, "items": items}}

    results = {"application/json": {"schema": {"$ref": "#/components/schemas/Results"}}}
    return {
        "operationId": "ingest_batch",
        "summary": "Take in many events, each with a result of its own.",
        "description": (
            f"Up to {limits.batch_items} events in {limits.batch_bytes} bytes. The results are in the order of the items; an "
            "item that is refused costs no other. A refusal of the whole (4xx) means that nothing of it was taken. It is a "
            "503 only where no item was taken and sending the batch again may help."
        ),
        "requestBody": {
            "required": True,
            "content": {
                "application/json": array("Envelope"),
                "application/x-ndjson": {
                    "schema": {"type": "string", "description": "An envelope a line; blank lines are nothing."}
                },
                "application/cloudevents-batch+json": array("CloudEvent"),
            },
        },
        "security": _OPTIONAL_KEY,
        "responses": {
            "200": {"description": "What became of each item.", "content": results},
            "400": problem_response(Kind.MALFORMED),
            "401": problem_response(Kind.UNAUTHENTICATED),
            "408": problem_response(Kind.REQUEST_TIMEOUT),
            "413": problem_response(Kind.CONTENT_TOO_LARGE),
            "415": problem_response(Kind.UNSUPPORTED_MEDIA_TYPE),
            "422": problem_response(Kind.INVALID_EVENT),
            "429": problem_response(Kind.OVERLOADED, retry=True),
            "500": problem_response(Kind.INTERNAL_ERROR),
            "503": problem_response(Kind.NOT_ACCEPTED, Kind.OUTCOME_UNKNOWN, retry=True),
        },
    }


def _key_header(longest: int) -> str:
    bare = rf"[\x21\x23-\x7e][\x21-\x7e]{{0,{longest - 1}}}"
    quoted = rf'"(?:[\x21\x23-\x5b\x5d-\x7e]|\\["\\]){{1,{longest}}}"'
    return f"^(?:{bare}|{quoted})$"


def _envelope(limits: Limits) -> dict[str, Any]:
    key = {"type": "string", "minLength": 1, "maxLength": limits.key_chars, "pattern": _VISIBLE}
    or_null = ["string", "null"]  # null in an optional member is its absence
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
            "type": {"type": or_null, "minLength": 1, "maxLength": 128, "pattern": _VISIBLE},
            "ordering_key": {**key, "type": or_null},
            "occurred_at": {"type": or_null, "format": "date-time"},
        },
    }


def _cloudevent(limits: Limits) -> dict[str, Any]:
    envelope = _envelope(limits)["properties"]
    return {
        "type": "object",
        "description": "CloudEvents 1.0, structured. Attributes that are not named here are let pass and not kept.",
        "required": ["specversion", "id", "source", "type"],
        "properties": {
            "specversion": {"const": "1.0"},
            "id": {**envelope["idempotency_key"], "description": "The idempotency key."},
            "source": envelope["source"],
            "type": {**envelope["type"], "type": "string"},
            "time": {**envelope["occurred_at"], "description": "occurred_at."},
            "datacontenttype": {"type": "string", "description": "JSON where there is none."},
            "dataschema": {
                "type": "string",
                "description": "Its last part is the schema version where it is one, as in /orders/1.2; else that is 1.0.",
            },
            "partitionkey": {**envelope["ordering_key"], "description": "The ordering key."},
            "traceparent": {"type": "string", "description": "W3C trace context of its creation."},
            "data": {"description": "The payload; without data it is null."},
            "data_base64": {"type": "string", "contentEncoding": "base64", "description": "In place of data."},
        },
    }


_PREFER: Final = {
    "name": "Prefer",
    "in": "header",
    "required": False,
    "description": (
        "`wait=N` (RFC 7240): wait up to N seconds for what becomes of the event and answer with it. What takes longer is "
        "answered as if nothing had been asked."
    ),
    "schema": {"type": "string", "examples": ["wait=10"]},
}
_API_KEY: Final = {
    "type": "http",
    "scheme": "bearer",
    "description": "Needed where GATEWAY_API_KEYS_FILE declares keys; not by webhooks that are signed.",
}
_OPTIONAL_KEY: Final[list[dict[str, list[str]]]] = [{}, {"apiKey": []}]
_ACCEPTED: Final = {
    "type": "object",
    "required": ["event_id", "status"],
    "properties": {
        "event_id": {"type": "string", "format": "uuid"},
        "status": {"enum": ["accepted", "duplicate"]},
        "outcome": {
            "type": "object",
            "description": "What became of the event, as its status tells it: where the sender asked to wait and it was known in time.",
        },
        "dedup": {"const": "deferred", "description": "Accepted before its key could be looked up or remembered."},
    },
}
_RESULTS: Final = {
    "type": "object",
    "required": ["results"],
    "properties": {
        "results": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["status"],
                "properties": {
                    "status": {"type": "integer", "description": "What a request of its own would have been answered."},
                    "event_id": {"type": "string", "format": "uuid", "description": "Of what was taken (2xx)."},
                    "dedup": {"const": "deferred"},
                    "problem": {"$ref": "#/components/schemas/Problem"},
                },
            },
        }
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
