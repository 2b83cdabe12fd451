"""What every command keeps to: help that teaches by an example that would run, --json, quick help, documented errors."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main

from infra.cli.main import app
from infra.cli.output import EXIT_CODES, Problem
from tests.stack import ROOT

# Becomes another program, which prints what it prints.
WITHOUT_JSON = {"kafka"}
# What no command may wait for that does not use it.
HEAVY = {
    *("aiokafka", "alembic", "asyncpg", "fastapi", "pydantic", "rich.progress", "sqlalchemy", "opentelemetry"),
}
_SECONDS = 60.0


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command below a group, with the words that call it."""
    if hasattr(group, "commands"):
        for name, command in group.commands.items():
            yield from commands(command, (*path, name))
    else:
        yield path, group


ALL = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_the_help_of_a_command_has_an_example_that_would_run(path: tuple[str, ...]) -> None:
    command = ALL[path]
    assert command.help, "says what it does"
    found = re.fullmatch(r"Example: plutus (.+)", command.epilog or "")
    assert found, "has an example"
    words = shlex.split(found[1])
    assert tuple(words[: len(path)]) == path
    # Parsed as it would be run; a misspelt option or a missing argument fails here.
    command.make_context(" ".join(path), words[len(path) :])


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_every_option_is_explained(path: tuple[str, ...]) -> None:
    for parameter in ALL[path].params:
        assert getattr(parameter, "help", None), parameter.name


def test_every_command_speaks_json() -> None:
    without = {" ".join(path) for path, command in ALL.items() if "as_json" not in {p.name for p in command.params}}
    assert without == WITHOUT_JSON


def test_help_waits_for_no_client() -> None:
    code = f"import sys, infra.cli.main; print(*sorted({HEAVY!r} & sys.modules.keys()))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=_SECONDS, check=True, cwd=ROOT
    )
    assert done.stdout.split() == []


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("plutus ev", {"events"}), ("plutus groups ", {"lag"}), ("plutus dlq re", {"replay", "reconcile"})],
)
def test_the_shell_completes_commands(typed: str, offered: set[str]) -> None:
    environment = {
        **os.environ,
        "_PLUTUS_COMPLETE": "complete_bash",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(len(typed.split(" ")) - 1),
    }
    command = [sys.executable, "-m", "infra.cli.main"]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=_SECONDS, check=False, cwd=ROOT
    )
    assert set(done.stdout.split()) == offered, done.stderr


def test_the_errors_and_exit_codes_are_documented() -> None:
    text = (ROOT / "OPERATIONS.md").read_text().partition("## The command line")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE) == [problem.value for problem in Problem]
    assert re.findall(r"^\| (\d+) \| (.+) \|$", text, re.MULTILINE) == [
        (str(code), words) for code, words in EXIT_CODES.items()
    ]


def test_every_command_is_in_the_operations_manual_or_the_readme() -> None:
    text = (ROOT / "OPERATIONS.md").read_text() + (ROOT / "README.md").read_text()
    assert [" ".join(path) for path in ALL if f"plutus {' '.join(path)}" not in text] == []
