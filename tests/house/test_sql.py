"""SQL is SQL: each statement once, in a file, with a sentence; and no value is ever woven into its text."""

from __future__ import annotations

import ast
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from tests.house.source import PACKAGES, ROOT, Module, calls, docstrings, enclosing, is_below, made, product, text

LOADED_BY = {
    "ingest_gateway/queries.sql": {"ingest_gateway.events", "ingest_gateway.keys"},
    "stream_worker/emit.sql": {"stream_worker.emit"},
    "stream_worker/together.sql": {"stream_worker.together"},
    "stream_worker/queries.sql": {"stream_worker.store"},
    "stream_worker/stored.sql": {"stream_worker.stored"},
    "stream_worker/window.sql": {"stream_worker.window"},
    "stream_worker/testing/queries.sql": {
        "stream_worker.testing.chaos",
        "stream_worker.testing.copies",
        "stream_worker.testing.tables",
    },
    "infra/bench/queries.sql": {"infra.bench.ground"},
    "infra/cli/doctor.sql": {"infra.cli.checks"},
    "infra/runtime/partitions.sql": {"infra.runtime.partitions"},
}
ROLES = "migrations/roles.sql"  # for psql, not for the processes

IN_PYTHON = {
    # What else may be SQL in a Python file, and why.
    "migrations": "a migration is SQL",
    "stream_worker.examples": "an example is read in one piece, its small tables included",
    "infra.bench.peers": "a peer is read in one piece",
    "infra.bench.handlers": "a handler is read in one piece",
    "infra.local.postgres": "CREATE DATABASE, before there is one to connect to",
    "ingest_gateway.events": "SELECT 1: are you there?",
    "stream_worker.app": "SET LOCAL lock_timeout, around the start hooks",
    "stream_worker.run": "savepoints around handlers",
    "stream_worker.testing": "the names of tables and databases, which take no parameter",
}
WOVEN = {
    # Where a name is put into SQL, which takes no parameter there. Never a value, never anything from outside.
    "migrations.versions.0001_tables:downgrade": "the names of its own tables and functions",
    "migrations.versions.0005_kinds_of_jobs:_allow": "the kinds of jobs, its own constants",
    "migrations.versions.0005_kinds_of_jobs:_comment": "the names of its own columns",
    "infra.local.postgres:Postgres._make_data": "the name of the local database, a constant",
    "infra.runtime.postgres:Session.execute": "two statements of the driver's own, joined",
    "stream_worker.testing.copies:copied": "the name of a test's copy, and of its original, quoted by the server",
    "stream_worker.testing.tables:Reader.read": "the name of a test's table, quoted by the server",
}

RUNS = {"execute", "executemany", "fetch", "fetchrow", "fetchval", "fetchmany", "cursor", "prepare", "exec_driver_sql"}
_NAMED = re.compile(r"^-- name: (\w+)\n(-- .+\n)?", re.MULTILINE)
_SQL = re.compile(
    r"\s*(SELECT|INSERT INTO|UPDATE \S+ SET|DELETE FROM|WITH \w+ AS|COPY|MERGE|CREATE|ALTER|DROP|LOCK|SET LOCAL|"
    r"SAVEPOINT|RELEASE|ROLLBACK) "
)


def wrong_statements(files: Mapping[str, str]) -> list[str]:
    """Named statements without a sentence, named twice in a file, or spelled twice anywhere."""
    found = []
    seen: dict[str, str] = {}
    for path, content in files.items():
        names = _NAMED.findall(content)
        found += [f"{path}: {name} has no sentence" for name, sentence in names if not sentence]
        found += [f"{path}: {name} is named twice" for name, n in Counter(n for n, _ in names).items() if n > 1]
        for (name, _), body in zip(names, _NAMED.split(content)[3::3], strict=True):
            spelled = " ".join(re.sub(r"--.*", "", body).split()).lower()
            if spelled in seen:
                found.append(f"{path}: {name} is the same statement as {seen[spelled]}")
            seen[spelled] = name
    return found


def unused_statements(files: Mapping[str, str], modules: Sequence[Module]) -> list[str]:
    """Named statements that no module beside the file asks for."""
    found = []
    for path, content in files.items():
        package = path.rpartition("/")[0].replace("/", ".")
        asked = {text(node) for m in modules if is_below(m.name, (package,)) for node in ast.walk(m.tree)}
        found += [f"{path}: nobody runs {name}" for name, _ in _NAMED.findall(content) if name not in asked]
    return found


def in_python(modules: Sequence[Module]) -> dict[str, list[str]]:
    """Module -> places of string literals that are SQL, docstrings excepted."""
    found: dict[str, list[str]] = defaultdict(list)
    for module in modules:
        docs = docstrings(module)
        for node in ast.walk(module.tree):
            if node not in docs and _SQL.match(text(node) or ""):
                found[module.name].append(module.at(node))
    return dict(found)


def woven(modules: Sequence[Module]) -> dict[str, str]:
    """`module:function` -> place of SQL text that is put together: what is run, and what looks like SQL."""
    found = {}
    for module in modules:
        inside = enclosing(module)
        for call, name in calls(module):
            if name in RUNS and call.args and _is_put_together(call.args[0]):
                found[f"{module.name}:{inside[call]}"] = module.at(call)
        for node in ast.walk(module.tree):
            if isinstance(node, ast.expr) and _is_put_together(node) and _SQL.match(_first_text(node)):
                found[f"{module.name}:{inside[node]}"] = module.at(node)
    return found


def _is_put_together(node: ast.expr) -> bool:
    if isinstance(node, ast.BinOp):
        return isinstance(node.op, ast.Mod | ast.Add)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return node.func.attr in {"format", "format_map", "join", "replace"}
    return isinstance(node, ast.JoinedStr)


def _first_text(node: ast.AST) -> str:
    return next((found for child in ast.walk(node) if (found := text(child))), "")


def _files() -> dict[str, str]:
    files = (path for package in PACKAGES for path in (ROOT / package).rglob("*.sql"))
    return {str(path.relative_to(ROOT)): path.read_text() for path in files}


def test_each_statement_is_defined_once_with_a_sentence_and_run() -> None:
    files = _files()
    assert set(files) == {*LOADED_BY, ROLES}
    assert wrong_statements(files) == []
    assert unused_statements(files, product()) == []


def test_each_file_is_loaded_where_its_statements_are_run() -> None:
    loaders = {module.name for module in product() for _, name in calls(module) if name == "statements"}
    assert loaders == set().union(*LOADED_BY.values())


def test_sql_stands_in_sql_files() -> None:
    found = in_python(product())
    assert {name: places for name, places in found.items() if not is_below(name, set(IN_PYTHON))} == {}
    assert [leave for leave in IN_PYTHON if not any(is_below(name, (leave,)) for name in found)] == []


def test_no_value_is_woven_into_sql() -> None:
    found = woven(product())
    assert {place: at for place, at in found.items() if place not in WOVEN} == {}
    assert [leave for leave in WOVEN if leave not in found] == []


def test_the_rules_see_what_they_are_for() -> None:
    good = "-- name: one\n-- A sentence.\nSELECT 1;\n"
    assert wrong_statements({"a.sql": good}) == []
    assert wrong_statements({"a.sql": good + good}) == [
        "a.sql: one is named twice",
        "a.sql: one is the same statement as one",
    ]
    assert wrong_statements({"a.sql": "-- name: one\nSELECT 1;\n"}) == ["a.sql: one has no sentence"]
    assert "same statement" in wrong_statements({"a.sql": good, "b.sql": good.replace("one", "two")})[0]
    assert unused_statements({"app/q.sql": good}, [made("app.store", "SQL['two']")]) == ["app/q.sql: nobody runs one"]
    assert in_python([made("a", "x = 'SELECT 2'")]) == {"a": ["a.py:1"]}
    assert in_python([made("a", "'''SELECT is a word.'''")]) == {}
    bad = 'def f(db):\n    db.fetch(f"{x}")\n'
    assert woven([made("a", bad)]) == {"a:f": "a.py:2"}
    for statement in ('"SELECT %s" % x', '"SELECT {}".format(x)', '"SELECT " + x', 'f"DELETE FROM {x}"'):
        assert woven([made("a", f"q = {statement}")]) == {"a:": "a.py:1"}
    assert woven([made("a", "db.fetch('SELECT $1', x)")]) == {}
