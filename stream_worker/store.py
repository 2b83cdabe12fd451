"""The worker's side of Postgres: one method per statement of queries.sql, on a connection that the caller holds.

Nothing here decides anything: rows in, rows out. Ids are passed sorted, so that locks are taken in one order everywhere.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any, Final, NamedTuple
from uuid import UUID as PythonUUID

import asyncpg
import orjson
from asyncpg.pgproto.pgproto import UUID  # made from 16 bytes in C; the standard library's costs a microsecond

from infra.runtime.postgres import copy_rows
from infra.runtime.sql import bytea_array, integer_array, statements, uuid_array
from schemas.errors import Reason
from schemas.headers import RecordHeaders
from stream_worker import event_rows
from stream_worker.decide import KeyRow
from stream_worker.event_rows import EventRows, Status
from stream_worker.outcomes import Dead
from stream_worker.records import Item, milliseconds

SQL = statements("stream_worker")


@dataclass(frozen=True, slots=True)
class Claim:
    """Ownership of one partition by one epoch of one group."""

    group: str
    topic: str
    partition: int
    epoch: int


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A failures row whose dead letter is still to be sent."""

    failure_id: PythonUUID
    key: bytes | None
    value: bytes | None
    headers: RecordHeaders
    about: dict[str, str | int | None]


async def read_keys(db: asyncpg.Connection, ids: Collection[bytes]) -> dict[bytes, KeyRow]:
    """The rows of these ids."""
    keys, _ = await read_known(db, ids)
    return keys


async def read_known(
    db: asyncpg.Connection,
    ids: Collection[bytes],
    topic: str | None = None,
    partition: int | None = None,
    first: int | None = None,
    last: int | None = None,
) -> tuple[dict[bytes, KeyRow], frozenset[tuple[int, int]]]:
    """The rows of these ids, and (offset, append ms) of the records from `first` to `last` that have a failures row."""
    rows = await db.fetch(SQL["read_known"], uuid_array(sorted(ids)), topic, partition, first, last)
    keys = {row[0].bytes: KeyRow(row[1], row[2]) for row in rows if row[0] is not None}
    if len(keys) == len(rows):
        return keys, frozenset()
    return keys, frozenset((row[3], milliseconds(row[4])) for row in rows if row[0] is None)


async def dead_letter_times(db: asyncpg.Connection, ids: Collection[bytes]) -> dict[bytes, int]:
    """Append time (ms) of the last dead letter of each failed event, where all are acknowledged."""
    rows = await db.fetch(SQL["dead_letter_times"], _uuids(ids))
    return {row["event_id"].bytes: milliseconds(row["dlq_at"]) for row in rows if row["dlq_at"] is not None}


async def times_seen(db: asyncpg.Connection, what: Collection[tuple[str, bytes]]) -> dict[tuple[str, bytes], int]:
    """How many failures rows there are for each (reason, content hash)."""
    rows = await db.fetch(SQL["times_seen"], [reason for reason, _ in what], [digest for _, digest in what])
    return {(row["reason"], row["content_hash"]): row["times"] for row in rows}


async def remember_keys(db: asyncpg.Connection, items: Collection[Item]) -> None:
    """Rows for the events of these items, all of one partition, each naming the record it came in, where none exist yet."""
    ordered = sorted(items, key=by_id)
    await db.execute(
        SQL["remember_keys"],
        uuid_array([item.id for item in ordered]),
        bytea_array([_fingerprint(item) for item in ordered]),
        ordered[0].partition,
        integer_array([item.offset for item in ordered]),
    )


@dataclass(frozen=True, slots=True)
class Taken:
    """What taking a partition brings.

    next_offset: what Postgres knows, None where nobody owned it before. died: the owner before did not let go.
    suspect, deaths: the offset that owners died on while it ran alone, and how many of them.
    """

    claim: Claim
    next_offset: int | None
    died: bool
    suspect: int | None
    deaths: int


async def take_claim(db: asyncpg.Connection, group: str, topic: str, partition: int) -> Taken:
    """Own a partition."""
    async with db.transaction():
        before = await db.fetchrow(SQL["lock_claim"], group, topic, partition)
        died = before is not None and not before["released"]
        marked = before is not None and died and before["marked"]
        row = await db.fetchrow(SQL["take_claim"], group, topic, partition, marked)
    assert row is not None  # noqa: S101
    claim = Claim(group, topic, partition, row["epoch"])
    return Taken(claim, row["next_offset"], died, row["marker_offset"] if row["deaths"] else None, row["deaths"])


async def release_claim(db: asyncpg.Connection, claim: Claim) -> None:
    """Let go of a partition in an orderly way."""
    await db.execute(SQL["release_claim"], claim.group, claim.topic, claim.partition, claim.epoch)


async def mark(db: asyncpg.Connection, claim: Claim, offset: int) -> None:
    """Say, durably, which event is about to run alone."""
    await db.execute(SQL["mark"], claim.group, claim.topic, claim.partition, claim.epoch, offset)


async def unmark(db: asyncpg.Connection, claim: Claim) -> None:
    """It has run, or waits."""
    await db.execute(SQL["unmark"], claim.group, claim.topic, claim.partition, claim.epoch)


class Opened(NamedTuple):
    """now: the transaction's time. parked: some ordering key waits, of any partition."""

    now: datetime
    parked: bool


async def open_claim(db: asyncpg.Connection, claim: Claim) -> Opened | None:
    """Lock the claim and open the batch; None: fenced."""
    row = await db.fetchrow(SQL["open_claim"], claim.group, claim.topic, claim.partition, claim.epoch)
    return None if row is None else Opened(*row)


async def close_claim(db: asyncpg.Connection, claim: Claim, next_offset: int) -> bool:
    """Close the batch; False: this is not the transaction that opened it."""
    found = await db.fetchval(SQL["close_claim"], claim.group, claim.topic, claim.partition, claim.epoch, next_offset)
    return found is not None


async def claim_keys(
    db: asyncpg.Connection, items: Collection[Item], known: Mapping[bytes, KeyRow], now: datetime
) -> dict[bytes, datetime]:
    """Take the ids of these items, all of one partition, to run them now; returns accepted_at of those that came back.

    Args:
        now: the transaction's time, which is accepted_at of the rows made here.
    """
    ordered = sorted(items, key=by_id)
    stored = fingerprints_to_match(ordered, known)
    answer = await db.fetchrow(
        SQL["claim_keys"],
        uuid_array([item.id for item in ordered]),
        bytea_array(stored),
        ordered[0].partition,
        integer_array([item.offset for item in ordered]),
    )
    assert answer is not None  # noqa: S101
    count, fresh, older, since = answer
    claimed = dict.fromkeys([item.id for item in ordered] if count == len(ordered) else _ids(fresh), now)
    claimed.update(zip(_ids(older), since or (), strict=True))
    return claimed


async def insert_keys(db: asyncpg.Connection, items: Sequence[Item]) -> None:
    """Take the ids of these items, all of one partition, of which none should have a row: by COPY, which costs the server less
    than half of what `claim_keys` does.

    Raises:
        asyncpg.UniqueViolationError: one has a row, and the transaction, or its savepoint, is lost.
    """
    await copy_rows(db, "event_keys", event_rows.KEY_COLUMNS, event_rows.key_rows(items))


async def claim_replays(db: asyncpg.Connection, ids: Collection[bytes], limit: int) -> dict[bytes, datetime]:
    """Take these failed events to run them again, those that ran fewer than `limit` times; returns their accepted_at."""
    rows = await db.fetch(SQL["claim_replays"], _uuids(ids), limit)
    return {row["event_id"].bytes: row["accepted_at"] for row in rows}


async def release(db: asyncpg.Connection, keys: Collection[bytes], replays: Collection[bytes]) -> None:
    """Give back what was claimed in this transaction and not run."""
    if keys:
        await db.execute(SQL["release_keys"], _uuids(keys))
    if replays:
        await db.execute(SQL["release_replays"], _uuids(replays))


async def fail_keys(db: asyncpg.Connection, ids: Collection[bytes]) -> None:
    """These ran and are dead."""
    await db.execute(SQL["fail_keys"], _uuids(ids))


async def close_failures(db: asyncpg.Connection, ids: Collection[bytes]) -> None:
    """The open failures of these replayed events are settled."""
    await db.execute(SQL["close_failures"], _uuids(ids))


async def copy_events(db: asyncpg.Connection, rows: EventRows) -> None:
    """Write new events rows with COPY; `event_keys` has already decided that they are new."""
    await copy_rows(db, "events", event_rows.COLUMNS, rows.encoded())


async def update_event(
    db: asyncpg.Connection,
    item: Item,
    accepted_at: datetime,
    *,
    status: Status,
    handled_by: str | None,
    attempts: int,
) -> None:
    """The new status of an event that has a row already; `attempts` runs are added."""
    await db.execute(SQL["update_event"], accepted_at, UUID(item.id), status, handled_by, attempts)


@dataclass(frozen=True, slots=True)
class ParkedRecord:
    """The record of a parked event, as the consumer would hand it over, and what its queue knows of it."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: RecordHeaders
    received_at: datetime
    attempts: int


async def lock_parked_keys(db: asyncpg.Connection, order_keys: Collection[str]) -> set[str]:
    """Which of these ordering keys are parked; until the transaction ends nobody drains or leaves them."""
    return {row[0] for row in await db.fetch(SQL["lock_parked_keys"], sorted(order_keys))}


async def park_key(db: asyncpg.Connection, order_key: str, item: Item, attempts: int, delay: float) -> None:
    """An ordering key begins to wait for `delay` seconds."""
    await db.execute(SQL["park_key"], order_key, item.topic, item.partition, attempts, timedelta(seconds=delay))


async def park_events(db: asyncpg.Connection, rows: Sequence[tuple[object, ...]]) -> None:
    """Queue events behind their keys; see `parked_row`."""
    await db.executemany(SQL["park_event"], rows)
    await db.execute(SQL["park_keys_of_events"], sorted(row[1] for row in rows))  # type: ignore[type-var]


def parked_row(order_key: str, item: Item, accepted_at: datetime, attempts: int) -> tuple[object, ...]:
    """One row of `parked_events`."""
    return (
        order_key,
        UUID(item.id),
        item.topic,
        item.partition,
        item.offset,
        item.appended_at,
        accepted_at,
        attempts,
        item.key,
        item.value,
        encode_headers(item.headers),
    )


async def due_keys(db: asyncpg.Connection, topic: str, partition: int, most: int) -> list[tuple[str, float]]:
    """Parked keys of a partition and the seconds until each is due (negative: overdue), the most overdue first."""
    return [(row[0], row[1]) for row in await db.fetch(SQL["due_keys"], topic, partition, most)]


async def lock_parked_key(db: asyncpg.Connection, claim: Claim, order_key: str) -> tuple[int, float] | None:
    """How often the head of this key was tried, and for how many seconds it has waited; None: not parked here."""
    row = await db.fetchrow(SQL["lock_parked_key"], order_key, claim.topic, claim.partition)
    return (row[0], row[1]) if row else None


async def parked_queue(db: asyncpg.Connection, order_key: str, most: int) -> list[ParkedRecord]:
    """The first `most` events of a parked key."""
    return [
        ParkedRecord(
            row["topic"],
            row["partition"],
            row["offset"],
            milliseconds(row["appended_at"]),
            row["key"],
            row["value"],
            decode_headers(row["headers"]),
            row["received_at"],
            row["attempts"],
        )
        for row in await db.fetch(SQL["parked_queue"], order_key, most)
    ]


async def unpark_events(db: asyncpg.Connection, ids: Collection[bytes]) -> None:
    """They have taken effect, or are dead: `fail_keys` says which of them died."""
    uuids = _uuids(ids)
    await db.execute(SQL["unpark_events"], uuids)
    await db.execute(SQL["unpark_keys_of_events"], uuids)


async def put_off_key(db: asyncpg.Connection, order_key: str, attempts: int, delay: float, *, new_head: bool) -> None:
    """The head of a key waits for `delay` seconds more; `new_head`: it is another one, whose age begins now."""
    await db.execute(SQL["put_off_key"], order_key, attempts, timedelta(seconds=delay), new_head)


async def unpark_key(db: asyncpg.Connection, order_key: str) -> None:
    """Nothing waits for this key any more."""
    await db.execute(SQL["unpark_key"], order_key)


def failure_row(item: Item, dead: Dead, *, attempts: int, quiet: bool) -> tuple[object, ...]:
    """One row of `failures`; `quiet`: over the replay limit, recorded but not dead-lettered once more."""
    event = item.event
    return (
        UUID(item.id) if event else None,
        event.source if event else None,
        Reason.REPLAY_LIMIT.value if quiet else dead.reason.value,
        dead.step,
        dead.error_class,
        item.topic,
        item.partition,
        item.offset,
        item.appended_at,
        attempts,
        "discarded" if quiet else "open",
        item.key,
        item.value,
        encode_headers(item.headers),
        item.content_hash,
    )


async def insert_failures(db: asyncpg.Connection, rows: Sequence[tuple[object, ...]]) -> None:
    """Record what cannot be processed."""
    await db.executemany(SQL["insert_failure"], rows)


async def unsent_dead_letters(db: asyncpg.Connection, topic: str, partition: int, most: int) -> list[DeadLetter]:
    """The outbox of a partition, oldest first, at most `most`."""
    rows = await db.fetch(SQL["unsent_dead_letters"], topic, partition, most)
    return [
        DeadLetter(
            row["failure_id"],
            row["key"],
            row["value"],
            decode_headers(row["headers"]),
            {
                "failure-id": str(row["failure_id"]),
                "reason": row["reason"],
                "step": row["step"],
                "error-class": row["error_class"],
                "topic": row["topic"],
                "partition": row["partition"],
                "offset": row["offset"],
                "timestamp": milliseconds(row["appended_at"]),
                "attempts": row["attempts"],
            },
        )
        for row in rows
    ]


async def mark_dead_letter(
    db: asyncpg.Connection, failure_id: PythonUUID, partition: int, offset: int, at: datetime
) -> None:
    """The broker acknowledged the dead letter at these coordinates and this append time."""
    await db.execute(SQL["mark_dead_letter"], failure_id, partition, offset, at)


def encode_headers(headers: RecordHeaders) -> str:
    """Record headers as JSON for people: text where it is text, base64 where it is not."""
    return orjson.dumps([_encode_header(name, value) for name, value in headers]).decode()


def _encode_header(name: str, value: bytes | None) -> dict[str, Any]:
    label = name.replace("\x00", "\ufffd")  # jsonb cannot hold U+0000
    if value is None:
        return {"name": label, "null": True}
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = "\x00"
    if "\x00" in text:
        return {"name": label, "base64": base64.b64encode(value).decode()}
    return {"name": label, "text": text}


def decode_headers(stored: str) -> list[tuple[str, bytes | None]]:
    """What `encode_headers` wrote."""
    return [(each["name"], _decode_header(each)) for each in orjson.loads(stored)]


def _decode_header(stored: dict[str, Any]) -> bytes | None:
    if "base64" in stored:
        return base64.b64decode(stored["base64"])
    return stored["text"].encode() if "text" in stored else None


def fingerprints_to_match(items: Iterable[Item], known: Mapping[bytes, KeyRow]) -> list[bytes]:
    """What the row of each id must hold for the id to be taken: compared in the stored row's version (interleaving 5), so where a row
    is known, its own bytes."""
    return [row.fingerprint if (row := known.get(item.id)) else _fingerprint(item) for item in items]


by_id: Final[Callable[[Item], bytes]] = attrgetter("id")
"""The order in which ids are locked everywhere."""


def _fingerprint(item: Item) -> bytes:
    assert item.event is not None  # noqa: S101
    return item.event.fingerprint


def _ids(uuids: Iterable[Any] | None) -> list[bytes]:
    return [each.bytes for each in uuids or ()]


def _uuids(ids: Iterable[bytes]) -> list[Any]:
    """The driver's own UUIDs, sorted: every statement locks rows in one order."""
    return [UUID(each) for each in sorted(ids)]
