"""One child process: started in its own session, tied to our death, told to stop, never left behind.

Its own session keeps Ctrl-C for us alone. The tie (see `launch`) belongs to the thread that forked, so a long-lived
child is started from the main thread. Whatever a dead child left in its process group is killed before it is reaped,
while its pid cannot have been given to anybody else.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from infra.local import launch
from infra.local.errors import LocalError

_POLL = 0.02
_KILL_SECONDS = 5.0
_TELLING = re.compile(r"FATAL|PANIC|ERROR|[Ee]rror|Exception")
_KILLED = "was killed by SIGKILL"  # by somebody else: its log does not know why
_STACK_FRAME = "\tat "
_LOG_LIMIT = 16 * 1024 * 1024
_LOG_TAIL = 64 * 1024


@dataclass(frozen=True)
class Command:
    """How to start one child.

    name: what people call it, in messages.
    argv: program and arguments.
    log: file that its stdout and stderr are appended to.
    env: its whole environment; None hands ours on.
    cwd: its working folder; None is ours.
    stop: signal that asks for an orderly end; also sent by the kernel when we die.
    abort: signal that ends it at once.
    keep_root: False runs it as another user where we are root (see `launch`).
    stdin: a few bytes for it to read.
    hint: what a person may do if it cannot be started: a whole sentence.
    """

    name: str
    argv: tuple[str, ...]
    log: Path
    env: Mapping[str, str] | None = None
    cwd: Path | None = None
    stop: signal.Signals = signal.SIGTERM
    abort: signal.Signals = signal.SIGKILL
    keep_root: bool = True
    stdin: bytes = b""
    hint: str = ""


class Child:
    """A started `Command`."""

    def __init__(self, command: Command, process: subprocess.Popen[bytes], log_start: int) -> None:
        self.command = command
        self.started = time.monotonic()
        self._process = process
        self._log_start = log_start
        self._death: str | None = None

    @property
    def pid(self) -> int:
        """Process id; also the id of its session and process group."""
        return self._process.pid

    def death(self) -> str | None:
        """None while it lives, then how it ended ("exited with code 1", "was killed by SIGKILL")."""
        if self._death is None and os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            code = self._process.wait()
            self._death = f"exited with code {code}" if code >= 0 else f"was killed by {signal.Signals(-code).name}"
        return self._death

    @property
    def succeeded(self) -> bool:
        """Whether it ended with code 0."""
        return self.death() is not None and self._process.returncode == 0

    def send(self, which: signal.Signals) -> None:
        """Signal it, if it lives."""
        if self.death() is None:
            self._process.send_signal(which)

    def kill(self) -> None:
        """End it for certain, and wait for that."""
        self.send(signal.SIGKILL)
        self.wait(time.monotonic() + _KILL_SECONDS)

    def wait(self, deadline: float) -> bool:
        """Wait for its end until the monotonic `deadline`; True when it has ended."""
        while self.death() is None:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL)
        return True

    def last_words(self) -> str:
        """The line of its log that most likely says why it ended, from this start alone."""
        try:
            with self.command.log.open("rb") as log:
                log.seek(max(self._log_start, os.fstat(log.fileno()).st_size - _LOG_TAIL))
                lines = [line for line in log.read().decode(errors="replace").splitlines() if line.strip()]
        except OSError:
            return ""
        telling = [line for line in lines if _TELLING.search(line) and not line.startswith(_STACK_FRAME)]
        return _sentence((telling or lines or [""])[-1])

    def obituary(self) -> str:
        """One line: how it ended, its last words, and where to read more."""
        death = self.death() or "lives"
        words = "" if death == _KILLED else self.last_words()
        return f"{self.command.name} {death}{f': {words}' if words else ''} (log: {self.command.log})"


def spawn(command: Command, *, lock: int | None = None) -> Child:
    """Start a child.

    Args:
        lock: open descriptor that the child inherits, so that a lock on it lives as long as the child (`home.Home`).

    Raises:
        LocalError: the log cannot be written.
    """
    argv = [
        *(sys.executable, "-I", "-S", launch.__file__, str(os.getpid()), str(int(command.stop))),
        *("keep" if command.keep_root else "drop", *command.argv),
    ]
    try:
        log = _open_log(command.log)
    except OSError as error:
        raise LocalError(f"{command.log} cannot be written: {error.strerror}.") from None
    with log:
        start = log.tell()
        process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=command.env,
            cwd=command.cwd,
            start_new_session=True,
            pass_fds=() if lock is None else (lock,),
        )
    _feed(process, command.stdin)
    return Child(command, process, start)


def run(command: Command, seconds: float, *, lock: int | None = None) -> None:
    """Start a child and wait until it has done its work.

    Raises:
        LocalError: it failed, or was not done in time (it is killed then).
    """
    child = spawn(command, lock=lock)
    try:
        in_time = child.wait(time.monotonic() + seconds)
    finally:
        child.kill()
    if not in_time:
        raise LocalError(f"{command.name} was not done after {seconds:.0f} s (log: {command.log}).")
    if not child.succeeded:
        raise LocalError(f"{child.obituary()}.")


def wait_until_ready(child: Child, ready: Callable[[], bool], deadline: float) -> None:
    """Wait until `ready`.

    Raises:
        LocalError: the child ended first, or the monotonic `deadline` passed.
    """
    while not ready():
        if child.death() is not None:
            raise LocalError(f"{child.obituary()}. {child.command.hint}".rstrip())
        if time.monotonic() >= deadline:
            words = child.last_words()
            raise LocalError(
                f"{child.command.name} runs but was not ready in time"
                f"{f', its last words: {words}' if words else ''} (log: {child.command.log})."
            )
        time.sleep(_POLL)


def _sentence(line: str) -> str:
    """What a log line says: a line of our own processes is a JSON object whose `event` is the sentence."""
    try:
        return str(json.loads(line)["event"])
    except (ValueError, TypeError, KeyError):
        return line.strip()


def _feed(process: subprocess.Popen[bytes], data: bytes) -> None:
    """Hand over its input at once; a pipe takes 64 KiB without anybody reading."""
    if process.stdin is not None:
        with suppress(BrokenPipeError), process.stdin:
            process.stdin.write(data)


def _open_log(path: Path) -> BinaryIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > _LOG_LIMIT:
        path.replace(path.with_suffix(".log.1"))
    log = path.open("ab")
    log.seek(0, os.SEEK_END)
    return log
