"""What the headers of a request may say."""

from __future__ import annotations

from typing import Any

import pytest

from ingest_gateway.head import Head, check_json, idempotency_key, read_head
from schemas.errors import Malformed, UnsupportedMedia

HOST = (b"host", b"gateway")


def scope(*headers: tuple[bytes, bytes], version: str = "1.1") -> dict[str, Any]:
    return {"method": "POST", "path": "/", "headers": list(headers), "http_version": version}


def head(**values: Any) -> Head:
    made = Head()
    for name, value in values.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [HOST, HOST],
        [HOST, (b"upgrade", b"websocket")],
        [HOST, (b"upgrade", b"h2c"), (b"connection", b"upgrade")],
        [HOST, (b"transfer-encoding", b"gzip, chunked")],
        [HOST, (b"transfer-encoding", b"identity")],
    ],
)
def test_what_a_proxy_may_read_differently_is_refused(headers: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(Malformed):
        read_head(scope(*headers))


def test_host_is_not_needed_in_http_1_0() -> None:
    read_head(scope(version="1.0"))
    with pytest.raises(Malformed):
        read_head(scope(HOST, HOST, version="1.0"))


def test_what_an_event_may_say_is_read() -> None:
    found = read_head(
        scope(
            HOST,
            (b"content-type", b"application/json"),
            (b"content-length", b"12"),
            (b"transfer-encoding", b"Chunked"),
            (b"traceparent", b"\xff"),
            (b"idempotency-key", b"a"),
            (b"idempotency-key", b"b"),
            (b"x-forwarded-for", b"10.0.0.1"),
        )
    )
    assert (found.content_type, found.content_length, found.traceparent) == (b"application/json", 12, b"\xff")
    assert found.idempotency_keys == [b"a", b"b"]


@pytest.mark.parametrize(
    "kind",
    [
        b"application/json",
        b"application/json; charset=utf-8",
        b'Application/JSON ;charset="UTF-8"',
        b" application/json ",
    ],
)
def test_json_in_utf_8_is_taken(kind: bytes) -> None:
    check_json(head(content_type=kind))
    check_json(head(content_type=kind, content_encoding=b"identity"))


@pytest.mark.parametrize(
    "kind",
    [
        None,
        b"",
        b"text/plain",
        b"application/x-www-form-urlencoded",
        b"multipart/form-data; boundary=x",
        b"application/octet-stream",
        b"application/json; charset=latin-1",
        b"application/json, text/plain",
        b"application/cloudevents+json",
        b"application/jsonx",
    ],
)
def test_other_content_is_not(kind: bytes | None) -> None:
    with pytest.raises(UnsupportedMedia):
        check_json(head(content_type=kind))


def test_a_content_coding_is_not() -> None:
    with pytest.raises(UnsupportedMedia):
        check_json(head(content_type=b"application/json", content_encoding=b"gzip"))


@pytest.mark.parametrize(
    ("value", "key"),
    [
        (b'"8e03978e-40d5"', "8e03978e-40d5"),
        (b"8e03978e-40d5", "8e03978e-40d5"),
        (b" evt_1 \t", "evt_1"),
        (rb'"a\"b\\c"', r'a"b\c'),
        (b"a,b;c=d", "a,b;c=d"),
        (b"x" * 255, "x" * 255),
        (b'"' + b"x" * 255 + b'"', "x" * 255),
    ],
)
def test_a_key_may_be_a_string_or_bare(value: bytes, key: str) -> None:
    assert idempotency_key([value], 255) == key


@pytest.mark.parametrize(
    "value",
    [b"", b"  ", b'""', b'"a', b"a b", b'"a b"', b'"a"b"', rb'"a\b"', b"\xc3\xa9", b"a\x7f", b"x" * 256, b'"a", "b"'],
)
def test_anything_else_is_malformed_and_not_repeated(value: bytes) -> None:
    with pytest.raises(Malformed) as error:
        idempotency_key([value], 255)
    assert error.value.pointer == "/idempotency_key"


def test_two_headers_are_malformed_even_if_equal() -> None:
    with pytest.raises(Malformed):
        idempotency_key([b"a", b"a"], 255)
