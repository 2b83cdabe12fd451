"""JSON Pointer, with the examples of RFC 6901 section 5."""

from __future__ import annotations

from typing import Any

import pytest

from schemas.pointer import ABSENT, parse, resolve

DOCUMENT: dict[str, Any] = {
    "foo": ["bar", "baz"],
    "": 0,
    "a/b": 1,
    "c%d": 2,
    "e^f": 3,
    "g|h": 4,
    "i\\j": 5,
    'k"l': 6,
    " ": 7,
    "m~n": 8,
    "null": None,
}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", DOCUMENT),
        ("/foo", ["bar", "baz"]),
        ("/foo/0", "bar"),
        ("/", 0),
        ("/a~1b", 1),
        ("/c%d", 2),
        ("/e^f", 3),
        ("/g|h", 4),
        ("/i\\j", 5),
        ('/k"l', 6),
        ("/ ", 7),
        ("/m~0n", 8),
        ("/null", None),
    ],
)
def test_the_examples(text: str, value: object) -> None:
    assert resolve(DOCUMENT, parse(text)) == value


@pytest.mark.parametrize(
    "text", ["/nothing", "/foo/2", "/foo/-", "/foo/01", "/foo/-1", "/foo/x", "/foo/" + "9" * 30, "/foo/0/0", "/null/x"]
)
def test_what_leads_nowhere_is_absent(text: str) -> None:
    assert resolve(DOCUMENT, parse(text)) is ABSENT


def test_a_tilde_is_read_once() -> None:
    assert parse("/~01") == ("~1",)


@pytest.mark.parametrize("text", ["foo", "foo/bar", "/~", "/~2", "#/foo"])
def test_what_is_no_pointer_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="JSON Pointer"):
        parse(text)
