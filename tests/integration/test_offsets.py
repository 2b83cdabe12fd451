"""`plutus offsets`: records are left out only where both sides are told so, and never while a worker runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from infra.runtime.producer import Record
from tests.cli_kit import environment, plutus
from tests.conftest import MakeTopics
from tests.harness import connected, envelope, eventually, is_drained, produce, worker_process
from tests.stack import Stack

pytestmark = pytest.mark.slow


def event(n: int) -> Record:
    return Record(b"s", envelope("s", f"k{n}", {}, type="effect"))


@pytest.mark.timeout(240)
async def test_skipping_forwards_is_said_to_both_and_audited(
    stack: Stack, database: str, make_topics: MakeTopics, tmp_path: Path
) -> None:
    topics = await make_topics(1)
    async with (
        worker_process(stack, database, topics, tmp_path, WORKER_HANDLERS="tests.effect_handlers") as worker,
        connected(database) as db,
    ):
        env = {**environment(stack, database, topics), "KAFKA_GROUP": worker.group}
        await produce(stack, topics.events, [event(n) for n in range(5)])
        await eventually(lambda: is_drained(stack, topics, worker.group), within=60, what="drained")
        busy = await plutus("offsets", "skip", "--to-end", "--yes", env=env)
        assert (busy.code, "has workers" in busy.err) == (1, True)
        assert await worker.stop() == "exited with code 0"

        await produce(stack, topics.events, [event(n) for n in range(5, 10)])
        done = await plutus("offsets", "skip", "--to-offset", "8", "--yes", "--json", env=env)
        told = [{"partition": 0, "from": 5, "to": 8, "records": 3}]
        assert (done.code, done.rows) == (0, [{"dry_run": False, "records": 3, "partitions": told}])
        shown = (await plutus("offsets", "show", "--json", env=env)).rows[0]
        assert {shown[name] for name in ("committed", "next_offset", "start")} == {8}
        job = await db.fetchrow("SELECT kind, status, request FROM replay_jobs")
        assert job is not None
        assert (job["kind"], job["status"], json.loads(job["request"])["partitions"]) == ("skip", "done", told)

        await worker.start(ready=False)
        await worker.until_ready(within=60)
        await eventually(lambda: is_drained(stack, topics, worker.group), within=60, what="drained")
        notes = [row[0] for row in await db.fetch("SELECT note FROM effects ORDER BY n")]
    assert notes == ["k0", "k1", "k2", "k3", "k4", "k8", "k9"]
