"""ARCHITECTURE.md's module map is whole: every module stands in it, by itself or with its package, and nothing else does."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tests.house.source import ROOT, Module, made, product

_ROW = re.compile(r"^\| (`[\w/.]+`(?:, `[\w/.]+`)*) \|", re.MULTILINE)
# What every package has, and what only starts it, needs no place of its own.
_UNDERSTOOD = ("__init__.py", "__main__.py")


def places(text: str) -> list[str]:
    """What the rows of the map name, as paths. In a row, the first name brings the folder of those without one."""
    table = text.partition("## Module map")[2].partition("\n## ")[0]
    found = []
    for row in _ROW.findall(table):
        names = re.findall(r"`([\w/.]+)`", row)
        folder = names[0].rstrip("/").rpartition("/")[0]
        found += [name if name.rstrip("/").count("/") else f"{folder}/{name}" for name in names]
    return found


def without_place(modules: Sequence[Module], named: Sequence[str]) -> list[str]:
    """Modules that no row names."""
    packages = tuple(name for name in named if name.endswith("/"))
    return [
        module.path
        for module in modules
        if not module.path.endswith(_UNDERSTOOD)
        and module.path not in named
        and not (packages and module.path.startswith(packages))
    ]


def test_every_module_is_in_the_map() -> None:
    assert without_place(product(), places((ROOT / "ARCHITECTURE.md").read_text())) == []


def test_the_map_names_what_is_there_once() -> None:
    named = places((ROOT / "ARCHITECTURE.md").read_text())
    assert len(named) > 50
    assert [name for name in named if not (ROOT / name).exists()] == []
    assert len(named) == len(set(named))


def test_the_rule_sees_what_it_is_for() -> None:
    text = "## Module map\n| `a/b.py`, `c.py`, `d/` | x |\n## Next\n| `e/f.py` | y |\n"
    assert places(text) == ["a/b.py", "a/c.py", "a/d/"]
    modules = [made(name, "") for name in ("a.b", "a.c", "a.d.any", "a.new", "e.f")]
    assert without_place(modules, places(text)) == ["a/new.py", "e/f.py"]
