"""The fuzz target of the one parser: any bytes go in, and whatever breaks a promise of it comes out as an AssertionError.

refusals       nothing but `Rejected` comes out, and it names no more than the rule
agreement      `json_text.load` takes what a second, plain reading of the JSON rules takes, and nothing else
fingerprints   an event has the fingerprint that the published description gives, however its payload is spelled
round trip     an event written and read again is the same event
cost           no input takes longer than its size allows
"""

from __future__ import annotations

import json
import math
import re
import time
from contextlib import suppress
from typing import Any

from schemas import json_text
from schemas.errors import Rejected
from schemas.event import encode, parse_envelope
from tests.unit.schemas import reference

MILLISECONDS = 50.0
"""What any input may take, and beyond it a microsecond for each of its bytes."""
_DEEP = 200
_LONG_EXPONENT = re.compile(rb"[eE][+-]?0*[1-9][0-9]{8}")
_POSITION = re.compile(r"\d+")
_LONGEST_REFUSAL = 200


class Unreadable(Exception):
    """The second reading refuses."""


def examine(data: bytes) -> str:
    """Hold the parser to its promises for this input. Returns what it did, in words that many inputs share.

    Raises:
        AssertionError: a promise is broken.
    """
    within_cost(data)
    agrees(data)
    try:
        event = parse_envelope(data)
    except Rejected as refused:
        told = f"{type(refused).__name__} {refused.pointer} {_POSITION.sub('N', refused.message)}"
        if len(told) > _LONGEST_REFUSAL:
            raise AssertionError("a refusal holds more than the rule") from None
        return told
    text = event.payload.decode()
    assert event.fingerprint.hex() == reference.fingerprint(text)
    line = encode(event)
    assert not {0x0A, 0x0D} & set(line)
    again = parse_envelope(line)
    assert (again.id, again.fingerprint, again.payload.strip()) == (event.id, event.fingerprint, event.payload.strip())
    document = json_text.load(event.payload)
    written = json_text.canonical(event.payload, document)
    assert json_text.canonical(written, json_text.load(written)) == written
    members = "".join("x" if one is None else "o" for one in (event.type, event.ordering_key, event.occurred_at))
    return f"Event {members} {document.plain} {document.compact} {document.exact is None} {text[:1]}"


def within_cost(data: bytes) -> None:
    """The best of three tries is fast: a busy machine is no fault of the parser's."""
    allowed = MILLISECONDS + len(data) / 1000
    for _ in range(3):
        began = time.process_time()
        with suppress(Rejected):
            parse_envelope(data)
        if (time.process_time() - began) * 1000 <= allowed:
            return
    raise AssertionError(f"{len(data)} bytes take longer than {allowed:.0f} ms")


def agrees(data: bytes) -> None:
    """Both readings take it, or both refuse."""
    if data.count(b"[") + data.count(b"{") > _DEEP or _LONG_EXPONENT.search(data):
        return  # deeper than one of the readers goes, or a number whose range they may judge differently
    try:
        json_text.load(data)
    except Rejected:
        taken = False
    else:
        taken = True
    assert taken == readable(data)


def readable(data: bytes) -> bool:
    """The rules of JSON once more, by the standard library: UTF-8, no repeated member, doubles' range, storable text."""
    try:
        value = json.loads(
            data.decode(), parse_constant=_refuse, parse_float=_number, parse_int=_number, object_pairs_hook=_members
        )
        _storable(value)
    except (UnicodeDecodeError, json.JSONDecodeError, Unreadable):
        return False
    return True


def _refuse(text: str) -> Any:
    raise Unreadable


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise Unreadable
    return value


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise Unreadable
    return members


def _storable(value: Any) -> None:
    if isinstance(value, str):
        if "\0" in value or any("\ud800" <= one <= "\udfff" for one in value):
            raise Unreadable
    elif isinstance(value, dict):
        for name, member in value.items():
            _storable(name)
            _storable(member)
    elif isinstance(value, list):
        for item in value:
            _storable(item)
