"""What a process logs, seen from outside: a real process, its stderr a real pipe."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.stack import ROOT

SECONDS = 20
HOSTILE = {
    "a forged line": 'one\r\n{"event": "forged"}',
    "escape sequences": "\x1b[2J\x1b]0;title\x07 and eight-bit \x9b2J",
    "direction": "\u202eevil\u2066 \u200f",
    "line separators": "a\u2028b\u2029c\x85d\x0be",
    "a lone surrogate": "\ud800",
    "no text at all": b"\xff\x00",
    "a large number": 2**70,
    "odd keys": {1: "one", "nested": ["\x1b"]},
}


def ended(program: str, *, level: str = "INFO", style: str = "json") -> subprocess.CompletedProcess[str]:
    """Run a program that has configured its logs."""
    return subprocess.run(
        [sys.executable, "-c", _whole(program, level, style)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def lines_of(program: str, **configured: str) -> list[dict[str, Any]]:
    """What it logged; each line must be one JSON object, the forged ones included."""
    done = ended(program + "\nlog.flush()", **configured)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stderr.split("\n")[:-1]]


def _whole(program: str, level: str = "INFO", style: str = "json") -> str:
    return f"""
import asyncio, gc, logging, sys, threading, warnings
from infra.runtime import log
log.configure({level!r}, {style!r}, "worker")
LOG = log.get("ours")
{program}"""


def test_a_line_is_a_sentence_an_action_and_values_beside_them() -> None:
    (line,) = lines_of("LOG.info('It is done.', action='done', partition=3)")
    assert line.pop("time").endswith("Z")
    assert line == {"event": "It is done.", "action": "done", "partition": 3, "level": "info", "process": "worker"}


def test_less_severe_lines_are_left_out() -> None:
    program = "LOG.info('No.', action='no')\nLOG.warning('Yes.', action='yes')"
    assert [line["action"] for line in lines_of(program, level="WARNING")] == ["yes"]


def test_a_hostile_value_stays_in_its_line() -> None:
    program = (
        f"for value in {list(HOSTILE.values())!r}:\n    LOG.info('It came.', action='came', value=value)\nlog.flush()"
    )
    lines = ended(program).stderr.split("\n")[:-1]
    for (name, value), line in zip(HOSTILE.items(), lines, strict=True):
        assert line.isprintable(), name
        found = json.loads(line)
        assert found["action"] == "came", name
        if isinstance(value, str):
            assert found["value"] == value, name


def test_a_terminal_shows_a_hostile_value_without_obeying_it() -> None:
    values = "LOG.info('It came.', action='came', value='\\x1b[2J\\x9b\\u202e\\n', inner=['\\x1b[2J'])\nlog.flush()"
    (shown,) = ended(values, style="console").stderr.splitlines()
    assert "\\u001b[2J\\u009b\\u202e\\n" in shown
    assert not any(hostile in shown for hostile in ("\x1b[2J", "\x9b", "\u202e"))


def test_a_value_that_breaks_when_it_is_looked_at_costs_its_own_line_only() -> None:
    program = """
class Broken:
    def __repr__(self):
        raise ValueError("payload 4711")
LOG.info("It came.", action="came", value=Broken())
LOG.info("Next.", action="next")"""
    first, second = lines_of(program)
    assert (first["action"], first["why"], second["action"]) == ("log_broken", "ValueError", "next")


@pytest.mark.parametrize("style", ["json", "console"])
def test_an_exception_is_its_class_and_places_and_never_its_text(style: str) -> None:
    program = """
def inner(payload):
    raise ValueError(f"the payload was {payload}")
try:
    inner(4711)
except ValueError as error:
    LOG.critical("It ends.", action="ends", exc_info=True)
    LOG.error("It ends.", action="ends", exc_info=error)
    LOG.exception("It ends.", action="ends")
    logging.getLogger("theirs").exception("A library's line.")
log.flush()"""
    shown = ended(program, style=style).stderr
    assert "4711" not in shown
    assert shown.count("ValueError") == 4
    assert shown.count("<string>:8 inner") == 4
    assert len(shown.splitlines()) == 4


def test_an_error_nobody_foresaw_is_told_without_its_text() -> None:
    done = ended("raise ValueError('payload 4711')")
    assert done.returncode == 1
    assert "4711" not in done.stderr
    (line,) = (json.loads(text) for text in done.stderr.splitlines())
    assert (line["action"], line["error_class"], line["where"]) == ("crashed", "ValueError", ["<string>:6 <module>"])


def test_an_error_in_a_task_a_thread_or_a_destructor_is_told_without_its_text() -> None:
    program = """
async def work():
    raise ValueError("payload 4711")
async def main():
    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    del task
    gc.collect()
asyncio.run(main())
def run():
    raise KeyError("payload 4711")
thread = threading.Thread(target=run)
thread.start()
thread.join()
class Broken:
    def __del__(self):
        raise OSError("payload 4711")
Broken()
warnings.warn("deprecated")
log.flush()"""
    done = ended(program)
    assert "4711" not in done.stderr
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line.get("error_class") for line in lines] == ["ValueError", "KeyError", "OSError", None]
    assert lines[0]["event"] == "Task exception was never retrieved"


def test_libraries_that_log_payloads_and_passwords_stay_quiet() -> None:
    program = """
for name in ("aiokafka", "aiokafka.conn", "aiokafka.producer.producer", "asyncio", "opentelemetry.sdk", "sqlalchemy.engine"):
    logging.getLogger(name).debug("password")
    logging.getLogger(name).info("password")
    logging.getLogger(name).warning("a warning")
LOG.debug("Ours.", action="ours")"""
    lines = lines_of(program, level="DEBUG")
    assert [line["event"] for line in lines] == ["a warning"] * 6 + ["Ours."]


STUCK = """
import time
for number in range(15_000):
    LOG.info("A line.", action="line", number=number, padding="x" * 100)
print(log.dropped_lines(), flush=True)
sys.stdin.read()
"""


def _stuck(program: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", _whole(program)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_a_sink_that_nobody_reads_stops_neither_the_work_nor_the_end() -> None:
    with _stuck(STUCK + "log.flush(0.5)\nprint('out', flush=True)") as process:
        assert process.stdin
        assert process.stdout
        dropped = int(process.stdout.readline())
        assert 4_000 < dropped < 5_000
        process.stdin.close()
        assert process.stdout.readline() == b"out\n"
        assert process.wait(timeout=SECONDS) == 0
        assert process.stderr
        assert process.stderr.read()


def test_once_it_is_read_again_the_loss_is_told() -> None:
    end = "LOG.info('Last.', action='last')\nlog.flush(10)"
    with _stuck(STUCK + end) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        dropped = int(process.stdout.readline())
        lines: list[dict[str, Any]] = []
        while not lines or lines[-1]["action"] == "line":
            lines.append(json.loads(process.stderr.readline()))
        process.stdin.close()
        last = json.loads(process.stderr.readline())
        assert process.wait(timeout=SECONDS) == 0
    assert (lines[-1]["action"], lines[-1]["count"]) == ("log_dropped", dropped)
    assert len(lines) - 1 + dropped == 15_000
    assert last["action"] == "last"


def test_a_reader_that_went_away_stops_nothing() -> None:
    line = "LOG.info('A line.', action='line')\n"
    with _stuck(f"{line}sys.stdin.read()\n{line}log.flush()\nprint(log.dropped_lines())") as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        assert b'"line"' in process.stderr.readline()
        process.stderr.close()
        process.stdin.close()
        assert process.stdout.readline() == b"1\n"
        assert process.wait(timeout=SECONDS) == 0


def test_a_non_blocking_sink_gets_every_line() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    program = _whole("for n in range(5000):\n    LOG.info('A line.', action='line', n=n)\nlog.flush(10)")
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stderr=writer) as process:
        os.close(writer)
        with open(reader) as lines:
            numbers = [json.loads(line)["n"] for line in lines]
        assert process.wait(timeout=SECONDS) == 0
    assert numbers == list(range(5000))
