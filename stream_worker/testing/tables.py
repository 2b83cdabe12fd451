"""What a handler has left in the database, in a form that two runs can be compared in.

Rows are compared as sets, without what differs at every run: columns whose default is the clock or chance, and those that
are to be ignored. Numbers from sequences have gaps after every rollback, so they are compared by their rank, and so are
the columns that refer to them.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import asyncpg

from infra.runtime.sql import statements

_SQL = statements("stream_worker.testing")
_OURS: Final = (
    "alembic_version",
    "emitted_events",
    "event_keys",
    "events",
    "failures",
    "parked_events",
    "parked_keys",
    "partition_claims",
)
_SHOWN: Final = 3

Tables = Mapping[str, Counter[str]]
"""Rows of each table as JSON, and how often each is there."""


@dataclass(frozen=True, slots=True)
class _Column:
    """counted: its values come from a sequence. target: table and column that it refers to."""

    name: str
    counted: bool
    ignored: bool
    target: tuple[str, str]


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads every table of the user's, what was emitted, and how the events ended."""

    columns: Mapping[str, Sequence[_Column]]

    async def read(self, db: asyncpg.Connection) -> Tables:
        """The tables as they are."""
        rows: dict[str, list[dict[str, Any]]] = {}
        for table in self.columns:
            found = await db.fetch(f"SELECT to_jsonb(row)::text FROM {table} AS row")  # noqa: S608 - quoted by the server
            rows[table] = [json.loads(row[0], parse_float=Decimal) for row in found]
        ranks = {
            (table, column.name): _ranks(rows[table], column.name)
            for table, columns in self.columns.items()
            for column in columns
            if column.counted
        }
        tables = {
            table: Counter(_plain(row, table, columns, ranks) for row in rows[table])
            for table, columns in self.columns.items()
        }
        tables["(events)"] = Counter(row[0] for row in await db.fetch(_SQL["outcomes"]))
        tables["(emitted events)"] = Counter(row[0] for row in await db.fetch(_SQL["emitted"]))
        return tables


async def reader(db: asyncpg.Connection, ignore: Collection[str] = ()) -> Reader:
    """A reader of the tables that this database has now.

    Args:
        ignore: tables (`audit`) and columns (`audit.at`) that may differ; those outside `public` with their schema.

    Raises:
        ValueError: one of these is not there.
    """
    columns: dict[str, list[_Column]] = defaultdict(list)
    unknown = set(ignore)
    for row in await db.fetch(_SQL["user_columns"], _OURS):
        table = row["name"] if row["schema"] == "public" else f"{row['schema']}.{row['name']}"
        unknown -= {table, f"{table}.{row['column']}"}
        ignored = row["volatile"] or f"{table}.{row['column']}" in ignore
        if table not in ignore:
            target = (row["target"], row["target_column"])
            columns[row["quoted"]].append(_Column(row["column"], row["counted"], ignored, target))
    if unknown:
        raise ValueError(f"To be ignored, but not in the database: {', '.join(sorted(unknown))}.")
    return Reader(columns)


def _ranks(rows: list[dict[str, Any]], column: str) -> dict[Any, str]:
    values = sorted({row[column] for row in rows if row[column] is not None})
    return {value: f"#{rank}" for rank, value in enumerate(values, 1)}


def _plain(
    row: dict[str, Any], table: str, columns: Sequence[_Column], ranks: Mapping[tuple[str, str], Mapping[Any, str]]
) -> str:
    kept = {}
    for column in columns:
        if not column.ignored:
            value = row[column.name]
            by = ranks.get((table, column.name)) or ranks.get(column.target) or {}
            kept[column.name] = by.get(value, value) if by else value
    return json.dumps(kept, default=str, sort_keys=True, ensure_ascii=False)


def differences(expected: Tables, actual: Tables) -> Iterator[str]:
    """A line for each table that differs, with the first rows that are missing or too many."""
    for table in sorted(expected.keys() | actual.keys()):
        wanted, found = expected.get(table, Counter()), actual.get(table, Counter())
        told = [*_told("missing", wanted - found), *_told("too many", found - wanted)]
        if told:
            yield f"{table}: {'; '.join(told)}"


def _told(what: str, rows: Counter[str]) -> Iterator[str]:
    if rows:
        shown = ", ".join(list(rows.elements())[:_SHOWN])
        more = " ..." if rows.total() > _SHOWN else ""
        yield f"{rows.total()} {what}: {shown}{more}"
