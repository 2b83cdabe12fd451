"""A system as `plutus up` runs it, for the documents' commands: in a folder of its own, on any free ports."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from infra.local.home import children_of
from tests.stack import ROOT

_START_SECONDS = 90.0
_STOP_SECONDS = 40.0
_FOREIGN = ("KAFKA_", "DATABASE_", "GATEWAY_", "WORKER_", "PLUTUS_HOME", "POSTGRES_")


@dataclass(frozen=True)
class Running:
    """A running system. environment: for commands that are to use it. endpoints: its addresses."""

    home: Path
    environment: Mapping[str, str]
    endpoints: Mapping[str, Any]

    @property
    def instead(self) -> dict[str, str]:
        """The addresses that documents name -> its own."""
        return {"localhost:8000": urlsplit(self.endpoints["gateway"]).netloc, "localhost:9092": self.endpoints["kafka"]}


@contextmanager
def system(home: Path, *options: str, python_path: Path, **settings: str) -> Iterator[Running]:
    """`plutus up OPTIONS`, ready; stopped as Ctrl-C does.

    Args:
        python_path: folder of handler modules.
        settings: environment variables beside the addresses.
    """
    own = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    environment = {
        **own,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(python_path),
        "PLUTUS_HOME": str(home),
        "GATEWAY_PORT": "0",
        "NO_PROXY": "127.0.0.1,localhost",
        "NO_COLOR": "1",
        **settings,
    }
    said = home.parent / "said"
    with said.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "infra.cli.main", "up", *options], cwd=ROOT, env=environment, stdout=log, stderr=log
        )
    try:
        yield Running(home, environment, _endpoints(home, process, said))
    finally:
        process.send_signal(signal.SIGINT)
        try:
            code = process.wait(_STOP_SECONDS)
        finally:
            process.kill()
        assert code == 0, said.read_text()
        assert children_of(home) == [], said.read_text()


def _endpoints(home: Path, process: subprocess.Popen[bytes], said: Path) -> dict[str, Any]:
    file = home / "endpoints.json"
    deadline = time.monotonic() + _START_SECONDS
    while not file.exists():
        assert process.poll() is None, said.read_text()
        assert time.monotonic() < deadline, said.read_text()
        time.sleep(0.05)
    content: dict[str, Any] = json.loads(file.read_text())
    return content
