"""The product's source as data, for the rules of this folder: every module parsed, what it imports, what it calls.

A rule is a function from modules to findings (`place: what is wrong`), so each is shown to see what it is for on a few
made-up lines (`made`) and then asked about the real source (`product`).
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("schemas", "infra", "ingest_gateway", "stream_worker", "migrations")


@dataclass(frozen=True)
class Module:
    """One parsed file. `name` is what an import says, `path` relative to the root."""

    name: str
    path: str
    text: str
    tree: ast.Module

    @property
    def is_package(self) -> bool:
        """Whether it is an `__init__`."""
        return self.path.endswith("__init__.py")

    def at(self, node: ast.AST) -> str:
        """`path:line`, for a finding."""
        return f"{self.path}:{getattr(node, 'lineno', 1)}"


@functools.cache
def product() -> tuple[Module, ...]:
    """Every module of the product, tests excepted."""
    return tuple(_read(path) for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py")))


@functools.cache
def suite() -> tuple[Module, ...]:
    """Every module of the tests."""
    return tuple(_read(path) for path in sorted((ROOT / "tests").rglob("*.py")))


def made(name: str, text: str) -> Module:
    """A module that is not there, to show a rule what it is for."""
    return Module(name, f"{name.replace('.', '/')}.py", text, ast.parse(text))


def imports(module: Module) -> Iterator[tuple[ast.stmt, str]]:
    """Every import wherever it stands, as the full dotted name: `from a import b` is `a.b`."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node, alias.name
        elif isinstance(node, ast.ImportFrom):
            parent = _absolute(module, node)
            for alias in node.names:
                yield node, f"{parent}.{alias.name}"


def calls(module: Module) -> Iterator[tuple[ast.Call, str]]:
    """Every call with the last part of what is called: `self._db.fetch(...)` is `fetch`."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Attribute):
                yield node, node.func.attr
            elif isinstance(node.func, ast.Name):
                yield node, node.func.id


def text(node: ast.AST) -> str | None:
    """The value of a string literal; None for anything else."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def docstrings(module: Module) -> set[ast.AST]:
    """The literals that stand alone: documentation, of whatever they follow."""
    return {node.value for node in ast.walk(module.tree) if isinstance(node, ast.Expr)}


def is_below(name: str, packages: frozenset[str] | set[str] | tuple[str, ...]) -> bool:
    """Whether a dotted name is one of these or lies inside one."""
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def enclosing(module: Module) -> dict[ast.AST, str]:
    """Every node -> qualified name of the function or class it stands in ("" at the top)."""
    found: dict[ast.AST, str] = {}

    def visit(node: ast.AST, inside: str) -> None:
        found[node] = inside
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inside = f"{inside}.{node.name}" if inside else node.name
        for child in ast.iter_child_nodes(node):
            visit(child, inside)

    visit(module.tree, "")
    return found


def _absolute(module: Module, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    parts = module.name.split(".")
    base = parts[: len(parts) - node.level + module.is_package]
    return ".".join([*base, *([node.module] if node.module else [])])


def _read(path: Path) -> Module:
    relative = path.relative_to(ROOT)
    text = path.read_text(encoding="utf-8")
    parts = relative.with_suffix("").parts
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    return Module(name, str(relative), text, ast.parse(text, str(relative)))
