"""Who sends, where API keys are declared (GATEWAY_API_KEYS_FILE): `Authorization: Bearer <key>` (RFC 6750).

    no key, or one that is not known        401, before the body is read
    a key of other sources                  403, before anything is looked up

Deduplication knows sources and keys, not senders: a source is its holders' own, because nobody else can write it. So the
idempotency key of one sender never meets another one's. Without the file nothing is asked, and nothing is paid.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from infra.runtime.api_keys import Grant, Grants, digest
from ingest_gateway.access import Denied, Refused
from ingest_gateway.head import Head
from ingest_gateway.signatures import only

_BEARER: Final = re.compile(rb"bearer +([A-Za-z0-9._~+/-]+=*)", re.IGNORECASE)

Identify = Callable[[Head], Grant | None]
"""What the sender of this request may write; None: it is not asked. Raises: Refused, and Malformed for a header given twice."""


def bearer(grants: Callable[[], Grants]) -> Identify:
    """By the key in the Authorization header; `grants` gives what is declared now."""

    def identify(head: Head) -> Grant:
        found = _BEARER.fullmatch(only(head.headers, b"authorization") or b"")
        grant = None if found is None else grants().get(digest(found[1]))
        if grant is None:
            raise Refused(
                Denied.UNAUTHENTICATED, "An API key is needed that is known here: Authorization: Bearer <key>."
            )
        return grant

    return identify


def check_source(grant: Grant, source: str) -> None:
    """May this sender write this source.

    Raises:
        Refused: it may not.
    """
    if not grant.covers(source):
        raise Refused(Denied.FORBIDDEN_SOURCE, "This API key may not write this source.")
