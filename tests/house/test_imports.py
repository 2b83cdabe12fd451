"""Arrows point one way, nothing imports in a circle, and each client library is known where it belongs.

schemas  <-  infra.runtime  <-  ingest_gateway, stream_worker     (these two never import each other)
             infra.runtime  <-  infra.local, infra.demo  <-  infra.cli   (these start the processes as commands)
"""

from __future__ import annotations

import graphlib
from collections.abc import Sequence

from tests.house.source import Module, imports, is_below, made, product

LAYERS: dict[str, set[str]] = {
    "schemas": set(),
    "infra.runtime": {"schemas"},
    "ingest_gateway": {"schemas", "infra.runtime"},
    "stream_worker": {"schemas", "infra.runtime"},
    "infra.local": {"schemas", "infra.runtime"},
    "infra.docker": set(),
    "infra.bench": {"schemas", "infra.runtime", "infra.local"},
    # Other people's programs, and a user's handlers.
    "infra.bench.peers": set(),
    "infra.bench.handlers": {"schemas", "stream_worker"},
    "infra.demo": {"schemas", "infra.runtime", "infra.local"},
    "infra.cli": {"schemas", "infra.runtime", "infra.local", "infra.demo"},
    "migrations": {"schemas", "infra.runtime"},
    # A released migration must not change its meaning when the code does.
    "migrations.versions": set(),
}

KNOWN_BY: dict[str, set[str]] = {
    # One loop reads, one place commits: the consumer is made in `app`, used in `consumer_loop`. The reader of dead
    # letters and the skipping of offsets assign themselves partitions and are no members of a group.
    "aiokafka.AIOKafkaConsumer": {
        "stream_worker.app",
        "stream_worker.consumer_loop",
        "stream_worker.lenient",
        "infra.cli.reader",
        "infra.cli.skipping",
    },
    # One producer wrapper, with its swap. The demo plays a producer of somebody else's, on purpose a plain one.
    "aiokafka.AIOKafkaProducer": {
        "infra.runtime.producer",
        "infra.runtime.raw_producer",
        "infra.cli.demo_send",
        "infra.bench.peers.kafka_each",
    },
    "aiokafka.admin": {"infra.runtime.topics", "infra.cli.cluster"},
    # The hot path is plain ASGI; FastAPI documents and routes around it.
    "fastapi": {"ingest_gateway.web", "infra.bench.peers"},
    "starlette": {"ingest_gateway.web"},
    "uvicorn": {"ingest_gateway.server", "ingest_gateway.http_protocol", "ingest_gateway.cycles"},
    "cryptography": {"ingest_gateway.signatures"},
    "opentelemetry": {"infra.runtime.telemetry", "ingest_gateway.intake", "stream_worker.observe"},
    "prometheus_client": {
        "ingest_gateway.metrics",
        "ingest_gateway.sums",
        "stream_worker.metrics",
        "stream_worker.health",
    },
    # The tables are defined once for operators and migrations; what the processes run is SQL in a file. Handlers may ask
    # for it.
    "sqlalchemy": {
        "infra.runtime.tables",
        "infra.cli",
        "migrations.env",
        "stream_worker.emit",
        "stream_worker.handlers.alchemy",
        "infra.bench.peers.insert_each",
    },
    "alembic": {"infra.cli.migrate", "migrations"},
    "structlog": {"infra.runtime.log"},
    "stamina": {"infra.runtime.log", "infra.runtime.raw_producer", "infra.runtime.topics", "stream_worker.app"},
    "typer": {"infra.cli"},
    "rich": {"infra.cli"},
    "jgo": {"infra.local.jars", "infra.local.lock_kafka"},
}

DECIDES = {
    # The pure cores: decisions and numbers, to be tested without anything running.
    "schemas",
    "stream_worker.outcomes",
    "stream_worker.progress",
    "stream_worker.backoff",
    "stream_worker.decide",
    "ingest_gateway.breaker",
    "ingest_gateway.outcomes",
    "ingest_gateway.prefer",
    "ingest_gateway.signatures",
    "infra.local.restarts",
    "infra.bench.bodies",
    "infra.bench.figures",
    "infra.bench.plan",
}
ACTS = {"asyncio", "aiokafka", "asyncpg", "sqlalchemy", "fastapi", "uvicorn", "httpx", "socket", "subprocess"}


def layer_of(name: str) -> str | None:
    """The innermost layer a dotted name lies in."""
    return max((layer for layer in LAYERS if is_below(name, (layer,))), key=len, default=None)


def wrong_arrows(modules: Sequence[Module]) -> list[str]:
    """Imports of a layer that its own may not know."""
    found = []
    for module in modules:
        mine = layer_of(module.name)
        if mine is None:
            if module.text.count("\n") > 1:
                found.append(f"{module.path}: belongs to no layer; give it one in LAYERS")
            continue
        for node, name in imports(module):
            theirs = layer_of(name)
            ours = is_below(name, ("schemas", "infra", "ingest_gateway", "stream_worker", "migrations", "tests"))
            if ours and theirs != mine and theirs not in LAYERS[mine]:
                found.append(f"{module.at(node)}: {mine} must not import {name}")
    return found


def circles(modules: Sequence[Module]) -> list[str]:
    """Modules that import each other, however far around; imports inside functions count."""
    known = {module.name for module in modules}
    graph: dict[str, set[str]] = {}
    for module in modules:
        targets = {name if name in known else name.rpartition(".")[0] for _, name in imports(module)}
        graph[module.name] = (targets & known) - {module.name}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return [" -> ".join(reversed(error.args[1]))]
    return []


def strangers(modules: Sequence[Module]) -> list[str]:
    """Client libraries imported outside the modules that own them."""
    return [
        f"{module.at(node)}: {name} is known by {', '.join(sorted(owners))} only"
        for module in modules
        for node, name in imports(module)
        for library, owners in KNOWN_BY.items()
        if is_below(name, (library,)) and not is_below(module.name, owners)
    ]


def unused_leave(modules: Sequence[Module]) -> list[str]:
    """Modules that may know a library and do not import it: the list above says what is, not what might be."""
    return [
        f"{owner} does not import {library}; take it off the list"
        for library, owners in KNOWN_BY.items()
        for owner in sorted(owners)
        if not any(
            is_below(name, (library,))
            for module in modules
            if is_below(module.name, (owner,))
            for _, name in imports(module)
        )
    ]


def acting_deciders(modules: Sequence[Module]) -> list[str]:
    """Network, event loop or processes known by a module that only decides."""
    return [
        f"{module.at(node)}: {module.name} decides and must not know {name}"
        for module in modules
        if is_below(module.name, DECIDES)
        for node, name in imports(module)
        if is_below(name, ACTS)
    ]


def test_arrows_point_one_way() -> None:
    assert wrong_arrows(product()) == []


def test_nothing_imports_in_a_circle() -> None:
    assert circles(product()) == []


def test_clients_are_known_where_they_belong() -> None:
    assert strangers(product()) == []
    assert unused_leave(product()) == []


def test_what_decides_does_not_act() -> None:
    assert acting_deciders(product()) == []
    names = [module.name for module in product()]
    assert [name for name in DECIDES if name not in names] == []


def test_the_rules_see_what_they_are_for() -> None:
    gateway = made("ingest_gateway.bad", "def f():\n    from stream_worker.decide import decide\n")
    assert wrong_arrows([gateway]) == [
        "ingest_gateway/bad.py:2: ingest_gateway must not import stream_worker.decide.decide"
    ]
    assert wrong_arrows([made("schemas.bad", "from infra.runtime import log")]) != []
    assert wrong_arrows([made("schemas.bad", "from tests import stack")]) != []
    assert wrong_arrows([made("infra.local.bad", "import ingest_gateway.app")]) != []
    assert wrong_arrows([made("infra.new.part", "import os\nimport sys\n")]) != []
    assert wrong_arrows([made("migrations.versions.bad", "from infra.runtime.tables import metadata")]) != []
    assert wrong_arrows([made("stream_worker.good", "from schemas.event import Event")]) == []
    circle = [made("a", "import b"), made("b", "def f():\n    from c import x"), made("c", "from a import y")]
    assert len(circles(circle)) == 1
    assert circles(circle[:2]) == []
    assert len(strangers([made("stream_worker.batch", "from aiokafka import AIOKafkaConsumer")])) == 1
    assert len(unused_leave([made("infra.local.jars", "from jgo import maven")])) > 10
    assert acting_deciders([made("stream_worker.progress", "import asyncio")]) != []
