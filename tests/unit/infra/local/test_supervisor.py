"""The supervisor over tiny real children: order of the stop, its deadline, restarts with the same command."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infra.local.errors import LocalError
from infra.local.process import Command
from infra.local.supervisor import Service, Supervisor

SOON = 10.0
NOTES_ITS_STOP = "trap 'echo $NAME >> order; exit 0' TERM; echo up; while :; do sleep 0.01; done"
IGNORES_THE_STOP = "trap '' TERM; echo up; while :; do sleep 0.01; done"


class Shell:
    """A service that is a shell script, ready once it has said `up`."""

    def __init__(self, folder: Path, name: str, script: str) -> None:
        self.name = name
        self.stops = 0
        self._command = Command(name, ("sh", "-c", script), folder / f"{name}.log", env={"NAME": name}, cwd=folder)

    def command(self) -> Command:
        """How to start it."""
        return self._command

    def ready(self) -> bool:
        """Whether it said so."""
        return self._command.log.exists() and "up" in self._command.log.read_text()

    def stopped(self) -> None:
        """Count it."""
        self.stops += 1


@pytest.fixture
def said() -> list[str]:
    """What was said to the person."""
    return []


@pytest.fixture
def supervisor(tmp_path: Path, said: list[str]) -> Iterator[Supervisor]:
    """One whose children are gone afterwards."""
    with (tmp_path / "lock").open("w") as lock:
        made = Supervisor(lock.fileno(), said.append)
        yield made
        made.stop(SOON, hurry=lambda: True)


@pytest.fixture
def shell(tmp_path: Path) -> Callable[[str, str], Shell]:
    """Makes a service of a name and a script."""
    return lambda name, script: Shell(tmp_path, name, script)


def tick_until(supervisor: Supervisor, condition: Callable[[], bool]) -> None:
    """Let the supervisor work until a condition holds, under a deadline."""
    deadline = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        supervisor.tick()
        time.sleep(0.01)


def test_the_last_launched_stop_first(
    tmp_path: Path, supervisor: Supervisor, shell: Callable[[str, str], Shell]
) -> None:
    services = [shell(name, NOTES_ITS_STOP) for name in ("server", "worker", "gateway")]
    for service in services:
        checked: Service = service
        supervisor.launch([checked])
    supervisor.wait_until_ready(SOON)
    supervisor.stop(SOON)
    assert (tmp_path / "order").read_text().split() == ["gateway", "worker", "server"]
    assert [service.stops for service in services] == [1, 1, 1]
    assert supervisor.pids() == {}


def test_what_ignores_the_stop_is_killed_within_the_time(
    supervisor: Supervisor, shell: Callable[[str, str], Shell]
) -> None:
    stubborn = [shell("one", IGNORES_THE_STOP), shell("two", IGNORES_THE_STOP)]
    for service in stubborn:
        supervisor.launch([service])
    supervisor.wait_until_ready(SOON)
    begin = time.monotonic()
    supervisor.stop(6.0)
    assert time.monotonic() - begin < 6.0
    assert [service.stops for service in stubborn] == [0, 0]


def test_hurry_ends_all_at_once(supervisor: Supervisor, shell: Callable[[str, str], Shell]) -> None:
    supervisor.launch([shell("one", IGNORES_THE_STOP)])
    supervisor.wait_until_ready(SOON)
    begin = time.monotonic()
    supervisor.stop(60.0, hurry=lambda: True)
    assert time.monotonic() - begin < 5.0


def test_what_died_is_started_again_with_one_line(
    supervisor: Supervisor, shell: Callable[[str, str], Shell], said: list[str]
) -> None:
    service = shell("one", NOTES_ITS_STOP)
    supervisor.launch([service])
    supervisor.wait_until_ready(SOON)
    old = supervisor.pids()["one"]
    os.kill(old, signal.SIGKILL)
    tick_until(supervisor, lambda: supervisor.pids().get("one") not in (None, old))
    assert len(said) == 1
    assert said[0].startswith("one was killed by SIGKILL")
    assert said[0].endswith("starting again in 0.5 s")


def test_a_death_while_starting_is_the_end(supervisor: Supervisor, shell: Callable[[str, str], Shell]) -> None:
    supervisor.launch([shell("one", "echo 'error: no'; exit 2")])
    with pytest.raises(LocalError, match=r"^one exited with code 2: error: no \(log: "):
        supervisor.wait_until_ready(SOON)


def test_another_thread_may_not_start_children(supervisor: Supervisor, shell: Callable[[str, str], Shell]) -> None:
    caught: list[Exception] = []

    def launch() -> None:
        try:
            supervisor.launch([shell("one", NOTES_ITS_STOP)])
        except RuntimeError as error:
            caught.append(error)

    thread = threading.Thread(target=launch)
    thread.start()
    thread.join()
    assert len(caught) == 1
