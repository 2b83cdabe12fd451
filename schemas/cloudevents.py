"""CloudEvents 1.0 as events: structured (one JSON document) and binary (attributes beside the data), over HTTP and Kafka.

    id             idempotency_key        type           type
    source         source                 time           occurred_at
    partitionkey   ordering_key           dataschema     schema_version, by the rule below
    data           payload                traceparent    the context of its creation

`dataschema` names a version where its last part is one (`.../orders/1.2`, `...:orders:v2`, `.../2.0.json`: digits, dots, an
optional `v` before and `-suffix` behind); the schema version of any other, and of none, is 1.0. Other attributes are let pass
and not kept.

Data under a JSON content type, or under none, is JSON, kept as sent; other data is kept as a JSON string (`schemas.opaque`).
No data is the payload null. So the same data has the same fingerprint in every mode, and as in an envelope.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import unquote_to_bytes

import msgspec

from schemas import json_text
from schemas.errors import FieldError, Invalid, Malformed, Reason, Rejected, TooLarge
from schemas.event import Event, build
from schemas.headers import RecordHeaders
from schemas.limits import EDGE, Limits
from schemas.opaque import as_json_string

STRUCTURED: Final = b"application/cloudevents+json"
BATCH: Final = b"application/cloudevents-batch+json"
DEFAULT_VERSION: Final = "1.0"
HTTP_PREFIX: Final = b"ce-"
KAFKA_PREFIX: Final = "ce_"
KAFKA_MARK: Final = "ce_specversion"
"""The header that makes a record a binary CloudEvent."""
KAFKA_TRACEPARENT: Final = "ce_traceparent"

_UTF8 = rb'[ \t]*(?:;[ \t]*charset[ \t]*=[ \t]*"?utf-8"?[ \t]*)?'
_STRUCTURED = re.compile(re.escape(STRUCTURED) + _UTF8, re.IGNORECASE)
_JSON_TYPE = re.compile(r"\s*(?:application|text)/(?:json|[^\s;]+\+json)\s*(?:;.*)?", re.IGNORECASE)
_VERSION = re.compile(r"(?:^|.*[/:#=])[vV]?([0-9]+(?:\.[0-9]+)*(?:-[0-9A-Za-z.]+?)?)(?:\.json)?/?", re.DOTALL)
_QUOTED = re.compile(rb'"((?:[^"\\]|\\.)*)"')
_ESCAPE = re.compile(rb"\\(.)")
_REQUIRED = ("id", "source", "type", "specversion")
_THEIR_WORDS: Final = {
    "idempotency_key": "id",
    "ordering_key": "partitionkey",
    "occurred_at": "time",
    "schema_version": "dataschema",
    "payload": "data",
}
_WORD = re.compile("|".join(_THEIR_WORDS))


class CloudEvent(NamedTuple):
    """An event, and the W3C traceparent of its creation: an unchecked extension, None where it has none."""

    event: Event
    traceparent: bytes | None


class _Slices(msgspec.Struct):
    """Finds the data's own bytes in a structured event."""

    data: msgspec.Raw


class _Trace(msgspec.Struct):
    """Finds the trace alone."""

    traceparent: str | None = None


_SLICER = msgspec.json.Decoder(_Slices)
_TRACER = msgspec.json.Decoder(_Trace)


def is_structured(content_type: bytes) -> bool:
    """True for the media type of one structured event, in UTF-8."""
    return content_type == STRUCTURED or _STRUCTURED.fullmatch(content_type.strip()) is not None


def structured(body: bytes, limits: Limits = EDGE) -> CloudEvent:
    """The event in a structured CloudEvent.

    Args:
        body: UTF-8 JSON text.

    Raises:
        TooLarge, Malformed, Invalid: with the pointer of the attribute at fault and no value of it.
    """
    if len(body) > limits.body_bytes:
        raise TooLarge(f"The event is larger than {limits.body_bytes} bytes.")
    document = json_text.load(body, limits)
    members = document.value
    if not isinstance(members, dict):
        raise Invalid("The event must be a JSON object.", reason=Reason.NOT_OBJECT)
    encoded = members.get("data_base64")
    if encoded is not None:
        if members.get("data") is not None:
            raise Invalid("A CloudEvent has data or data_base64, not both.", pointer="/data_base64")
        return binary(members, _is_json(members.get("datacontenttype")), _decoded(encoded), limits)
    if "data" not in members:
        return _build(members, b"null", json_text.load(b"null"), "json", limits)
    data = members["data"]
    if isinstance(data, str) and not _is_json(members.get("datacontenttype")):
        return binary(members, False, data.encode(), limits)
    payload = json_text.written(data) if document.compact else bytes(_SLICER.decode(body).data)
    exact = None if document.exact is None else document.exact["data"]
    read = json_text.Document(data, document.plain, document.compact, exact)
    return _build(members, payload, read, "json", limits)


def binary(attributes: Mapping[str, Any], is_json: bool, data: bytes | None, limits: Limits = EDGE) -> CloudEvent:
    """The event of these attributes with its data beside them.

    Args:
        is_json: what `data` is; see `is_json_type`. data: None for none.

    Raises:
        TooLarge, Malformed, Invalid: as `structured`.
    """
    if data is None:
        return _build(attributes, b"null", json_text.load(b"null"), "json", limits)
    if len(data) > limits.body_bytes:
        raise TooLarge(f"The event is larger than {limits.body_bytes} bytes.")
    if is_json:
        payload, encoding = data.strip(b" \t\r\n"), "json"
    else:
        payload, encoding = as_json_string(data)
        if len(payload) > limits.body_bytes:
            raise TooLarge(f"The data is larger than {limits.body_bytes} bytes once it is kept as JSON.")
    return _build(attributes, payload, json_text.load(payload, limits), encoding, limits)


def is_json_type(content_type: bytes | None) -> bool:
    """True where the data is JSON: its content type says so, or there is none."""
    return content_type is None or _is_json(content_type.decode("latin-1"))


def http_attributes(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """The attributes in a request's `ce-` headers: unquoted, and percent-decoded once.

    Raises:
        Malformed: an attribute twice, or one that is not UTF-8.
    """
    found: dict[str, str] = {}
    for name, value in headers:
        if name.startswith(HTTP_PREFIX):
            quoted = _QUOTED.fullmatch(value)
            text = value if quoted is None else _ESCAPE.sub(rb"\1", quoted[1])
            _add(found, name[len(HTTP_PREFIX) :].decode("latin-1"), unquote_to_bytes(text))
    return found


def kafka_attributes(headers: RecordHeaders) -> dict[str, str]:
    """The attributes in a record's `ce_` headers; one with a null value is none.

    Raises:
        Malformed: as `http_attributes`.
    """
    found: dict[str, str] = {}
    for name, value in headers:
        if value is not None and name.startswith(KAFKA_PREFIX):
            _add(found, name[len(KAFKA_PREFIX) :], value)
    return found


def traceparent_of(body: bytes) -> bytes | None:
    """The trace in a structured CloudEvent that is known to be one; None where it has none."""
    try:
        found = _TRACER.decode(body).traceparent
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return None if found is None else found.encode()


def _add(found: dict[str, str], name: str, value: bytes) -> None:
    if name in found:
        raise Malformed("A CloudEvents attribute stands in more than one header.", reason=Reason.UNDECODABLE)
    try:
        found[name] = value.decode()
    except UnicodeDecodeError:
        raise Malformed("A CloudEvents attribute is not UTF-8.", reason=Reason.UNDECODABLE) from None


def _is_json(content_type: object) -> bool:
    return content_type is None or (isinstance(content_type, str) and _JSON_TYPE.fullmatch(content_type) is not None)


def _decoded(value: object) -> bytes:
    try:
        return base64.b64decode(value, validate=True)  # type: ignore[arg-type]
    except (binascii.Error, TypeError, ValueError):
        raise Invalid("data_base64 must be a string in base64.", pointer="/data_base64") from None


def _build(
    attributes: Mapping[str, Any], payload: bytes, document: json_text.Document, encoding: str, limits: Limits
) -> CloudEvent:
    for name in _REQUIRED:
        if not attributes.get(name):
            reason = Reason.BAD_ID if name == "id" else Reason.SCHEMA_INVALID
            raise Invalid(f"The CloudEvent has no {name}.", reason=reason, pointer=f"/{name}")
    if attributes["specversion"] != "1.0":
        raise Invalid("specversion must be 1.0.", pointer="/specversion")
    try:
        event = build(
            source=attributes["source"],
            schema_version=_version(attributes.get("dataschema")),
            idempotency_key=attributes["id"],
            payload=payload,
            document=document,
            type=attributes["type"],
            ordering_key=attributes.get("partitionkey"),
            occurred_at=attributes.get("time"),
            payload_encoding=encoding,
            limits=limits,
        )
    except Rejected as error:
        raise _in_their_words(error) from None
    trace = attributes.get("traceparent")
    return CloudEvent(event, trace.encode() if isinstance(trace, str) else None)


def _version(dataschema: object) -> str:
    if dataschema is None:
        return DEFAULT_VERSION
    if not isinstance(dataschema, str):
        raise Invalid("dataschema must be a string.", pointer="/dataschema")
    named = _VERSION.fullmatch(dataschema)
    return DEFAULT_VERSION if named is None else named[1]


def _in_their_words(error: Rejected) -> Rejected:
    """The refusal of a member, told of the attribute that it came from."""

    def told(text: str) -> str:
        return _WORD.sub(lambda word: _THEIR_WORDS[word[0]], text)

    return type(error)(
        told(error.message),
        reason=error.reason,
        pointer=told(error.pointer),
        errors=tuple(FieldError(told(each.pointer), told(each.detail)) for each in error.errors),
    )
