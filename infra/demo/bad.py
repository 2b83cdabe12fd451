"""Ten bad records: five POSTs that the gateway refuses, five Kafka records that the worker dead-letters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from schemas.errors import Reason
from schemas.limits import EDGE

SOURCE: Final = "demo"
_NESTED: Final = "[" * (EDGE.depth + 1) + "]" * (EDGE.depth + 1)


@dataclass(frozen=True, slots=True)
class BadPost:
    """A request body that must be refused with a 4xx status. name: for people."""

    name: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Poison:
    """A Kafka record that must end in the dead-letter topic. Its key is its own alone, so that it is found again."""

    name: str
    key: bytes
    value: bytes | None
    reason: Reason


def posts(prefix: str = "") -> list[BadPost]:
    """The five POSTs."""
    good = f'"source":"{SOURCE}","schema_version":"1.0","idempotency_key":"{prefix}bad-post"'
    bodies = {
        "broken JSON": f'{{{good},"payload":{{"n":1}}',
        "a member is missing": f"{{{good}}}",
        "a key with a space": f'{{"source":"{SOURCE}","schema_version":"1.0","idempotency_key":"a b","payload":1}}',
        "a member is repeated": f'{{{good},"payload":{{"n":1,"n":2}}}}',
        "nested too deeply": f'{{{good},"payload":{_NESTED}}}',
    }
    return [BadPost(name, body.encode()) for name, body in bodies.items()]


def poison(prefix: str = "") -> list[Poison]:
    """The five records."""
    named = f'"source":"{SOURCE}","schema_version":"1.0","payload":{{"run":"{prefix}"}}'
    deep = f'"source":"{SOURCE}","schema_version":"1.0","idempotency_key":"{prefix}deep","payload":{_NESTED}'
    values: tuple[tuple[str, bytes | None, Reason], ...] = (
        ("no value", None, Reason.NULL_VALUE),
        # The prefix behind it: a random one may begin with what reads as a number.
        ("not JSON", f"not JSON {prefix}".encode(), Reason.MALFORMED_JSON),
        ("not an object", f'["{prefix}"]'.encode(), Reason.NOT_OBJECT),
        ("no idempotency key", f"{{{named}}}".encode(), Reason.BAD_ID),
        ("nested too deeply", f"{{{deep}}}".encode(), Reason.TOO_DEEP),
    )
    return [
        Poison(name, f"{prefix}poison-{number}".encode(), value, reason)
        for number, (name, value, reason) in enumerate(values, 1)
    ]
