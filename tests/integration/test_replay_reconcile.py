"""`plutus dlq reconcile`: each half of a failure, lost and made again from the other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from aiokafka.structs import ConsumerRecord

from infra.runtime.producer import Record
from tests.cli_kit import environment, plutus
from tests.harness import connected, consume, envelope, eventually, is_drained, produce, worker_process
from tests.stack import Stack, Topics

pytestmark = pytest.mark.slow

HANDLERS = "tests.integration.cli_handlers"
BINARY = Record(b"\xff\x00", b"\x00\xfe", [("h", b"\xff"), ("none", None), ("text", b"a"), ("nul", b"\x00")])


class Place:
    """Three dead letters that a worker left, and no worker any more."""

    def __init__(self, stack: Stack, topics: Topics, db: asyncpg.Connection, env: dict[str, str]) -> None:
        self.stack, self.topics, self.db, self.env = stack, topics, db, env

    async def reconcile(self, *options: str) -> Any:
        """What the command found."""
        ran = await plutus("dlq", "reconcile", "--json", *options, env=self.env)
        assert ran.code == 0, ran.err
        [found] = ran.rows
        return {name: count for name, count in found["found"].items() if count} | {"repaired": found["repaired"]}

    async def rows(self) -> list[dict[str, Any]]:
        """The failures, in the order of the log."""
        found = await self.db.fetch('SELECT * FROM failures ORDER BY "partition", "offset"')
        return [dict(row) for row in found]

    async def letters(self) -> list[ConsumerRecord]:
        """The dead letters."""
        return await consume(self.stack, self.topics.dlq)


@pytest.fixture
async def place(stack: Stack, database: str, topics: Topics, tmp_path: Path) -> AsyncIterator[Place]:
    env = environment(stack, database, topics)
    async with connected(database) as db:
        async with worker_process(
            stack, database, topics, tmp_path, WORKER_HANDLERS=HANDLERS, KAFKA_GROUP=env["KAFKA_GROUP"]
        ) as worker:
            unlucky = Record(b"shop", envelope("shop", "u1", {}, type="unlucky"))
            await produce(stack, topics.events, [Record(b"shop", b"no JSON"), unlucky, BINARY])
            await eventually(lambda: is_drained(stack, topics, worker.group), what="drained")
            await worker.stop()
        yield Place(stack, topics, db, env)


async def test_rows_and_dead_letters_are_made_whole_from_each_other(place: Place) -> None:
    whole = await place.rows()
    assert await place.reconcile() == {"whole": 3, "repaired": 0}
    assert await place.rows() == whole

    # A worker died between the broker's answer and its mark; a row was lost.
    await place.db.execute(
        "UPDATE failures SET dlq_partition = NULL, dlq_offset = NULL, dlq_at = NULL WHERE reason = 'handler_error'"
    )
    await place.db.execute("DELETE FROM failures WHERE key = $1", BINARY.key)
    dry = await place.reconcile("--dry-run")
    assert dry == {"whole": 1, "unmarked": 1, "no_row": 1, "repaired": 2}
    assert len(await place.rows()) == 2, "nothing was changed"
    assert await place.reconcile() == dry
    for was, now in zip(whole, await place.rows(), strict=True):
        # What a dead letter does not tell: when the database first heard of it.
        unknown = {"first_at", "last_at", "content_hash"}
        assert {k: v for k, v in now.items() if k not in unknown} == {k: v for k, v in was.items() if k not in unknown}
    assert await place.reconcile() == {"whole": 3, "repaired": 0}


async def test_an_open_row_whose_dead_letter_is_gone_gets_another(place: Place) -> None:
    before = {letter.value: letter for letter in await place.letters()}
    # Its place holds something else: the topic was made anew, or restored.
    await place.db.execute("UPDATE failures SET status = 'discarded' WHERE reason = 'handler_error'")
    others = await place.rows()
    [gone] = [row for row in others if row["key"] == BINARY.key]
    [taken] = [row for row in others if row["value"] == b"no JSON"]
    await place.db.execute(
        "UPDATE failures SET dlq_partition = $2, dlq_offset = $3 WHERE failure_id = $1",
        gone["failure_id"],
        taken["dlq_partition"],
        taken["dlq_offset"],
    )
    assert await place.reconcile() == {"whole": 2, "moved": 1, "repaired": 1}, "another copy is in the topic"
    assert await place.rows() == others

    # Beyond the end of the topic: that was made anew.
    await place.db.execute(
        "UPDATE failures SET failure_id = gen_random_uuid(), dlq_offset = 10000 WHERE failure_id = $1",
        gone["failure_id"],
    )
    found = await place.reconcile()
    assert found == {"whole": 2, "gone": 1, "contradicted": 1, "repaired": 1}
    [sent] = [row for row in await place.rows() if row["key"] == BINARY.key]
    letters = await place.letters()
    assert len(letters) == 4
    [again] = [r for r in letters if (r.partition, r.offset) == (sent["dlq_partition"], sent["dlq_offset"])]
    first = before[BINARY.value]
    assert (again.key, again.value) == (first.key, first.value)
    differing = [(a, b) for a, b in zip(again.headers, first.headers, strict=True) if a != b]
    assert [name for (name, _), _ in differing] == ["plutus-dlq-failure-id"]
    assert await place.reconcile() == {"whole": 3, "contradicted": 1, "repaired": 0}


async def test_what_is_no_dead_letter_of_ours_and_a_second_copy_are_left_alone(place: Place) -> None:
    rows, [letter, *_] = await place.rows(), await place.letters()
    forged = [("plutus-dlq-failure-id", b"00000000-0000-4000-8000-000000000001"), ("plutus-dlq-reason", b"because")]
    await produce(
        place.stack,
        place.topics.dlq,
        [Record(letter.key, letter.value, letter.headers), Record(b"x", b"y"), Record(b"x", b"y", forged)],
    )
    assert await place.reconcile() == {"whole": 3, "second_copy": 1, "foreign": 2, "repaired": 0}
    assert await place.rows() == rows
    job = await place.db.fetchrow("SELECT kind, status FROM replay_jobs")
    assert job is not None
    assert tuple(job) == ("reconcile", "done")
