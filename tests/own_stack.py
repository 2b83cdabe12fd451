"""Kafka and Postgres of one module's own, to be frozen, killed and brought back while processes use them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.local.errors import LocalError
from infra.local.settings import LocalSettings
from infra.local.stack import LocalStack
from tests.harness import eventually
from tests.stack import Stack

_BACK_SECONDS = 60.0


class OwnStack:
    """`services` is what tests connect to; the names of the servers are "kafka" and "postgres"."""

    def __init__(self, local: LocalStack) -> None:
        self._local = local
        self._frozen: dict[str, list[int]] = {}
        self.services = Stack(local.bootstrap, local.dsn)

    def freeze(self, name: str) -> None:
        """SIGSTOP the server and all its processes."""
        self._frozen[name] = tree(self._local.supervisor.pids()[name])
        for pid in self._frozen[name]:
            os.kill(pid, signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        """SIGCONT what was frozen."""
        for pid in self._frozen.pop(name, []):
            os.kill(pid, signal.SIGCONT)

    def kill(self, name: str) -> None:
        """kill -9 the server and all its processes."""
        for pid in tree(self._local.supervisor.pids()[name]):
            os.kill(pid, signal.SIGKILL)

    def stop(self, name: str) -> None:
        """Ask the server to end in order, which takes it a while."""
        os.kill(self._local.supervisor.pids()[name], signal.SIGTERM)

    async def revive(self, name: str) -> None:
        """Start what was killed again, with its data and its port, and wait until it answers."""

        def back() -> bool:
            self._local.supervisor.tick()
            if name not in self._local.supervisor.pids():
                return False
            try:
                self._local.supervisor.wait_until_ready(_BACK_SECONDS)
            except LocalError:
                return False  # dead, and not yet noticed
            return True

        await eventually(back, within=_BACK_SECONDS, every=0.1, what=f"{name} is back")

    async def mend(self) -> None:
        """Thaw and revive whatever a test left behind."""
        for name in list(self._frozen):
            self.thaw(name)
        for name in ("kafka", "postgres"):
            await self.revive(name)


@contextmanager
def own_stack(folder: Path) -> Iterator[OwnStack]:
    """The servers, in that folder."""
    with LocalStack(folder, LocalSettings(), lambda line: None) as local:
        own = OwnStack(local)
        try:
            yield own
        finally:
            for name in list(own._frozen):
                own.thaw(name)


def tree(pid: int) -> list[int]:
    """A process and its descendants."""
    found = [pid]
    for one in found:
        try:
            for task in Path(f"/proc/{one}/task").iterdir():
                found += [int(child) for child in (task / "children").read_text().split()]
        except FileNotFoundError:
            continue
    return found
