"""kill -9 of each part of a whole running system, one after the other, while the demo's load is under way.

The system is `plutus up`, the load and the judge are `plutus demo --against`: it exits with 0 only if every count is exact.
After each round nothing may be left that the supervisor does not know.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from infra.local.ports import Ports
from tests.stack import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]

_PLUTUS = (sys.executable, "-m", "infra.cli.main")
_START = 90.0
_ROUND = 120.0
_STOP = 35.0
_UNDER_WAY = 300


class System:
    """`plutus up` in a folder of its own, with fixed ports, so that it comes back where it was."""

    def __init__(self, home: Path) -> None:
        ports = Ports()
        fixed = {name: str(ports.take(0, name)) for name in ("GATEWAY_PORT", "KAFKA_PORT", "POSTGRES_PORT")}
        inherited = {n: v for n, v in os.environ.items() if not n.startswith(("KAFKA_", "DATABASE_", "PLUTUS_"))}
        self.home = home
        self.env = {**inherited, **fixed, "PLUTUS_HOME": str(home)}
        self.endpoints = home / "endpoints.json"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until all is ready."""
        handlers = "stream_worker.examples.earthquakes"
        options = ("--workers", "2", "--gateway-processes", "2", "--handlers", handlers)
        with (self.home.parent / "up.log").open("ab") as log:
            self.process = subprocess.Popen((*_PLUTUS, "up", *options), env=self.env, cwd=ROOT, stdout=log, stderr=log)
        until(lambda: self._is_new() or self._died(), _START, "plutus up is ready")

    def _is_new(self) -> bool:
        """The file is of this start: it is removed at a stop, and stale after a kill."""
        if not self.endpoints.exists():
            return False
        try:
            return httpx.get(f"{self.gateway}/readyz", timeout=2, trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    def _died(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError((self.home.parent / "up.log").read_text()[-2_000:])
        return False

    @property
    def gateway(self) -> str:
        return str(json.loads(self.endpoints.read_text())["gateway"])

    def created(self) -> float:
        """Events created over HTTP so far: how far the load is."""
        try:
            text = httpx.get(f"{self.gateway}/metrics", timeout=5, trust_env=False).text
        except (httpx.TransportError, OSError):
            return 0.0
        lines = [line for line in text.splitlines() if line.startswith("raw_events_created_total ")]
        return float(lines[0].split()[1]) if lines else 0.0

    def is_beyond(self, created: float) -> bool:
        """So many events were created."""
        return self.created() > created

    def stop(self) -> None:
        """Ctrl-C."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(_STOP)


def until(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Wait for a condition, with a deadline."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
        time.sleep(0.05)


def of(home: Path) -> dict[int, str]:
    """Processes whose command line or environment names this folder: pid and command line."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            environment = (entry / "environ").read_bytes()
        except OSError:
            continue
        if str(home) in words or str(home).encode() in environment:
            found[int(entry.name)] = words
    return found


def one_of(home: Path, word: str, *, child_of: str | None = None) -> int:
    """A process whose command line holds this word, and whose parent's holds `child_of`."""
    found = of(home)
    for pid, words in sorted(found.items(), reverse=True):
        if word not in words:
            continue
        if child_of is None:
            return pid
        parent = int((Path("/proc") / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()[1])
        if child_of in found.get(parent, ""):
            return pid
    raise AssertionError(f"no process {word} among {sorted(found.values())}")


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    """A running system; nothing of it is left behind."""
    made = System(tmp_path / "home")
    made.start()
    yield made
    made.stop()
    until(lambda: not of(made.home), _STOP, f"no process is left: {of(made.home)}")


VICTIMS: dict[str, Callable[[System], int]] = {
    "a gateway process": lambda system: one_of(system.home, "ingest_gateway", child_of="ingest_gateway"),
    "a worker": lambda system: one_of(system.home, "stream_worker"),
    "Kafka": lambda system: one_of(system.home, "kafka.Kafka"),
    "Postgres": lambda system: one_of(system.home, "postgres -D"),
    "the supervisor": lambda system: system.process.pid if system.process else 0,
}


def test_every_count_is_exact_whoever_is_killed(system: System) -> None:
    for name, find in VICTIMS.items():
        before = system.created()
        demo = subprocess.Popen(
            (*_PLUTUS, "demo", "--against", str(system.endpoints)),
            env=system.env,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        try:
            until(partial(system.is_beyond, before + _UNDER_WAY), 60, "the load is under way")
            os.kill(find(system), signal.SIGKILL)
            if name == "the supervisor":
                assert system.process is not None
                system.process.wait(5)
                until(lambda: len(of(system.home)) <= 1, _STOP, "all that it had started is gone, the demo is not")
                system.start()
            output, _ = demo.communicate(timeout=_ROUND)
        finally:
            demo.kill()
        assert demo.returncode == 0, f"after the death of {name}:\n{output.decode()}"
