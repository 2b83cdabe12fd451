"""Which class a Kafka tool is, and where the bootstrap goes."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.cli.kafka import arguments_for, run_tool
from infra.local.errors import LocalError
from infra.local.settings import LocalSettings


@pytest.mark.parametrize(
    ("tool", "given", "expected"),
    [
        ("topics", ["--list"], ["--bootstrap-server", "h:1", "--list"]),
        ("cluster", ["cluster-id"], ["cluster-id", "--bootstrap-server", "h:1"]),
        ("topics", [], ["--bootstrap-server", "h:1"]),
    ],
)
def test_the_bootstrap_is_filled_in(tool: str, given: list[str], expected: list[str]) -> None:
    assert arguments_for(tool, given, "h:1") == expected


def test_an_unknown_tool_is_answered_with_the_known(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match=r"no Kafka tool 'topic'\. There are: .*console-consumer"):
        run_tool("topic", [], LocalSettings(plutus_home=tmp_path))


def test_without_a_system_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)
    with pytest.raises(LocalError, match="plutus up"):
        run_tool("topics", ["--list"], LocalSettings(plutus_home=tmp_path))
