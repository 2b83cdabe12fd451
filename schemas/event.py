"""The event, and the one parser that turns bytes into it.

Every way in ends here: an HTTP envelope, a batch item, a CloudEvent, a webhook, a raw Kafka record. `build` applies the
rules of the members; `parse_envelope` reads the JSON envelope. Nobody else constructs an `Event`.

    members   required  source, schema_version, idempotency_key, payload (any JSON value)
              optional  type, ordering_key, occurred_at
    anything else is refused.

The payload is kept as sent, digit for digit; only CR and LF between tokens become one space each, so that an envelope is
one line and line-based Kafka tools can carry it.
"""

from __future__ import annotations

import re
from datetime import MAXYEAR, MINYEAR, UTC, datetime
from functools import lru_cache
from typing import Any
from uuid import UUID

import msgspec
import orjson

from schemas import json_text
from schemas.errors import Invalid, Malformed, Reason, Rejected, TooLarge
from schemas.fingerprint import CURRENT, digest, fingerprint
from schemas.ids import id_bytes, id_text, partition_key
from schemas.limits import EDGE, Limits

_REQUIRED = ("source", "schema_version", "idempotency_key", "payload")
_MEMBERS = frozenset({*_REQUIRED, "type", "ordering_key", "occurred_at"})
_URI_CHARS = r"[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=-]*"
_SOURCE = re.compile(rf"(?!\Z){_URI_CHARS}(?:%[0-9A-Fa-f]{{2}}{_URI_CHARS})*")
_TYPE_CHARS = 128
_VERSION_CHARS = 64
_RFC3339 = re.compile(
    r"\d{4}-\d\d-\d\d[Tt](?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d+)?(?:[Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)",
    re.ASCII,
)
"""The shape; which months and days exist is left to the calendar."""
_REMEMBERED = 4_096
"""Sources, versions and types come again and again; each is looked at once. A cached text is never longer than its limit."""
_LINE_BREAKS = bytes.maketrans(b"\r\n", b"  ")
_CR, _LF = b"\r\n"
(_BACKSLASH,) = b"\\"
_loads, _dumps, _SORTED = orjson.loads, orjson.dumps, orjson.OPT_SORT_KEYS


def instant(value: object) -> datetime:
    """The moment an RFC 3339 section 5.6 text names; aware, with the text's own offset.

    Leap seconds are refused (no clock here has them), digits beyond microseconds are cut, and a moment outside the
    years 1 to 9999 of UTC is refused whatever its local date: nothing downstream can hold it.

    Raises:
        ValueError: with the rule that `value` breaks, and nothing of `value`.
    """
    if not isinstance(value, str) or not _RFC3339.fullmatch(value):
        raise ValueError("must be an RFC 3339 date and time with a zone")
    try:
        moment = datetime.fromisoformat(value.upper())
        if not MINYEAR < moment.year < MAXYEAR:
            moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("names a moment that does not exist") from None
    return moment


class Event(msgspec.Struct, frozen=True, gc=False):
    """One event, validated.

    id_bytes: the 16 bytes of its id, see `schemas.ids`. Bytes, because they hash, compare and sort in C, as Postgres does.
    source: who sends it; 1-255 characters of RFC 3986.
    schema_version: the version of the payload's schema, 1-64 visible ASCII characters.
    idempotency_key: the sender's name for this event, unique within the source; 1-255 visible ASCII characters.
    payload: the payload's JSON text, UTF-8, as sent.
    fingerprint: 17 bytes, see `schemas.fingerprint`.
    type: what happened; handlers and payload schemas are found by it. 1-128 visible ASCII characters.
    ordering_key: events of one source that share it keep their order, where the source opted in.
    occurred_at: when it happened, by the sender's clock; aware.
    payload_encoding: "json" as sent; "text" or "base64" when a body that is no JSON was kept as a JSON string.
    """

    id_bytes: bytes
    source: str
    schema_version: str
    idempotency_key: str
    payload: bytes
    fingerprint: bytes
    type: str | None = None
    ordering_key: str | None = None
    occurred_at: datetime | None = None
    payload_encoding: str = "json"

    def __repr__(self) -> str:  # no payload and no key: a repr may reach a log
        return f"<Event {id_text(self.id_bytes)} from {self.source}>"

    @property
    def id(self) -> UUID:
        """UUIDv5 of (source, idempotency_key)."""
        return UUID(bytes=self.id_bytes)

    @property
    def data(self) -> Any:
        """The payload as Python values: dict, list, str, int, float, bool or None. Decoded anew at each use."""
        return msgspec.json.decode(self.payload)

    @property
    def order_key(self) -> str:
        """Events that share it keep their order, also when one of them must wait: the source, or its sub-key."""
        return self.source if self.ordering_key is None else f"{self.source}:{self.ordering_key}"

    def partition_key(self, *, spread: bool = False) -> bytes:
        """The Kafka key; `spread` where the source opted into ordering keys."""
        return partition_key(self.source, self.ordering_key if spread else None)

    def fingerprint_in(self, version: int) -> bytes:
        """The fingerprint in the version of a stored one, to compare with it.

        Raises:
            UnknownVersion: a version this release does not know.
        """
        if version == CURRENT:
            return self.fingerprint
        return fingerprint(self.payload, json_text.load(self.payload), version)


class _Slice(msgspec.Struct):
    """Finds the payload's own bytes in an envelope."""

    payload: msgspec.Raw


_SLICER = msgspec.json.Decoder(_Slice)


def one_line(text: bytes) -> bytes:
    """The same JSON text on one line: CR and LF can only stand between tokens, each becomes a space."""
    return text.translate(_LINE_BREAKS) if _LF in text or _CR in text else text


def parse_envelope(body: bytes, limits: Limits = EDGE, *, idempotency_key: str | None = None) -> Event:
    """The event in a JSON envelope.

    Args:
        body: UTF-8 JSON text.
        limits: what to refuse.
        idempotency_key: the key where it came beside the body (HTTP header); the body's own must then be absent or equal.

    Raises:
        TooLarge, Malformed, Invalid: with the pointer of the field at fault and no value of it.
    """
    if len(body) > limits.body_bytes:
        raise TooLarge(f"The event is larger than {limits.body_bytes} bytes.")
    if idempotency_key is None and (event := _usual(body, limits)) is not None:
        return event
    document = json_text.load(body, limits)
    members = document.value
    if not isinstance(members, dict):
        raise Invalid("The event must be a JSON object.", reason=Reason.NOT_OBJECT)
    if idempotency_key is not None and members.setdefault("idempotency_key", idempotency_key) != idempotency_key:
        raise Malformed(
            "The Idempotency-Key header and the member idempotency_key differ.",
            reason=Reason.BAD_ID,
            pointer="/idempotency_key",
        )
    try:
        source, version, key = members["source"], members["schema_version"], members["idempotency_key"]
        value = members["payload"]
    except KeyError:
        raise _wrong_members(members) from None
    if len(members) > len(_REQUIRED) and not members.keys() <= _MEMBERS:
        raise _wrong_members(members)
    exact = None if document.exact is None else document.exact["payload"]
    return build(
        source=source,
        schema_version=version,
        idempotency_key=key,
        payload=json_text.written(value) if document.compact else bytes(_SLICER.decode(body).payload),
        document=json_text.Document(value, document.plain, document.compact, exact),
        type=members.get("type"),
        ordering_key=members.get("ordering_key"),
        occurred_at=members.get("occurred_at"),
        limits=limits,
    )


def _usual(body: bytes, limits: Limits) -> Event | None:
    """The event of an envelope that is as nearly all are, in four fifths of the time: no white space but blanks, no escape, no
    member beside the required ones but `type`, few values, every number in its canonical spelling. None: that is for the full
    reading to judge, which says the same of these (a property test holds the two together).
    """
    if len(body) > limits.nodes or _BACKSLASH in body:  # each value takes a byte at least
        return None
    try:
        members = _loads(body)
        value = members["payload"]
        kind = None if len(members) == len(_REQUIRED) else members["type"]
        if len(members) > len(_REQUIRED) + 1:
            return None
        encoded = _dumps(members)
        if body == encoded:
            payload = json_text.written(value)
        elif body.replace(b" ", b"") == encoded.replace(b" ", b""):
            payload = bytes(_SLICER.decode(body).payload)
        else:
            return None
        canonical = _dumps(value, None, _SORTED)
        if not json_text.is_canonical(canonical):
            return None
        json_text.check_size(payload, limits)
        source, version = members["source"], members["schema_version"]
        _check_names(source, version, kind, limits.source_chars)
        key = _key(members["idempotency_key"], limits)
    except (ValueError, KeyError, TypeError, Rejected):
        return None
    return Event(id_bytes(source, key), source, version, key, payload, digest(canonical), kind)


@lru_cache(_REMEMBERED)
def _check_names(source: object, version: object, kind: object, source_chars: int) -> None:
    """The three members that repeat together, in one look. Raises: Invalid; TypeError: one cannot be a name at all."""
    _source(source, source_chars)
    _visible(version, "schema_version", _VERSION_CHARS)
    if kind is not None:
        _visible(kind, "type", _TYPE_CHARS)


def _wrong_members(members: dict[str, Any]) -> Invalid:
    for name in _REQUIRED:
        if name not in members:
            reason = Reason.BAD_ID if name == "idempotency_key" else Reason.SCHEMA_INVALID
            return Invalid(f"The member {name} is missing.", reason=reason, pointer=f"/{name}")
    return Invalid(f"The event has a member it may not have; allowed are {', '.join(sorted(_MEMBERS))}.")


def build(
    *,
    source: object,
    schema_version: object,
    idempotency_key: object,
    payload: bytes,
    document: json_text.Document,
    type: object = None,
    ordering_key: object = None,
    occurred_at: object = None,
    payload_encoding: str = "json",
    limits: Limits = EDGE,
) -> Event:
    """The event of these members, whatever way they came in.

    Args:
        payload: JSON text; document: the same as `json_text.load` read it.

    Raises:
        Malformed, Invalid, TooLarge: a member breaks its rule.
    """
    json_text.check_size(payload, limits)
    checked_source = _source(source, limits.source_chars)
    checked_key = _key(idempotency_key, limits)
    return Event(
        id_bytes=id_bytes(checked_source, checked_key),
        source=checked_source,
        schema_version=_visible(schema_version, "schema_version", _VERSION_CHARS),
        idempotency_key=checked_key,
        payload=payload if document.compact else one_line(payload),
        fingerprint=fingerprint(payload, document),
        type=None if type is None else _visible(type, "type", _TYPE_CHARS),
        ordering_key=None if ordering_key is None else _ordering_key(ordering_key, limits),
        occurred_at=None if occurred_at is None else _occurred_at(occurred_at),
        payload_encoding=payload_encoding,
    )


def encode(event: Event) -> bytes:
    """The event as one line of JSON: the envelope that goes to Kafka when the sender's own text cannot."""
    members: dict[str, Any] = {
        "source": event.source,
        "schema_version": event.schema_version,
        "idempotency_key": event.idempotency_key,
    }
    for name in ("type", "ordering_key", "occurred_at"):
        value = getattr(event, name)
        if value is not None:
            members[name] = value
    return json_text.written({**members, "payload": orjson.Fragment(event.payload)})


def _source(value: object, longest: int) -> str:
    if not isinstance(value, str) or len(value) > longest or not _is_source(value):
        raise Invalid(
            f"source must be a string of 1 to {longest} characters allowed in a URI (RFC 3986).",
            pointer="/source",
        )
    return value


def _key(value: object, limits: Limits) -> str:
    if isinstance(value, str) and len(value) <= limits.key_chars and _is_visible_ascii(value):
        return value
    # No string, or one too long, breaks our rule (422); empty, or with other characters, it is no key at all (400).
    refusal = Malformed if isinstance(value, str) and len(value) <= limits.key_chars else Invalid
    raise refusal(
        f"idempotency_key must be a string of 1 to {limits.key_chars} visible ASCII characters.",
        reason=Reason.BAD_ID,
        pointer="/idempotency_key",
    )


def _visible(value: object, name: str, longest: int) -> str:
    if not isinstance(value, str) or len(value) > longest or not _is_visible_name(value):
        raise _not_visible(name, longest)
    return value


def _ordering_key(value: object, limits: Limits) -> str:
    # As `_visible`, but there are too many of these to remember.
    if not isinstance(value, str) or len(value) > limits.key_chars or not _is_visible_ascii(value):
        raise _not_visible("ordering_key", limits.key_chars)
    return value


def _not_visible(name: str, longest: int) -> Invalid:
    return Invalid(f"{name} must be a string of 1 to {longest} visible ASCII characters.", pointer=f"/{name}")


@lru_cache(_REMEMBERED)
def _is_source(text: str) -> bool:
    return _SOURCE.fullmatch(text) is not None


@lru_cache(_REMEMBERED)
def _is_visible_name(text: str) -> bool:
    """`_is_visible_ascii`, for what repeats."""
    return _is_visible_ascii(text)


def _is_visible_ascii(text: str) -> bool:
    """One or more of U+0021 to U+007E: printable ASCII but the space."""
    return text != "" and text.isascii() and text.isprintable() and " " not in text


def _occurred_at(value: object) -> datetime:
    try:
        return instant(value)
    except ValueError as error:
        raise Invalid(f"occurred_at {error}.", pointer="/occurred_at") from None
