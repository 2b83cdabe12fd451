"""Load on an HTTP server, from a process of its own: wrk where it is installed, else `client.py`; schedules always by it.

Generator and contestants share the machine, so what the generator uses is missing to everybody alike.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib import resources
from typing import Final

from infra.bench.figures import Load, parsed_load

_SPARE: Final = 60.0


def closed(
    url: str, connections: int, seconds: float, kind: str, prefix: str, cycle: int = 0, *, own: bool = False
) -> Load:
    """As many requests in flight as connections, for some seconds, `own`: without wrk even where it is installed.

    Raises:
        ValueError: the generator told no result. subprocess.TimeoutExpired: it did not end.
    """
    wrk = None if own else shutil.which("wrk")
    if wrk is not None:
        script = str(resources.files("infra.bench").joinpath("load.lua"))
        argv = [wrk, "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "10s", "-s", script, url]
        return _run([*argv, "--", kind, prefix, str(cycle)], seconds)
    return _client(url, connections, seconds, kind, prefix, "--cycle", str(cycle))


def on_schedule(url: str, connections: int, seconds: float, rate: float, kind: str, prefix: str) -> Load:
    """So many requests a second, whatever the server does.

    Raises:
        ValueError, subprocess.TimeoutExpired: as `closed`.
    """
    return _client(url, connections, seconds, kind, prefix, "--rate", str(rate))


def _client(url: str, connections: int, seconds: float, kind: str, prefix: str, *more: str) -> Load:
    argv = [sys.executable, "-m", "infra.bench.client", "--url", url, "--connections", str(connections)]
    return _run([*argv, "--seconds", str(seconds), "--kind", kind, "--prefix", prefix, *more], seconds)


def _run(argv: list[str], seconds: float) -> Load:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=seconds + _SPARE, check=False)
    return parsed_load(done.stdout or done.stderr)
