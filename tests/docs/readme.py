"""The commands of README.md, read from it and run as a reader would.

A ```console block is a session: each line after `$ ` is a command, what follows it is what it prints. ```sh blocks hold
what needs a terminal or a machine of its own. ```python blocks are files, named in their first line.

Printed times, durations, random ids and the width of columns differ from run to run; `same` sees past them and past nothing else.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from tests.stack import ROOT

README = ROOT / "README.md"
_BLOCK = re.compile(r"^```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_TIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d+)?(?:[+-]\d\d:\d\d|Z)")
_DURATION = re.compile(r"[\d,]+ ms\b")
_RANDOM_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_FILE_NAME = re.compile(r'"""(?P<name>\w+\.py): ')
_SECONDS = 60.0


@dataclass(frozen=True)
class Step:
    """One command and what the document says it prints; "" where it says nothing."""

    command: str
    prints: str


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    code: int
    output: str


def blocks(kind: str) -> list[str]:
    """The texts of the document's blocks of this kind, in their order."""
    return [found["text"] for found in _BLOCK.finditer(README.read_text()) if found["kind"] == kind]


def steps() -> list[Step]:
    """Every command of the sessions, in their order."""
    found: list[Step] = []
    for block in blocks("console"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, prints = part.partition("\n")
            found.append(Step(command, prints.strip()))
    return found


def commands() -> list[str]:
    """Every command outside of the sessions."""
    return [line for block in blocks("sh") for line in block.splitlines() if line]


def files() -> dict[str, str]:
    """The Python files that the document shows, by name."""
    named = [(_FILE_NAME.match(block), block) for block in blocks("python")]
    return {found["name"]: block for found, block in named if found}


def same(one: str, other: str) -> bool:
    """Whether two outputs say the same."""
    return _plain(one) == _plain(other)


def _plain(text: str) -> list[list[str]]:
    text = _DURATION.sub("<ms>", _RANDOM_ID.sub("<id>", _TIME.sub("<time>", text)))
    return [line.split() for line in text.strip().splitlines()]


def run(command: str, environment: Mapping[str, str], instead: Mapping[str, str]) -> Ran:
    """Run one command in the project's folder, as a shell does.

    Args:
        instead: what to put in the place of the addresses that the document names.
    """
    for written, real in instead.items():
        command = command.replace(written, real)
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=ROOT,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    return Ran(done.returncode, done.stdout)
