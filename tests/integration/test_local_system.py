"""The supervisor of `plutus up` over real servers and tiny programs: order, restarts, kill -9, clear ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from infra.local import coordinator
from infra.local.home import Home, children_of, is_running
from tests.stack import ROOT

pytestmark = pytest.mark.slow

START_SECONDS = 60.0
STOP_SECONDS = 30.0


class Up:
    """A supervisor in a process of its own."""

    def __init__(self, home: Path, *, worker: str = "good", workers: int = 2, **environment: str) -> None:
        self.home = home
        self.said = home.parent / f"{home.name}.said"
        own = {name: value for name, value in os.environ.items() if not name.startswith(("KAFKA_", "DATABASE_"))}
        with self.said.open("ab") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.integration.local_programs", "up", worker],
                cwd=ROOT,
                env={**own, "GATEWAY_PORT": "0", **environment, "PLUTUS_HOME": str(home), "WORKERS": str(workers)},
                stdout=said,
                stderr=said,
            )

    def wait_until_ready(self) -> dict[str, str]:
        """Wait for endpoints.json; its content."""
        file = self.home / "endpoints.json"
        until(lambda: file.exists() or self.process.poll() is not None, START_SECONDS)
        assert self.process.poll() is None, self.words()
        content: dict[str, str] = json.loads(file.read_text())
        return content

    def ends(self, seconds: float) -> int:
        """Wait for the end; the exit code."""
        return self.process.wait(seconds)

    def words(self) -> str:
        """All it printed."""
        return self.said.read_text()

    def kill(self) -> None:
        """kill -9, if it lives."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def until(condition: Callable[[], bool], seconds: float) -> None:
    """Wait for a condition, under a deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.02)


def pid_at(url: str) -> int | None:
    """Pid of the program that answers there."""
    connection = HTTPConnection(urlsplit(url).netloc, timeout=2)
    try:
        connection.request("GET", "/")
        return int(connection.getresponse().read())
    except (OSError, HTTPException):
        return None
    finally:
        connection.close()


def pid_of(home: Path, server: str) -> int | None:
    """Pid of Kafka or Postgres in that folder; of Postgres the first process, which started the others."""
    found = [pid for pid in children_of(home) if _is(server, Path(f"/proc/{pid}/cmdline").read_text().split("\0"))]
    return found[0] if found else None


def _is(server: str, words: list[str]) -> bool:
    return "kafka.Kafka" in words if server == "kafka" else words[0].endswith("/postgres")


async def rows(dsn: str) -> int | None:
    """What a query answers, None while there is nobody to answer."""
    try:
        connection = await asyncpg.connect(dsn, timeout=5)
    except (OSError, TimeoutError, asyncpg.PostgresError):
        return None
    try:
        return int(await connection.fetchval("SELECT 1"))
    finally:
        await connection.close()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """A system that runs."""
    up = Up(tmp_path_factory.mktemp("running") / "home")
    try:
        up.wait_until_ready()
        yield up
    finally:
        up.kill()


@pytest.fixture
def ups(tmp_path: Path) -> Iterator[Callable[..., Up]]:
    """Starts systems in a folder of this test's own; none outlives it."""
    started: list[Up] = []

    def start(**arguments: object) -> Up:
        started.append(Up(tmp_path / "home", **arguments))  # type: ignore[arg-type]
        return started[-1]

    yield start
    for up in started:
        up.kill()
    home = tmp_path / "home"
    if home.exists():
        until(lambda: not children_of(home), STOP_SECONDS)


def test_the_addresses_answer(running: Up) -> None:
    endpoints = running.wait_until_ready()
    assert set(endpoints) == {"gateway", "gateway_metrics", "worker_metrics", "kafka", "postgres"}
    assert len(endpoints["worker_metrics"]) == 2
    assert len({pid_at(url) for url in (endpoints["gateway"], *endpoints["worker_metrics"])} - {None}) == 3
    assert coordinator.is_answering(int(endpoints["kafka"].split(":")[1]))
    assert endpoints["postgres"] not in running.words()
    assert endpoints["gateway"] in running.words()


def test_every_child_has_a_session_of_its_own(running: Up) -> None:
    endpoints = running.wait_until_ready()
    pids = [pid_at(endpoints["gateway"]), pid_of(running.home, "kafka"), pid_of(running.home, "postgres")]
    for pid in pids:
        assert pid is not None
        assert os.getsid(pid) == pid


def test_a_second_system_in_the_folder_is_refused_and_the_first_not_disturbed(running: Up) -> None:
    before = running.wait_until_ready()
    second = Up(running.home)
    assert second.ends(START_SECONDS) == 1
    assert "runs in" in running.words()
    assert running.wait_until_ready() == before
    assert pid_at(before["gateway"]) is not None


@pytest.mark.parametrize("which", ["gateway", "worker"])
def test_a_killed_program_comes_back_at_the_same_port(running: Up, which: str) -> None:
    endpoints = running.wait_until_ready()
    url = endpoints["gateway"] if which == "gateway" else endpoints["worker_metrics"][1]
    old = pid_at(url)
    assert old is not None
    os.kill(old, signal.SIGKILL)
    until(lambda: pid_at(url) not in (None, old), STOP_SECONDS)
    name = "gateway" if which == "gateway" else "worker-2"
    assert running.words().count(f"{name} was killed by SIGKILL") == 1
    assert running.wait_until_ready() == endpoints


@pytest.mark.parametrize("which", ["kafka", "postgres"])
def test_a_killed_server_comes_back_at_the_same_port(running: Up, which: str) -> None:
    endpoints = running.wait_until_ready()
    old = pid_of(running.home, which)
    assert old is not None
    os.kill(old, signal.SIGKILL)
    until(lambda: pid_of(running.home, which) not in (None, old), STOP_SECONDS)
    if which == "kafka":
        until(lambda: coordinator.is_answering(int(endpoints["kafka"].split(":")[1])), STOP_SECONDS)
    else:
        until(lambda: asyncio.run(rows(endpoints["postgres"])) == 1, STOP_SECONDS)
    assert running.words().count(f"{which} was killed by SIGKILL") == 1


def test_ctrl_c_stops_the_gateway_then_workers_then_the_servers(ups: Callable[..., Up]) -> None:
    up = ups()
    up.wait_until_ready()
    pids = children_of(up.home)
    begin = time.monotonic()
    up.process.send_signal(signal.SIGINT)
    assert up.ends(STOP_SECONDS) == 0
    assert time.monotonic() - begin < STOP_SECONDS
    assert (up.home / "order").read_text().split() == ["gateway", "worker", "worker"]
    assert not (up.home / "endpoints.json").exists()
    assert not children_of(up.home)
    assert len(pids) >= 5
    assert "shut down" in (up.home / "logs" / "postgres.log").read_text().splitlines()[-1]


def test_after_kill_9_of_the_supervisor_all_goes_and_a_second_start_succeeds(ups: Callable[..., Up]) -> None:
    first = ups(GATEWAY_PORT=str(_free_port()))
    before = first.wait_until_ready()
    first.process.kill()
    first.process.wait()
    assert not is_running(first.home)
    second = ups(GATEWAY_PORT=str(urlsplit(before["gateway"]).port))  # at once, while the others still die
    until(lambda: not _is_stale(second.home, before) or second.process.poll() is not None, START_SECONDS)
    after = second.wait_until_ready()
    assert after["gateway"] == before["gateway"]
    second.process.send_signal(signal.SIGTERM)
    assert second.ends(STOP_SECONDS) == 0
    assert not children_of(second.home)


def _is_stale(home: Path, before: dict[str, str]) -> bool:
    try:
        return bool(json.loads((home / "endpoints.json").read_text()) == before)
    except FileNotFoundError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_a_program_that_dies_again_and_again_ends_it_all_with_one_line(ups: Callable[..., Up]) -> None:
    up = ups(worker="mortal", workers=1)
    assert up.ends(START_SECONDS) == 1
    last = up.words().splitlines()[-1]
    assert "worker-1 died 5 times within 60 s, giving up" in last
    assert up.words().count("starting again in") == 4
    assert not children_of(up.home)
    assert not (up.home / "endpoints.json").exists()


def test_a_program_that_cannot_start_ends_it_all_with_its_own_words(ups: Callable[..., Up]) -> None:
    up = ups(worker="broken", workers=1)
    assert up.ends(START_SECONDS) == 1
    assert "worker-1 exited with code 1: error: WORKER_HANDLERS names no module (log: " in up.words().splitlines()[-1]
    assert not children_of(up.home)


def test_a_busy_gateway_port_is_told_before_anything_starts(ups: Callable[..., Up]) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        up = ups(GATEWAY_PORT=str(busy.getsockname()[1]))
        assert up.ends(START_SECONDS) == 1
    assert "is in use" in up.words()
    assert "Traceback" not in up.words()
    assert not (up.home / "kafka").exists()


def test_a_second_signal_stops_at_once(ups: Callable[..., Up]) -> None:
    up = ups(worker="stubborn", workers=1)
    up.wait_until_ready()
    up.process.send_signal(signal.SIGINT)
    until(lambda: (up.home / "order").exists() and "worker" in (up.home / "order").read_text(), STOP_SECONDS)
    begin = time.monotonic()
    up.process.send_signal(signal.SIGINT)
    assert up.ends(STOP_SECONDS) == 130
    assert time.monotonic() - begin < 5
    assert not children_of(up.home)


def test_a_signal_while_starting_stops_what_has_started(ups: Callable[..., Up]) -> None:
    up = ups()
    until(
        lambda: (up.home / "children.lock").exists() and bool(set(children_of(up.home)) - {up.process.pid}),
        START_SECONDS,
    )
    up.process.send_signal(signal.SIGTERM)
    assert up.ends(STOP_SECONDS) == 0
    assert not children_of(up.home)
    with Home(up.home, print) as home:
        assert not home.had_leftovers


def test_no_workers_is_a_system_too(ups: Callable[..., Up]) -> None:
    up = ups(workers=0, WORKER_METRICS_PORT="0")
    assert list(up.wait_until_ready()["worker_metrics"]) == []
