"""`plutus offsets`: records are left out only where both sides are told so, and can be had again while Kafka keeps them."""

from __future__ import annotations

from pathlib import Path

from aiokafka import AIOKafkaConsumer, TopicPartition

from infra.runtime.producer import Record
from tests.cli_kit import environment, plutus
from tests.conftest import MakeTopics
from tests.harness import connected, envelope, eventually, is_drained, produce, worker_process
from tests.stack import Stack


def event(n: int) -> Record:
    return Record(b"s", envelope("s", f"k{n}", {}, type="effect"))


async def test_skipping_forwards_is_said_to_both_and_taken_back_by_a_reset(
    stack: Stack, database: str, make_topics: MakeTopics, tmp_path: Path
) -> None:
    topics = await make_topics(1)

    async def notes() -> list[str]:
        async with connected(database) as db:
            return [row[0] for row in await db.fetch("SELECT note FROM effects ORDER BY n")]

    async with worker_process(stack, database, topics, tmp_path, WORKER_HANDLERS="tests.effect_handlers") as worker:
        env = {**environment(stack, database, topics), "KAFKA_GROUP": worker.group}
        await produce(stack, topics.events, [event(n) for n in range(5)])
        await eventually(lambda: is_drained(stack, topics, worker.group), within=60, what="drained")
        busy = await plutus("offsets", "skip", "--to-end", "--yes", env=env)
        assert (busy.code, "has workers" in busy.err) == (1, True)
        assert await worker.stop() == "exited with code 0"

        await produce(stack, topics.events, [event(n) for n in range(5, 10)])
        for refused in ([], ["--to-end", "--to-offset", "7"], ["--to-end", "--partition", "3"]):
            assert (await plutus("offsets", "skip", *refused, "--yes", env=env)).code == 2, refused
        assert (await plutus("offsets", "skip", "--to-offset", "2", "--yes", env=env)).code == 4, "never backwards"
        dry = await plutus("offsets", "skip", "--to-offset", "8", "--dry-run", "--json", env=env)
        told = [{"partition": 0, "from": 5, "to": 8, "records": 3}]
        assert dry.rows == [{"dry_run": True, "records": 3, "partitions": told}]
        done = await plutus("offsets", "skip", "--to-offset", "8", "--yes", "--json", env=env)
        assert (done.code, done.rows[0]["partitions"]) == (0, told)
        shown = (await plutus("offsets", "show", "--json", env=env)).rows[0]
        assert {shown[name] for name in ("committed", "next_offset", "start")} == {8}
        job = (await plutus("dlq", "jobs", "--json", env=env)).rows[0]
        assert (job["kind"], job["status"], job["request"]["partitions"]) == ("skip", "done", told)

        await worker.start()
        await eventually(lambda: is_drained(stack, topics, worker.group), within=60, what="drained")
        assert await notes() == ["k0", "k1", "k2", "k3", "k4", "k8", "k9"]
        assert await worker.stop() == "exited with code 0"

        async with AIOKafkaConsumer(
            bootstrap_servers=stack.bootstrap, group_id=worker.group, enable_auto_commit=False
        ) as consumer:
            tp = TopicPartition(topics.events, 0)
            consumer.assign([tp])
            await consumer.commit({tp: 5})
        await worker.start()
        await eventually(lambda: is_drained(stack, topics, worker.group), within=60, what="drained")
        assert await notes() == ["k0", "k1", "k2", "k3", "k4", "k8", "k9", "k5", "k6", "k7"]
