"""How Alembic runs the migrations: all pending ones in one transaction, one process at a time, never waiting long.

Everyone who asks for a table queues behind a DDL statement that waits for it, so locks on tables are waited for only
briefly: the migration fails, nothing has changed, and it can be run again. Waiting for another migrating process is
harmless and may take longer.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Collection, Mapping
from typing import Any

from alembic import context
from alembic.runtime.migration import MigrationContext, MigrationInfo
from alembic.script import Script
from sqlalchemy import Connection

from infra.runtime.settings import load_or_exit
from infra.runtime.tables import DatabaseSettings, engine, metadata

# First key of Plutus's advisory locks ("PLUT" in ASCII); the second says what for: 1 migrations, 2 making partitions,
# 3 dropping them, 4 forgetting keys older than the dedup window.
_ONE_PROCESS = "SELECT pg_advisory_xact_lock(1347179860, 1)"
_WAIT_FOR_OTHER_PROCESS = "SET LOCAL lock_timeout = '60s'"
_WAIT_FOR_TABLE = "SET LOCAL lock_timeout = '5s'"
_COMMAND_TIMEOUT = 600.0


def include_name(name: str | None, kind: str, parents: Any) -> bool:
    """Leave the partitions of `events` out of comparisons: they come and go by the day."""
    return kind != "table" or name is None or not name.startswith("events_")


def report(ctx: MigrationContext, step: MigrationInfo, heads: Collection[Any], run_args: Mapping[str, Any]) -> None:
    """One line on stderr for each migration applied."""
    verb = "migrated to" if step.is_upgrade else "went back from"
    title = step.up_revision.doc if isinstance(step.up_revision, Script) else ""
    print(f"{verb} {step.up_revision_id}: {title}", file=sys.stderr)


def configure(**target: Any) -> None:
    """The options that online, offline and comparing runs share."""
    context.configure(
        target_metadata=metadata,
        include_name=include_name,
        compare_type=True,
        compare_server_default=True,
        autogenerate_plugins=["alembic.autogenerate.*", "alembic.ext.checkconstraint_byname"],
        on_version_apply=report,
        **target,
    )


def run() -> None:
    """The pending migrations, in one transaction."""
    with context.begin_transaction():
        for statement in (_WAIT_FOR_OTHER_PROCESS, _ONE_PROCESS, _WAIT_FOR_TABLE):
            context.execute(statement)
        context.run_migrations()


def run_on(connection: Connection) -> None:
    """The pending migrations, on this connection."""
    configure(connection=connection)
    run()


async def run_online() -> None:
    """Connect to the database of the environment, or of the settings that the caller passed, and migrate it."""
    settings = context.config.attributes.get("settings") or load_or_exit(DatabaseSettings)
    database = engine(settings, name="plutus-migrate", command_timeout=_COMMAND_TIMEOUT)
    try:
        async with database.connect() as connection:
            await connection.run_sync(run_on)
    finally:
        await database.dispose()


if context.is_offline_mode():
    # "named": with the default style every % of a function body would come out doubled.
    configure(dialect_name="postgresql", literal_binds=True, dialect_opts={"paramstyle": "named"})
    run()
else:
    asyncio.run(run_online())
