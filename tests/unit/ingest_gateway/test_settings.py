"""The gateway's settings."""

from __future__ import annotations

import pytest

from infra.runtime.settings import SettingsError, load
from ingest_gateway.settings import GatewaySettings
from schemas.limits import SAFETY


@pytest.fixture(autouse=True)
def _needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "localhost:9092")
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:p@localhost/db")


def test_the_defaults_are_those_of_the_design() -> None:
    settings = load(GatewaySettings)
    assert (settings.gateway_host, settings.gateway_port, settings.gateway_processes) == ("127.0.0.1", 8000, 1)
    assert (settings.gateway_max_in_flight, settings.republish_after, settings.gateway_look_timeout) == (1024, 600, 0.1)
    limits = settings.limits
    assert (limits.body_bytes, limits.depth, limits.nodes) == (256 * 1024, 64, 10_000)
    assert (limits.key_chars, limits.source_chars) == (255, 255)
    assert (limits.batch_items, limits.batch_bytes) == (1_000, 4 * 1024 * 1024)


def test_every_field_says_what_it_is() -> None:
    assert [name for name, field in GatewaySettings.model_fields.items() if not field.description] == []


def test_a_body_that_would_not_fit_a_record_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_MAX_MESSAGE_BYTES", str(256 * 1024 + 64 * 1024))
    load(GatewaySettings)
    monkeypatch.setenv("KAFKA_MAX_MESSAGE_BYTES", str(256 * 1024 + 64 * 1024 - 1))
    with pytest.raises(SettingsError, match="KAFKA_MAX_MESSAGE_BYTES"):
        load(GatewaySettings)


def test_a_batch_that_would_find_no_room_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_MAX_BYTES", str(4 * 1024 * 1024))
    monkeypatch.setenv("GATEWAY_BULK_BYTES", str(1024 * 1024))
    load(GatewaySettings)
    monkeypatch.setenv("GATEWAY_BULK_BYTES", str(1024 * 1024 + 1))
    with pytest.raises(SettingsError, match="GATEWAY_BULK_BYTES"):
        load(GatewaySettings)


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("GATEWAY_BODY_BYTES", SAFETY.body_bytes),
        ("GATEWAY_DEPTH", SAFETY.depth),
        ("GATEWAY_NODES", SAFETY.nodes),
        ("GATEWAY_KEY_CHARS", SAFETY.key_chars),
        ("GATEWAY_SOURCE_CHARS", SAFETY.source_chars),
    ],
)
def test_no_limit_lets_pass_what_a_worker_would_dead_letter(
    monkeypatch: pytest.MonkeyPatch, name: str, most: int
) -> None:
    monkeypatch.setenv("KAFKA_MAX_MESSAGE_BYTES", str(16 * 1024 * 1024))
    monkeypatch.setenv(name, str(most))
    load(GatewaySettings)
    monkeypatch.setenv(name, str(most + 1))
    with pytest.raises(SettingsError, match=name):
        load(GatewaySettings)


def test_sources_that_spread_are_a_json_array(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_SPREAD_SOURCES", '["shop", "till"]')
    assert load(GatewaySettings).gateway_spread_sources == {"shop", "till"}
