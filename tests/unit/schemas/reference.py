"""Plutus' event id, canonical form and fingerprint once more, from their description alone.

Only the standard library, `json` and `decimal`; nothing of `schemas` is imported. Slow and plain: what a producer in
another language would write.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from decimal import Decimal
from typing import Any

_PLAIN = 40


class Members(list[tuple[str, Any]]):
    """An object's members in the order of the text."""


def event_id(namespace: str, source: str, idempotency_key: str) -> str:
    """UUIDv5 of the namespace and `source`, a newline, the key."""
    return str(uuid.uuid5(uuid.UUID(namespace), f"{source}\n{idempotency_key}"))


def fingerprint(payload: str) -> str:
    """Version byte 1 and 16 bytes of BLAKE2b over the canonical form, in hexadecimal."""
    return "01" + hashlib.blake2b(canonical(payload).encode(), digest_size=16).hexdigest()


def canonical(payload: str) -> str:
    """The canonical form of a JSON text."""
    return _write(json.loads(payload, parse_int=Decimal, parse_float=Decimal, object_pairs_hook=Members))


def _write(value: Any) -> str:
    if isinstance(value, Members):
        return "{" + ",".join(f"{_string(name)}:{_write(each)}" for name, each in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_write, value)) + "]"
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, Decimal):
        return _number(value)
    return {None: "null", True: "true", False: "false"}[value]


def _string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _number(value: Decimal) -> str:
    sign, all_digits, exponent = value.as_tuple()
    assert isinstance(exponent, int)
    digits = "".join(map(str, all_digits)).lstrip("0")
    exponent += len(digits) - len(digits.rstrip("0"))
    digits = digits.rstrip("0")
    if not digits:
        return "0"
    point = len(digits) + exponent
    if exponent < 0 < point:
        written = f"{digits[:point]}.{digits[point:]}"
    elif -_PLAIN < point <= _PLAIN:
        written = digits + "0" * exponent if exponent >= 0 else "0." + "0" * -point + digits
    else:
        written = digits[0] + ("." + digits[1:] if digits[1:] else "") + f"e{point - 1}"
    return "-" * sign + written
