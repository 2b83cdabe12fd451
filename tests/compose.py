"""The compose file and the Dockerfile as data, for the tests that hold them to the code."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML

from tests.stack import ROOT

FILE = ROOT / "docker-compose.yml"
DOCKERFILE = ROOT / "infra/docker/Dockerfile"
EXAMPLE_ENV = ROOT / ".example.env"

_USE = re.compile(r"\$\{(?P<name>[A-Z][A-Z0-9_]*)(?:(?P<how>:?[-?])(?P<rest>[^}]*))?\}")
_DOCUMENTED = re.compile(r"^#?\s?(?P<name>[A-Z][A-Z0-9_]*)=(?P<value>.*)$", re.MULTILINE)


def read(path: Any) -> Any:
    """A YAML file as plain data, merges done."""
    return YAML(typ="safe", pure=True).load(path)


def services() -> dict[str, dict[str, Any]]:
    """The services by name."""
    found: dict[str, dict[str, Any]] = read(FILE)["services"]
    return found


@dataclass(frozen=True)
class Use:
    """One `${NAME...}`: `how` is ":-" with a default, ":?" with a reason, "" with neither."""

    name: str
    how: str
    rest: str


def uses() -> list[Use]:
    """Every variable that the compose file takes from its surroundings."""
    text = re.sub(r"^\s*#.*$", "", FILE.read_text(), flags=re.MULTILINE)
    return [Use(found["name"], found["how"] or "", found["rest"] or "") for found in _USE.finditer(text)]


def documented() -> dict[str, str]:
    """Every variable of .example.env, whether it is set there or only described, with the value that it has there."""
    return {found["name"]: found["value"] for found in _DOCUMENTED.finditer(EXAMPLE_ENV.read_text())}


def resolved(text: str, environment: dict[str, str]) -> str:
    """What compose makes of a text.

    Raises:
        KeyError: a required variable is not set.
    """

    def value(found: re.Match[str]) -> str:
        given = environment.get(found["name"], "")
        if given or not (found["how"] or "").endswith("?"):
            return given or found["rest"] or ""
        raise KeyError(found["name"])

    return _USE.sub(value, text)


@dataclass
class Target:
    """One stage of the Dockerfile."""

    base: str
    environment: dict[str, str] = field(default_factory=dict)
    entrypoint: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)
    user: str = ""


def targets() -> dict[str, Target]:
    """The named stages, each with what it takes over from the stage it is built on."""
    stages: dict[str, Target] = {}
    now = Target("")
    for line in re.sub(r"\\\n", " ", DOCKERFILE.read_text()).splitlines():
        word, _, rest = line.strip().partition(" ")
        match word:
            case "FROM":
                base, _, name = rest.partition(" AS ")
                before = stages.get(base, Target(base))
                now = stages[name] = Target(base, dict(before.environment), list(before.entrypoint), [], before.user)
            case "ENV":
                for name, _, value in (pair.partition("=") for pair in rest.split()):
                    now.environment[name] = value
            case "ENTRYPOINT":
                now.entrypoint = json.loads(rest)
            case "HEALTHCHECK":
                now.health = json.loads(rest.partition("CMD")[2])
            case "USER":
                now.user = rest
    return stages
