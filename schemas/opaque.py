"""A body that is no JSON, as the JSON text that a payload is: a string, with the `payload_encoding` that says how to read it.

    text      UTF-8 without U+0000: the string is the body
    base64    anything else, and text that JSON's escapes would make longer than base64 does

So any bytes can be kept and had back, and what they are is said beside them, never guessed from them.
"""

from __future__ import annotations

import base64
from typing import Final

from schemas import json_text

TEXT: Final = "text"
BASE64: Final = "base64"


def as_json_string(body: bytes) -> tuple[bytes, str]:
    """The body as a JSON string, and its encoding: `text` or `base64`."""
    encoded = b'"%b"' % base64.b64encode(body)
    if 0 in body:
        return encoded, BASE64
    try:
        text = json_text.written(body.decode())
    except UnicodeDecodeError:
        return encoded, BASE64
    return (text, TEXT) if len(text) <= max(len(encoded), len(body) + 2) else (encoded, BASE64)


def body_of(value: str, encoding: str) -> bytes:
    """The body again, of a payload's value with this encoding."""
    return base64.b64decode(value, validate=True) if encoding == BASE64 else value.encode()
