"""`plutus migrate`: bring the database to the schema of this release, then make the day partitions ahead.

May run at any time, twice, or from several processes at once: one migrates, the others wait and find it done. Every
step is one line on stderr; a failure is one sentence saying what to do, and never holds the password.

SQLAlchemy and Alembic take most of a second to import, so they are imported by the command, not by `plutus --help`.
"""

from __future__ import annotations

import asyncio
import sys
from importlib import resources
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import typer

from infra.cli.output import FAILED, UNREACHABLE, AsJson, Failure, Problem, show_json, tell

if TYPE_CHECKING:
    from infra.runtime.partitions import Ensured
    from infra.runtime.tables import DatabaseSettings

_COMMAND_TIMEOUT = 600.0
_LOCK_TIMEOUT = 5.0
_LOCATION = str(resources.files("migrations")).replace("%", "%%")

# SQLSTATE -> (exit code, what to do). 57P03 comes while a server starts or stops, 53300 when it is full.
_ADVICE = {
    "28P01": (FAILED, "refused the user or the password. Check them in DATABASE_URL."),
    "28000": (FAILED, "does not let this user in. Check DATABASE_URL and the server's pg_hba.conf."),
    "3D000": (FAILED, "has no database of that name. Create it, or correct DATABASE_URL."),
    "42501": (FAILED, "says that this role may not change the schema. Run as its owner (migrations/roles.sql)."),
    "55P03": (FAILED, "did not grant a lock in time: another session holds it. Nothing has changed; run it again."),
    "40P01": (FAILED, "found a deadlock with another session. Nothing has changed; run it again."),
    "53300": (UNREACHABLE, "has no free connection. Raise max_connections, or run it again."),
    "57P03": (UNREACHABLE, "is starting up or shutting down. Run it again in a moment."),
}

# Classes of SQLSTATE whose messages name tables and columns, never values of rows.
_NAMES_ONLY = ("0A", "2B", "42", "55")


class MigrationError(Exception):
    """The database was not migrated, or the partitions not made.

    The message is for a person and holds no credential. `exit_code` is 1, or 69 where the server was not reached.
    """

    def __init__(self, message: str, exit_code: int = FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def migrate(database_url: str) -> Ensured:
    """Run every pending migration, then make the missing day partitions, and say which those were. Not for use on an event
    loop's thread.

    Args:
        database_url: postgresql://user:password@host:port/database of the role that owns the schema; DATABASE_SSL and
            DATABASE_SSL_CAFILE apply as they are in the environment.

    Raises:
        MigrationError: with the reason. Migrations run in one transaction: a failed one has changed nothing.
    """
    import asyncpg
    from alembic.util import CommandError
    from pydantic import SecretStr, ValidationError
    from sqlalchemy.exc import SQLAlchemyError

    from infra.runtime.tables import DatabaseSettings

    try:
        settings = DatabaseSettings(database_url=SecretStr(database_url))
        _upgrade(settings)
        done = asyncio.run(_partitions(settings))
    except ValidationError as error:
        raise MigrationError("; ".join(problem["msg"] for problem in error.errors(include_input=False))) from None
    except CommandError as error:
        raise MigrationError(f"{error}. The database may be newer than this release: use that release.") from error
    except (asyncpg.PostgresError, SQLAlchemyError, OSError) as error:
        raise _explain(_driver_error(error), f"Postgres at {_address(database_url)}") from error
    if done.busy:
        days = ", ".join(day.isoformat() for day in done.busy)
        raise MigrationError(f"the partitions of {days} were not made: another session locks `events`. Run it again.")
    _say(f"partitions: {len(done.made)} made, {done.moved} rows moved into them")
    return done


def revisions() -> tuple[str, list[str]]:
    """The revision that this release needs, and all that it knows."""
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", _LOCATION)
    scripts = ScriptDirectory.from_config(config)
    return str(scripts.get_current_head()), [each.revision for each in scripts.walk_revisions()]


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @app.command("migrate", epilog="Example: plutus migrate")
    def command(as_json: AsJson = False) -> None:
        """Bring the database of DATABASE_URL to the schema of this release, and make partitions ahead."""
        from infra.runtime.settings import load_or_exit
        from infra.runtime.tables import DatabaseSettings

        settings = load_or_exit(DatabaseSettings)
        try:
            done = migrate(settings.dsn)
        except MigrationError as error:
            tell(Failure(str(error), code=error.exit_code, problem=Problem.MIGRATION))
            raise typer.Exit(error.exit_code) from None
        if as_json:
            made = [day.isoformat() for day in done.made]
            show_json({"revision": revisions()[0], "partitions_made": made, "rows_moved": done.moved})


def _upgrade(settings: DatabaseSettings) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config(stdout=sys.stderr)
    config.set_main_option("script_location", _LOCATION)
    config.attributes["settings"] = settings
    command.upgrade(config, "head")
    _say(f"schema: at {ScriptDirectory.from_config(config).get_current_head()}")


async def _partitions(settings: DatabaseSettings) -> Ensured:
    from infra.runtime.partitions import ensure_partitions
    from infra.runtime.tables import connect

    conn = await connect(settings, name="plutus-migrate", command_timeout=_COMMAND_TIMEOUT)
    try:
        return await ensure_partitions(conn, lock_timeout=_LOCK_TIMEOUT)
    finally:
        await conn.close(timeout=5.0)


def _driver_error(error: BaseException) -> BaseException:
    """The driver's own error below SQLAlchemy's wrappers."""
    import asyncpg

    while not isinstance(error, asyncpg.PostgresError | OSError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _explain(error: BaseException, where: str) -> MigrationError:
    if isinstance(error, TimeoutError):
        return MigrationError(f"{where} did not answer in time. Check DATABASE_URL and the network.", UNREACHABLE)
    if isinstance(error, OSError):
        return MigrationError(f"{where} cannot be reached. Check DATABASE_URL and that it runs.", UNREACHABLE)
    state = getattr(error, "sqlstate", None) or ""
    if state in _ADVICE:
        code, advice = _ADVICE[state]
        return MigrationError(f"{where} {advice}", code)
    if state.startswith("08"):
        return MigrationError(f"{where} closed the connection. Run it again.", UNREACHABLE)
    said = f": {error}" if state.startswith(_NAMES_ONLY) else ""
    return MigrationError(f"{where} failed with {type(error).__name__} {state}{said}")


def _address(database_url: str) -> str:
    """host:port of the URL, or a plain word where it cannot be told from an unescaped password."""
    netloc = urlsplit(database_url).netloc
    _, at, host = netloc.rpartition("@")
    return "the address in DATABASE_URL" if "@" in database_url and not at else host


def _say(line: str) -> None:
    print(line, file=sys.stderr)
