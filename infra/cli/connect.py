"""Where an operator's command finds Kafka and Postgres, and what it says when they do not answer.

The environment comes first (KAFKA_BOOTSTRAP_SERVERS, DATABASE_URL and what goes with them); where it names neither, the
system that `plutus up` runs in PLUTUS_HOME. The two are never mixed: one command must not read one system and write to
another.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from urllib.parse import urlsplit

import asyncpg
from aiokafka.errors import (
    AuthenticationFailedError,
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    NodeNotReadyError,
    RequestTimedOutError,
)
from pydantic import Field, SecretStr
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from infra.cli.output import FAILED, UNREACHABLE, USAGE, Failure, Problem
from infra.local import endpoints
from infra.local.endpoints import Endpoints
from infra.local.settings import LocalSettings
from infra.runtime.settings import RuntimeSettings, S, SettingsError, load
from infra.runtime.tables import engine

_KAFKA_AWAY = (KafkaConnectionError, KafkaTimeoutError, NodeNotReadyError, RequestTimedOutError, TimeoutError, OSError)
_COMMAND_TIMEOUT = 60.0

# SQLSTATE -> (exit code, which error, what is wrong, what to do).
_STATES = {
    "28P01": (FAILED, Problem.POSTGRES_REFUSED, "it refused the user or the password", "check DATABASE_URL"),
    "28000": (
        FAILED,
        Problem.POSTGRES_REFUSED,
        "it does not let this user in",
        "check DATABASE_URL and the server's pg_hba.conf",
    ),
    "3D000": (FAILED, Problem.POSTGRES_REFUSED, "it has no database of that name", "correct DATABASE_URL"),
    "42P01": (FAILED, Problem.SCHEMA_OUTDATED, "a table of this release is missing", "plutus migrate"),
    "42703": (FAILED, Problem.SCHEMA_OUTDATED, "a column of this release is missing", "plutus migrate"),
    "42501": (
        FAILED,
        Problem.NOT_ALLOWED,
        "this role may not do that",
        "use a role with the grants of migrations/roles.sql",
    ),
    "53300": (
        UNREACHABLE,
        Problem.POSTGRES_UNREACHABLE,
        "it has no free connection",
        "run it again, or raise max_connections",
    ),
    "57P03": (
        UNREACHABLE,
        Problem.POSTGRES_UNREACHABLE,
        "it is starting up or shutting down",
        "run it again in a moment",
    ),
    "57014": (FAILED, Problem.TOO_SLOW, "the statement took too long", "run it again with a narrower filter"),
}


class OperatorSettings(RuntimeSettings):
    """The settings of an operator's command: both addresses may come from a running `plutus up` instead."""

    kafka_bootstrap_servers: str = Field(
        "", validate_default=False, description="Brokers to start from: host:port[,host:port...]."
    )
    database_url: SecretStr = Field(
        SecretStr(""), validate_default=False, description="postgresql://user:password@host:port/database."
    )


def operator_settings(*, kafka: bool = False, postgres: bool = False) -> RuntimeSettings:
    """The settings of a command that needs Kafka, Postgres or both.

    Raises:
        Failure: settings are wrong, only one of two addresses is set, or nothing runs in PLUTUS_HOME.
        LocalError: see `infra.local.endpoints`.
    """
    settings = _read(OperatorSettings)
    given = {"KAFKA_BOOTSTRAP_SERVERS": bool(settings.kafka_bootstrap_servers), "DATABASE_URL": bool(settings.dsn)}
    needed = {"KAFKA_BOOTSTRAP_SERVERS": kafka, "DATABASE_URL": postgres}
    missing = [name for name, is_needed in needed.items() if is_needed and not given[name]]
    if not missing:
        return settings
    if any(given[name] for name, is_needed in needed.items() if is_needed):
        raise Failure(
            f"{missing[0]} is not set.",
            advice="set KAFKA_BOOTSTRAP_SERVERS and DATABASE_URL of one system, or neither to use the one in PLUTUS_HOME",
            code=USAGE,
        )
    return _of(endpoints.of_running(_read(LocalSettings).home), settings)


def settings_at(found: Endpoints) -> RuntimeSettings:
    """The settings of the local system with these addresses; names of topics and group from the environment.

    Raises:
        Failure: settings are wrong.
    """
    return _of(found, _read(OperatorSettings))


def gateway_url(given: str | None = None) -> str:
    """The gateway's base URL: the one given, that of PLUTUS_GATEWAY, or that of the system in PLUTUS_HOME.

    Raises:
        Failure: settings are wrong, or that is no URL. LocalError: nothing runs in PLUTUS_HOME.
    """
    settings = _read(LocalSettings)
    url = given or settings.plutus_gateway or endpoints.of_running(settings.home).gateway
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise Failure("That is no URL of a gateway.", advice="--gateway http://localhost:8000", code=USAGE)
    return url.rstrip("/")


def _read(kind: type[S]) -> S:
    try:
        return load(kind)
    except SettingsError as error:
        raise Failure(str(error), code=USAGE) from None


def _of(found: Endpoints, settings: RuntimeSettings) -> RuntimeSettings:
    """A local system speaks plain text; TLS and SASL in the environment are those of another."""
    local = {
        "kafka_bootstrap_servers": found.kafka,
        "kafka_security_protocol": "PLAINTEXT",
        "database_url": SecretStr(found.postgres),
        "database_ssl": "disable",
    }
    return settings.model_copy(update=local)


@asynccontextmanager
async def database(settings: RuntimeSettings) -> AsyncIterator[AsyncConnection]:
    """A connection for operator queries; its errors are Failures, without a credential or a value of a row."""
    made = engine(settings, name="plutus-cli", command_timeout=_COMMAND_TIMEOUT)
    with reaching_postgres(settings):
        try:
            async with made.connect() as connection:
                # Every statement stands for itself: nothing is held while a person reads or Kafka answers.
                yield await connection.execution_options(isolation_level="AUTOCOMMIT")
        finally:
            await made.dispose()


@contextmanager
def reaching_postgres(settings: RuntimeSettings) -> Iterator[None]:
    """Inside, an error of Postgres or on the way to it becomes a Failure."""
    try:
        yield
    except (asyncpg.PostgresError, asyncpg.InterfaceError, SQLAlchemyError, OSError) as error:
        raise _postgres_failure(_driver_error(error), settings) from error


@contextmanager
def reaching_kafka(settings: RuntimeSettings) -> Iterator[None]:
    """Inside, an error of Kafka or on the way to it becomes a Failure."""
    where = f"Kafka at {settings.kafka_bootstrap_servers}"
    try:
        yield
    except AuthenticationFailedError as error:
        raise Failure(
            f"{where} does not let us in.",
            cause=type(error).__name__,
            advice="check KAFKA_SASL_*",
            problem=Problem.KAFKA_REFUSED,
        ) from error
    except _KAFKA_AWAY as error:
        raise Failure(
            f"{where} did not answer.",
            cause=_cause(error),
            advice="check that it runs and that KAFKA_BOOTSTRAP_SERVERS names it; plutus doctor",
            code=UNREACHABLE,
            problem=Problem.KAFKA_UNREACHABLE,
        ) from error
    except KafkaError as error:
        raise Failure(f"{where} refused.", cause=str(error), problem=Problem.KAFKA_REFUSED) from error


def _postgres_failure(error: BaseException, settings: RuntimeSettings) -> Failure:
    url = urlsplit(settings.dsn)
    where = f"Postgres at {url.hostname}:{url.port or 5432}"
    state = getattr(error, "sqlstate", None) or ""
    if state in _STATES:
        code, problem, cause, advice = _STATES[state]
        return Failure(f"{where} cannot be used.", cause=cause, advice=advice, code=code, problem=problem)
    if isinstance(error, OSError | asyncpg.InterfaceError) or state.startswith("08"):
        return Failure(
            f"{where} did not answer.",
            cause=_cause(error),
            advice="check that it runs and that DATABASE_URL names it; plutus doctor",
            code=UNREACHABLE,
            problem=Problem.POSTGRES_UNREACHABLE,
        )
    return Failure(
        f"{where} failed.", cause=f"{type(error).__name__} {state}".strip(), problem=Problem.POSTGRES_REFUSED
    )


def _driver_error(error: BaseException) -> BaseException:
    """The driver's own error below SQLAlchemy's wrappers."""
    while not isinstance(error, asyncpg.PostgresError | OSError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _cause(error: BaseException) -> str:
    """Why, in a few words: the client's own text may hold what it was given."""
    if isinstance(error, TimeoutError | KafkaTimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, KafkaConnectionError):
        return "no broker could be reached"
    return type(error).__name__
