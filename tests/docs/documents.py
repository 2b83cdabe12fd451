"""The documents that are made from the code, and the command that renews them:

python -m tests.docs.documents        writes them all; a test compares what is committed with what it would write
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.docs.contracts import asyncapi, openapi
from tests.docs.tables import filled
from tests.stack import ROOT


def _as_json(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


README = ROOT / "README.md"
DOCUMENTS: dict[Path, Callable[[], str]] = {
    ROOT / "infra/docs/openapi.json": lambda: _as_json(openapi()),
    ROOT / "infra/docs/asyncapi.json": lambda: _as_json(asyncapi()),
    README: lambda: filled(README.read_text(encoding="utf-8")),
}
"""File -> its content as the code makes it."""


def main() -> None:
    """Write what has changed."""
    for file, content in DOCUMENTS.items():
        text = content()
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")
            print(f"wrote {file.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
