"""Who may use a PLUTUS_HOME: one supervisor at a time, and only after the last process of the one before."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.local import home
from infra.local.errors import LocalError
from infra.local.home import Home, is_running


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process of an earlier run: it holds the folder's children lock, its supervisor is gone."""
    with Home(tmp_path, print) as earlier:
        process = subprocess.Popen(["sleep", "60"], pass_fds=(earlier.children_lock,))
    yield process
    process.kill()
    process.wait()


def test_a_second_supervisor_is_refused(tmp_path: Path) -> None:
    with Home(tmp_path, print):
        assert is_running(tmp_path)
        second = Home(tmp_path, print)
        with pytest.raises(LocalError, match=r"runs in .* already.*PLUTUS_HOME"):
            second.acquire()
        assert not second.held
    assert not is_running(tmp_path)
    with Home(tmp_path, print):
        pass


def test_leftovers_of_a_killed_run_are_waited_for(tmp_path: Path, holder: subprocess.Popen[bytes]) -> None:
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        holder.kill()  # it ends while it is being waited for

    with Home(tmp_path, say) as ours:
        assert ours.had_leftovers
    assert said == ["waiting for the processes of the last run to end"]


def test_leftovers_that_do_not_end_are_killed(
    tmp_path: Path, holder: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(home, "_LEFTOVER_SECONDS", 0.2)
    with Home(tmp_path, print):
        assert holder.wait(5) == -signal.SIGKILL


def test_a_first_run_has_no_leftovers(tmp_path: Path) -> None:
    with Home(tmp_path / "new" / "folder", print) as ours:
        assert not ours.had_leftovers


def test_a_supervisor_killed_with_9_gives_the_folder_back(tmp_path: Path) -> None:
    script = "import sys; from pathlib import Path; from infra.local.home import Home\n"
    script += "Home(Path(sys.argv[1]), print).acquire(); print('held', flush=True); sys.stdin.read()"
    supervisor = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with supervisor:
        assert supervisor.stdout is not None
        assert supervisor.stdout.readline() == b"held\n"
        assert is_running(tmp_path)
        os.kill(supervisor.pid, signal.SIGKILL)
        supervisor.wait()
        assert not is_running(tmp_path)


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(LocalError, match="cannot be used"):
        Home(tmp_path / "taken", print).acquire()
