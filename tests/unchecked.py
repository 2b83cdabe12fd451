"""What could not be checked here is said, in one line of the summary, and counted; it never passes in silence."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import NoReturn

import pytest


def not_checked(what: str, why: str) -> NoReturn:
    """End the test as not checked: pytest shows the line with -ra, and counts it among the skipped."""
    pytest.skip(f"NOT CHECKED: {what} ({why})")


def tool(name: str, what: str) -> str:
    """Path of a program that a check needs: beside our Python or on PATH; without it the test is not checked."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        not_checked(what, f"{name} is not installed")
    return found
