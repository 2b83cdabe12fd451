"""Refusals as RFC 9457 problem documents: one table says status, type and title of each kind.

    {"type": "tag:plutus,2026:problem/<kind>", "title": ..., "status": ..., "code": ..., "detail": ...,
     "errors": [{"pointer": "/payload", "detail": ...}]}

`type` names the kind of problem and never changes its meaning, `code` is the exact reason (the words of failures rows and
dead letters), `errors` points into the document (RFC 6901). No member ever holds a value of the input.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, Final, NamedTuple

import orjson

from ingest_gateway.access import Denied, Refused
from schemas.errors import Invalid, Malformed, Reason, Rejected, TooLarge, UnsupportedMedia

MEDIA_TYPE: Final = b"application/problem+json"
ACCEPT: Final = b"application/json, application/cloudevents+json"
TYPE_BASE: Final = "tag:plutus,2026:problem/"
_RETRY_AFTER: Final = b"retry-after"

Headers = list[tuple[bytes, bytes]]


class Kind(Enum):
    """Every kind of refusal: status and title. The name in lower case, with hyphens, ends its type URI."""

    MALFORMED = (400, "The request cannot be read")
    UNAUTHENTICATED = (401, "The sender is not known")
    FORBIDDEN_SOURCE = (403, "The sender may not write this source")
    NOT_FOUND = (404, "Not Found")
    METHOD_NOT_ALLOWED = (405, "Method Not Allowed")
    REQUEST_TIMEOUT = (408, "Request Timeout")
    CONTENT_TOO_LARGE = (413, "Content Too Large")
    URI_TOO_LONG = (414, "URI Too Long")
    UNSUPPORTED_MEDIA_TYPE = (415, "Unsupported Media Type")
    INVALID_EVENT = (422, "The event breaks a rule")
    IDEMPOTENCY_CONFLICT = (422, "The idempotency key belongs to another payload")
    OVERLOADED = (429, "Too many events in flight")
    HEADERS_TOO_LARGE = (431, "Request Header Fields Too Large")
    INTERNAL_ERROR = (500, "Internal Server Error")
    NOT_ACCEPTED = (503, "The event was not accepted")
    OUTCOME_UNKNOWN = (503, "It is not known whether the event was accepted")
    DATABASE_UNAVAILABLE = (503, "The database does not answer")

    @property
    def status(self) -> int:
        """HTTP status code."""
        return self.value[0]

    @property
    def title(self) -> str:
        """Short summary, the same for every occurrence."""
        return self.value[1]

    @property
    def code(self) -> str:
        """The reason, where the kind itself is the reason."""
        return self.name.lower()

    @property
    def uri(self) -> str:
        """The `type` member."""
        return TYPE_BASE + self.name.lower().replace("_", "-")


_KINDS: Final[dict[type[Rejected], Kind]] = {
    Malformed: Kind.MALFORMED,
    TooLarge: Kind.CONTENT_TOO_LARGE,
    UnsupportedMedia: Kind.UNSUPPORTED_MEDIA_TYPE,
    Invalid: Kind.INVALID_EVENT,
}


_DENIALS: Final[dict[Denied, tuple[Kind, Headers]]] = {
    # A 401 names what would be accepted (RFC 9110 section 11.6.1); for signatures there is no registered word.
    Denied.UNAUTHENTICATED: (Kind.UNAUTHENTICATED, [(b"www-authenticate", b'Bearer realm="plutus"')]),
    Denied.BAD_SIGNATURE: (Kind.UNAUTHENTICATED, [(b"www-authenticate", b'Signature realm="webhooks"')]),
    Denied.FORBIDDEN_SOURCE: (Kind.FORBIDDEN_SOURCE, []),
    Denied.UNKNOWN_SOURCE: (Kind.NOT_FOUND, []),
}


class Answer(NamedTuple):
    """A whole HTTP answer."""

    status: int
    headers: Headers
    body: bytes


def problem(
    kind: Kind,
    detail: str,
    *,
    code: str | None = None,
    retry_after: int | None = None,
    headers: Headers | None = None,
    **members: Any,
) -> Answer:
    """A problem document of this kind.

    Args:
        detail: a sentence for a person, without any value of the input.
        retry_after: whole seconds (RFC 9110 section 10.2.3).
        headers: beside content-type and content-length.
        members: extension members.
    """
    document = {
        "type": kind.uri,
        "title": kind.title,
        "status": kind.status,
        "code": code or kind.code,
        "detail": detail,
        **members,
    }
    if retry_after is not None:
        headers = [*(headers or []), (_RETRY_AFTER, b"%d" % retry_after)]
    return encoded(kind.status, orjson.dumps(document), media_type=MEDIA_TYPE, headers=headers)


def rejected(error: Rejected, *, accept: bytes = ACCEPT) -> Answer:
    """The answer to input that was refused for what it is, or for who sends it.

    Args:
        accept: the media types that the way in takes.
    """
    if isinstance(error, Refused):
        kind, headers = _DENIALS[error.reason]
        return problem(kind, error.message, code=error.reason.value, headers=headers)
    kind = _KINDS[type(error)]
    extra: Headers = []
    if kind is Kind.UNSUPPORTED_MEDIA_TYPE:
        extra = [(b"accept", accept)]
    return problem(
        kind,
        error.message,
        code=error.reason.value,
        headers=extra,
        errors=[{"pointer": one.pointer, "detail": one.detail} for one in error.errors]
        or [{"pointer": error.pointer, "detail": error.message}],
    )


def conflict() -> Answer:
    """The same key was used with another payload."""
    return problem(
        Kind.IDEMPOTENCY_CONFLICT,
        "This source has used this idempotency key with another payload. Send the payload under a key of its own.",
        code=Reason.IDEMPOTENCY_CONFLICT.value,
    )


def encoded(status: int, body: bytes, *, media_type: bytes, headers: Headers | None = None) -> Answer:
    """An answer with a body."""
    return Answer(
        status,
        [(b"content-type", media_type), (b"content-length", b"%d" % len(body)), *(headers or [])],
        body,
    )
