"""Children: real ones, tiny."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from infra.local import process
from infra.local.errors import LocalError
from infra.local.process import Command

SOON = 10.0


def python(log: Path, script: str, **rest: object) -> Command:
    """A child that runs a script."""
    return Command(name="child", argv=(sys.executable, "-c", script), log=log, **rest)  # type: ignore[arg-type]


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, under a deadline."""
    deadline = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Whether that process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Where the child writes."""
    return tmp_path / "logs" / "child.log"


def saying(log: Path, word: str) -> Callable[[], bool]:
    """Whether the log holds that word by now."""
    return lambda: log.exists() and word in log.read_text()


def test_an_orderly_stop(log: Path) -> None:
    script = "import signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\nprint('up', flush=True)\n"
    child = process.spawn(python(log, script + "signal.pause()"))
    until(saying(log, "up"))
    assert child.death() is None
    assert os.getsid(child.pid) == child.pid
    child.send(signal.SIGTERM)
    assert child.wait(time.monotonic() + SOON)
    assert child.death() == "exited with code 0"
    assert child.succeeded


def test_what_a_dead_child_leaves_behind_is_killed(log: Path) -> None:
    script = "import subprocess\np = subprocess.Popen(['sleep', '60'])\nprint('pid', p.pid, flush=True)\n"
    child = process.spawn(python(log, script + "import signal; signal.pause()"))
    until(saying(log, "pid"))
    grandchild = int(log.read_text().split()[1])
    child.send(signal.SIGKILL)
    assert child.wait(time.monotonic() + SOON)
    assert child.death() == "was killed by SIGKILL"
    until(lambda: not is_alive(grandchild))


def test_a_child_dies_with_a_parent_killed_by_9(log: Path) -> None:
    script = (
        "import sys, signal; from pathlib import Path; from infra.local.process import Command, spawn\n"
        "child = spawn(Command('x', ('sleep', '60'), Path(sys.argv[1])))\n"
        "print(child.pid, flush=True); signal.pause()"
    )
    parent = subprocess.Popen([sys.executable, "-c", script, str(log)], stdout=subprocess.PIPE)
    with parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_alive(pid)
        parent.kill()
        parent.wait()
        until(lambda: not is_alive(pid))


def test_a_child_whose_parent_is_gone_before_the_tie_never_starts() -> None:
    launch = Path(process.__file__).with_name("launch.py")
    done = subprocess.run(
        [sys.executable, "-I", "-S", launch, "1", "15", "keep", "echo", "started"], capture_output=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, b"")


def test_postgres_never_sees_root(log: Path) -> None:
    command = Command("child", ("sh", "-c", "echo uid $(id -u).; exec sleep 60"), log, keep_root=False)
    child = process.spawn(command)
    until(saying(log, f"uid {65534 if os.geteuid() == 0 else os.geteuid()}."))
    child.kill()


def test_the_tie_holds_where_root_is_dropped(log: Path) -> None:
    script = (
        "import sys, signal; from pathlib import Path; from infra.local.process import Command, spawn\n"
        "child = spawn(Command('x', ('sleep', '60'), Path(sys.argv[1]), keep_root=False))\n"
        "print(child.pid, flush=True); signal.pause()"
    )
    parent = subprocess.Popen([sys.executable, "-c", script, str(log)], stdout=subprocess.PIPE)
    with parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        until(lambda: Path(f"/proc/{pid}/comm").read_text() == "sleep\n")
        parent.kill()
        parent.wait()
        until(lambda: not is_alive(pid))


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("raise ModuleNotFoundError('no x')", "ModuleNotFoundError: no x"),
        ("print('FATAL: bad'); print('shut down'); raise SystemExit(3)", "FATAL: bad"),
        ("print('first'); print('last'); print(); raise SystemExit(3)", "last"),
        ("""print('{"event": "The handler failed.", "level": "error"}'); raise SystemExit(3)""", "The handler failed."),
        ("print('[1] ERROR'); raise SystemExit(3)", "[1] ERROR"),
        ("raise SystemExit(3)", ""),
    ],
)
def test_the_obituary_says_why(log: Path, script: str, words: str) -> None:
    log.parent.mkdir()
    log.write_text("ERROR of an earlier start\n")
    child = process.spawn(python(log, script))
    assert child.wait(time.monotonic() + SOON)
    assert child.last_words() == words
    assert child.obituary().startswith("child exited with code ")
    assert str(log) in child.obituary()


def test_a_log_does_not_know_why_its_process_was_killed(log: Path) -> None:
    child = process.spawn(python(log, "import signal; print('an ERROR of before', flush=True); signal.pause()"))
    until(saying(log, "before"))
    child.kill()
    assert child.obituary() == f"child was killed by SIGKILL (log: {log})"


def test_a_program_that_is_not_there(log: Path) -> None:
    with pytest.raises(LocalError, match="no-such-program cannot be started: No such file"):
        process.run(Command("child", ("no-such-program",), log), SOON)


def test_run_feeds_and_waits(log: Path) -> None:
    process.run(Command("child", ("cat",), log, stdin=b"words\n"), SOON)
    assert log.read_text() == "words\n"


def test_run_kills_what_takes_too_long(log: Path) -> None:
    with pytest.raises(LocalError, match="was not done after 1 s"):
        process.run(Command("child", ("sh", "-c", "echo $$; exec sleep 60"), log), 0.6)
    assert not is_alive(int(log.read_text()))


def test_waiting_ends_with_the_childs_death(log: Path) -> None:
    child = process.spawn(python(log, "raise SystemExit('ERROR no')"))
    with pytest.raises(LocalError, match=r"child exited with code 1: ERROR no \(log"):
        process.wait_until_ready(child, lambda: False, time.monotonic() + SOON)


def test_waiting_ends_with_the_deadline(log: Path) -> None:
    child = process.spawn(Command("child", ("sleep", "60"), log))
    with pytest.raises(LocalError, match="runs but was not ready in time"):
        process.wait_until_ready(child, lambda: False, time.monotonic())
    child.kill()


def test_a_long_log_is_put_aside_at_a_start(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_LOG_LIMIT", 3)
    log.parent.mkdir()
    log.write_text("long")
    process.run(Command("child", ("echo", "new"), log), SOON)
    assert log.read_text() == "new\n"
    assert log.with_suffix(".log.1").read_text() == "long"
