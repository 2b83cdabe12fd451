"""The parts of the documents that the code knows best, written from it: settings, metrics, problems, reasons.

A table stands in its document between `<!-- begin: NAME -->` and `<!-- end: NAME -->`; `filled` puts the code's own in.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase
from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from infra.local.settings import LocalSettings
from infra.runtime.settings import RuntimeSettings
from ingest_gateway.metrics import Metrics as GatewayMetrics
from ingest_gateway.metrics import ParentMetrics
from ingest_gateway.problems import Kind
from ingest_gateway.settings import GatewaySettings
from stream_worker.metrics import Metrics as WorkerMetrics
from stream_worker.settings import WorkerSettings

_PLACE = re.compile(r"<!-- begin: (?P<name>[\w-]+) -->\n.*?<!-- end: (?P=name) -->\n", re.DOTALL)


def filled(text: str) -> str:
    """The document with every table as the code has it now."""
    return _PLACE.sub(lambda found: place(found["name"]), text)


def names(text: str) -> set[str]:
    """The tables that a document holds."""
    return {found["name"] for found in _PLACE.finditer(text)}


def place(name: str) -> str:
    """One table between its marks."""
    return f"<!-- begin: {name} -->\n{TABLES[name]()}\n<!-- end: {name} -->\n"


def own_fields(kind: type[BaseSettings]) -> dict[str, FieldInfo]:
    """The settings that `kind` adds to those of every process, by the variable's name."""
    shared = set() if kind is RuntimeSettings else set(RuntimeSettings.model_fields)
    return {name.upper(): field for name, field in kind.model_fields.items() if name not in shared}


def _settings(kind: type[BaseSettings]) -> str:
    rows = [(f"`{name}`", _default(field), field.description or "") for name, field in own_fields(kind).items()]
    return _table(("variable", "default", "meaning"), rows)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value: Any = field.get_default()
    if value is None:
        return "unset"
    if isinstance(value, frozenset | tuple):
        return f"`{json.dumps(sorted(value))}`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, float):
        return f"`{value:g}`"
    shown = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
    return f"`{shown}`" if shown else "empty"


def metrics_of(*registries: CollectorRegistry) -> list[MetricWrapperBase]:
    """Every metric that a process defines itself, in the order of definition."""
    found = [collector for registry in registries for collector in registry._collector_to_names]
    return [collector for collector in found if isinstance(collector, MetricWrapperBase)]


def kind(metric: MetricWrapperBase) -> str:
    """counter, gauge, histogram or info."""
    return str(metric._type)


def exposed_name(metric: MetricWrapperBase) -> str:
    """Its name on the page: a counter ends in _total, an info in _info."""
    suffix = {"counter": "_total", "info": "_info"}.get(kind(metric), "")
    return f"{metric._name}{suffix}"


def _metrics(*registries: CollectorRegistry) -> str:
    rows = [
        (
            f"`{exposed_name(metric)}`",
            kind(metric),
            ", ".join(f"`{label}`" for label in metric._labelnames),
            metric._documentation,
        )
        for metric in metrics_of(*registries)
    ]
    return _table(("metric", "kind", "labels", "meaning"), rows)


def _problems() -> str:
    rows = [(f"`{kind.uri.rpartition('/')[2]}`", str(kind.status), kind.title) for kind in Kind]
    return _table(("type", "status", "title"), rows)


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


TABLES: dict[str, Callable[[], str]] = {
    "settings-shared": lambda: _settings(RuntimeSettings),
    "settings-gateway": lambda: _settings(GatewaySettings),
    "settings-worker": lambda: _settings(WorkerSettings),
    "settings-local": lambda: _settings(LocalSettings),
    "metrics-gateway": lambda: _metrics(GatewayMetrics().registry, ParentMetrics().registry),
    "metrics-worker": lambda: _metrics(WorkerMetrics().registry),
    "problems": _problems,
}
"""Name of a table -> its Markdown."""
