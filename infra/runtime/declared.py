"""Files in which an operator declares things: TOML, checked whole, every mistake told at once by path and rule.

TOML because its reader comes with Python, has comments and one meaning for each value: in YAML `no` is false and `1.0` no
text. A declaration never holds a secret. It names an environment variable or a file that does, so that it can lie beside the
code. No mistake tells a value.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

_LARGEST = 1024 * 1024
_WORDS = {"missing": "is missing", "extra_forbidden": "is not known here", "model_type": "must be a table"}
"""In place of pydantic's own."""


class Mistakes(Exception):
    """A declaration cannot be used.

    mistakes: each as `path: rule`.
    files: what was read beside the declaration, or was to be: a change of one of them is a reason to look again.
    """

    def __init__(self, mistakes: Sequence[str], files: Sequence[Path] = ()) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = tuple(mistakes)
        self.files = tuple(files)


class Declaration(BaseModel):
    """A table of such a file: no other members than those it names, and no value taken for another kind of value."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


D = TypeVar("D", bound=Declaration)


def read(path: Path) -> dict[str, Any]:
    """The tables of this file.

    Raises:
        Mistakes: it cannot be read, or is no TOML.
    """
    try:
        with path.open("rb") as file:
            text = file.read(_LARGEST + 1)
        if len(text) > _LARGEST:
            raise Mistakes([f"the file is larger than {_LARGEST} bytes"])
        return tomllib.loads(text.decode())
    except OSError as error:
        raise Mistakes([f"the file cannot be read ({error.strerror}); check the path and its mode"]) from None
    except UnicodeDecodeError:
        raise Mistakes(["the file is no UTF-8 text"]) from None
    except tomllib.TOMLDecodeError as error:
        raise Mistakes([f"the file is no TOML: {error}"]) from None


def fitted(kind: type[D], table: Any, under: str, mistakes: list[str]) -> D | None:
    """The table as a `kind`; None where it is none, and why is added to the mistakes.

    Args:
        under: the table's path.
    """
    try:
        return kind.model_validate(table)
    except ValidationError as error:
        mistakes += _told(error, under)
        return None


def _told(error: ValidationError, under: str) -> Iterator[str]:
    problems = error.errors(include_input=False, include_url=False, include_context=False)
    holders = {problem["loc"][:-1] for problem in problems}
    for problem in problems:
        if problem["type"] == "too_short" and problem["loc"] in holders:
            continue  # pydantic counts valid items only: the items' own mistakes say it all
        what = problem["msg"].removeprefix("Value error, ")
        yield f"{_path(under, problem['loc'])}: {_WORDS.get(problem['type'], what)}"


def _path(under: str, place: tuple[int | str, ...]) -> str:
    return under + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)


class Secret(Declaration):
    """Where a secret is: in an environment variable, or alone in a file."""

    env: str | None = None
    file: Path | None = None

    model_config = ConfigDict(strict=False)  # a path is written as text


def value_of(secret: Secret, path: str, mistakes: list[str]) -> str | None:
    """The secret itself, without white space around it; None where it cannot be had, and why is added to the mistakes."""
    if (secret.env is None) == (secret.file is None):
        mistakes.append(f"{path}: has either env or file")
        return None
    if secret.env is not None:
        found, what = os.environ.get(secret.env, ""), f"{path}.env: names a variable that is not set"
    else:
        found, what = _content(secret.file or Path()), f"{path}.file: names no file that holds a text and can be read"
    if not found.strip():
        mistakes.append(what)
        return None
    return found.strip()


def _content(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
