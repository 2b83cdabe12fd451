"""`plutus groups lag`: how far the workers are behind, partition by partition, in records and in seconds.

Committed and end are Kafka's; the age is that of the oldest record not yet processed, from the broker's append time to
Postgres's now. Without Postgres the ages are missing and the exit code is 3.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from infra.cli.output import (
    DONE,
    NOTHING_MATCHED,
    PARTLY,
    AsJson,
    Failure,
    plural,
    run,
    say,
    show_json,
    show_table,
    tell,
)

if TYPE_CHECKING:
    from infra.cli.cluster import Group
    from infra.cli.reader import Reader
    from infra.runtime.settings import RuntimeSettings

_COLUMNS = ("partition", "committed", "end", "lag", "oldest", "owner")


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    group = typer.Typer(no_args_is_help=True, help="The workers' consumer group.")
    app.add_typer(group, name="groups")

    @group.callback()
    def groups() -> None:
        """A group with one command would otherwise become that command."""

    @group.command("lag", epilog="Example: plutus groups lag --behind")
    def lag(
        behind: Annotated[bool, typer.Option("--behind", help="Only partitions with a lag.")] = False,
        as_json: AsJson = False,
    ) -> None:
        """Of each partition: committed and end offset, lag, age of the oldest unprocessed record, and its owner.

        Exit code 3: Postgres did not answer, and the ages are missing. 4: no such partition.
        """
        run(lambda: _lag(behind, as_json))


@dataclass(frozen=True)
class Behind:
    """One partition. committed: None where nothing was. oldest_seconds: None where nothing waits, or it is not known."""

    partition: int
    committed: int | None
    end: int
    lag: int
    oldest_seconds: float | None
    owner: str | None


async def _lag(behind: bool, as_json: bool) -> int:
    from infra.cli.cluster import open_cluster
    from infra.cli.connect import operator_settings
    from infra.cli.reader import open_reader

    settings = operator_settings(kafka=True, postgres=True)
    async with open_cluster(settings) as cluster, open_reader(settings, settings.kafka_topic) as reader:
        group = await cluster.group(settings.kafka_group, settings.kafka_topic)
        committed = await cluster.committed(settings.kafka_group, settings.kafka_topic)
        rows, whole = await _partitions(settings, reader, group, committed)
    shown = [row for row in rows if row.lag or not behind]
    if as_json:
        for row in shown:
            show_json({"group": group.name, "topic": settings.kafka_topic, **asdict(row)})
    elif shown:
        show_table(_COLUMNS, [_line(row) for row in shown])
    say(_summary(group, rows))
    if not whole:
        return PARTLY
    return DONE if shown else NOTHING_MATCHED


async def _partitions(
    settings: RuntimeSettings, reader: Reader, group: Group, committed: dict[int, int]
) -> tuple[list[Behind], bool]:
    """The partitions, and whether all of it is known."""
    from infra.cli.cluster import lag

    begins, ends = await reader.beginnings(), await reader.ends()
    lags = lag(begins, ends, committed)
    starts = {p: max(committed.get(p, 0), begins.get(p, 0)) for p in ends}
    appended = await _first_times(reader, {p: starts[p] for p, count in lags.items() if count}, ends)
    now = await _now(settings) if appended else None
    owners = group.owners
    rows = []
    for p in sorted(ends):
        age = None if now is None or p not in appended else max(0.0, (now - appended[p]).total_seconds())
        owner = owners[p].name if p in owners else None
        rows.append(Behind(p, committed.get(p), ends[p], lags[p], age, owner))
    return rows, not appended or now is not None


async def _first_times(reader: Reader, starts: dict[int, int], ends: dict[int, int]) -> dict[int, datetime]:
    """When the record at each start was appended; read no further than that."""
    found: dict[int, datetime] = {}
    # A transaction's marker takes an offset and is no record: a few more are looked at.
    upto = {p: min(start + _LOOK, ends[p]) for p, start in starts.items()}
    async for records in reader.read(starts, upto):
        for record in records:
            moment = datetime.fromtimestamp(max(record.timestamp, 0) / 1000, UTC)
            found.setdefault(record.partition, moment)
    return found


_LOOK = 10


async def _now(settings: RuntimeSettings) -> datetime | None:
    from infra.cli import queries
    from infra.cli.connect import database

    try:
        async with database(settings) as db:
            return await queries.now(db)
    except Failure as failure:
        tell(failure)
        return None


def _line(row: Behind) -> list[object]:
    age = None if row.oldest_seconds is None else f"{row.oldest_seconds:,.1f} s"
    return [row.partition, row.committed, row.end, row.lag, age, row.owner]


def _summary(group: Group, rows: list[Behind]) -> str:
    total = sum(row.lag for row in rows)
    ages = [row.oldest_seconds for row in rows if row.oldest_seconds is not None]
    oldest = f", the oldest for {max(ages):,.1f} s" if ages else ""
    workers = plural(len(group.members), "worker")
    return f"{plural(total, 'record')} to be processed{oldest}; {workers} in group {group.name} ({group.state})"
