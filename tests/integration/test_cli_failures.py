"""`plutus events`, `plutus failures` and `plutus dlq` on what a real worker left behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from pydantic import SecretStr

from infra.cli import replay
from infra.cli.connect import database as database_of
from infra.cli.reader import open_reader
from infra.runtime.producer import Record
from infra.runtime.settings import RuntimeSettings
from schemas.headers import DEAD_LETTER_PREFIX
from schemas.ids import event_id
from tests.cli_kit import environment, plutus
from tests.harness import (
    Service,
    connected,
    consume,
    envelope,
    eventually,
    is_drained,
    produce,
    worker_process,
)
from tests.stack import Stack, Topics

SECRET = "canary-7f3a"
HANDLERS = "tests.integration.cli_handlers"


@dataclass
class Place:
    """A worker on topics and a database of its own, and the settings by which a command finds them."""

    stack: Stack
    topics: Topics
    database: str
    worker: Service
    db: asyncpg.Connection
    env: dict[str, str]

    async def send(self, *records: Record) -> None:
        """Publish, and wait until the worker is done with it."""
        await produce(self.stack, self.topics.events, records)
        await self.drained()

    async def drained(self) -> None:
        """Wait until the worker has committed all there is."""
        await eventually(lambda: is_drained(self.stack, self.topics, self.worker.group))

    async def failures(self, status: str = "open") -> list[dict[str, Any]]:
        """The failures rows of that status."""
        found = await self.db.fetch("SELECT * FROM failures WHERE status = $1 ORDER BY first_at", status)
        return [dict(row) for row in found]


@pytest.fixture
async def place(stack: Stack, database: str, topics: Topics, tmp_path: Path) -> AsyncIterator[Place]:
    env = environment(stack, database, topics)
    async with (
        worker_process(
            stack, database, topics, tmp_path, WORKER_HANDLERS=HANDLERS, KAFKA_GROUP=env["KAFKA_GROUP"]
        ) as worker,
        connected(database) as db,
    ):
        yield Place(stack, topics, database, worker, db, env)


def good(key: str, **members: Any) -> Record:
    """A record that is stored, with a number that no double can hold."""
    value = envelope("shop", key, {"n": 0.5, "secret": SECRET}, **members)
    return Record(b"shop", value.replace(b"0.5", b"12345678901234567890.10"))


def poison(text: str = f"not JSON {SECRET}", key: bytes | None = b"shop") -> Record:
    """A record that no parser reads, with headers of its own."""
    return Record(key, text.encode(), [("trace", SECRET.encode()), ("empty", None)])


def unlucky(key: str) -> Record:
    """An event whose handler refuses it until it is told to let go."""
    return Record(b"shop", envelope("shop", key, {"secret": SECRET}, type="unlucky"))


async def test_an_event_is_shown(place: Place) -> None:
    await place.send(good("k1", occurred_at="2026-01-01T00:00:00Z"), good("k1"))
    shown = str(event_id("shop", "k1"))

    text = await plutus("events", "show", shown, env=place.env)
    assert text.code == 0
    assert "PROCESSED" in text.out
    assert SECRET not in text.out + text.err

    ran = await plutus("events", "show", shown, "--json", env=place.env)
    (event,) = ran.rows
    assert (event["status"], event["source"], event["idempotency_key"]) == ("PROCESSED", "shop", "k1")
    assert (event["attempts"], event["handled_by"], event["failures"]) == (1, None, [])
    assert event["record"]["topic"] == place.topics.events
    assert "payload" not in event

    with_payload = await plutus("events", "show", shown, "--json", "--payload", env=place.env)
    assert f'"payload":{{"n": 12345678901234567890.10, "secret": "{SECRET}"}}' in with_payload.out


async def test_an_event_that_is_only_accepted_is_received(place: Place) -> None:
    accepted = event_id("shop", "waiting")
    await place.db.execute(
        'INSERT INTO event_keys (event_id, fingerprint, "partition", record_offset) VALUES ($1, $2, 0, 7)',
        accepted,
        b"\x01" + bytes(16),
    )
    ran = await plutus("events", "show", str(accepted), "--json", env=place.env)
    assert (ran.code, ran.rows[0]["status"], ran.rows[0]["record"]) == (0, "RECEIVED", None)
    assert ran.rows[0]["accepted_record"] == {"partition": 0, "offset": 7}


async def test_an_unknown_event_is_4(place: Place) -> None:
    ran = await plutus("events", "show", str(event_id("nobody", "nothing")), env=place.env)
    assert (ran.code, ran.out) == (4, "")
    assert "try: " in ran.err


async def test_failures_are_listed_page_by_page_without_their_bytes(place: Place) -> None:
    await place.send(*(poison(f"{SECRET} {n}") for n in range(5)), unlucky("u1"))

    first = await plutus("failures", "list", "--limit", "4", "--json", env=place.env)
    cursor = first.err.rsplit("--after ", 1)[1].strip()
    second = await plutus("failures", "list", "--limit", "4", "--json", "--after", cursor, env=place.env)
    listed = [row["failure_id"] for row in [*first.rows, *second.rows]]
    assert (len(first.rows), len(second.rows), len(set(listed))) == (4, 2, 6)
    assert set(listed) == {str(row["failure_id"]) for row in await place.failures()}
    assert SECRET not in first.out + second.out

    by_reason = await plutus("failures", "list", "--reason", "malformed_json", "--json", env=place.env)
    assert {row["reason"] for row in by_reason.rows} == {"malformed_json"}
    assert len(by_reason.rows) == 5
    by_source = await plutus("failures", "list", "--source", "shop", "--json", env=place.env)
    assert [row["event_id"] for row in by_source.rows] == [str(event_id("shop", "u1"))]
    text = await plutus("failures", "list", env=place.env)
    assert text.out.count("malformed_json") == 5
    none = await plutus("failures", "list", "--status", "replayed", env=place.env)
    assert (none.code, none.out) == (4, "")


async def test_a_failure_is_shown_with_its_bytes_only_on_request(place: Place) -> None:
    await place.send(Record(b"\xff\x00", f"\x1b[31m{SECRET}".encode(), [("trace", SECRET.encode())]))
    (row,) = await place.failures()
    failure = str(row["failure_id"])

    text = await plutus("failures", "show", failure, env=place.env)
    assert (text.code, SECRET in text.out) == (0, False)
    assert "value        16 bytes" in text.out
    shown = await plutus("failures", "show", failure, "--payload", env=place.env)
    assert f"\\x1b[31m{SECRET}" in shown.out
    assert "\x1b" not in shown.out

    (as_json,) = (await plutus("failures", "show", failure, "--json", "--payload", env=place.env)).rows
    assert as_json["key"] == {"base64": "/wA="}
    assert as_json["value"] == {"text": f"\x1b[31m{SECRET}"}
    assert as_json["headers"] == [{"name": "trace", "text": SECRET}]
    missing = await plutus("failures", "show", str(UUID(int=1)), env=place.env)
    assert missing.code == 4


async def test_a_replay_sends_the_original_record_back(place: Place) -> None:
    await place.send(poison())
    ran = await plutus("dlq", "replay", "--json", env=place.env)
    assert ran.code == 0
    assert (ran.rows[0]["read"], ran.rows[0]["replayed"]) == (1, 1)
    assert ran.rows[0]["by_reason"] == {"malformed_json": 1}
    sent, back = await consume(place.stack, place.topics.events)
    assert (back.key, back.value, back.headers) == (sent.key, sent.value, sent.headers)
    assert back.partition == sent.partition

    # It failed again: a new failure is open, the old one is settled, and the next replay sends one record, not two.
    await place.drained()
    assert (len(await place.failures("open")), len(await place.failures("replayed"))) == (1, 1)
    again = await plutus("dlq", "replay", "--json", env=place.env)
    assert again.rows[0]["replayed"] == 1
    assert again.rows[0]["skipped"]["not_open"] == 1


async def test_a_replayed_event_takes_effect_once(place: Place) -> None:
    await place.send(unlucky("u1"), unlucky("u2"), good("k1"))
    assert [row["reason"] for row in await place.failures()] == ["handler_error"] * 2
    await place.db.execute("UPDATE cli_luck SET bad = false")

    dry = await plutus("dlq", "replay", "--dry-run", "--json", env=place.env)
    assert (dry.code, dry.rows[0]["replayed"]) == (0, 2)
    assert len(await consume(place.stack, place.topics.events)) == 3

    one = await plutus("dlq", "replay", str(event_id("shop", "u1")), env=place.env)
    assert one.code == 0, one.err
    await place.drained()
    assert [row["event_id"] for row in await place.failures()] == [event_id("shop", "u2")]
    (other,) = await place.failures()
    by_failure = await plutus("dlq", "replay", str(other["failure_id"]), env=place.env)
    assert by_failure.code == 0
    await place.drained()

    nothing = await plutus("dlq", "replay", env=place.env)
    assert nothing.code == 4
    assert "skipped 2: replayed or discarded before" in nothing.err
    everything = await plutus("dlq", "replay", "--all", env=place.env)
    assert everything.code == 0
    await place.drained()
    assert await place.db.fetchval("SELECT count(*) FROM cli_effects") == 2
    assert await place.db.fetchval("SELECT count(*) FROM events WHERE status = 'PROCESSED'") == 3
    for record in await consume(place.stack, place.topics.events):
        assert not [name for name, _ in record.headers if name.startswith(DEAD_LETTER_PREFIX)]


async def test_a_replay_from_the_table_sends_the_same(place: Place) -> None:
    await place.send(poison(key=None), poison("another"), unlucky("u1"))
    ran = await plutus("dlq", "replay", "--from", "table", "--reason", "malformed_json", "--json", env=place.env)
    assert (ran.code, ran.rows[0]["replayed"]) == (0, 2)
    records = await consume(place.stack, place.topics.events)
    by_value: dict[bytes | None, list[Any]] = {}
    for record in records:
        by_value.setdefault(record.value, []).append((record.key, record.headers))
    assert sorted(len(copies) for copies in by_value.values()) == [1, 2, 2]
    assert all(copies[0] == copies[-1] for copies in by_value.values())


async def test_a_second_copy_in_the_topic_is_not_sent_twice(place: Place) -> None:
    """A worker that dies between the broker's answer and its mark sends a dead letter twice."""
    await place.send(poison())
    (letter,) = await consume(place.stack, place.topics.dlq)
    await produce(place.stack, place.topics.dlq, [Record(letter.key, letter.value, letter.headers)])
    await produce(place.stack, place.topics.dlq, [Record(b"x", b"no dead letter at all")])
    ran = await plutus("dlq", "replay", "--json", env=place.env)
    assert ran.rows[0]["replayed"] == 1
    assert ran.rows[0]["skipped"] == {
        "not_open": 0,
        "filtered": 0,
        "second_copy": 1,
        "unsettled": 0,
        "unknown": 1,
    }


async def test_a_stop_ends_after_the_batch_and_the_rest_stays_open(place: Place) -> None:
    await place.send(*(poison(f"{n}") for n in range(4)))
    settings = load_settings(place)
    stop = asyncio.Event()
    sent: list[Record] = []

    async def publish(records: Sequence[Record]) -> None:
        sent.extend(records)
        stop.set()

    async def saved() -> None:
        """Nothing to save."""

    async with database_of(settings) as db, open_reader(settings, place.topics.dlq) as reader:
        ends = await reader.ends()
        ones = in_ones(replay.from_topic(reader, await reader.beginnings(), ends))
        pace = replay.Pace(None, stop, asyncio.get_running_loop().time)
        run = replay.Run(replay.Request(), replay.Position(), replay.Tally(), publish, saved, stop, pace)
        assert not await run.through(db, ones), "not to the end"
    assert (run.tally.read, run.tally.replayed, len(sent)) == (1, 1, 1)
    assert (len(await place.failures("open")), len(await place.failures("replayed"))) == (3, 1)


async def in_ones(batches: AsyncIterator[list[replay.DeadLetter]]) -> AsyncIterator[list[replay.DeadLetter]]:
    """The same dead letters in batches of one."""
    async for batch in batches:
        for letter in batch:
            yield [letter]


def load_settings(place: Place) -> RuntimeSettings:
    """The settings of that place, for a part of a command."""
    return RuntimeSettings(
        kafka_bootstrap_servers=place.stack.bootstrap,
        database_url=SecretStr(place.database),
        kafka_topic=place.topics.events,
        kafka_dlq_topic=place.topics.dlq,
    )


async def test_an_unknown_id_is_4_and_no_broker_is_69(place: Place) -> None:
    assert (await plutus("dlq", "replay", str(UUID(int=1)), env=place.env)).code == 4
    away = await plutus("dlq", "replay", env={**place.env, "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"})
    assert away.code == 69
    assert "Kafka at 127.0.0.1:1 did not answer" in away.err
    gone = await plutus("failures", "list", env={**place.env, "DATABASE_URL": "postgresql://u:pw@127.0.0.1:1/d"})
    assert gone.code == 69
    assert "Postgres at 127.0.0.1:1 did not answer" in gone.err
    assert "pw" not in gone.err


async def test_one_half_of_a_system_is_refused(place: Place) -> None:
    half = {name: value for name, value in place.env.items() if name != "KAFKA_BOOTSTRAP_SERVERS"}
    ran = await plutus("dlq", "replay", env=half)
    assert ran.code == 2
    assert "KAFKA_BOOTSTRAP_SERVERS is not set" in ran.err
