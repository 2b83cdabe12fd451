"""Each setting is defined once, with a sentence of description."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Mapping, Sequence

from tests.house.source import Module, made, product, text

REPEATED_SETTINGS = {
    # The local mode chooses the ports of the processes that it starts, and must not import them.
    "gateway_host": {"GatewaySettings", "LocalSettings"},
    "gateway_port": {"GatewaySettings", "LocalSettings"},
    "worker_metrics_port": {"WorkerSettings", "LocalSettings"},
    # Who only talks to Postgres needs no brokers, and who only looks may have them from elsewhere.
    "kafka_bootstrap_servers": {"RuntimeSettings", "DatabaseSettings", "OperatorSettings"},
    "database_url": {"RuntimeSettings", "OperatorSettings"},
}


def settings(modules: Sequence[Module]) -> dict[str, dict[str, tuple[str, ast.AnnAssign]]]:
    """Field -> class -> (place, definition), for every class of settings."""
    classes = {
        node.name: (module, node)
        for module in modules
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ClassDef) and node.name.endswith("Settings")
    }
    found: dict[str, dict[str, tuple[str, ast.AnnAssign]]] = defaultdict(dict)
    for name, (module, node) in classes.items():
        for line in node.body:
            if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
                found[line.target.id][name] = (module.at(line), line)
    return found


def wrong_settings(modules: Sequence[Module], repeated: Mapping[str, set[str]]) -> list[str]:
    """Settings defined more than once, or without a description."""
    found = []
    for name, places in settings(modules).items():
        where = ", ".join(place for place, _ in places.values())
        if len(places) > 1 and not set(places) <= repeated.get(name, set()):
            found.append(f"{where}: {name} is defined {len(places)} times")
        for place, line in places.values():
            words = [word for word in ast.walk(line) if isinstance(word, ast.keyword) and word.arg == "description"]
            if not words or not (text(words[0].value) or "").endswith("."):
                found.append(f"{place}: {name} has no sentence of description")
    return found


def test_each_setting_is_defined_once_with_a_description() -> None:
    assert wrong_settings(product(), REPEATED_SETTINGS) == []
    defined = settings(product())
    assert {name: set(defined.get(name, ())) for name in REPEATED_SETTINGS} == REPEATED_SETTINGS


def test_the_rules_see_what_they_are_for() -> None:
    one = 'class OneSettings:\n    port: int = Field(1, description="Port.")\n'
    two = one.replace("One", "Two")
    assert wrong_settings([made("a", one)], {}) == []
    assert "2 times" in wrong_settings([made("a", one), made("b", two)], {})[0]
    assert wrong_settings([made("a", one), made("b", two)], {"port": {"OneSettings", "TwoSettings"}}) == []
    assert "no sentence" in wrong_settings([made("a", "class XSettings:\n    port: int = 1\n")], {})[0]
