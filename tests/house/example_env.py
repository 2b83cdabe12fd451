"""Writes `.example.env` from the settings themselves: python -m tests.house.example_env > .example.env

Every name, default and sentence comes from the fields; only what is needed to start has a value that is in force.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from infra.local.settings import LocalSettings
from infra.runtime.settings import RuntimeSettings
from ingest_gateway.settings import GatewaySettings
from stream_worker.settings import WorkerSettings
from tests import compose

KINDS: Final[dict[type[BaseSettings], str]] = {
    RuntimeSettings: "Gateway, workers and operators' commands",
    GatewaySettings: "Gateway",
    WorkerSettings: "Workers",
    LocalSettings: "Local mode: plutus up, plutus demo, tests",
}
REQUIRED: Final = {
    "KAFKA_BOOTSTRAP_SERVERS": "localhost:9092",
    "DATABASE_URL": "postgresql://plutus:change-me@localhost:5432/plutus",
}
"""Settings without a default, with a value that fits `docker compose up` seen from the host."""
_HEAD = """\
# Every setting of Plutus, as an environment variable. What is commented out shows its default.
#
#   cp .example.env .env && docker compose up --build
#
# Times are seconds, sizes bytes, unless the name says otherwise. NAME_FILE=path reads NAME from a file (secrets).
# Made from the settings by `python -m tests.house.example_env`; a test keeps it so.
"""
_COMPOSE: Final = {
    "POSTGRES_PASSWORD": "Password of the database's owner. Any long random text without URL characters.",
    "GRAFANA_PASSWORD": "Password of Grafana's admin, for the profile observability.",
    "GATEWAY_HOST_PORT": "Port of this machine for the gateway.",
    "KAFKA_HOST_PORT": "Port of this machine for Kafka.",
    "PROMETHEUS_HOST_PORT": "Port of this machine for Prometheus.",
    "GRAFANA_HOST_PORT": "Port of this machine for Grafana.",
    "JAEGER_HOST_PORT": "Port of this machine for Jaeger.",
    "PYTHON_IMAGE": "Base image of the gateway and the workers.",
    "KAFKA_IMAGE": "Image of Kafka.",
    "POSTGRES_IMAGE": "Image of Postgres.",
    "PROMETHEUS_IMAGE": "Image of Prometheus.",
    "GRAFANA_IMAGE": "Image of Grafana.",
    "JAEGER_IMAGE": "Image of Jaeger.",
}
"""What docker-compose.yml asks for beside the settings, in this order."""
_SECRET = "change-me"
_WIDTH = 110


def rendered() -> str:
    """The whole file."""
    return _HEAD + "".join(_sections())


def value_of(field: FieldInfo) -> str:
    """A field's default as the environment would say it; empty: not set."""
    value = field.get_default(call_default_factory=True)
    match value:
        case None | SecretStr():
            return ""
        case bool():
            return str(value).lower()
        case float():
            return f"{value:g}"
        case set() | frozenset() | tuple() | list():
            return "[" + ",".join(f'"{each}"' for each in sorted(value)) + "]"
        case Path() | int() | str():
            return str(value)
    raise TypeError(f"Say here how the environment spells a {type(value).__name__}.")


def _sections() -> Iterator[str]:
    told: set[str] = set()
    for kind, title in KINDS.items():
        fresh = {name.upper(): field for name, field in kind.model_fields.items() if name.upper() not in told}
        told |= fresh.keys()
        yield _title(title)
        for name, field in fresh.items():
            required = name in REQUIRED
            yield _entry(name, REQUIRED[name] if required else value_of(field), field.description, required)
    uses = {use.name: use for use in compose.uses()}
    yield _title("docker-compose.yml")
    for name, description in _COMPOSE.items():
        use = uses[name]
        secret = use.how.endswith("?")
        yield _entry(name, _SECRET if secret else use.rest, description, secret)


def _title(title: str) -> str:
    return f"\n# --- {title}\n"


def _entry(name: str, value: str, description: Any, in_force: bool) -> str:
    sentence = textwrap.fill(str(description), _WIDTH, initial_indent="# ", subsequent_indent="# ")
    return f"\n{sentence}\n{'' if in_force else '#'}{name}={value}\n"


if __name__ == "__main__":
    sys.stdout.write(rendered())
