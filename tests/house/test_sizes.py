"""How large things are: a table to look at (`pytest -s tests/house/test_sizes.py`), never a limit.

Taste asks for modules of at most 300 lines, functions of at most 35, nesting of at most 4 and 7 parameters.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from statistics import median

from tests.house.source import PACKAGES, Module, product

_FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef
_NESTING = ast.If | ast.For | ast.AsyncFor | ast.While | ast.With | ast.AsyncWith | ast.Try | ast.Match


def functions(module: Module) -> Iterator[tuple[str, int, int, int]]:
    """Place, lines, nesting and parameters of every function."""
    for node in ast.walk(module.tree):
        if isinstance(node, _FUNCTION):
            arguments = node.args
            count = len(arguments.posonlyargs + arguments.args + arguments.kwonlyargs)
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            yield f"{module.at(node)} {node.name}", lines, _depth(node), count


def _depth(node: ast.AST) -> int:
    """Blocks inside blocks; an `elif` stands beside its `if`."""
    elifs = {id(each) for each in node.orelse} if isinstance(node, ast.If) and len(node.orelse) == 1 else set()
    return max(
        (
            _depth(child) + (isinstance(child, _NESTING) and not (id(child) in elifs and isinstance(child, ast.If)))
            for child in ast.iter_child_nodes(node)
        ),
        default=0,
    )


def test_sizes_are_printed() -> None:
    lines = {module.path: module.text.count("\n") for module in product()}
    print("\npackage             modules   lines  median  largest")
    for package in PACKAGES:
        own = [count for path, count in lines.items() if path.startswith(f"{package}/")]
        print(f"{package:18} {len(own):8} {sum(own):7} {median(own):7.0f} {max(own):8}")
    print(f"modules over 300 lines: {sorted(path for path, count in lines.items() if count > 300)}")
    for what, column, taste in (("longest", 1, 35), ("deepest", 2, 4), ("most parameters", 3, 7)):
        ranked = sorted((row for module in product() for row in functions(module)), key=lambda row: -int(row[column]))
        over = sum(int(row[column]) > taste for row in ranked)
        print(f"{what} functions ({over} over {taste}):")
        print("".join(f"  {row[column]:4}  {row[0]}\n" for row in ranked[:5]), end="")
    assert sum(lines.values()) > 0
