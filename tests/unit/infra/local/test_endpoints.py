"""endpoints.json: the contract's five members, all or nothing, never believed after its system."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from infra.local import endpoints
from infra.local.endpoints import Endpoints
from infra.local.errors import LocalError, NothingRuns
from infra.local.home import Home

SAMPLE = Endpoints(
    "http://127.0.0.1:1", "http://127.0.0.1:1", ("http://127.0.0.1:2",), "127.0.0.1:3", "postgresql://u:p@h:4/d"
)


def test_the_file_has_the_five_members_and_is_its_owners(tmp_path: Path) -> None:
    SAMPLE.write(tmp_path)
    file = tmp_path / "endpoints.json"
    assert json.loads(file.read_text()) == {
        "gateway": "http://127.0.0.1:1",
        "gateway_metrics": "http://127.0.0.1:1",
        "worker_metrics": ["http://127.0.0.1:2"],
        "kafka": "127.0.0.1:3",
        "postgres": "postgresql://u:p@h:4/d",
    }
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert endpoints.read(file) == SAMPLE
    assert [entry.name for entry in tmp_path.iterdir()] == ["endpoints.json"]


def test_a_file_without_its_system_is_not_believed(tmp_path: Path) -> None:
    SAMPLE.write(tmp_path)
    with pytest.raises(NothingRuns, match="No system runs in"):
        endpoints.of_running(tmp_path)
    with Home(tmp_path, print):
        assert endpoints.of_running(tmp_path) == SAMPLE
    with pytest.raises(NothingRuns, match="No system runs in"):
        endpoints.of_running(tmp_path)


def test_a_system_that_is_not_ready_has_no_endpoints(tmp_path: Path) -> None:
    with Home(tmp_path, print), pytest.raises(LocalError, match="no system is ready"):
        endpoints.of_running(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"kafka": "x"}', '{"worker_metrics": 1}', "\x00"])
def test_another_file_is_refused_in_one_line(tmp_path: Path, content: str) -> None:
    file = tmp_path / "endpoints.json"
    file.write_text(content)
    with pytest.raises(LocalError, match="cannot be read as the endpoints"):
        endpoints.read(file)


def test_removing_tells_whether_there_was_one(tmp_path: Path) -> None:
    SAMPLE.write(tmp_path)
    assert endpoints.remove(tmp_path)
    assert not endpoints.remove(tmp_path)


def test_the_environment_names_kafka_before_the_folder_does(tmp_path: Path) -> None:
    assert endpoints.bootstrap_servers(tmp_path, {"KAFKA_BOOTSTRAP_SERVERS": "a:1"}) == "a:1"
    with pytest.raises(LocalError):
        endpoints.bootstrap_servers(tmp_path, {})
