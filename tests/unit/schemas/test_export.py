"""The recorded export, and the command that records it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from schemas import export
from schemas.compat import breaks_between
from schemas.registry import default

CURRENT = default().export()


def test_the_recorded_schemas_are_those_of_the_models() -> None:
    assert breaks_between(export.recorded(), CURRENT) == [], "a new version is needed: see schemas.registry"
    assert export.recorded() == CURRENT, "run python -m schemas.export and commit recorded.json"


def test_the_recorded_file_is_written_as_the_command_writes_it() -> None:
    assert export.RECORDED.read_text(encoding="utf-8") == export.as_text(CURRENT)


def test_one_file_per_schema(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export.main([str(tmp_path / "out")]) == 0
    files = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in (tmp_path / "out").iterdir()}
    assert sorted(schema["$id"] for schema in files.values()) == sorted(CURRENT)
    assert files["type.page_view.1.0.schema.json"] == CURRENT["tag:plutus,2026:schema/type/page_view/1.0"]
    assert capsys.readouterr().out.startswith("19 schemas written")


@pytest.fixture
def recorded_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    file = tmp_path / "recorded.json"
    monkeypatch.setattr(export, "RECORDED", file)
    return file


def test_the_first_record_and_an_added_member(recorded_elsewhere: Path) -> None:
    assert export.recorded() == {}
    assert export.main([]) == 0
    before: dict[str, Any] = json.loads(recorded_elsewhere.read_text(encoding="utf-8"))
    assert before == CURRENT
    del before["tag:plutus,2026:schema/type/page_view/1.0"]["properties"]["referrer"]
    recorded_elsewhere.write_text(json.dumps(before), encoding="utf-8")
    assert export.main([]) == 0
    assert export.recorded() == CURRENT


def test_a_breaking_change_is_not_recorded(recorded_elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wider = json.loads(json.dumps(CURRENT))
    wider["tag:plutus,2026:schema/type/fuel_level/1.0"]["properties"]["percent"]["maximum"] = 200
    recorded_elsewhere.write_text(json.dumps(wider), encoding="utf-8")
    assert export.main([]) == 1
    assert json.loads(recorded_elsewhere.read_text(encoding="utf-8")) == wider
    told = capsys.readouterr().err
    assert "fuel_level/1.0#/percent: maximum became narrower" in told
    assert "new version with an upcast" in told


@pytest.mark.parametrize("arguments", [["--help"], ["a", "b"]])
def test_called_wrongly(arguments: list[str]) -> None:
    assert export.main(arguments) == 2
