"""Every public module, class, function and method of the product says what it is for."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence

from tests.house.source import Module, made, product

OVERRIDDEN = {
    # Methods of a framework's class: it calls them, and says what they are for.
    "ingest_gateway.http_protocol": {
        "LimitedHttpProtocol.connection_made",  # asyncio.Protocol
        "LimitedHttpProtocol.connection_lost",
        "LimitedHttpProtocol.data_received",
        "LimitedHttpProtocol.on_message_begin",  # httptools
        "LimitedHttpProtocol.on_header",
        "LimitedHttpProtocol.on_message_complete",
    },
    "ingest_gateway.server": {"Server.capture_signals"},  # uvicorn
}


def undocumented(modules: Sequence[Module]) -> list[str]:
    """Public names without a docstring, or with one that does not end as a sentence does."""
    found = []
    for module in modules:
        empty = module.is_package and not module.tree.body
        for name, node in [("", module.tree), *_public(module.tree)]:
            if empty or name in OVERRIDDEN.get(module.name, ()):
                continue
            doc = ast.get_docstring(node)
            first = doc.split("\n\n")[0].rstrip() if doc else ""
            if not first:
                found.append(f"{module.at(node)}: {name or module.name} has no docstring")
            elif first[-1] not in ".:?)":
                found.append(f"{module.at(node)}: the first paragraph about {name or module.name} is no sentence")
    return found


Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def _public(parent: ast.Module | ast.ClassDef, before: str = "") -> Iterator[tuple[str, Documented]]:
    for node in parent.body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if node.name.startswith("_") or any(_is_repetition(decorator) for decorator in node.decorator_list):
            continue
        if isinstance(parent, ast.ClassDef) and _is_protocol(parent) and ast.unparse(node.body[-1]) == "...":
            continue  # a part of somebody else's object, which the class's docstring names
        yield before + node.name, node
        if isinstance(node, ast.ClassDef):
            yield from _public(node, f"{before}{node.name}.")


def _is_protocol(node: ast.ClassDef) -> bool:
    return any(ast.unparse(base).rpartition(".")[2] == "Protocol" for base in node.bases)


def _is_repetition(decorator: ast.expr) -> bool:
    # A setter or an overload says again what was documented above it, and so does what overrides it.
    return ast.unparse(decorator).rpartition(".")[2] in {"setter", "overload", "override"}


def test_every_public_name_is_documented() -> None:
    assert undocumented(product()) == []
    names = {(module.name, name) for module in product() for name, _ in _public(module.tree)}
    assert [name for module, known in OVERRIDDEN.items() for name in known if (module, name) not in names] == []


def test_the_rule_sees_what_it_is_for() -> None:
    assert undocumented([made("a", '"""Good."""\ndef f():\n    """Good."""\n')]) == []
    assert undocumented([made("a", "x = 1")]) == ["a.py:1: a has no docstring"]
    assert undocumented([made("a", '"""Good."""\ndef f(): ...')]) == ["a.py:2: f has no docstring"]
    method = '"""Good."""\nclass C:\n    """Good."""\n    async def m(self): ...\n    def _p(self): ...\n'
    assert undocumented([made("a", method)]) == ["a.py:4: C.m has no docstring"]
    assert undocumented([made("a", '"""Not one"""')]) == ["a.py:1: the first paragraph about a is no sentence"]
