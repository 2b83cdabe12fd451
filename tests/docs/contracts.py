"""The machine-readable contracts: OpenAPI of the gateway, AsyncAPI of the topics. Both are made from the models.

The OpenAPI document is the one that the gateway serves. The AsyncAPI document says the same of the Kafka side: the
envelope, a message for each registered payload, the headers, and what a dead letter adds.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import SecretStr
from pydantic.json_schema import models_json_schema

from infra.runtime import topics
from infra.runtime.settings import RuntimeSettings
from ingest_gateway import openapi as gateway_openapi
from ingest_gateway.events import EventStatus
from ingest_gateway.metrics import version
from ingest_gateway.settings import GatewaySettings
from ingest_gateway.web import web
from schemas import headers, payloads
from schemas.cloudevents import KAFKA_PREFIX
from schemas.errors import Reason
from schemas.vectors import published

_NOWHERE: dict[str, Any] = {
    "kafka_bootstrap_servers": "kafka.example:9092",
    "database_url": SecretStr("postgresql://postgres.example/d"),
}
_DEAD_LETTER_FACTS = {
    "failure-id": ("string", "Names the row of the failures table; two copies of one dead letter share it."),
    "reason": ("string", "Why it was refused."),
    "step": ("string", "Where: parse, decide, schema or handle."),
    "error-class": ("string", "Class or SQLSTATE of the error, never its message."),
    "topic": ("string", "Topic of the refused record."),
    "partition": ("string", "Its partition, in decimal."),
    "offset": ("string", "Its offset, in decimal."),
    "timestamp": ("string", "Its append time by the broker, milliseconds since 1970 in decimal."),
    "attempts": ("string", "How often its handler was started, in decimal."),
}


def openapi() -> dict[str, Any]:
    """The description that the gateway serves at /openapi.json with its default settings."""
    settings = GatewaySettings(**_NOWHERE)

    async def scrape() -> bytes:
        return b""

    return dict(web(EventStatus(settings), [], scrape, settings.limits).openapi())


def asyncapi() -> dict[str, Any]:
    """The AsyncAPI 3.0 document of the events topic and the dead-letter topic."""
    events, dead = topics.wanted(RuntimeSettings(**_NOWHERE))
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Plutus",
            "version": version(),
            "description": (
                "Records that direct producers may send, and what becomes of those that cannot be processed. Every record "
                "takes effect once per (source, idempotency_key), whichever way and however often it arrives. The key is "
                "the source, or source:ordering_key where a source opted in; the partitioner is murmur2."
            ),
            "license": {"name": "MIT"},
        },
        "defaultContentType": "application/json",
        "channels": {
            "events": _channel(events, {"event", "cloudEvent", "cloudEventBinary", *payloads.TYPES}),
            "deadLetters": _channel(dead, {"deadLetter"}),
        },
        "operations": {
            "takeEvents": _operation("receive", "events", "Workers read every event and make it take effect once."),
            "publishEvents": _operation("send", "events", "The gateway publishes what it accepted over HTTP."),
            "publishDeadLetters": _operation(
                "send",
                "deadLetters",
                "Workers publish what cannot be processed: its own key, value and headers, and why.",
            ),
        },
        "components": {"messages": _messages(), "schemas": _schemas()},
    }


def _channel(topic: topics.Topic, messages: set[str]) -> dict[str, Any]:
    configuration = {name: topic.configs[name] for name in ("cleanup.policy", "retention.ms", "max.message.bytes")}
    return {
        "address": topic.name,
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in sorted(messages)},
        "bindings": {
            "kafka": {
                "bindingVersion": "0.5.0",
                "topic": topic.name,
                "partitions": topic.partitions,
                "replicas": topic.replication,
                "topicConfiguration": {
                    "cleanup.policy": [configuration["cleanup.policy"]],
                    "retention.ms": int(configuration["retention.ms"]),
                    "max.message.bytes": int(configuration["max.message.bytes"]),
                },
            }
        },
    }


def _operation(action: str, channel: str, summary: str) -> dict[str, Any]:
    return {"action": action, "channel": {"$ref": f"#/channels/{channel}"}, "summary": summary}


def _messages() -> dict[str, Any]:
    event = {
        "title": "Any event",
        "summary": "An envelope around any JSON value. Without a registered payload schema it passes as it is.",
        "contentType": "application/json",
        "headers": {"$ref": "#/components/schemas/EventHeaders"},
        "payload": {"$ref": "#/components/schemas/Envelope"},
        "bindings": {"kafka": {"bindingVersion": "0.5.0", "key": {"$ref": "#/components/schemas/Key"}}},
        "examples": [{"payload": json.loads(published()["accepted"][0]["envelope"])}],
    }
    dead = {
        **event,
        "title": "Dead letter",
        "summary": "The refused record, byte for byte, with headers that say why. The value may be anything.",
        "headers": {"$ref": "#/components/schemas/DeadLetterHeaders"},
        "payload": {"description": "Whatever was refused: it need not be JSON."},
    }
    del dead["examples"]
    structured = {
        **dead,
        "title": "A CloudEvent, structured",
        "summary": "CloudEvents 1.0. source and id are its key, as source and idempotency_key are an envelope's.",
        "contentType": "application/cloudevents+json",
        "headers": {"$ref": "#/components/schemas/CloudEventHeaders"},
        "payload": {"$ref": "#/components/schemas/CloudEvent"},
    }
    binary = {
        **structured,
        "title": "A CloudEvent, binary",
        "summary": "CloudEvents 1.0: the attributes are headers, the value is the data. Null is refused.",
        "contentType": "application/json",
        "headers": {"$ref": "#/components/schemas/CloudEventBinaryHeaders"},
        "payload": {"description": "JSON as it is; of another content-type it is kept as a JSON string."},
    }
    special = {"deadLetter": dead, "cloudEvent": structured, "cloudEventBinary": binary}
    return {"event": event, **special, **{name: _typed(name, event) for name in payloads.TYPES}}


def _typed(name: str, event: dict[str, Any]) -> dict[str, Any]:
    members = {
        "type": {"const": name},
        "schema_version": {"const": payloads.VERSION},
        "payload": {"$ref": f"#/components/schemas/{payloads.TYPES[name].__name__}"},
    }
    envelope = _envelope()
    payload = {
        **envelope,
        "required": [*envelope["required"], "type"],
        "properties": {**envelope["properties"], **members},
    }
    made = {**event, "title": name, "summary": (payloads.TYPES[name].__doc__ or "").strip(), "payload": payload}
    del made["examples"]
    return made


def _envelope() -> dict[str, Any]:
    """The envelope as HTTP takes it, with its key: over HTTP that may stand in a header, in a record it may not."""
    envelope = _gateway_schemas()["Envelope"]
    return {**envelope, "required": [*envelope["required"], "idempotency_key"]}


def _gateway_schemas() -> dict[str, Any]:
    described = gateway_openapi.describe({}, GatewaySettings(**_NOWHERE).limits)
    return dict(described["components"]["schemas"])


def _cloudevent_headers() -> dict[str, Any]:
    attributes = _gateway_schemas()["CloudEvent"]
    kept = {name: rule for name, rule in attributes["properties"].items() if not name.startswith("data")}
    kept["dataschema"] = attributes["properties"]["dataschema"]
    return {
        "type": "object",
        "required": [f"{KAFKA_PREFIX}{name}" for name in attributes["required"]],
        "properties": {
            headers.CONTENT_TYPE: {"type": "string", "description": "Of the data; JSON where there is none."},
            **{f"{KAFKA_PREFIX}{name}": rule for name, rule in kept.items()},
        },
    }


def _schemas() -> dict[str, Any]:
    _, models = models_json_schema(
        [(model, "validation") for model in payloads.TYPES.values()], ref_template="#/components/schemas/{model}"
    )
    return {
        "Envelope": _envelope(),
        "CloudEvent": _gateway_schemas()["CloudEvent"],
        "CloudEventHeaders": {
            **_headers({headers.CONTENT_TYPE: ("string", "application/cloudevents+json.")}),
            "required": [headers.CONTENT_TYPE],
        },
        "CloudEventBinaryHeaders": _cloudevent_headers(),
        "Key": {"type": "string", "description": "The source, or source:ordering_key where the source opted in."},
        "EventHeaders": _headers(
            {
                headers.CONTENT_TYPE: ("string", "application/json."),
                headers.TRACEPARENT: ("string", "W3C Trace Context. One that is not valid starts a new trace."),
                headers.GATEWAY: ("string", "Set by the gateway alone."),
                headers.PAYLOAD_ENCODING: (
                    "string",
                    "The payload is a string that stands for a body that is no JSON: its text, or its bytes in base64.",
                ),
            },
            enums={headers.PAYLOAD_ENCODING: ["base64", "text"]},
        ),
        "DeadLetterHeaders": _headers(
            {headers.DEAD_LETTER_PREFIX + name: about for name, about in _DEAD_LETTER_FACTS.items()},
            enums={f"{headers.DEAD_LETTER_PREFIX}reason": sorted(reason.value for reason in Reason)},
        ),
        **models["$defs"],
    }


def _headers(about: dict[str, tuple[str, str]], enums: dict[str, list[str]] | None = None) -> dict[str, Any]:
    enums = enums or {}
    return {
        "type": "object",
        "properties": {
            name: {"type": kind, "description": text, **({"enum": enums[name]} if name in enums else {})}
            for name, (kind, text) in about.items()
        },
    }
