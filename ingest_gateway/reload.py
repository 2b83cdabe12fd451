"""A file that is read again when it changes, or when a file that it names does. A broken new one keeps the old one in force,
and is told: a log line with every mistake, and a metric that stays up until it is mended.

A change is seen in the file's identity, size and time, looked at once a second in a thread: that works in each of several
processes, for files that are replaced by renaming, and for mounted ones, where no signal reaches.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final, Generic, TypeVar

from infra.runtime import log
from infra.runtime.declared import Mistakes

_LOG = log.get(__name__)
_LOOK_SECONDS: Final = 1.0

T = TypeVar("T")
_Print = tuple[tuple[int, int, int] | None, ...]


class Reloaded(Generic[T]):
    """What a file says now, or said last.

    value: in force.
    stale: whether the file has changed into one that cannot be used.

    Args:
        load: reads the file; its value, and the files that it names.
        setting: the variable that names the file, for the log.

    Raises:
        Mistakes: at the start there is no old one to keep.
    """

    def __init__(self, path: Path, load: Callable[[Path], tuple[T, tuple[Path, ...]]], setting: str) -> None:
        self._path = path
        self._load = load
        self.setting = setting
        self._files: tuple[Path, ...] = ()
        self._seen: _Print = ()
        self.value = self._read()
        self.stale = False

    def is_stale(self) -> bool:
        """`stale`, to be asked by whoever takes a function."""
        return self.stale

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            await asyncio.to_thread(self.look)

    def look(self) -> None:
        """Read the file anew if it, or a file that it named when it was last read, is another one."""
        if self._fingerprint() == self._seen:
            return
        try:
            self.value = self._read()
        except Mistakes as error:
            self.stale = True
            _LOG.error(
                "A file has changed and cannot be used; what it said before stays in force.",
                action="reload_refused",
                setting=self.setting,
                mistakes=list(error.mistakes),
            )
        else:
            self.stale = False
            _LOG.info("A file has changed and is in force.", action="reloaded", setting=self.setting)

    def _read(self) -> T:
        while True:
            # Before it is read: what changes meanwhile is seen by the next look.
            self._seen = self._fingerprint()
            known = self._files
            try:
                value, self._files = self._load(self._path)
            except Mistakes as error:
                self._files = error.files
                if known == self._files:
                    raise
            else:
                if known == self._files:
                    return value

    def _fingerprint(self) -> _Print:
        return tuple(_identity(path) for path in (self._path, *self._files))


def _identity(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
