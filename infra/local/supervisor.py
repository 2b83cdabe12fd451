"""Starts services, keeps them alive, stops them in the reverse order of their start.

A service that dies before it was ready ends the start: something is wrong that starting again would not mend. One that
dies later is started again with the same command, so at the same port, as `restarts` allows.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from infra.local.errors import LocalError
from infra.local.process import Child, Command, spawn, wait_until_ready
from infra.local.restarts import DEATHS, WINDOW, Restarts

_ABORT_SECONDS = 5.0
_GLANCE = 0.1


class Service(Protocol):
    """Something the supervisor keeps running."""

    name: str

    def command(self) -> Command:
        """How to start it; asked again before every start."""

    def ready(self) -> bool:
        """Whether it does its work, asked from outside."""

    def stopped(self) -> None:
        """Called after an orderly end."""


@dataclass
class _Kept:
    """A service and the child that runs it now; `due` is the monotonic second of its next start, if it is dead."""

    service: Service
    child: Child
    restarts: Restarts = field(default_factory=Restarts)
    due: float | None = None


class Supervisor:
    """Keeps services alive. Lives in the main thread, to which its children are tied.

    Args:
        lock: descriptor that the children inherit.
        say: prints a line for a person.
    """

    def __init__(self, lock: int, say: Callable[[str], None]) -> None:
        self._lock = lock
        self._say = say
        self._groups: list[list[_Kept]] = []

    def launch(self, services: Sequence[Service]) -> None:
        """Start services side by side, without waiting. They stop together, before those launched earlier."""
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("Children are tied to the thread that starts them: start them from the main thread.")
        group: list[_Kept] = []
        self._groups.append(group)
        for service in services:
            group.append(_Kept(service, spawn(service.command(), lock=self._lock)))

    def wait_until_ready(self, seconds: float) -> None:
        """Wait for all that was launched.

        Raises:
            LocalError: one died, or was not ready in time.
        """
        deadline = time.monotonic() + seconds
        for kept in self._all():
            wait_until_ready(kept.child, kept.service.ready, deadline)

    def tick(self) -> None:
        """Notice deaths and start again what is due. To be called several times a second.

        Raises:
            LocalError: a service died too often.
        """
        now = time.monotonic()
        for kept in self._all():
            if kept.due is None and kept.child.death() is not None:
                self._mourn(kept, now)
            if kept.due is not None and now >= kept.due:
                kept.child, kept.due = spawn(kept.service.command(), lock=self._lock), None

    def stop(self, seconds: float, hurry: Callable[[], bool] = lambda: False) -> None:
        """Stop all within `seconds`: group by group, the last launched first, each before an equal share of the time
        is over. What does not end in its share is killed; once `hurry` answers True everything is.
        """
        begin = time.monotonic()
        groups = [group for group in reversed(self._groups) if group]
        for number, group in enumerate(groups, 1):
            deadline = begin + (seconds - _ABORT_SECONDS) * number / len(groups)
            _stop_group(group, deadline, hurry)
        self._groups.clear()

    def pids(self) -> dict[str, int]:
        """Pid of each service that runs now, by its name."""
        return {kept.service.name: kept.child.pid for kept in self._all() if kept.due is None}

    def _all(self) -> list[_Kept]:
        return [kept for group in self._groups for kept in group]

    def _mourn(self, kept: _Kept, now: float) -> None:
        delay = kept.restarts.after_death(now, now - kept.child.started)
        if delay is None:
            raise LocalError(
                f"{kept.service.name} died {DEATHS} times within {WINDOW:.0f} s, giving up. "
                f"The last time: {kept.child.obituary()}."
            )
        self._say(f"{kept.child.obituary()}; starting again in {delay:g} s")
        kept.due = now + delay


def _stop_group(group: list[_Kept], deadline: float, hurry: Callable[[], bool]) -> None:
    living = [kept for kept in group if kept.child.death() is None]
    for kept in living:
        kept.child.send(kept.child.command.stop)
    for kept in living:
        if _ended(kept.child, deadline, hurry):
            kept.service.stopped()
    _end(living)


def _ended(child: Child, deadline: float, hurry: Callable[[], bool]) -> bool:
    while not child.wait(min(deadline, time.monotonic() + _GLANCE)):
        if hurry() or time.monotonic() >= deadline:
            return False
    return True


def _end(living: list[_Kept]) -> None:
    """Kill what still lives."""
    for kept in living:
        kept.child.send(kept.child.command.abort)
    deadline = time.monotonic() + _ABORT_SECONDS
    for kept in living:
        if not kept.child.wait(deadline):
            kept.child.kill()
