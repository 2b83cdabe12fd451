"""What OpenAPI cannot say to Schemathesis: the key stands in the header or in the body, and where in both, it is the same;
and a source that uses its key again must send the same payload."""

from __future__ import annotations

import itertools
import re
from typing import Any

import schemathesis

from ingest_gateway.head import idempotency_key
from ingest_gateway.openapi import _SOURCE, _VISIBLE
from schemas.errors import Rejected
from schemas.limits import EDGE

HEADER, MEMBER = "Idempotency-Key", "idempotency_key"
_numbers = itertools.count()


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Make a request that is right but for these rules right; one that is wrong already stays as wrong as it is."""
    if case.method != "POST" or not isinstance(case.body, dict):
        return
    members = dict(case.body)
    if HEADER not in case.headers:
        if MEMBER not in members:
            case.headers[HEADER] = "from-the-header"
    elif fits(members.get(MEMBER), _VISIBLE, EDGE.key_chars):
        try:
            members[MEMBER] = idempotency_key([str(case.headers[HEADER]).encode("latin-1", "replace")], EDGE.key_chars)
        except Rejected:
            return
    if fits(members.get("source"), _SOURCE, EDGE.source_chars):
        members["source"] = f"case-{next(_numbers)}"
    case.body = members


def fits(value: Any, pattern: str, longest: int) -> bool:
    """Whether it is a string that keeps its rule."""
    return isinstance(value, str) and len(value) <= longest and re.search(pattern, value) is not None
