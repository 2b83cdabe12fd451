"""Settings are told with their source and without their secrets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from infra.runtime.explain import rows, spelled
from infra.runtime.settings import RuntimeSettings, load

SECRET = "canary-7f3a"


@pytest.fixture(autouse=True)
def _addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in RuntimeSettings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "k:9092")
    monkeypatch.setenv("DATABASE_URL", f"postgresql://plutus:{SECRET}@db:5432/plutus")


def test_each_setting_says_where_it_comes_from(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "group").write_text("billing\n")
    monkeypatch.setenv("KAFKA_GROUP_FILE", str(tmp_path / "group"))
    monkeypatch.setenv("LOG_LEVEL", "")
    told = {row["name"]: (row["value"], row["source"]) for row in rows(load(RuntimeSettings))}
    assert told["KAFKA_BOOTSTRAP_SERVERS"] == ("k:9092", "environment")
    assert told["KAFKA_GROUP"] == ("billing", f"file {tmp_path / 'group'}")
    assert told["LOG_LEVEL"] == ("INFO", "default"), "an empty variable is none"
    assert told["DATABASE_URL"] == ("postgresql://plutus:(hidden)@db:5432/plutus", "environment")
    assert told["KAFKA_SASL_PASSWORD"] == (None, "default")


def test_no_secret_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_SECURITY_PROTOCOL", "SASL_PLAINTEXT")
    monkeypatch.setenv("KAFKA_SASL_USERNAME", "u")
    monkeypatch.setenv("KAFKA_SASL_PASSWORD", SECRET)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://user:{SECRET}@collector:4318")
    told = json.dumps(rows(load(RuntimeSettings)))
    assert SECRET not in told
    assert "(hidden)" in told
    assert "collector:4318" in told


@given(st.text(min_size=1).map(lambda text: f"{SECRET}{text}"))
def test_whatever_a_secret_looks_like_it_is_hidden(secret: str) -> None:
    assert SECRET not in (spelled(SecretStr(secret)) or "")


def test_values_are_spelled_as_the_environment_does() -> None:
    values = (True, 1.0, 0.25, 7, ("b", "a"), frozenset({"x"}), Path("/p"), "t", None)
    assert [spelled(value) for value in values] == ["true", "1", "0.25", "7", '["a", "b"]', '["x"]', "/p", "t", None]
