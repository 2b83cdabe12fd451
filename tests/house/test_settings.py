"""Settings are documented where a person looks for them, and nothing reads the environment behind their back."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from typing import Any

import pytest
from pydantic import SecretStr
from pydantic_settings import BaseSettings

from tests import compose
from tests.house.example_env import KINDS, REQUIRED, rendered
from tests.house.source import ROOT, Module, is_below, made, product

EXAMPLE = ROOT / ".example.env"

READ_BY = {
    # Settings read it.
    "infra.runtime.settings": "NAME_FILE, the convention of secrets",
    "infra.runtime.declared": "secrets whose names a file declares",
    "infra.local.settings": "XDG_CACHE_HOME, where caches belong",
    # These pass it on, or ask it what is no setting of ours.
    "infra.bench.ground": "children get our environment, with the addresses of servers that were named",
    "infra.local.stack": "children get our environment, without what is another server's",
    "infra.local.java": "JAVA_HOME, which every Java program honours",
    "infra.cli.config": "hands it to the processes that it asks for their settings",
    "infra.cli.run_events": "the process that runs the handlers gets our environment",
    "infra.cli.kafka": "hands it to `endpoints`, which prefers a Kafka that is named there",
}


def entries() -> dict[str, str]:
    """Every variable of the file with its value, in force or commented out."""
    return {
        found[1]: found[2] for found in re.finditer(r"^#?([A-Z][A-Z0-9_]*)=(.*)$", EXAMPLE.read_text(), re.MULTILINE)
    }


def in_force() -> dict[str, str]:
    """What the file sets as it stands."""
    return {found[1]: found[2] for found in re.finditer(r"^([A-Z][A-Z0-9_]*)=(.*)$", EXAMPLE.read_text(), re.MULTILINE)}


def readers(modules: Sequence[Module]) -> dict[str, str]:
    """Modules that read the environment themselves -> where."""
    found = {}
    for module in modules:
        for node in ast.walk(module.tree):
            named = node.attr if isinstance(node, ast.Attribute) else ""
            imported = {alias.name for alias in node.names} if isinstance(node, ast.ImportFrom) else set()
            if {named, *imported} & {"environ", "environb", "getenv", "putenv"}:
                found[module.name] = module.at(node)
    return found


def test_the_example_file_is_what_the_settings_say() -> None:
    assert EXAMPLE.read_text() == rendered(), "run: python -m tests.house.example_env > .example.env"


def test_every_setting_is_in_it_and_nothing_else() -> None:
    settings = {name.upper() for kind in KINDS for name in kind.model_fields}
    assert set(entries()) == settings | {use.name for use in compose.uses()}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_values_are_read_back_as_the_defaults(kind: type[BaseSettings], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in {name.upper() for known in KINDS for name in known.model_fields}:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(f"{name}_FILE", raising=False)
    given: dict[str, Any] = {
        name.lower(): SecretStr(value) if "URL" in name else value
        for name, value in REQUIRED.items()
        if name.lower() in kind.model_fields
    }
    bare = kind(**given)
    for name, value in entries().items():
        if value:
            monkeypatch.setenv(name, value)
    assert kind() == bare


def test_what_is_in_force_is_enough_to_start_and_no_more() -> None:
    secrets = {use.name for use in compose.uses() if use.how.endswith("?")}
    assert set(in_force()) == set(REQUIRED) | secrets


def test_a_setting_of_two_processes_has_one_default() -> None:
    defaults: dict[str, set[str]] = {}
    for kind in KINDS:
        for name, field in kind.model_fields.items():
            defaults.setdefault(name, set()).add(repr(field.default))
    assert {name: found for name, found in defaults.items() if len(found) > 1} == {}


def test_every_setting_says_what_it_is() -> None:
    for kind in KINDS:
        for name, field in kind.model_fields.items():
            assert (field.description or "").endswith("."), f"{kind.__name__}.{name} needs a sentence"


def test_only_settings_read_the_environment() -> None:
    # What starts inside a container is configured as that image says, a benchmark's peer as such programs are: not by
    # settings of ours.
    theirs = ("infra.docker", "infra.bench.peers")
    found = readers([module for module in product() if not is_below(module.name, theirs)])
    assert {name: place for name, place in found.items() if name not in READ_BY} == {}
    assert sorted(READ_BY) == sorted(found), "take off the list what does not read it any more"


@pytest.mark.parametrize("text", ["import os\nos.environ['X']", "import os\nos.getenv('X')", "from os import environ"])
def test_the_rule_sees_what_it_is_for(text: str) -> None:
    assert list(readers([made("schemas.bad", text)])) == ["schemas.bad"]
    assert readers([made("schemas.good", "from pathlib import Path")]) == {}
