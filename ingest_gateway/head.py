"""The head of a request: what its headers say, read once and strictly, whatever the route.

Refused for every route, because a proxy in front may read it differently: not exactly one Host (RFC 9112 section 3.2), a
transfer coding other than chunked, any Upgrade and CONNECT (httptools hands such a request to the application without its
body).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from schemas.cloudevents import HTTP_PREFIX
from schemas.errors import Malformed, Reason, UnsupportedMedia

Scope = dict[str, Any]

_JSON = re.compile(rb'application/json[ \t]*(?:;[ \t]*charset[ \t]*=[ \t]*"?utf-8"?[ \t]*)?', re.IGNORECASE)
_BARE_KEY = re.compile(rb"[\x21\x23-\x7e][\x21-\x7e]*")
_QUOTED_KEY = re.compile(rb'"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"')
_ESCAPE = re.compile(rb'\\(["\\])')
_VISIBLE = re.compile(rb"[\x21-\x7e]+")


class Head:
    """The headers an event's request may have; None where absent.

    path, headers: the whole of both, for ways in that keep something elsewhere; header names are in lower case.
    has_attributes: one of them is a CloudEvents attribute.
    """

    __slots__ = (
        "content_encoding",
        "content_length",
        "content_type",
        "has_attributes",
        "headers",
        "idempotency_keys",
        "path",
        "prefer",
        "traceparent",
    )

    def __init__(self, path: str = "", headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
        self.path = path
        self.headers = headers
        self.content_type: bytes | None = None
        self.content_encoding: bytes | None = None
        self.content_length: int | None = None
        self.idempotency_keys: list[bytes] | None = None
        self.traceparent: bytes | None = None
        self.has_attributes = False
        self.prefer: list[bytes] | None = None


def read_head(scope: Scope) -> Head:
    """The head of this request.

    Raises:
        Malformed: the connection-level rules above are broken.
    """
    headers = scope["headers"]
    head = Head(scope["path"], headers)
    hosts = 0
    for name, value in headers:
        if name == b"host":
            hosts += 1
        elif name == b"content-type":
            head.content_type = value
        elif name == b"content-length":
            head.content_length = int(value) if value.isdigit() else None
        elif name == b"idempotency-key":
            head.idempotency_keys = [*(head.idempotency_keys or ()), value]
        elif name == b"traceparent":
            head.traceparent = value
        elif name == b"prefer":
            head.prefer = [*(head.prefer or ()), value]
        elif name == b"content-encoding":
            head.content_encoding = value
        elif name == b"transfer-encoding" and value.strip().lower() != b"chunked":
            raise Malformed("Transfer-Encoding may only be chunked.")
        elif name == b"upgrade":
            raise Malformed("Upgrade is not supported.")
        elif name.startswith(HTTP_PREFIX):
            head.has_attributes = True
    _check_request(scope, hosts)
    return head


def _check_request(scope: Scope, hosts: int) -> None:
    if scope["method"] == "CONNECT":
        raise Malformed("CONNECT is not supported.")
    if hosts != 1 and (hosts > 1 or scope["http_version"] != "1.0"):
        raise Malformed("A request must have exactly one Host header.")


def check_json(head: Head) -> None:
    """Only JSON in UTF-8, as it is.

    Raises:
        UnsupportedMedia: another content type, charset or content coding, or none named.
    """
    if not is_json(head.content_type):
        raise UnsupportedMedia("Content-Type must be application/json or application/cloudevents+json, in UTF-8.")
    check_coding(head)


def is_json(content_type: bytes | None) -> bool:
    """True for JSON in UTF-8."""
    return content_type == b"application/json" or (
        content_type is not None and _JSON.fullmatch(content_type.strip()) is not None
    )


def check_coding(head: Head) -> None:
    """Only bodies as they are.

    Raises:
        UnsupportedMedia: a content coding is named.
    """
    if head.content_encoding is not None and head.content_encoding.strip().lower() != b"identity":
        raise UnsupportedMedia("Content-Encoding is not supported.")


def idempotency_key(values: Iterable[bytes], longest: int) -> str:
    """The key in the Idempotency-Key header: a structured-field string (RFC 8941 section 3.3.3), or the key itself.

    Raises:
        Malformed: more than one header, or neither form, or not a key.
    """
    value, *more = values
    if more:
        raise _bad_key("There is more than one Idempotency-Key header.")
    value = value.strip(b" \t")
    quoted = _QUOTED_KEY.fullmatch(value)
    if quoted is not None:
        value = _ESCAPE.sub(rb"\1", quoted[1])
    elif not _BARE_KEY.fullmatch(value):
        raise _bad_key("Idempotency-Key must be a string in double quotes, or the bare key.")
    if not _VISIBLE.fullmatch(value) or len(value) > longest:
        raise _bad_key(f"Idempotency-Key must hold 1 to {longest} visible ASCII characters.")
    return value.decode("ascii")


def _bad_key(message: str) -> Malformed:
    return Malformed(message, reason=Reason.BAD_ID, pointer="/idempotency_key")
