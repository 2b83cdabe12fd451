"""The harness that tests of whole processes stand on, proven once: one event through a real worker."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.runtime.producer import Record
from tests.harness import connected, consume, envelope, eventually, is_drained, produce, worker_process
from tests.stack import Stack, Topics


async def test_an_event_goes_through_a_worker_that_is_killed_and_stopped(
    stack: Stack, database: str, topics: Topics, tmp_path: Path
) -> None:
    async with worker_process(stack, database, topics, tmp_path) as worker, connected(database) as db:
        sent = await produce(stack, topics.events, [Record(b"shop", envelope("shop", "a", {"n": 1}))] * 2)
        await produce(stack, topics.events, [Record(b"shop", b"nonsense")])
        await eventually(lambda: is_drained(stack, topics, worker.group))
        assert await db.fetchval("SELECT count(*) FROM events") == 1
        metrics = await worker.metrics()
        assert (metrics["processing_success_total"], metrics["processing_failure_total"]) == (1, 1)
        assert [letter.value for letter in await consume(stack, topics.dlq)] == [b"nonsense"]
        worker.kill()
        assert worker.child.death() == "was killed by SIGKILL"
        await worker.start()
        await produce(stack, topics.events, [Record(b"shop", envelope("shop", "b", {"n": 2}))])
        await eventually(lambda: is_drained(stack, topics, worker.group))
        assert await db.fetchval("SELECT count(*) FROM events") == 2
        assert await worker.stop() == "exited with code 0"
        assert [line["action"] for line in worker.log_lines()].count("stopped") == 1
    assert {(record.partition, record.offset) for record in sent} == {(sent[0].partition, 0), (sent[0].partition, 1)}


async def test_a_condition_that_stays_false_is_named() -> None:
    with pytest.raises(AssertionError, match=r"not within 0\.05 s: pigs fly"):
        await eventually(lambda: False, within=0.05, what="pigs fly")


async def test_a_worker_that_cannot_start_is_told_at_once(
    stack: Stack, database: str, topics: Topics, tmp_path: Path
) -> None:
    with pytest.raises(AssertionError, match="WORKER_BATCH_RECORDS"):
        async with worker_process(stack, database, topics, tmp_path, WORKER_BATCH_RECORDS=0):
            pass
