"""Replays as operators run them: chosen by filters, counted before, slowed, cut short, killed, resumed and audited.

Whatever is done to the command, an event takes effect once.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import pytest
from pydantic import SecretStr

from infra.cli import queries
from infra.cli.connect import database as database_of
from infra.cli.filters import asked
from infra.runtime.producer import Record
from infra.runtime.settings import RuntimeSettings
from schemas.errors import Reason
from schemas.ids import event_id
from tests.cli_kit import Ran, environment, plutus
from tests.harness import (
    Service,
    connected,
    consume,
    end_offsets,
    envelope,
    eventually,
    is_drained,
    produce,
    worker_process,
)
from tests.stack import ROOT, Stack, Topics

pytestmark = pytest.mark.slow

HANDLERS = "tests.integration.cli_handlers"
SECRET = "canary-91c4"
COUNT = 40


@dataclass
class Place:
    """A worker on topics and a database of its own, dead letters of its making, and a way to run commands."""

    stack: Stack
    topics: Topics
    worker: Service
    db: asyncpg.Connection
    env: dict[str, str]

    async def send(self, *records: Record) -> None:
        """Publish, and wait until the worker is done with it."""
        await produce(self.stack, self.topics.events, records)
        await self.drained()

    async def drained(self) -> None:
        """Wait until the worker has committed all there is."""
        await eventually(lambda: is_drained(self.stack, self.topics, self.worker.group), what="drained")

    async def plutus(self, *arguments: str) -> Ran:
        """A command, to its end; no payload may show."""
        ran = await plutus(*arguments, env=self.env)
        assert SECRET not in ran.out + ran.err
        return ran

    async def counts(self, *arguments: str) -> Any:
        """What `plutus dlq replay --json` says."""
        ran = await self.plutus("dlq", "replay", "--json", *arguments)
        assert ran.code in (0, 4), ran.err
        return ran.rows[-1]

    async def records(self) -> int:
        """How many records the events topic has been given."""
        return sum((await end_offsets(self.stack, self.topics.events)).values())

    async def mend(self) -> None:
        """From now on the handler does its work."""
        await self.db.execute("UPDATE cli_luck SET bad = false")

    async def effects(self) -> list[int]:
        """How often each event took effect that did."""
        rows = await self.db.fetch("SELECT count(*) FROM cli_effects GROUP BY event_id")
        return [row[0] for row in rows]

    @asynccontextmanager
    async def running(self, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
        """A command under way."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "infra.cli.main", *arguments),
            env=self.env,
            cwd=ROOT,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()

    async def job(self) -> asyncpg.Record:
        """The audit row of the latest job."""
        row = await self.db.fetchrow("SELECT * FROM replay_jobs ORDER BY started_at DESC LIMIT 1")
        assert row is not None
        return row


@pytest.fixture
async def place(stack: Stack, database: str, topics: Topics, tmp_path: Path) -> AsyncIterator[Place]:
    env = environment(stack, database, topics)
    settings: dict[str, str | float] = {"WORKER_HANDLERS": HANDLERS, "KAFKA_GROUP": env["KAFKA_GROUP"]}
    settings["BREAKER_DEATHS_IN_A_ROW"] = 10_000
    async with (
        worker_process(stack, database, topics, tmp_path, start=True, **settings) as worker,
        connected(database) as db,
    ):
        yield Place(stack, topics, worker, db, env)


def unlucky(key: str, source: str = "shop") -> Record:
    """An event whose handler refuses it until it is told to let go."""
    return Record(source.encode(), envelope(source, key, {"secret": SECRET}, type="unlucky"))


def poison(text: str) -> Record:
    """A record that no parser reads."""
    return Record(b"shop", f"{text} {SECRET}".encode())


async def test_filters_choose_and_a_dry_run_tells_without_sending(place: Place) -> None:
    await place.send(unlucky("u1"), unlucky("u2", "depot"), poison("x"), poison("y"))
    await place.send(Record(b"shop", envelope("shop", "u1", {"other": SECRET}, type="unlucky")))  # a conflict
    [first] = await place.db.fetch("SELECT * FROM failures WHERE event_id = $1", event_id("depot", "u2"))
    later = first["first_at"].isoformat()
    async with database_of(_settings(place)) as db:
        everything = {row["failure_id"] for row in await place.db.fetch("SELECT failure_id FROM failures")}
        for options, count in _OPTIONS:
            wanted = asked(**options)
            assert await queries.count_failures(db, wanted) == count, options
            letters = await queries.letters(db, everything, wanted)
            assert sum(letter.wanted for letter in letters.values()) == count, options
        for any_id in (first["failure_id"], event_id("depot", "u2")):
            assert await queries.count_failures(db, asked(any_id)) == 1
        assert await queries.count_failures(db, asked(since=later, source="depot")) == 1
        assert await queries.count_failures(db, asked(until=later, source="depot")) == 0
    for origin in ("topic", "table"):
        told = await place.counts("--dry-run", "--from", origin, "--type", "unlucky", "--max", "1")
        assert (told["replayed"], told["by_reason"]) == (1, {"handler_error": 1})
        [sample] = told["samples"]
        assert set(sample) == {"failure_id", "reason", "source", "key_bytes", "value_bytes"}
    assert await place.records() == 5, "nothing was sent"
    assert await place.db.fetchval("SELECT count(*) FROM replay_jobs") == 0
    listed = await place.plutus("failures", "list", "--type", "unlucky", "--class", "Permanent", "--json")
    assert len(listed.rows) == 2
    wrong = await place.plutus("dlq", "replay", "--since", "yesterday")
    assert wrong.code == 2


_OPTIONS: list[tuple[dict[str, Any], int]] = [
    ({}, 5),
    ({"reason": Reason.MALFORMED_JSON}, 2),
    ({"source": "depot"}, 1),
    ({"of_type": "unlucky"}, 2),
    ({"of_type": "other"}, 0),
    ({"key": "u2"}, 1),
    ({"key": "u1"}, 2),
    ({"key": "u1", "reason": Reason.HANDLER_ERROR}, 1),
    ({"error_class": "Permanent"}, 2),
]


def _settings(place: Place) -> RuntimeSettings:
    return RuntimeSettings(
        kafka_bootstrap_servers=place.stack.bootstrap, database_url=SecretStr(place.env["DATABASE_URL"])
    )


async def test_a_replay_is_audited(place: Place) -> None:
    await place.send(unlucky("u1"), unlucky("u2"))
    await place.mend()
    told = await place.counts("--key", "u1", "--rate", "50")
    job = await place.job()
    assert told["job"] == str(job["job_id"])
    assert (job["kind"], job["status"], "@" in job["who"], job["role"]) == ("replay", "done", True, "plutus")
    request, counts = orjson.loads(job["request"]), orjson.loads(job["counts"])
    assert (request["filter"], request["rate"], request["from"]) == ({"key": "u1"}, 50.0, "topic")
    assert (counts["read"], counts["replayed"], counts["by_reason"]) == (2, 1, {"handler_error": 1})
    listed = await place.plutus("dlq", "jobs")
    assert str(job["job_id"]) in listed.out
    await place.drained()
    assert await place.effects() == [1]


@pytest.mark.parametrize("origin", ["topic", "table"])
async def test_a_replay_that_is_killed_goes_on_where_it_was(place: Place, origin: str) -> None:
    await place.send(*(unlucky(f"u{n}") for n in range(COUNT)))
    await place.mend()
    before = await place.records()
    async with place.running("dlq", "replay", "--from", origin, "--rate", "10") as process:
        await eventually(lambda: _sent(place, before + 10), what="some were sent")
        process.kill()
        await process.wait()
    job = await place.job()
    assert job["status"] == "running", "it had no time to say anything"
    resumed = await place.counts("--resume", str(job["job_id"]))
    # Killed between the acknowledgement and the note of it, a batch of ten is looked at again, and may be settled by then.
    assert COUNT - 10 <= resumed["read"] <= COUNT
    assert resumed["replayed"] + resumed["skipped"]["not_open"] == resumed["read"]
    assert resumed["replayed"] >= COUNT - 10
    assert await place.records() <= before + COUNT + 10, "at most the batch under way was sent twice"
    await place.drained()
    assert await place.effects() == [1] * COUNT
    assert (await place.job())["status"] == "done"
    again = await place.plutus("dlq", "replay", "--resume", str(job["job_id"]))
    assert again.code == 2
    await place.counts("--all")
    await place.drained()
    assert await place.effects() == [1] * COUNT, "replayed once more: no second effect"


async def test_ctrl_c_stops_after_the_batch_and_tells_how_to_go_on(place: Place) -> None:
    await place.send(*(unlucky(f"u{n}") for n in range(COUNT)))
    await place.mend()
    before = await place.records()
    async with place.running("dlq", "replay", "--rate", "10") as process:
        await eventually(lambda: _sent(place, before + 10), what="some were sent")
        process.send_signal(signal.SIGINT)
        _, err = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 130
    job = await place.job()
    assert job["status"] == "stopped"
    assert f"plutus dlq replay --resume {job['job_id']}" in err.decode()
    sent = orjson.loads(job["counts"])["replayed"]
    assert await place.records() == before + sent < before + COUNT
    resumed = await place.counts("--resume", str(job["job_id"]), "--max", "5")
    assert resumed["replayed"] == sent + 5
    await place.counts("--resume", str(job["job_id"]))
    assert await place.records() == before + COUNT, "each was sent once"
    await place.drained()
    assert await place.effects() == [1] * COUNT


async def _sent(place: Place, count: int) -> bool:
    return await place.records() >= count


async def test_failures_are_retried_and_discarded(place: Place) -> None:
    await place.send(unlucky("u1"), unlucky("u2"), poison("x"))
    for command in ("retry", "discard"):
        alone = await place.plutus("failures", command)
        assert (alone.code, "--yes" in alone.err) == (2, True), "nobody is there to be asked"
    discarded = await place.plutus("failures", "discard", "--key", "u2", "--yes", "--json")
    assert (discarded.code, discarded.rows[0]["discarded"]) == (0, 1)
    await place.mend()
    retried = await place.plutus("failures", "retry", "--yes", "--json")
    assert (retried.rows[0]["read"], retried.rows[0]["replayed"]) == (2, 2)
    await place.drained()
    assert await place.effects() == [1]
    kinds = [row[0] for row in await place.db.fetch("SELECT kind FROM replay_jobs ORDER BY started_at")]
    assert kinds == ["discard", "retry"]
    statuses = await place.db.fetch("SELECT reason, status FROM failures ORDER BY first_at")
    assert sorted(map(tuple, statuses)) == [
        ("handler_error", "discarded"),
        ("handler_error", "replayed"),
        ("malformed_json", "open"),
        ("malformed_json", "replayed"),
    ]
    # What was given up can be taken up again.
    one = await place.plutus("failures", "retry", "--status", "discarded", "--yes", "--json")
    assert one.rows[0]["replayed"] == 1
    await place.drained()
    assert await place.effects() == [1, 1]
    originals = {record.value for record in await consume(place.stack, place.topics.events)}
    assert len(originals) == 3, "byte for byte"
