"""What is committed speaks of Plutus alone: no place of one machine, no unfinished thought, no address of a registry."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping

import pytest

from tests.house.source import ROOT

MACHINE = re.compile(r"(?<![\w.~-])/(?:work|root|home|Users|mnt|private)/[\w.-]+|\.\./shared\b")
UNFINISHED = re.compile(r"\b(?:TODO|FIXME|XXX|HACK)\b")
# Hosts that packages come from; which one serves an installation is the installer's business.
REGISTRY = re.compile(
    r"\b(?:pypi\.org|pythonhosted\.org|test\.pypi\.org|npmjs\.(?:org|com)|maven\.org|repo1\.\w+|apache\.org/maven2|"
    r"docker\.io|ghcr\.io|quay\.io|gcr\.io|artifactory|jfrog|nexus)\b",
    re.IGNORECASE,
)
SECRET = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----|\bAKIA[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{36}\b")
RULES = {"a machine's path": MACHINE, "unfinished": UNFINISHED, "a registry": REGISTRY, "a secret": SECRET}

_BINARY = {".png", ".ico", ".jks", ".p12"}


def committed() -> Iterator[tuple[str, str]]:
    """Path and text of every file of the repository, those about to be added included; the rules themselves excepted."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    for path in listed.stdout.split("\0"):
        file = ROOT / path
        if path and path != "tests/house/test_files.py" and file.suffix not in _BINARY and file.is_file():
            yield path, file.read_text(encoding="utf-8")


def findings(path: str, content: str, rules: Mapping[str, re.Pattern[str]]) -> list[str]:
    """Lines that break a rule, without what stands there."""
    return [
        f"{path}:{number}: {what}"
        for number, line in enumerate(content.splitlines(), 1)
        for what, pattern in rules.items()
        if pattern.search(line)
    ]


def test_files_speak_of_plutus_alone() -> None:
    assert [finding for path, content in committed() for finding in findings(path, content, RULES)] == []


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("see /home/ada/plutus", "a machine's path"),
        ("cp ../shared/data .", "a machine's path"),
        ("# TODO: later", "unfinished"),
        ("--index-url https://pypi.org/simple", "a registry"),
        ("https://repo1.maven.org/maven2", "a registry"),
        ("-----BEGIN RSA PRIVATE KEY-----", "a secret"),
    ],
)
def test_the_rules_see_what_they_are_for(line: str, rule: str) -> None:
    assert f"a:1: {rule}" in findings("a", line, RULES)


@pytest.mark.parametrize("line", ["GET /homeward", "~/.m2/settings.xml", "todo lists", "pypi", "https://x/home/y"])
def test_the_rules_let_the_rest_be(line: str) -> None:
    assert findings("a", line, RULES) == []
