"""`POST /api/v1/webhooks/{source}`: what a sender that knows nothing of Plutus posts, as an event.

How the source's webhooks are read is declared (`hooks.py`). The signature is checked over the raw bytes before anything is
looked at; then key and type are taken from where they are declared to be. The body becomes the payload as it is: JSON stays
JSON, where the sender calls it so (`application/json`, `...+json`), and is refused where it is not what it is called; any other
body, or one of no declared type, is kept as a JSON string (`schemas.opaque`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from infra.runtime.api_keys import Grant
from ingest_gateway.access import Denied, Refused
from ingest_gateway.head import Head
from ingest_gateway.hooks import Hook, Hooks, Place
from ingest_gateway.intake import Reader, Receive, Submission, read_body
from ingest_gateway.senders import Identify
from ingest_gateway.signatures import only
from schemas import json_text
from schemas.errors import Invalid, Reason, TooLarge, UnsupportedMedia
from schemas.event import build, encode
from schemas.limits import Limits
from schemas.opaque import as_json_string
from schemas.pointer import ABSENT, resolve

_JSON: Final = re.compile(rb"application/(?:json|[!#$&^_.+a-z0-9-]+\+json)[ \t]*(?:;.*)?", re.IGNORECASE | re.DOTALL)
_CHARSET: Final = re.compile(rb'charset[ \t]*=[ \t]*"?(?!utf-8"?[ \t]*(?:;|\Z))', re.IGNORECASE)


def webhooks(prefix: str, hooks: Callable[[], Hooks], limits: Limits, clock: Callable[[], float]) -> Reader:
    """The reader of webhooks.

    Args:
        prefix: of the path; the source is the rest of it.
        hooks: what is declared now.
        clock: seconds since 1970, to compare a signature's time with.
    """

    async def read(head: Head, receive: Receive) -> Submission:
        source = head.path.removeprefix(prefix)
        hook = hooks().get(source)
        if hook is None:
            raise Refused(Denied.UNKNOWN_SOURCE, "No webhook of this source is declared.")
        body = await read_body(head, receive, limits.body_bytes)
        hook.scheme.check(head.headers, body, clock())
        return _submission(source, hook, head, body, limits)

    return read


def known_by_key(prefix: str, hooks: Callable[[], Hooks], identify: Identify) -> Identify:
    """Who sends a webhook: a signature says it by itself, so a key is asked for where nothing is signed."""

    def known(head: Head) -> Grant | None:
        hook = hooks().get(head.path.removeprefix(prefix))
        return identify(head) if hook is not None and not hook.signed else None

    return known


def _submission(source: str, hook: Hook, head: Head, body: bytes, limits: Limits) -> Submission:
    if head.content_encoding is not None and head.content_encoding.strip().lower() != b"identity":
        raise UnsupportedMedia("Content-Encoding is not supported.")
    payload, encoding = (body, "json") if _is_json(head.content_type) else as_json_string(body)
    if len(payload) > limits.body_bytes:
        raise TooLarge(f"The body, kept as a JSON string, is larger than {limits.body_bytes} bytes.")
    document = json_text.load(payload, limits)
    inside = document.value if encoding == "json" else ABSENT
    key = _found(hook.key, head, inside)
    if key is None:
        raise Invalid(
            "The event has no idempotency key where this source's declaration says that it is.",
            reason=Reason.BAD_ID,
            pointer=hook.key.pointer or "",
        )
    event = build(
        source=source,
        schema_version=hook.schema_version,
        idempotency_key=key,
        payload=payload,
        document=document,
        type=None if hook.type is None else _found(hook.type, head, inside),
        payload_encoding=encoding,
        limits=limits,
    )
    return Submission(event, encode(event), head.traceparent)


def _is_json(content_type: bytes | None) -> bool:
    if content_type is None or not _JSON.fullmatch(content_type.strip()):
        return False
    if _CHARSET.search(content_type):
        raise UnsupportedMedia("JSON must be in UTF-8.")
    return True


def _found(place: Place, head: Head, document: Any) -> Any:
    """The value at a place of the request, None where there is none. A whole number is as good a key as its digits."""
    name = place.header_name
    if name is not None:
        value = only(head.headers, name)
        return None if value is None else value.decode("latin-1")
    found = resolve(document, place.tokens)
    if found is ABSENT:
        return None
    return str(found) if type(found) is int else found
