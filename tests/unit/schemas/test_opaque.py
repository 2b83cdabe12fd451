"""Bodies that are no JSON."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import json_text
from schemas.opaque import as_json_string, body_of


@pytest.mark.parametrize(
    ("body", "payload", "encoding"),
    [
        (b"payload=1&b=2", b'"payload=1&b=2"', "text"),
        ('<a b="Zoë"/>'.encode(), '"<a b=\\"Zoë\\"/>"'.encode(), "text"),
        (b"a\r\nb\t", b'"a\\r\\nb\\t"', "text"),
        (b"\xff\xfe", b'"//4="', "base64"),
        (b"a\0b", b'"YQBi"', "base64"),
        (b"\xed\xa0\x80", b'"7aCA"', "base64"),
        (b"\x01" * 60, b'"%b"' % (b"AQEB" * 20), "base64"),
        (b"", b'""', "text"),
    ],
)
def test_a_body_as_a_json_string(body: bytes, payload: bytes, encoding: str) -> None:
    assert as_json_string(body) == (payload, encoding)


@given(st.binary(max_size=300) | st.text(max_size=300).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_body_is_one_line_of_json_and_comes_back(body: bytes) -> None:
    payload, encoding = as_json_string(body)
    value = json_text.load(payload).value
    assert value == json.loads(payload)
    assert body_of(value, encoding) == body
    assert not {0x0A, 0x0D} & set(payload)
    # Never longer than base64, or than the plain text in its quotes.
    assert len(payload) <= max(4 * len(body) // 3 + 6, len(body) + 2)
