"""`plutus send`, `tail`, `events list`, `groups lag`, `config show` and `doctor` on a gateway and a worker that run.

The tests share one system and build on each other, in their order: starting one takes longer than asking it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

import asyncpg
import pytest

from infra.runtime.producer import Record
from schemas.ids import event_id
from tests import stack as real
from tests.cli_kit import Ran, environment, plutus
from tests.harness import Service, connected, envelope, eventually, gateway_process, produce, worker_process
from tests.stack import Stack, Topics

pytestmark = pytest.mark.slow

SECRET = "canary-7f3a"
HANDLERS = "tests.integration.cli_handlers"
_PARTITIONS = 3


@dataclass
class Place:
    """A system that runs, and the settings by which commands find it."""

    stack: Stack
    topics: Topics
    worker: Service
    db: asyncpg.Connection
    env: dict[str, str]

    async def run(self, *arguments: str) -> Ran:
        """`plutus ARGUMENTS`."""
        return await plutus(*arguments, env=self.env)


@pytest.fixture(scope="module")
async def place(stack: Stack, migrated_template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    folder = tmp_path_factory.mktemp("operate")
    topics = await real.make_topics(stack, _PARTITIONS)
    async with real.new_database(stack, template=migrated_template) as name:
        database = stack.dsn_of(name)
        env = environment(stack, database, topics)
        group = env["KAFKA_GROUP"]
        async with (
            worker_process(stack, database, topics, folder, WORKER_HANDLERS=HANDLERS, KAFKA_GROUP=group) as worker,
            gateway_process(stack, database, topics, folder) as gateway,
            connected(database) as db,
        ):
            yield Place(stack, topics, worker, db, {**env, "PLUTUS_GATEWAY": gateway.url})


def payload(**members: object) -> str:
    """A payload with a word that nothing but `--payload` may show."""
    return json.dumps({"secret": SECRET, **members})


async def test_an_event_is_seen_through_and_its_copy_and_its_rival_are_told(place: Place) -> None:
    sent = ("--source", "till", "--key", "k1", "--type", "sale")
    first = await place.run("send", payload(n=1), *sent, "--json")
    assert first.code == 0, first.err
    [life] = first.rows
    stored = await place.db.fetchrow("SELECT * FROM events WHERE event_id = $1", event_id("till", "k1"))
    assert stored is not None
    assert (life["event_id"], life["answer"], life["status"]) == (str(stored["event_id"]), "accepted", "PROCESSED")
    assert (life["partition"], life["offset"]) == (stored["partition"], stored["offset"])
    assert 0 < life["answered_ms"] <= life["settled_ms"]

    again, rival = await asyncio.gather(
        place.run("send", payload(n=1.0), *sent), place.run("send", payload(n=2), *sent, "--json")
    )
    assert again.code == 0
    assert again.out.startswith("duplicate")
    assert f"of {life['event_id']}, accepted " in again.out
    assert (rival.code, rival.rows[0]["code"]) == (1, "idempotency_conflict")
    assert rival.err.startswith("error[gateway_refused]: The gateway answered 422 idempotency_conflict")
    assert "try: another --key" in rival.err
    assert SECRET not in first.out + first.err + again.out + again.err + rival.out + rival.err


async def test_an_event_that_fails_is_told_with_its_reason(place: Place) -> None:
    ran = await place.run("send", payload(), "--source", "till", "--key", "bad", "--type", "unlucky")
    assert ran.code == 1
    assert "handler_error at step handle" in ran.out
    assert f"plutus events show {event_id('till', 'bad')}" in ran.err


async def test_the_tail_shows_what_became_of_each_record(place: Place) -> None:
    await produce(
        place.stack, place.topics.events, [Record(b"till", b"not JSON"), Record(b"till", envelope("till", "k1", {}))]
    )
    await eventually(
        lambda: place.db.fetchval("SELECT count(*) = 3 FROM failures"), what="poison and conflict are dead"
    )
    ran = await place.run("tail", "--last", "10", "--max", "4", "--for", "20", "--json")
    assert ran.code == 0, ran.err
    told = [(row["status"], row["idempotency_key"], row["why"]) for row in ran.rows]
    assert told == [
        ("PROCESSED", "k1", None),
        ("FAILED", "bad", "handler_error at handle"),
        ("FAILED", None, "malformed_json at parse"),
        ("FAILED", "k1", "idempotency_conflict at decide"),
    ]
    assert SECRET not in ran.out + ran.err


async def test_the_tail_follows_what_is_settled_while_it_runs(place: Place) -> None:
    follows = asyncio.create_task(place.run("tail", "--source", "later", "--max", "1", "--for", "50", "--json"))
    sent = 0

    async def shown() -> bool:
        nonlocal sent
        sent += 1
        await produce(place.stack, place.topics.events, [Record(b"later", envelope("later", f"n{sent}", {}))])
        return follows.done()

    await eventually(shown, every=0.3, within=50, what="a line is shown")
    [row] = (await follows).rows
    assert (row["status"], row["source"]) == ("PROCESSED", "later")


async def test_events_are_listed_by_filter_and_page_by_page(place: Place) -> None:
    by_status, by_key, none, page = await asyncio.gather(
        place.run("events", "list", "--status", "FAILED", "--json"),
        place.run("events", "list", "--source", "till", "--key", "k1", "--json"),
        place.run("events", "list", "--until", "2020-01-01"),
        place.run("events", "list", "--source", "till", "--limit", "1", "--json"),
    )
    assert [row["idempotency_key"] for row in by_status.rows] == ["bad"]
    assert [row["event_id"] for row in by_key.rows] == [str(event_id("till", "k1"))]
    assert (none.code, none.out) == (4, "")
    cursor = page.err.rsplit("--after ", 1)[1].strip()
    following = await place.run("events", "list", "--source", "till", "--after", cursor, "--json")
    assert [row["idempotency_key"] for row in [*page.rows, *following.rows]] == ["bad", "k1"]
    assert SECRET not in by_status.out + by_key.out + page.out


async def test_settings_are_shown_with_their_source_and_without_the_password(place: Place) -> None:
    ran = await place.run("config", "show", "database_url", "kafka_group", "kafka_retention", "--json")
    assert ran.code == 0, ran.err
    told = {row["name"]: (row["value"], row["source"], row["of"]) for row in ran.rows}
    assert told["KAFKA_GROUP"] == (place.env["KAFKA_GROUP"], "environment", ["gateway", "worker"])
    assert told["KAFKA_RETENTION_DAYS"][1] == "default"
    assert ":(hidden)@" in told["DATABASE_URL"][0]
    wrong = await plutus("config", "show", env={**place.env, "GATEWAY_BACKLOG": SECRET, "WORKER_DRAIN": SECRET})
    assert wrong.code == 2
    assert "GATEWAY_BACKLOG: " in wrong.err
    assert "WORKER_DRAIN: " in wrong.err
    assert SECRET not in wrong.out + wrong.err


async def test_the_doctor_finds_nothing_and_then_what_was_broken(place: Place) -> None:
    await place.db.execute("UPDATE failures SET status = 'discarded'")
    well, elsewhere = await asyncio.gather(
        place.run("doctor", "--json"),
        plutus(
            "doctor",
            "--json",
            env={
                **place.env,
                "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
                "DATABASE_URL": place.stack.dsn,
                "PLUTUS_GATEWAY": "http://127.0.0.1:1",
                "WORKER_DRAIN": "-1",
            },
        ),
    )
    assert well.code == 0, well.out
    states = {row["check"]: row["state"] for row in well.rows}
    assert states.pop("durability") == "warning"
    assert set(states.values()) == {"ok"}
    assert states.keys() >= {
        "settings",
        "kafka",
        "topics",
        "workers",
        "postgres",
        "clock",
        "schema",
        "grants",
        "gateway",
    }

    assert elsewhere.code == 69
    bad = {row["check"]: (row["state"], row["fix"]) for row in elsewhere.rows if row["state"] != "ok"}
    assert bad["kafka"][0] == bad["gateway"][0] == "unreachable"
    assert bad["schema"] == ("failed", "plutus migrate")
    assert bad["settings"] == ("failed", "plutus config show WORKER_DRAIN")
    assert all(fix for _, fix in bad.values())


async def test_the_lag_is_told_by_partition_with_its_age(place: Place) -> None:
    owned = await place.run("groups", "lag", "--json")
    assert owned.code == 0, owned.err
    assert [row["partition"] for row in owned.rows] == list(range(_PARTITIONS))
    assert all(row["owner"] and row["oldest_seconds"] is None for row in owned.rows)
    assert sum(row["lag"] for row in owned.rows) == 0

    assert await place.worker.stop() == "exited with code 0"
    await produce(place.stack, place.topics.events, [Record(b"till", envelope("till", f"w{n}", {})) for n in range(3)])
    ran, unsettled, blind = await asyncio.gather(
        place.run("groups", "lag", "--behind", "--json"),
        place.run("send", "1", "--source", "till", "--wait", "0.5"),
        plutus("groups", "lag", env={**place.env, "DATABASE_URL": "postgresql://u:p@127.0.0.1:1/none"}),
    )
    [row] = ran.rows
    assert row["lag"] in (3, 4)
    assert row["oldest_seconds"] > 0
    assert row["owner"] is None
    assert "0 workers" in ran.err
    assert unsettled.code == 3
    assert "error[not_settled]" in unsettled.err
    assert blind.code == 3
    assert "error[postgres_unreachable]" in blind.err
