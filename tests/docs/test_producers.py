"""The guide's programs, as they stand in it: the published ids in each language, and events sent to a real Kafka.

A language whose toolchain is not here is not checked, and says so.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from infra.local.jars import Jars
from infra.local.settings import LocalSettings
from infra.runtime.producer import partition_of
from schemas.event import parse_envelope
from schemas.vectors import published
from tests.harness import consume
from tests.stack import ROOT, Stack, Topics
from tests.unchecked import not_checked, tool

pytestmark = pytest.mark.slow

GUIDE = ROOT / "infra/docs/producers.md"
FRANZ_GO = "v1.19.5"
_SECONDS = 150.0
NAMES = [(vector["source"], vector["idempotency_key"], vector["event_id"]) for vector in published()["event_ids"]]
LINES = "".join(f"{source}\t{key}\n" for source, key, _ in NAMES)


def block(language: str) -> str:
    """The guide's program in this language."""
    [found] = re.findall(rf"^```{language}\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    return str(found)


def run(*command: str, folder: Path, given: str = "", **environment: str) -> str:
    """Run a command in a folder; its standard output."""
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **environment},
        input=given,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def python(folder: Path) -> list[str]:
    """The command of the Python program."""
    (folder / "producer.py").write_text(block("python"))
    return [sys.executable, "producer.py"]


def java(folder: Path) -> list[str]:
    """The command of the Java program, compiled against Kafka's own client."""
    compiler = tool("javac", "the Java producer of the guide")
    settings = LocalSettings()
    class_path = Jars(settings.cache, settings.plutus_maven_repo).class_path(lambda line: None)
    (folder / "Producer.java").write_text(block("java"))
    run(compiler, "-cp", class_path, "Producer.java", folder=folder)
    return [str(Path(compiler).with_name("java")), "-cp", f"{class_path}{os.pathsep}.", "Producer"]


def go(folder: Path) -> list[str]:
    """The command of the Go program, built with its client, which is fetched once."""
    compiler = tool("go", "the Go producer of the guide")
    (folder / "producer.go").write_text(block("go"))
    run(compiler, "mod", "init", "producer", folder=folder)
    fetched = subprocess.run(
        [compiler, "get", f"github.com/twmb/franz-go@{FRANZ_GO}"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    if fetched.returncode:
        not_checked("the Go producer of the guide", "its client could not be fetched")
    run(compiler, "mod", "tidy", folder=folder)
    run(compiler, "build", "-o", "producer", ".", folder=folder)
    return ["./producer"]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("make", [python, java, go], ids=["python", "java", "go"])
async def test_a_producer_computes_the_published_ids_and_its_events_are_events(
    make: Callable[[Path], list[str]], stack: Stack, topics: Topics, tmp_path: Path
) -> None:
    command = make(tmp_path)
    expected = [event_id for _, _, event_id in NAMES]
    assert run(*command, folder=tmp_path, given=LINES).split() == expected
    sent = run(*command, stack.bootstrap, topics.events, folder=tmp_path, given=LINES)
    assert sent.split() == expected
    records = await consume(stack, topics.events)
    assert {str(parse_envelope(record.value).id) for record in records} == set(expected)
    for record in records:
        event = parse_envelope(record.value)
        assert record.key == event.partition_key()
        assert record.partition == partition_of(record.key, topics.partitions), "murmur2"
        assert b"\n" not in record.value


def test_the_namespace_is_the_published_one_everywhere() -> None:
    namespace = published()["namespace"]
    text = GUIDE.read_text()
    assert text.count(namespace) == 3
    assert namespace.replace("-", "") in block("go")
