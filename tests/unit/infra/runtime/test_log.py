"""What a log line says about an exception, in a process of its own: the settings are the process's."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.stack import ROOT

PROGRAM = """
import logging
from infra.runtime import log
log.configure("INFO", "json", "worker")
try:
    raise ValueError("the payload was 4711")
except ValueError:
    log.get("ours").critical("The worker ends.", action="crashed", exc_info=True)
    logging.getLogger("theirs").error("A library's line.", exc_info=True)
log.flush()
"""


def test_an_exception_is_its_class_and_place_and_never_its_message() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True
    )
    assert "4711" not in done.stderr
    ours, theirs = (json.loads(line) for line in done.stderr.splitlines())
    assert (ours["action"], ours["error_class"], ours["where"]) == ("crashed", "ValueError", ["<string>:6 <module>"])
    assert (theirs["error_class"], theirs["where"]) == ("ValueError", ["<string>:6 <module>"])
