"""Files of named statements: what is read from them, and what is no such file."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from infra.runtime.sql import statements

Read = Callable[[str], Mapping[str, str]]


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Read:
    """Reads a text as the statements of a package."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def of(text: str) -> Mapping[str, str]:
        package = f"package_{uuid.uuid4().hex}"
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
        (tmp_path / package / "queries.sql").write_text(text, encoding="utf-8")
        return statements(package)

    return of


def test_statements_are_read_by_name_without_comments(read: Read) -> None:
    found = read("""-- Every statement of a test.

-- name: look
-- What is known; the dash -- inside stays.
SELECT 'a -- b', "partition"
-- a comment of its own line
  FROM t;

-- name: store_é
-- Two sentences. Here.
-- And another line.
INSERT INTO t VALUES ($1)
""")
    assert dict(found) == {
        "look": "SELECT 'a -- b', \"partition\"\n  FROM t",
        "store_é": "INSERT INTO t VALUES ($1)",
    }


def test_they_cannot_be_changed(read: Read) -> None:
    found = read("-- name: one\n-- One.\nSELECT 1;\n")
    with pytest.raises(TypeError):
        found["one"] = "DROP TABLE t"  # type: ignore[index]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "holds no named statement"),
        ("-- only a comment\n", "holds no named statement"),
        ("SELECT 0;\n-- name: one\n-- One.\nSELECT 1;\n", "SQL before the first name"),
        ("-- name: one\nSELECT 1;\n", "one needs a sentence"),
        ("-- name: one\n--\nSELECT 1;\n", "one needs a sentence"),
        ("-- name: one two\n-- One.\nSELECT 1;\n", "one two needs a sentence"),
        ("-- name: one\n-- One.\n", "one has no SQL"),
        ("-- name: one\n-- One.\n-- name: two\n-- Two.\nSELECT 2;\n", "one has no SQL"),
        ("-- name: one\n-- One.\nSELECT 1;\n-- name: one\n-- Again.\nSELECT 2;\n", "names one twice"),
    ],
)
def test_what_is_no_such_file_is_an_error(read: Read, text: str, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        read(text)


def test_a_package_without_the_file_is_an_error() -> None:
    with pytest.raises(FileNotFoundError):
        statements("schemas")
