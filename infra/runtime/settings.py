"""The settings both processes share, read once from the environment and from nowhere else.

Each field is the environment variable of the same name in capitals (`.example.env` documents all of them; a test holds
the two together). An empty one is as good as unset. Every mistake is reported at once, by the variable's name and the
rule it breaks, never its value; what settings may not be together is looked at once each is right by itself. Secrets may
be given as files: `DATABASE_URL_FILE=/run/secrets/url` reads `DATABASE_URL` from that file.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_origin
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
TopicName = Annotated[str, Field(min_length=1, max_length=249, pattern=r"^[a-zA-Z0-9._-]+$")]

_BROKER = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})")


class RuntimeSettings(BaseSettings):
    """Settings of every Plutus process. Times are seconds, sizes bytes, unless the name says otherwise."""

    model_config = SettingsConfigDict(
        env_file=None,
        env_ignore_empty=True,
        enable_decoding=False,  # lists are decoded below: the library stops at the first mistake
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    # --- Kafka
    kafka_bootstrap_servers: str = Field(description="Brokers to start from: host:port[,host:port...].")
    kafka_topic: TopicName = Field("plutus.events", description="Topic of the events.")
    kafka_dlq_topic: TopicName = Field("plutus.events.dlq", description="Dead-letter topic.")
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
    kafka_dlq_retention_days: int | None = Field(
        None, ge=1, description="How long the dead-letter topic keeps records; unset: for ever."
    )
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

    # --- payloads
    strict_schemas: bool = Field(
        False,
        description="Refuse events whose type and version have no registered payload schema, over HTTP and Kafka.",
    )

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

    @field_validator("*", mode="before")
    @classmethod
    def _list(cls, value: Any, info: ValidationInfo) -> Any:
        annotation = cls.model_fields[info.field_name or ""].annotation
        if not isinstance(value, str) or get_origin(annotation) not in (list, set, frozenset, tuple):
            return value
        try:
            return json.loads(value)
        except ValueError:
            raise ValueError('must be a JSON array, for example ["one", "two"]') from None

    @field_validator("kafka_bootstrap_servers")
    @classmethod
    def _brokers(cls, value: str) -> str:
        brokers = [broker.strip() for broker in value.split(",")]
        for broker in brokers:
            found = _BROKER.fullmatch(broker)
            if found is None or not 0 < int(found[1]) < 65536:
                raise ValueError("must look like host:port[,host:port...]")
        return ",".join(brokers)

    @field_validator("database_url")
    @classmethod
    def _libpq_url(cls, value: SecretStr) -> SecretStr:
        if not _is_libpq_url(value.get_secret_value()):
            raise ValueError(
                "must look like postgresql://user:password@host:port/database, without a query; characters of the "
                "password that mean something in a URL are percent-encoded"
            )
        return value

    @field_validator("otel_exporter_otlp_endpoint")
    @classmethod
    def _http_url(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("http://", "https://")):
            raise ValueError("must look like http://host:port")
        return value

    @model_validator(mode="after")
    def _together(self) -> Self:
        problems = [*self._kafka_problems(), *self._file_problems()]
        if self.kafka_topic == self.kafka_dlq_topic:
            problems.append("KAFKA_TOPIC and KAFKA_DLQ_TOPIC must differ")
        if self.database_ssl_cafile and self.database_ssl != "verify-full":
            problems.append("DATABASE_SSL_CAFILE is used with DATABASE_SSL=verify-full only")
        if problems:
            raise ValueError("\n  ".join(problems))
        return self

    def _kafka_problems(self) -> Iterator[str]:
        """Security that is asked for and would silently not be there, or the other way round."""
        sasl = self.kafka_security_protocol.startswith("SASL")
        tls = self.kafka_security_protocol.endswith("SSL")
        if sasl and not (self.kafka_sasl_username and self.kafka_sasl_password):
            yield "KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD are needed for a SASL protocol"
        if not sasl and (self.kafka_sasl_username or self.kafka_sasl_password):
            yield "KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD need KAFKA_SECURITY_PROTOCOL to be a SASL protocol"
        if not tls and (self.kafka_ssl_cafile or self.kafka_ssl_certfile or self.kafka_ssl_keyfile):
            yield "KAFKA_SSL_CAFILE, _CERTFILE and _KEYFILE need KAFKA_SECURITY_PROTOCOL to be SSL or SASL_SSL"
        if self.kafka_ssl_keyfile and not self.kafka_ssl_certfile:
            yield "KAFKA_SSL_KEYFILE needs KAFKA_SSL_CERTFILE"

    def _file_problems(self) -> Iterator[str]:
        for name in ("kafka_ssl_cafile", "kafka_ssl_certfile", "kafka_ssl_keyfile", "database_ssl_cafile"):
            path: Path | None = getattr(self, name)
            if path is not None and not os.access(path, os.R_OK):
                yield f"{name.upper()} names no file that can be read"

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
    values, unreadable = _from_files(kind)
    try:
        made = kind(**values)
    except ValidationError as error:
        raise SettingsError(_explain([*unreadable.values(), *_told(error, without=set(unreadable))])) from None
    if unreadable:
        raise SettingsError(_explain(unreadable.values()))
    return made


def load_or_exit(kind: type[S]) -> S:
    """`load`, for a process that is starting: prints the mistakes on stderr and exits with 2."""
    try:
        return load(kind)
    except SettingsError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def source_of(name: str) -> str:
    """Where the value of a field comes from: `file PATH`, `environment` or `default`."""
    path = os.environ.get(f"{name.upper()}_FILE")
    if path:
        return f"file {path}"
    # The library reads names in any case, and takes an empty value for none.
    return "environment" if any(value and key.lower() == name for key, value in os.environ.items()) else "default"


def _from_files(kind: type[BaseSettings]) -> tuple[dict[str, Any], dict[str, str]]:
    """Values and mistakes of NAME_FILE, which names a file that holds NAME. Both set: the file wins."""
    values: dict[str, Any] = {}
    mistakes: dict[str, str] = {}
    for name in kind.model_fields:
        path = os.environ.get(f"{name.upper()}_FILE")
        if path:
            try:
                values[name] = Path(path).read_text(encoding="utf-8").strip()
            except OSError as error:
                mistakes[name] = f"{name.upper()}_FILE: cannot be read ({error.strerror}); check the path and its mode"
            except ValueError:
                mistakes[name] = f"{name.upper()}_FILE: is no UTF-8 text"
    return values, mistakes


def _told(error: ValidationError, without: set[str]) -> Iterator[str]:
    for problem in error.errors(include_input=False, include_url=False, include_context=False):
        name = ".".join(str(part) for part in problem["loc"])
        what = "is not set" if problem["type"] == "missing" else problem["msg"].removeprefix("Value error, ")
        if name not in without:
            yield f"{name.upper()}: {what}" if name else what


def _explain(mistakes: Iterable[str]) -> str:
    return "\n  ".join(["settings are missing or wrong (.example.env documents each):", *mistakes])


def _is_libpq_url(value: str) -> bool:
    try:
        url = urlsplit(value)
        port = url.port
    except ValueError:  # a port or an IPv6 address that is none
        return False
    usual = url.scheme in ("postgresql", "postgres") and bool(url.hostname) and port != 0
    # An @ in the path is a password with a slash in it.
    return usual and not (url.query or url.fragment or "@" in url.path) and value.isprintable()
