"""What processes use, from /proc: CPU and memory of a process and all its descendants."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Final

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_RSS: Final = re.compile(r"^VmRSS:\s+(\d+) kB", re.MULTILINE)
_USER, _SYSTEM = 11, 12  # of what follows the name in /proc/PID/stat


def tree(pid: int) -> list[int]:
    """The process and its descendants; those that end meanwhile may be left out."""
    found = [pid]
    for each in found:
        for children in Path(f"/proc/{each}/task").glob("*/children"):
            with suppress(OSError):
                found += map(int, children.read_text().split())
    return found


def cpu_seconds(pid: int) -> float:
    """CPU that the living of the tree have used."""
    ticks = 0
    for each in tree(pid):
        with suppress(OSError):
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[_USER]) + int(fields[_SYSTEM])
    return ticks / _TICKS


def largest_mib(pid: int) -> float:
    """Resident memory of the largest process of the tree."""
    sizes = [0]
    for each in tree(pid):
        with suppress(OSError):
            told = _RSS.search(Path(f"/proc/{each}/status").read_text())
            sizes.append(int(told[1]) if told else 0)
    return max(sizes) / 1024
