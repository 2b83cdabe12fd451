"""Every way in which Plutus can refuse an event, as one tree.

    PlutusError
    ├── Rejected                     the input is at fault; the same bytes are refused every time
    │   ├── Malformed                not a document we read at all            (HTTP 400)
    │   ├── TooLarge                 over a byte or count limit               (HTTP 413)
    │   ├── UnsupportedMedia         a content type we do not take            (HTTP 415)
    │   └── Invalid                  readable, but a field breaks a rule      (HTTP 422)
    ├── Retryable                    a handler asks to be run again later
    └── Permanent                    a handler says this event can never succeed

`reason` is the stable word that dead letters, failures rows and problem documents carry. A message names the
field and the rule; it never holds a value of the input, because it reaches logs, metrics and HTTP answers.
Status codes are the gateway's business, dead letters the worker's: neither is known here.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Reason(StrEnum):
    """Why an event was refused: the closed set used in failures rows, dead-letter headers and metric labels."""

    NULL_VALUE = "null_value"
    MALFORMED_JSON = "malformed_json"
    NOT_OBJECT = "not_object"
    TOO_DEEP = "too_deep"
    TOO_LARGE = "too_large"
    HEADERS_TOO_LARGE = "headers_too_large"
    UNDECODABLE = "undecodable"
    UNSTORABLE_TEXT = "unstorable_text"
    UNSTORABLE_NUMBER = "unstorable_number"
    BAD_ID = "bad_id"
    SCHEMA_INVALID = "schema_invalid"
    SCHEMA_UNKNOWN = "schema_unknown"
    UNSUPPORTED_MEDIA = "unsupported_media"
    KEY_MISMATCH = "key_mismatch"
    IDEMPOTENCY_CONFLICT = "idempotency_conflict"
    REPLAY_LIMIT = "replay_limit"
    NO_HANDLER = "no_handler"
    HANDLER_ERROR = "handler_error"
    HANDLER_TIMEOUT = "handler_timeout"
    HANDLER_BROKE_TRANSACTION = "handler_broke_transaction"
    CRASH_SUSPECT = "crash_suspect"


class PlutusError(Exception):
    """Root of every error Plutus raises on purpose."""


class FieldError(NamedTuple):
    """One broken rule: where (JSON Pointer, RFC 6901) and which, the `errors` extension of a problem document (RFC 9457).

    Neither holds a value of the input, nor the name of a member that no schema knows.
    """

    pointer: str
    detail: str


class Rejected(PlutusError):
    """The input is at fault: sending the same bytes again gets the same answer.

    Args:
        message: a sentence for a person, naming the field and the rule, never the value.
        reason: the stable word for it.
        pointer: JSON Pointer (RFC 6901) of the field at fault, "" for the whole document.
        errors: every broken rule, where more than one can be found at once; empty where the message says it all.
    """

    default_reason = Reason.SCHEMA_INVALID

    def __init__(
        self, message: str, *, reason: Reason | None = None, pointer: str = "", errors: tuple[FieldError, ...] = ()
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason
        self.pointer = pointer
        self.errors = errors


class Malformed(Rejected):
    """Not a document we read: broken JSON, wrong encoding, repeated member, too deep."""

    default_reason = Reason.MALFORMED_JSON


class TooLarge(Rejected):
    """Over a limit on bytes, members or items."""

    default_reason = Reason.TOO_LARGE


class UnsupportedMedia(Rejected):
    """A content type or encoding that this way in does not take."""

    default_reason = Reason.UNSUPPORTED_MEDIA


class Invalid(Rejected):
    """Readable JSON whose members break the envelope's rules or the registered payload schema."""


class Retryable(PlutusError):
    """Raised by a handler: this event could not be handled now, run it again later.

    Args:
        message: for the operator; kept out of logs and dead letters unless it is a fixed sentence.
        after: seconds to wait before the next attempt; None leaves it to the backoff.
    """

    def __init__(self, message: str = "", *, after: float | None = None) -> None:
        super().__init__(message)
        self.after = after


class Permanent(PlutusError):
    """Raised by a handler: this event can never succeed, dead-letter it now."""
