"""Settings: every mistake at once, by name and rule; secrets from files, and nowhere else than where they are used."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field, SecretStr, ValidationError

from infra.runtime.settings import RuntimeSettings, SettingsError, load, load_or_exit

SECRET = "s3cret-hunter2"
URL = f"postgresql://plutus:{SECRET}@db:5432/plutus"
RIGHT = {"KAFKA_BOOTSTRAP_SERVERS": "broker:9092", "DATABASE_URL": URL}


class Larger(RuntimeSettings):
    """Settings of a process, with a list."""

    sources: frozenset[str] = Field(frozenset(), description="Some.")
    count: int = Field(1, description="A number.")


@pytest.fixture
def env(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment that says only what is needed."""
    for name in Larger.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
        monkeypatch.delenv(f"{name.upper()}_FILE", raising=False)
    for name, value in RIGHT.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def mistakes(env: pytest.MonkeyPatch, **settings: object) -> list[str]:
    """The lines that say what is wrong; no value may be in them."""
    for name, value in settings.items():
        env.setenv(name, str(value))
    with pytest.raises(SettingsError) as caught:
        load(Larger)
    first, *lines = str(caught.value).splitlines()
    assert first == "settings are missing or wrong (.example.env documents each):"
    assert SECRET not in str(caught.value)
    assert all(line.startswith("  ") for line in lines)
    return [line.strip() for line in lines]


def names(lines: list[str]) -> list[str]:
    """What the lines are about."""
    return [line.partition(":")[0] for line in lines]


def test_what_is_needed_is_enough(env: pytest.MonkeyPatch) -> None:
    settings = load(Larger)
    assert (settings.kafka_bootstrap_servers, settings.dsn) == ("broker:9092", URL)
    assert (settings.kafka_topic, settings.kafka_partitions, settings.otel_exporter_otlp_endpoint) == (
        "plutus.events",
        12,
        None,
    )
    with pytest.raises(ValidationError):
        settings.kafka_topic = "another"  # type: ignore[misc]


def test_every_mistake_is_told_at_once_by_name(env: pytest.MonkeyPatch) -> None:
    env.delenv("KAFKA_BOOTSTRAP_SERVERS")
    lines = mistakes(
        env,
        DATABASE_URL=f"mysql://plutus:{SECRET}@db/plutus",
        KAFKA_PARTITIONS=SECRET,
        KAFKA_REQUEST_TIMEOUT="nan",
        KAFKA_TOPIC=f"{SECRET} events",
        LOG_LEVEL=SECRET,
        OTEL_TRACES_SAMPLE_RATIO="1.5",
        OTEL_EXPORTER_OTLP_ENDPOINT=SECRET,
        SOURCES=SECRET,
        DATABASE_SSL_CAFILE_FILE=f"/nowhere/{SECRET}"[:8],
    )
    assert sorted(names(lines)) == [
        "DATABASE_SSL_CAFILE_FILE",
        "DATABASE_URL",
        "KAFKA_BOOTSTRAP_SERVERS",
        "KAFKA_PARTITIONS",
        "KAFKA_REQUEST_TIMEOUT",
        "KAFKA_TOPIC",
        "LOG_LEVEL",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_TRACES_SAMPLE_RATIO",
        "SOURCES",
    ]
    assert "KAFKA_BOOTSTRAP_SERVERS: is not set" in lines


def test_an_empty_variable_is_an_unset_one(env: pytest.MonkeyPatch) -> None:
    env.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "")
    env.setenv("COUNT", "")
    env.setenv("DATABASE_URL_FILE", "")
    settings = load(Larger)
    assert (settings.otel_exporter_otlp_endpoint, settings.count) == (None, 1)
    assert mistakes(env, DATABASE_URL="") == ["DATABASE_URL: is not set"]


def test_a_list_is_json(env: pytest.MonkeyPatch) -> None:
    env.setenv("SOURCES", '["shop", "bank"]')
    assert load(Larger).sources == {"shop", "bank"}
    assert names(mistakes(env, SOURCES="shop,bank")) == ["SOURCES"]
    assert names(mistakes(env, SOURCES='{"a": 1}')) == ["SOURCES"]


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:p@h/d",
        "postgres://u:p@h:1/d",
        "postgresql://u:p%40%2F%3F%23@h:5432/d",
        "postgresql://u:p@[::1]:5432/d",
        "postgresql://h/d",
    ],
)
def test_a_libpq_url_is_taken(env: pytest.MonkeyPatch, url: str) -> None:
    env.setenv("DATABASE_URL", url)
    assert load(RuntimeSettings).dsn == url


@pytest.mark.parametrize(
    "url",
    [
        f"mysql://u:{SECRET}@h/d",
        f"postgresql+asyncpg://u:{SECRET}@h/d",
        f"u:{SECRET}@h/d",
        f"postgresql://u:{SECRET}@/d",
        f"postgresql://u:{SECRET}@h/d?sslmode=require",
        f"postgresql://u:{SECRET}@h/d#x",
        f"postgresql://u:{SECRET}@h:{SECRET}/d",
        f"postgresql://u:{SECRET}@h:70000/d",
        f"postgresql://u:{SECRET}@[::1/d",
        f"postgresql://u:1/{SECRET}@h/d",
        f"postgresql://u:{SECRET}@h/d\n",
        "host=h user=u",
    ],
)
def test_another_url_is_refused_without_being_told(env: pytest.MonkeyPatch, url: str) -> None:
    assert names(mistakes(env, DATABASE_URL=url)) == ["DATABASE_URL"]


@pytest.mark.parametrize("servers", ["a:9092", "a:9092,b:9093", "a:9092, b:9093", "[::1]:9092", "10.0.0.1:9092"])
def test_brokers_are_taken(env: pytest.MonkeyPatch, servers: str) -> None:
    env.setenv("KAFKA_BOOTSTRAP_SERVERS", servers)
    assert load(RuntimeSettings).kafka_bootstrap_servers == servers.replace(" ", "")


@pytest.mark.parametrize("servers", ["a", "a:", ":9092", "a:9092,", "a:9092;b:9092", "a:0", "a:65536", "a:9092,b"])
def test_what_is_no_broker_is_refused(env: pytest.MonkeyPatch, servers: str) -> None:
    assert names(mistakes(env, KAFKA_BOOTSTRAP_SERVERS=servers)) == ["KAFKA_BOOTSTRAP_SERVERS"]


def test_a_secret_may_be_in_a_file(env: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "url"
    file.write_text(f"{URL}/from-a-file\n")
    env.setenv("DATABASE_URL_FILE", str(file))
    assert load(RuntimeSettings).dsn == f"{URL}/from-a-file"
    env.delenv("DATABASE_URL")
    assert load(RuntimeSettings).dsn == f"{URL}/from-a-file"


def test_a_secret_file_that_cannot_be_read_is_told_with_the_rest(env: pytest.MonkeyPatch, tmp_path: Path) -> None:
    binary = tmp_path / "password"
    binary.write_bytes(b"\xff" + SECRET.encode())
    env.delenv("DATABASE_URL")
    lines = mistakes(env, DATABASE_URL_FILE=tmp_path / "none", KAFKA_SASL_PASSWORD_FILE=binary, COUNT="many")
    assert names(lines) == ["KAFKA_SASL_PASSWORD_FILE", "DATABASE_URL_FILE", "COUNT"]
    assert "No such file" in lines[1]
    env.delenv("COUNT")
    env.delenv("DATABASE_URL_FILE")
    assert names(mistakes(env, DATABASE_URL=URL)) == ["KAFKA_SASL_PASSWORD_FILE"]


SASL = {"KAFKA_SASL_USERNAME": "plutus", "KAFKA_SASL_PASSWORD": SECRET}


@pytest.mark.parametrize(
    ("protocol", "settings", "about"),
    [
        ("SASL_SSL", {}, "KAFKA_SASL_USERNAME"),
        ("SASL_PLAINTEXT", {"KAFKA_SASL_USERNAME": "plutus"}, "KAFKA_SASL_PASSWORD"),
        ("SASL_PLAINTEXT", {"KAFKA_SASL_PASSWORD": SECRET}, "KAFKA_SASL_USERNAME"),
        ("PLAINTEXT", SASL, "KAFKA_SECURITY_PROTOCOL"),
        ("SSL", SASL, "KAFKA_SECURITY_PROTOCOL"),
        ("PLAINTEXT", {"KAFKA_SSL_CAFILE": __file__}, "KAFKA_SECURITY_PROTOCOL"),
        ("SASL_PLAINTEXT", {**SASL, "KAFKA_SSL_CAFILE": __file__}, "KAFKA_SECURITY_PROTOCOL"),
        ("SSL", {"KAFKA_SSL_KEYFILE": __file__}, "KAFKA_SSL_CERTFILE"),
        ("SSL", {"KAFKA_SSL_CAFILE": "/no/such/file"}, "KAFKA_SSL_CAFILE"),
        ("SSL", {"DATABASE_SSL_CAFILE": __file__}, "DATABASE_SSL"),
        ("SSL", {"DATABASE_SSL": "verify-full", "DATABASE_SSL_CAFILE": "/no/such/file"}, "DATABASE_SSL_CAFILE"),
        ("SSL", {"KAFKA_TOPIC": "same", "KAFKA_DLQ_TOPIC": "same"}, "KAFKA_DLQ_TOPIC"),
    ],
)
def test_settings_that_do_not_go_together_are_told(
    env: pytest.MonkeyPatch, protocol: str, settings: dict[str, str], about: str
) -> None:
    (line,) = mistakes(env, KAFKA_SECURITY_PROTOCOL=protocol, **settings)
    assert about in line


def test_all_that_does_not_go_together_is_told_at_once(env: pytest.MonkeyPatch) -> None:
    lines = mistakes(
        env, KAFKA_SASL_USERNAME="u", KAFKA_SSL_KEYFILE="/no/such/file", KAFKA_TOPIC="same", KAFKA_DLQ_TOPIC="same"
    )
    assert len(lines) == 5


@pytest.mark.parametrize(
    ("protocol", "settings"),
    [
        ("SASL_SSL", {**SASL, "KAFKA_SASL_MECHANISM": "PLAIN", "KAFKA_SSL_CAFILE": __file__}),
        ("SASL_PLAINTEXT", SASL),
        ("SSL", {"KAFKA_SSL_CERTFILE": __file__, "KAFKA_SSL_KEYFILE": __file__}),
        ("SSL", {"DATABASE_SSL": "verify-full", "DATABASE_SSL_CAFILE": __file__}),
    ],
)
def test_settings_that_go_together_are_taken(env: pytest.MonkeyPatch, protocol: str, settings: dict[str, str]) -> None:
    env.setenv("KAFKA_SECURITY_PROTOCOL", protocol)
    for name, value in settings.items():
        env.setenv(name, value)
    assert load(RuntimeSettings).kafka_security_protocol == protocol


def test_no_secret_is_shown(env: pytest.MonkeyPatch) -> None:
    env.setenv("KAFKA_SECURITY_PROTOCOL", "SASL_SSL")
    for name, value in SASL.items():
        env.setenv(name, value)
    settings = load(RuntimeSettings)
    for shown in (repr(settings), str(settings), f"{settings.model_dump()}", settings.model_dump_json()):
        assert SECRET not in shown
    assert settings.kafka_sasl_password == SecretStr(SECRET)


def test_a_process_that_starts_says_it_and_exits_with_2(
    env: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    env.setenv("KAFKA_PARTITIONS", "none")
    with pytest.raises(SystemExit) as ended:
        load_or_exit(RuntimeSettings)
    assert ended.value.code == 2
    assert "KAFKA_PARTITIONS" in capsys.readouterr().err
    env.delenv("KAFKA_PARTITIONS")
    assert load_or_exit(RuntimeSettings).kafka_partitions == 12
