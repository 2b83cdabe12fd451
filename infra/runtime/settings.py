"""The settings both processes share, read once from the environment and from nowhere else.

Each field is the environment variable of the same name in capitals (`.example.env` documents all of them; a test holds
the two together). Every mistake is reported at once, by the variable's name and the rule it breaks, never its value.
Secrets may be given as files: `DATABASE_URL_FILE=/run/secrets/url` reads `DATABASE_URL` from that file.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0)]


class RuntimeSettings(BaseSettings):
    """Settings of every Plutus process. Times are seconds, sizes bytes, unless the name says otherwise."""

    model_config = SettingsConfigDict(env_file=None, extra="ignore", frozen=True, hide_input_in_errors=True)

    # --- Kafka
    kafka_bootstrap_servers: str = Field(description="Brokers to start from: host:port[,host:port...].")
    kafka_topic: str = Field("plutus.events", min_length=1, max_length=249, description="Topic of the events.")
    kafka_dlq_topic: str = Field("plutus.events.dlq", min_length=1, max_length=249, description="Dead-letter topic.")
    kafka_group: str = Field("plutus", min_length=1, description="Consumer group of the workers.")
    kafka_partitions: int = Field(12, ge=1, le=10_000, description="Partitions that `plutus topics create` makes.")
    kafka_replication_factor: int = Field(
        1,
        ge=1,
        le=10,
        description="Replicas of each partition. 3 with min.insync.replicas=2 survives a power cut.",
    )
    kafka_max_message_bytes: int = Field(
        1_048_576,
        ge=65_536,
        description="max.message.bytes of the events topic; the dead-letter topic gets 64 KiB more.",
    )
    kafka_retention_days: int = Field(30, ge=1, description="How long the events topic keeps records.")
    kafka_request_timeout: Seconds = Field(10.0, description="Deadline of one request to a broker.")
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="How to talk to the brokers."
    )
    kafka_ssl_cafile: Path | None = Field(
        None, description="CA certificates (PEM) that sign the brokers' certificates."
    )
    kafka_ssl_certfile: Path | None = Field(
        None, description="Client certificate (PEM), where the brokers ask for one."
    )
    kafka_ssl_keyfile: Path | None = Field(None, description="Key of the client certificate (PEM).")
    kafka_ssl_check_hostname: bool = Field(True, description="Check that a broker's certificate names its host.")
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "SCRAM-SHA-512", description="SASL mechanism, for the SASL_* protocols."
    )
    kafka_sasl_username: str | None = Field(None, description="SASL user name.")
    kafka_sasl_password: SecretStr | None = Field(None, description="SASL password.")

    # --- Postgres
    database_url: SecretStr = Field(description="postgresql://user:password@host:port/database, without a query.")
    database_ssl: Literal["disable", "require", "verify-full"] = Field(
        "disable",
        description="TLS to Postgres. Only verify-full checks who answers; use it beyond a private network.",
    )
    database_ssl_cafile: Path | None = Field(None, description="CA certificates (PEM) for verify-full.")

    # --- operations
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="Least severe level that is logged."
    )
    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="json: one object a line; console: for people; auto: console on a terminal."
    )
    otel_exporter_otlp_endpoint: str | None = Field(
        None,
        description="OTLP/HTTP endpoint for traces, for example http://collector:4318. Unset: tracing is off and free.",
    )
    otel_traces_sample_ratio: float = Field(1.0, ge=0.0, le=1.0, description="Share of new traces that are recorded.")

    @field_validator("database_url")
    @classmethod
    def _libpq_url(cls, value: SecretStr) -> SecretStr:
        url = urlsplit(value.get_secret_value())
        if url.scheme not in ("postgresql", "postgres") or not url.hostname or url.query or url.fragment:
            raise ValueError("must look like postgresql://user:password@host:port/database, without a query")
        return value

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.kafka_topic == self.kafka_dlq_topic:
            raise ValueError("KAFKA_TOPIC and KAFKA_DLQ_TOPIC must differ")
        if self.kafka_security_protocol.startswith("SASL") and not (
            self.kafka_sasl_username and self.kafka_sasl_password
        ):
            raise ValueError("KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD are needed for a SASL protocol")
        return self

    @property
    def dead_letter_bytes(self) -> int:
        """max.message.bytes of the dead-letter topic: any record of the events topic, and room for the headers that say
        why it is there."""
        return self.kafka_max_message_bytes + 65_536

    @property
    def dsn(self) -> str:
        """The database URL in the clear, for the driver only."""
        return self.database_url.get_secret_value()


S = TypeVar("S", bound=BaseSettings)


class SettingsError(Exception):
    """Settings are missing or wrong; the message lists every one, by name and rule, without values."""


def load(kind: type[S]) -> S:
    """The settings of this process.

    Raises:
        SettingsError: all mistakes at once.
    """
    try:
        return kind(**_from_files(kind))
    except ValidationError as error:
        raise SettingsError(_explain(error)) from None


def load_or_exit(kind: type[S]) -> S:
    """`load`, for a process that is starting: prints the mistakes on stderr and exits with 2."""
    try:
        return load(kind)
    except SettingsError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def _from_files(kind: type[BaseSettings]) -> dict[str, Any]:
    """NAME_FILE names a file that holds NAME (the convention of container secrets). Both set: the file wins."""
    values: dict[str, Any] = {}
    for name in kind.model_fields:
        path = os.environ.get(f"{name.upper()}_FILE")
        if path:
            try:
                values[name] = Path(path).read_text().strip()
            except OSError as error:
                raise SettingsError(
                    f"{name.upper()}_FILE cannot be read: {error.strerror}. Check the path and its mode."
                ) from None
    return values


def _explain(error: ValidationError) -> str:
    lines = []
    for problem in error.errors(include_input=False, include_url=False, include_context=False):
        name = ".".join(str(part) for part in problem["loc"]).upper()
        what = "is not set" if problem["type"] == "missing" else problem["msg"].removeprefix("Value error, ")
        lines.append(f"  {name}: {what}" if name else f"  {what}")
    return "settings are missing or wrong (.example.env documents each):\n" + "\n".join(lines)
