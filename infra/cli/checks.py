"""What `plutus doctor` looks at. Each check is a finding: how it stands, and what to do where it does not stand well.

The checks of one service stand together, so that a service that is away costs one line. What is judged from values alone
is judged by functions of values.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from infra.cli.output import UNREACHABLE, Failure, plural
from infra.runtime.sql import statements

if TYPE_CHECKING:
    import asyncpg

    from infra.cli.cluster import Group
    from infra.runtime.settings import RuntimeSettings

_SQL: Final = statements("infra.cli", "doctor.sql")
OLDEST_POSTGRES: Final = 13
_SKEW_SECONDS: Final = 2.0
_OUTBOX_SECONDS: Final = 300
_DAYS_LEFT: Final = 3
_CONNECTIONS_SHARE: Final = 0.8

# What the roles of migrations/roles.sql need, as (table, privilege); a column grant is enough.
NEEDS: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "gateway": (
        ("event_keys", "SELECT"),
        ("event_keys", "INSERT"),
        ("events", "SELECT"),
        ("failures", "SELECT"),
    ),
    "worker": (
        ("event_keys", "INSERT"),
        ("event_keys", "UPDATE"),
        ("events", "INSERT"),
        ("events", "UPDATE"),
        ("failures", "INSERT"),
        ("failures", "UPDATE"),
        ("partition_claims", "INSERT"),
        ("partition_claims", "UPDATE"),
        ("parked_keys", "DELETE"),
        ("parked_events", "DELETE"),
        ("emitted_events", "DELETE"),
    ),
    "operator": (
        ("events", "SELECT"),
        ("failures", "UPDATE"),
        ("partition_claims", "SELECT"),
        ("replay_jobs", "INSERT"),
        ("alembic_version", "SELECT"),
    ),
}


class State(StrEnum):
    """How a check stands. UNREACHABLE: what it asks did not answer."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    UNREACHABLE = "unreachable"


@dataclass(frozen=True)
class Finding:
    """One line of the doctor. fix: the next command, or what to change; "" where nothing is to be done."""

    check: str
    state: State
    what: str
    fix: str = ""


def away(check: str, failure: Failure) -> Finding:
    """A check that could not be made."""
    why = f" ({failure.cause})" if failure.cause else ""
    state = State.UNREACHABLE if failure.code == UNREACHABLE else State.FAILED
    return Finding(check, state, f"{failure.what.rstrip('.')}{why}", failure.advice.removesuffix("; plutus doctor"))


def of_settings(of: str, mistakes: str, count: int) -> list[Finding]:
    """The settings of one process."""
    if not mistakes:
        return [Finding("settings", State.OK, f"{of}: {plural(count, 'setting')}, all valid")]
    return [
        Finding("settings", State.FAILED, f"{of}: {line}", f"plutus config show {line.partition(':')[0]}")
        for line in mistakes.splitlines()
    ]


def of_brokers(brokers: Sequence[str], replication: int) -> list[Finding]:
    """Are there enough of them for the replicas that are asked for; would a power cut be survived."""
    found = [Finding("kafka", State.OK, f"{plural(len(brokers), 'broker')}: {', '.join(brokers)}")]
    if len(brokers) < replication:
        found.append(
            Finding(
                "kafka",
                State.FAILED,
                f"{len(brokers)} brokers cannot hold KAFKA_REPLICATION_FACTOR={replication} replicas",
                "start more brokers, or lower KAFKA_REPLICATION_FACTOR",
            )
        )
    elif replication < 3:
        found.append(
            Finding(
                "durability",
                State.WARNING,
                f"{plural(replication, 'replica')}: a killed broker loses nothing, a power cut may",
                "three brokers and KAFKA_REPLICATION_FACTOR=3, where that matters",
            )
        )
    return found


def of_topics(differences: Sequence[str], names: Sequence[str]) -> list[Finding]:
    """The two topics, against what they should be."""
    if not differences:
        return [Finding("topics", State.OK, f"{' and '.join(names)} are as they should be")]
    return [Finding("topics", State.FAILED, each.partition(": run")[0], _topic_fix(each)) for each in differences]


def _topic_fix(difference: str) -> str:
    name = difference.removeprefix("topic ").partition(" ")[0].rstrip(":")
    if "does not exist" in difference:
        return "plutus topics create"
    if " partitions, " in difference:
        wanted = difference.rpartition(", ")[2].partition(" ")[0]
        return f"plutus kafka topics --alter --topic {name} --partitions {wanted} (order is not kept across the change)"
    setting, _, rest = difference.partition(": ")[2].partition(" is ")
    wanted = rest.rpartition(", ")[2].removesuffix(" wanted")
    return f"plutus kafka configs --alter --entity-type topics --entity-name {name} --add-config {setting}={wanted}"


def of_group(group: Group, partitions: int, lags: Mapping[int, int]) -> list[Finding]:
    """Is there a worker for every partition, and none without one; does the backlog stand still."""
    behind = sum(lags.values())
    count = len(group.members)
    unowned = partitions - len(group.owners)
    if not count:
        state = State.FAILED if behind else State.WARNING
        return [
            Finding(
                "workers",
                state,
                f"none in group {group.name}; {plural(behind, 'record')} to be processed",
                "python -m stream_worker, or plutus up",
            )
        ]
    found = [
        Finding(
            "workers",
            State.OK,
            f"{count} for {plural(partitions, 'partition')}, {plural(behind, 'record')} to be processed",
        )
    ]
    if group.state != "Stable":
        found.append(Finding("workers", State.WARNING, f"the group is {group.state}", "look again in a moment"))
    elif unowned:
        found.append(
            Finding(
                "workers", State.FAILED, f"{unowned} partitions have no owner", "plutus groups lag; the workers' logs"
            )
        )
    if count > partitions:
        idle = count - partitions
        found.append(
            Finding(
                "workers",
                State.WARNING,
                f"{count} workers for {partitions} partitions: {idle} have nothing to do",
                "fewer workers, or more partitions (plutus kafka topics --alter)",
            )
        )
    return found


def of_schema(here: str | None, head: str, known: Sequence[str]) -> Finding:
    """The database's migration against this release's."""
    if here == head:
        return Finding("schema", State.OK, f"at {head}, this release's")
    if here is None:
        return Finding("schema", State.FAILED, "no migration has run", "plutus migrate")
    if here in known:
        return Finding("schema", State.FAILED, f"at {here}, this release needs {head}", "plutus migrate")
    return Finding(
        "schema",
        State.FAILED,
        f"at {here}, which this release does not know: it is a newer one's",
        "use the release that migrated it",
    )


def of_grants(role: str, held: Mapping[tuple[str, str], bool]) -> list[Finding]:
    """What this role may be used for."""
    able = [name for name, needs in NEEDS.items() if all(held[need] for need in needs)]
    if able:
        return [Finding("grants", State.OK, f"role {role} may work as {', '.join(able)}")]
    missing = [
        f"{name}: no {privilege} on {table}"
        for name, needs in NEEDS.items()
        for table, privilege in needs
        if not held[table, privilege]
    ]
    return [
        Finding(
            "grants",
            State.FAILED,
            f"role {role} may work as none of {', '.join(NEEDS)} ({missing[0]})",
            'psql "$DATABASE_URL" -f migrations/roles.sql, and put the login into one of its roles',
        )
    ]


def of_clock(ours: float, before: float, after: float) -> Finding:
    """This machine's clock against Postgres's.

    Args:
        ours: seconds by which Postgres's clock is ahead of the middle of the question. before, after: of the question.
    """
    unsure = (after - before) / 2
    if abs(ours) <= _SKEW_SECONDS + unsure:
        return Finding("clock", State.OK, f"within {abs(ours) + unsure:.1f} s of Postgres's")
    return Finding(
        "clock",
        State.WARNING,
        f"Postgres's clock is {abs(ours):,.1f} s {'ahead of' if ours > 0 else 'behind'} this machine's",
        "run NTP on both; Plutus itself compares no two clocks, but people and metrics do",
    )


async def of_database(db: asyncpg.Connection) -> AsyncIterator[Finding]:
    """Everything that Postgres is asked."""
    [(version, role, used, most)] = await db.fetch(_SQL["server"])
    if version < OLDEST_POSTGRES:
        yield Finding("postgres", State.FAILED, f"version {version}", f"use {OLDEST_POSTGRES} or newer")
    else:
        yield Finding("postgres", State.OK, f"version {version}, role {role}")
    if used > most * _CONNECTIONS_SHARE:
        yield Finding("postgres", State.WARNING, f"{used} of {most} connections are in use", "raise max_connections")
    before = time.time()
    theirs = await db.fetchval(_SQL["clock"])
    after = time.time()
    yield of_clock(theirs - (before + after) / 2, before, after)
    schema = await _schema(db)
    yield schema
    if schema.state is not State.OK:
        return
    held = {need: await db.fetchval(_SQL["may"], f"public.{need[0]}", need[1]) for need in _all_needs()}
    for finding in of_grants(role, held):
        yield finding
    if all(held[need] for need in NEEDS["operator"]):
        async for finding in _tables(db):
            yield finding


def _all_needs() -> set[tuple[str, str]]:
    return {need for needs in NEEDS.values() for need in needs}


async def _schema(db: asyncpg.Connection) -> Finding:
    from infra.cli.migrate import revisions

    head, known = revisions()
    if not await db.fetchval(_SQL["has_migrations"]):
        return of_schema(None, head, [])
    if not await db.fetchval(_SQL["may"], "public.alembic_version", "SELECT"):
        return Finding("schema", State.OK, "there; this role may not read which")
    return of_schema(await db.fetchval(_SQL["migration"]), head, known)


async def _tables(db: asyncpg.Connection) -> AsyncIterator[Finding]:
    """What should not be: days without a partition, rows astray, dead letters that stay behind."""
    missing = await db.fetchval(_SQL["days_without_partition"], _DAYS_LEFT)
    astray = await db.fetchval(_SQL["rows_astray"])
    if missing or astray:
        what = f"{plural(missing, 'day')} of the next {_DAYS_LEFT + 1} without a partition, {astray:,} rows astray"
        yield Finding("partitions", State.FAILED if astray else State.WARNING, what, "plutus migrate")
    else:
        yield Finding("partitions", State.OK, f"of events: made for the next {_DAYS_LEFT} days at least")
    [(stuck, open_)] = await db.fetch(_SQL["open_failures"], _OUTBOX_SECONDS)
    if stuck:
        yield Finding(
            "dead letters",
            State.FAILED,
            f"{plural(stuck, 'dead letter')} could not be sent for {_OUTBOX_SECONDS // 60} minutes and more",
            "plutus topics check; the workers' logs (action=partition_held)",
        )
    if open_:
        yield Finding("dead letters", State.WARNING, f"{plural(open_, 'failure')} open", "plutus failures list")
    if not stuck and not open_:
        yield Finding("dead letters", State.OK, "no failure is open")


async def of_kafka(settings: RuntimeSettings) -> AsyncIterator[Finding]:
    """Everything that the brokers are asked."""
    from infra.cli.cluster import lag, open_cluster
    from infra.cli.connect import reaching_kafka
    from infra.cli.reader import open_reader
    from infra.runtime import topics

    async with open_cluster(settings) as cluster:
        for finding in of_brokers(await cluster.brokers(), settings.kafka_replication_factor):
            yield finding
        with reaching_kafka(settings):
            differences = await topics.differences(settings)
        for finding in of_topics(differences, (settings.kafka_topic, settings.kafka_dlq_topic)):
            yield finding
        if any(each.startswith(f"topic {settings.kafka_topic} does not exist") for each in differences):
            return
        group = await cluster.group(settings.kafka_group, settings.kafka_topic)
        committed = await cluster.committed(settings.kafka_group, settings.kafka_topic)
        async with open_reader(settings, settings.kafka_topic) as reader:
            ends = await reader.ends()
            lags = lag(await reader.beginnings(), ends, committed)
        for finding in of_group(group, len(ends), lags):
            yield finding


async def of_gateway(url: str) -> Finding:
    """Would an event sent now be accepted."""
    from infra.cli import http

    answer = await http.request("GET", f"{url}/readyz")
    if answer.status == 200:
        return Finding("gateway", State.OK, f"{url} is ready")
    failed = [check["name"] for check in answer.members.get("checks", []) if not check.get("ok")]
    return Finding(
        "gateway",
        State.FAILED,
        f"{url} is not ready ({', '.join(failed) or answer.status})",
        "mend what these name, see above; the gateway's log",
    )
