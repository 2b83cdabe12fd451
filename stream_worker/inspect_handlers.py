"""What the handler modules register, and what is wrong with it: `plutus handlers list|check` asks here.

    python -m stream_worker.inspect_handlers stream_worker.examples,shop.handlers --json

The modules are imported as a worker imports them, in a process of their own; nothing is connected to. One JSON object
comes out: `handlers`, `problems` (a worker would not start, or would dead-letter every event of a handler) and `notices`
(registered payload schemas that no handler takes). Exit code 1 where there are problems.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import inspect
import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from schemas.registry import Registered
from stream_worker.handlers import REGISTRY, Registration, Registry, versions
from stream_worker.handlers.versions import Range

_OURS = "stream_worker.handlers"


def describe(each: Registration) -> dict[str, Any]:
    """One registration for people and programs: what it matches and what its function is given."""
    handler = each.handler
    transaction = handler.asks.transaction
    return {
        "name": handler.name,
        "type": each.type,
        "source": each.source,
        "version": each.version,
        "batch": handler.batch,
        "transaction": "asyncpg" if transaction is None else transaction.__name__,
        "payload": [model.__name__ for model in handler.asks.models],
        "timeout": handler.timeout,
        "function": _place(handler.function),
    }


def problems(registry: Registry) -> list[dict[str, str]]:
    """What would only show when events come: hooks that cannot run, payloads that no schema gives."""
    found = [
        {"where": _place(hook), "what": "on_start needs a coroutine function: write `async def`."}
        for hook in registry.hooks
        if not inspect.iscoroutinefunction(hook)
    ]
    for each in registry.registrations:
        found += [{"where": _place(each.handler.function), "what": what} for what in _misfits(each, registry)]
    return found


def notices(registry: Registry) -> list[dict[str, str]]:
    """Registered payload schemas whose events no handler takes: they are stored, or dead-lettered where UNHANDLED=dead."""
    return [
        {"where": _schema(schema), "what": "no handler takes its events."}
        for schema in registry.schemas.registered()
        if not any(_meet(each, schema) for each in registry.registrations)
    ]


def _misfits(each: Registration, registry: Registry) -> Iterator[str]:
    asks, match = each.handler.asks, _match(each)
    if not asks.models:
        return
    known = [schema for schema in registry.schemas.registered() if _meet(each, schema)]
    if not known:
        yield f"asks for the payload of {match}, for which no schema is registered: every event would be schema_unknown."
    for schema in known:
        if not issubclass(schema.newest, asks.models):
            wanted = " | ".join(model.__name__ for model in asks.models)
            yield f"takes {wanted}, and {_schema(schema)} gives {schema.newest.__name__}."


def _meet(each: Registration, schema: Registered) -> bool:
    """Whether events that this schema is for can find this handler, going by type (or source) and version."""
    named = each.type == schema.type if schema.type is not None else each.source == schema.source
    if not named:
        return False
    if each.version is None:
        return True
    wanted, has = versions.parse(each.version), versions.key(schema.version)
    return wanted.takes(has) if isinstance(wanted, Range) else wanted == has


def _match(each: Registration) -> str:
    names = (("source", each.source), ("type", each.type), ("version", each.version))
    return ", ".join(f"{name} {value}" for name, value in names if value is not None)


def _schema(schema: Registered) -> str:
    kind, name = ("source", schema.source) if schema.type is None else ("type", schema.type)
    return f"schema {kind} {name}, version {schema.version}"


def _place(function: Any) -> str:
    return f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', type(function).__qualname__)}"


def import_all(modules: str) -> list[dict[str, str]]:
    """Import the comma-separated modules; returns what stood in the way, one problem for each that failed."""
    found = []
    for module in filter(None, (part.strip() for part in modules.split(","))):
        try:
            importlib.import_module(module)
        except Exception as error:
            found.append({"where": module, "what": _told(error)})
    return found


def _told(error: Exception) -> str:
    """Class and line; the text only where it is Python's or ours, because anybody else's may hold anything."""
    frames = traceback.extract_tb(error.__traceback__)
    raised_by = _module_of(error)
    theirs = [frame for frame in frames if not frame.filename.startswith("<")]
    line = f" ({theirs[-1].filename.rpartition('/')[2]}:{theirs[-1].lineno})" if theirs else ""
    if isinstance(error, ImportError | SyntaxError) or raised_by.startswith(_OURS):
        return f"cannot be imported: {error}"
    return f"cannot be imported: {type(error).__name__}{line}."


def _module_of(error: Exception) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return str(trace.tb_frame.f_globals.get("__name__", "")) if trace is not None else ""


def main(arguments: Sequence[str]) -> int:
    """Print the report; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m stream_worker.inspect_handlers", description=__doc__)
    parser.add_argument("modules", help="Python modules with handlers, comma-separated.")
    parser.add_argument("--json", action="store_true", help="Print JSON, which is the only form there is.")
    modules = parser.parse_args(arguments).modules
    with contextlib.redirect_stdout(sys.stderr):  # what a module prints when it is imported
        failed = import_all(modules)
    wrong = failed + problems(REGISTRY)
    report = {
        "handlers": [describe(each) for each in REGISTRY.registrations],
        "problems": wrong,
        "notices": notices(REGISTRY),
    }
    print(orjson.dumps(report).decode())
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
