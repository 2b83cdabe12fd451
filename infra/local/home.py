"""The folder of one local system (PLUTUS_HOME) and who may use it.

Two locks. `supervisor.lock` is held by the running supervisor alone: a second one is refused at once. `children.lock`
is inherited by every child, so it stays held until the last process of a run is gone: a supervisor that follows one
killed with -9 waits for that before it touches data or ports.
"""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

from infra.local.errors import LocalError

_POLL = 0.05
_GLANCE_SECONDS = 0.5  # `is_running` holds the lock for an instant
_LEFTOVER_SECONDS = 15.0
_KILL_SECONDS = 10.0


class Home:
    """A locked PLUTUS_HOME. `had_leftovers` tells whether processes of a killed run had to be waited for.

    Args:
        path: absolute path of the folder; made if missing.
        say: prints a line for a person.
    """

    def __init__(self, path: Path, say: Callable[[str], None]) -> None:
        self.path = path
        self._say = say
        self._supervisor: int | None = None
        self._children: int | None = None
        self.had_leftovers = False

    @property
    def logs(self) -> Path:
        """Where the processes' logs go."""
        return self.path / "logs"

    @property
    def held(self) -> bool:
        """Whether it is ours now."""
        return self._children is not None

    @property
    def children_lock(self) -> int:
        """The descriptor that children inherit."""
        if self._children is None:
            raise RuntimeError("The home is not locked.")
        return self._children

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def acquire(self) -> None:
        """Lock the folder, once the processes of an earlier run are gone.

        Raises:
            LocalError: a supervisor runs here already, or the folder cannot be used.
        """
        try:
            self.logs.mkdir(parents=True, exist_ok=True)
            self._supervisor = os.open(self.path / "supervisor.lock", os.O_RDWR | os.O_CREAT, 0o600)
            self._children = os.open(self.path / "children.lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise LocalError(
                f"{self.path} cannot be used: {error.strerror}. Give PLUTUS_HOME another folder."
            ) from None
        if not _lock_until(self._supervisor, time.monotonic() + _GLANCE_SECONDS):
            self.release()
            raise LocalError(
                f"A Plutus system runs in {self.path} already. Stop it first, or give this one its own folder: "
                "PLUTUS_HOME=other-folder."
            )
        self._outlive_leftovers()

    def release(self) -> None:
        """Give the folder back. Children that still live keep `children.lock`."""
        for descriptor in (self._children, self._supervisor):
            if descriptor is not None:
                os.close(descriptor)
        self._children = self._supervisor = None

    def _outlive_leftovers(self) -> None:
        """Wait for processes of a run whose supervisor was killed; they are ours, so in the end kill them."""
        if _try_lock(self.children_lock):
            return
        self.had_leftovers = True
        self._say("waiting for the processes of the last run to end")
        if _lock_until(self.children_lock, time.monotonic() + _LEFTOVER_SECONDS):
            return
        for pid in children_of(self.path):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if not _lock_until(self.children_lock, time.monotonic() + _KILL_SECONDS):
            pids = ", ".join(map(str, children_of(self.path))) or "unknown"
            raise LocalError(f"Processes of an earlier run still use {self.path} (pid {pids}). End them and try again.")


def is_running(path: Path) -> bool:
    """Whether a supervisor runs in that folder now."""
    try:
        descriptor = os.open(path / "supervisor.lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not _try_lock(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def children_of(path: Path) -> list[int]:
    """Pids of the processes of the system in that folder, whether its supervisor lives or not; never our own."""
    others = [process for process in Path("/proc").glob("[0-9]*") if process.name != str(os.getpid())]
    return [int(process.name) for process in others if _has_open(process, path / "children.lock")]


def _try_lock(descriptor: int, kind: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lock_until(descriptor: int, deadline: float) -> bool:
    while not _try_lock(descriptor):
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL)
    return True


def _has_open(process: Path, file: Path) -> bool:
    with suppress(OSError):  # it ended, or is not ours to look into
        for descriptor in (process / "fd").iterdir():
            with suppress(OSError):
                if descriptor.samefile(file):
                    return True
    return False
