"""A test session leaves no process behind, whatever way it ends, and starts none that no test asks for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from infra.local.home import children_of
from tests.stack import ROOT

pytestmark = pytest.mark.slow

SECONDS = 60.0
SCRIPT = """
import time

def test_asks_for_the_services(stack):
    print("ready", flush=True)
    time.sleep(600)

def test_asks_for_nothing():
    pass
"""


def until(condition: Callable[[], bool], seconds: float = SECONDS) -> None:
    """Wait for a condition, under a deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.05)


def session(folder: Path, *which: str) -> subprocess.Popen[bytes]:
    """A pytest session of its own over the script, with our conftest and embedded services."""
    file = folder / "test_script.py"
    file.write_text(SCRIPT)
    own = {
        name: value for name, value in os.environ.items() if not name.startswith(("KAFKA_", "DATABASE_", "PLUTUS_TEST"))
    }
    with (folder / "said").open("wb") as said:
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "pytest", "-q", "-s", "-p", "tests.conftest"),
                *("--basetemp", str(folder / "temp"), "-p", "no:cacheprovider"),
                *(f"{file}::{name}" for name in which),
            ],
            cwd=ROOT,
            env=own,
            stdout=said,
            stderr=said,
        )


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_behind(tmp_path: Path, how: signal.Signals) -> None:
    pytest_process = session(tmp_path, "test_asks_for_the_services")
    home = tmp_path / "temp" / "stack0"
    try:
        until(lambda: "ready" in (tmp_path / "said").read_text() or pytest_process.poll() is not None)
        assert len(children_of(home)) > 2, (tmp_path / "said").read_text()
        pytest_process.send_signal(how)
        pytest_process.wait(SECONDS)
        until(lambda: not children_of(home))
    finally:
        pytest_process.kill()
        pytest_process.wait()


def test_nothing_is_started_that_no_test_asks_for(tmp_path: Path) -> None:
    pytest_process = session(tmp_path, "test_asks_for_nothing")
    assert pytest_process.wait(SECONDS) == 0, (tmp_path / "said").read_text()
    assert not (tmp_path / "temp" / "stack0").exists()
