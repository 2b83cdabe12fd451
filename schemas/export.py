"""Writes the registered payload schemas as JSON Schema.

python -m schemas.export              records them in schemas/payloads/recorded.json, which a test compares with the
                                      models; refuses a change that breaks senders (`schemas.compat`)
python -m schemas.export DIRECTORY    writes one file per schema, for senders in other languages
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from schemas.compat import Break, breaks_between
from schemas.registry import JsonSchema, default

RECORDED = Path(__file__).parent / "payloads" / "recorded.json"


def as_text(document: Any) -> str:
    """JSON as it is committed: indented, keys in the order of the schema, one newline at the end."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def recorded() -> dict[str, JsonSchema]:
    """The recorded export; empty before the first."""
    if not RECORDED.exists():
        return {}
    schemas: dict[str, JsonSchema] = json.loads(RECORDED.read_text(encoding="utf-8"))
    return schemas


def write_files(exported: Mapping[str, JsonSchema], directory: Path) -> list[Path]:
    """One file per schema, named by its `$id` without the common start, as in `type.order.1.0.schema.json`."""
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for uri, schema in exported.items():
        path = directory / (uri.partition("schema/")[2].replace("/", ".") + ".schema.json")
        path.write_text(as_text(schema), encoding="utf-8")
        written.append(path)
    return written


def record(exported: Mapping[str, JsonSchema]) -> list[Break]:
    """Record the export, unless it breaks what is recorded: then return why, and write nothing."""
    broken = breaks_between(recorded(), exported)
    if not broken:
        RECORDED.write_text(as_text(exported), encoding="utf-8")
    return broken


def main(arguments: Sequence[str]) -> int:
    """Run the command; 0 when written, 1 when a breaking change was refused, 2 when called wrongly."""
    exported = default().export()
    if len(arguments) > 1 or (arguments and arguments[0].startswith("-")):
        print("usage: python -m schemas.export [DIRECTORY]", file=sys.stderr)
        return 2
    if arguments:
        print(f"{len(write_files(exported, Path(arguments[0])))} schemas written to {arguments[0]}")
        return 0
    broken = record(exported)
    for each in broken:
        print(f"breaking change: {each.pointer}: {each.change}", file=sys.stderr)
    if broken:
        print("Register a new version with an upcast instead (schemas.registry).", file=sys.stderr)
        return 1
    print(f"{len(exported)} schemas recorded in {RECORDED.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
