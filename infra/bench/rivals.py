"""How the peers are started: our own small ones, and those of a folder that was named, where they are built."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from infra.bench.contest import Absent, Asked, Measured
from infra.bench.drain import Filled
from infra.bench.ground import PYTHON, Failed, Ground, Running, Topics

_SETUP: Final = 60.0
_DRAIN: Final = 300.0
_FAST: Final = ("--log-level", "error", "--no-access-log", "--loop", "uvloop", "--http", "httptools")


@contextmanager
def python_gateway(ground: Ground, name: str, dsn: str, topics: Topics, processes: int) -> Iterator[Running]:
    """One of `infra.bench.peers` under uvicorn, not waited for."""
    port = ground.port()
    environment = {**ground.environment(dsn), "BOOTSTRAP": ground.bootstrap, "DSN": dsn, "TOPIC": topics.events}
    module = f"infra.bench.peers.{name.replace('-', '_')}"
    if name == "insert-each":
        subprocess.run([*PYTHON, module], env=environment, check=True, timeout=_SETUP)
    argv = (*PYTHON, "uvicorn", f"{module}:app", "--port", str(port), *_FAST)
    workers = ("--workers", str(processes)) if processes > 1 else ()
    with ground.program(name, (*argv, *workers), environment, port) as running:
        yield running


def bento_is_absent(asked: Asked) -> Absent | None:
    """Why Bento cannot be run; None where it can."""
    if asked.peers is None:
        return Absent("PLUTUS_BENCH_PEERS names no folder of peers")
    if not (asked.peers_home / "bento").exists():
        return Absent(f"{asked.peers_home} has no bento; build it with peers.py build")
    return None


@contextmanager
def bento_gateway(ground: Ground, asked: Asked, topics: Topics, config: str) -> Iterator[Running]:
    """Bento with one of the folder's configurations, not waited for."""
    port = ground.port()
    environment = {**ground.environment(""), "BOOTSTRAP": ground.bootstrap, "TOPIC": topics.events, "PORT": str(port)}
    argv = (str(asked.peers_home / "bento"), "-c", str(_folder(asked) / "bento" / config))
    with ground.program("bento", argv, environment, port) as running:
        yield running


def debezium_is_absent(asked: Asked) -> Absent | None:
    """Why Debezium's JDBC sink cannot be run; None where it can."""
    if asked.peers is None:
        return Absent("PLUTUS_BENCH_PEERS names no folder of peers")
    if not any((asked.peers_home / "debezium").glob("debezium-connector-jdbc-*.jar")):
        return Absent(f"{asked.peers_home} has no debezium jars; fetch them with peers.py build")
    return None


def faststream_is_absent() -> Absent | None:
    """Why FastStream cannot be run; None where it can."""
    if find_spec("faststream") is None:
        return Absent("the package faststream is not installed (pip install 'faststream[kafka]')")
    return None


def fill(ground: Ground, asked: Asked, dsn: str, filled: Filled) -> None:
    """The folder's own records in the topic, and in the one of Kafka Connect's form beside it."""
    partitions = str(filled.topics.partitions)
    _ask(ground, asked, dsn, "fill", *_topic(filled), "--partitions", partitions)


def drain(ground: Ground, asked: Asked, dsn: str, filled: Filled, peer: str) -> Measured:
    """The folder's peer drains the topic into a table of its own."""
    told = _ask(ground, asked, dsn, "drain", "--peer", peer, *_topic(filled))
    found: dict[str, Any] = json.loads(told.strip().splitlines()[-1])
    if "error" in found:
        raise Failed(str(found["error"]))
    names = {"rows_per_s": "rate", "cpu_us_per_row": "cpu_us", "rss_mib": "all_mib"}
    return Measured({ours: float(found[theirs]) for theirs, ours in names.items() if theirs in found})


def _ask(ground: Ground, asked: Asked, dsn: str, *arguments: str) -> str:
    environment = {
        **ground.environment(dsn),
        "BOOTSTRAP": ground.bootstrap,
        "DSN": dsn,
        "PEERS_HOME": str(asked.peers_home),
    }
    argv = [sys.executable, str(_folder(asked) / "peers.py"), *arguments]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=_DRAIN, check=False)
    if not done.stdout.strip() and done.returncode:
        raise Failed(f"peers.py {arguments[0]}: {done.stderr.strip()[-300:]}")
    return done.stdout


def _topic(filled: Filled) -> tuple[str, ...]:
    return ("--topic", filled.topics.events, "--events", str(filled.records))


def _folder(asked: Asked) -> Path:
    if asked.peers is None:
        raise Failed("no folder of peers was named")
    return asked.peers
