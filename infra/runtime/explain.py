"""Settings as they are: each with its value, where that came from, and without its secrets.

    python -m ingest_gateway.settings        one JSON object a line; exit code 2 and the mistakes where they are wrong

`plutus config show` and `plutus doctor` ask the processes' own modules this way, as they do not import them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr
from pydantic_settings import BaseSettings

from infra.runtime.settings import load_or_exit, source_of

_HIDDEN = "(hidden)"


def rows(settings: BaseSettings) -> list[dict[str, Any]]:
    """Each setting: name, value as the environment would spell it (null: not set), source, description."""
    return [
        {
            "name": name.upper(),
            "value": spelled(getattr(settings, name)),
            "source": source_of(name),
            "description": field.description,
        }
        for name, field in type(settings).model_fields.items()
    ]


def spelled(value: Any) -> str | None:
    """The value as the environment would say it; a secret is hidden, and of a URL its password alone."""
    match value:
        case None:
            return None
        case SecretStr():
            return _redacted(value.get_secret_value())
        case bool():
            return str(value).lower()
        case float():
            return f"{value:g}"
        case set() | frozenset() | tuple() | list():
            return json.dumps(sorted(value))
        case str():
            return _redacted(value) if "://" in value else value
        case Path() | int():
            return str(value)
    raise TypeError(f"Say here how the environment spells a {type(value).__name__}.")


def _redacted(text: str) -> str:
    """A URL without its password; any other secret is hidden whole."""
    if not text:
        return ""
    try:
        url = urlsplit(text)
        if not (url.scheme and url.hostname):
            return _HIDDEN
        if url.password is None:
            return text
        host = url.netloc.rpartition("@")[2]
        return url._replace(netloc=f"{url.username}:{_HIDDEN}@{host}").geturl()
    except ValueError:
        return _HIDDEN


def main(kind: type[BaseSettings]) -> None:
    """Print the settings of this environment."""
    for row in rows(load_or_exit(kind)):
        sys.stdout.write(f"{json.dumps(row)}\n")
