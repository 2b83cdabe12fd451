"""Kafka's own tools through `plutus kafka`, against a real broker."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile

import pytest

from infra.cli.kafka import MAIN_CLASSES
from infra.local.jars import Jars
from infra.local.settings import LocalSettings
from tests.stack import ROOT, Stack, Topics

pytestmark = pytest.mark.slow

SECONDS = 60


def plutus_kafka(stack: Stack, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    """Run one tool to its end."""
    return subprocess.run(
        [sys.executable, "-m", "infra.cli.main", "kafka", *arguments],
        cwd=ROOT,
        env={**os.environ, "KAFKA_BOOTSTRAP_SERVERS": stack.bootstrap},
        input=given,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def test_what_the_console_producer_sends_the_console_consumer_reads(stack: Stack, topics: Topics) -> None:
    separated = ("--reader-property", "parse.key=true", "--reader-property", "key.separator=|")
    sent = plutus_kafka(stack, "console-producer", "--topic", topics.events, *separated, given="key|value\n")
    assert sent.returncode == 0, sent.stderr
    read = plutus_kafka(
        stack,
        "console-consumer",
        "--topic",
        topics.events,
        "--from-beginning",
        "--max-messages",
        "1",
        *("--formatter-property", "print.key=true", "--formatter-property", "key.separator=|"),
    )
    assert (read.returncode, read.stdout) == (0, "key|value\n"), read.stderr
    counted = plutus_kafka(stack, "get-offsets", "--topic", topics.events)
    assert sum(int(line.rpartition(":")[2]) for line in counted.stdout.split()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("topics", "--list"),
        ("consumer-groups", "--list"),
        ("configs", "--describe", "--entity-type", "brokers", "--all"),
        ("cluster", "cluster-id"),
        ("metadata-quorum", "describe", "--status"),
        ("log-dirs", "--describe"),
    ],
)
def test_the_tools_answer(stack: Stack, arguments: tuple[str, ...]) -> None:
    done = plutus_kafka(stack, *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_a_tools_own_exit_code_is_handed_on(stack: Stack) -> None:
    assert plutus_kafka(stack, "topics", "--no-such-option").returncode == 1


def test_every_tool_is_in_the_jars() -> None:
    paths = Jars(LocalSettings().cache).class_path(print).split(os.pathsep)
    known = {name for path in paths if "kafka" in path for name in zipfile.ZipFile(path).namelist()}
    assert {f"{main.replace('.', '/')}.class" for main in MAIN_CLASSES.values()} <= known
