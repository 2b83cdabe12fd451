"""Each metric is defined once, in its process's catalogue, with a sentence of help and a name as Prometheus has them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence

from tests.house.source import Module, calls, enclosing, made, product, text

METRIC_MODULES = {"ingest_gateway.metrics", "stream_worker.metrics"}
METRIC_KINDS = {"Counter", "Gauge", "Histogram", "Info", "Summary", "_counter", "_gauge", "_histogram"}
CONTRACT_METRICS = {
    "ingest_requests_total",
    "raw_events_created_total",
    "raw_events_duplicate_total",
    "processing_success_total",
    "processing_failure_total",
}
_METRIC_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)+")


def metrics(modules: Sequence[Module]) -> Iterator[tuple[str, ast.Call, Module]]:
    """Every metric that is made: name, call, where."""
    for module in modules:
        for call, kind in calls(module):
            if kind in METRIC_KINDS and call.args and (name := text(call.args[0])) is not None:
                yield name, call, module


def wrong_metrics(modules: Sequence[Module]) -> list[str]:
    """Metrics made twice or elsewhere, without help, or named against the conventions of Prometheus."""
    found = []
    seen: dict[str, str] = {}
    for name, call, module in metrics(modules):
        place = module.at(call)
        if name in seen:
            found.append(f"{place}: {name} is defined at {seen[name]} too")
        seen[name] = place
        if module.name not in METRIC_MODULES:
            found.append(f"{place}: {name} belongs into the process's metrics module")
        if len(call.args) < 2 or not (text(call.args[1]) or "").endswith("."):
            found.append(f"{place}: {name} has no sentence of help")
        kind = ast.unparse(call.func).rpartition(".")[2].lower().strip("_")
        if not _METRIC_NAME.fullmatch(name) or (kind == "counter") != name.endswith("_total"):
            found.append(f"{place}: {name} is not named as a {kind} is")
    return found


def metrics_in_disguise(modules: Sequence[Module]) -> list[str]:
    """Metrics whose name is computed, which no search finds."""
    return [
        f"{module.at(call)}: the metric's name is not a literal"
        for module in modules
        for call, kind in calls(module)
        if kind in {"Counter", "Gauge", "Histogram", "Info", "Summary"}
        and "prometheus_client" in module.text
        and not enclosing(module)[call].endswith(("._counter", "._gauge", "._histogram"))
        and (not call.args or text(call.args[0]) is None)
    ]


def test_each_metric_is_defined_once_with_help() -> None:
    assert wrong_metrics(product()) == []
    assert metrics_in_disguise(product()) == []
    assert {name for name, _, _ in metrics(product())} >= CONTRACT_METRICS


def test_the_rules_see_what_they_are_for() -> None:
    good = 'self.x = self._counter("worker_batches_total", "Batches.")\n'
    assert wrong_metrics([made("stream_worker.metrics", good)]) == []
    assert "defined at" in wrong_metrics([made("stream_worker.metrics", good), made("ingest_gateway.metrics", good)])[0]
    assert "metrics module" in wrong_metrics([made("stream_worker.batch", good)])[0]
    assert "no sentence" in wrong_metrics([made("stream_worker.metrics", good.replace("Batches.", ""))])[0]
    assert "not named" in wrong_metrics([made("stream_worker.metrics", good.replace("_total", ""))])[0]
    assert "not named" in wrong_metrics([made("stream_worker.metrics", 'Gauge("up_total", "Up.")')])[0]
    computed = "from prometheus_client import Counter\ndef f(name):\n    return Counter(name, 'Help.')\n"
    assert metrics_in_disguise([made("stream_worker.metrics", computed)]) == [
        "stream_worker/metrics.py:3: the metric's name is not a literal"
    ]
