"""Whole workers on real Kafka and Postgres: dead letters, groups, offsets, fencing. Effects are exact in each of them."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy

from infra.runtime.producer import Record
from tests.conftest import MakeTopics
from tests.harness import (
    Service,
    committed_offsets,
    connected,
    consume,
    envelope,
    eventually,
    is_drained,
    produce,
    worker_process,
)
from tests.stack import Stack, Topics

HANDLERS = "tests.effect_handlers"


def event(n: int, source: str = "s", **payload: object) -> Record:
    return Record(source.encode(), envelope(source, f"k{n}", payload, type="effect"))


async def effects(database: str) -> Counter[str]:
    async with connected(database) as db:
        return Counter({row[0]: row[1] for row in await db.fetch("SELECT note, count(*) FROM effects GROUP BY note")})


async def expect_exactly(database: str, count: int) -> None:
    assert await effects(database) == Counter({f"k{n}": 1 for n in range(count)})


async def until_drained(stack: Stack, topics: Topics, worker: Service, within: float = 60.0) -> None:
    await eventually(lambda: is_drained(stack, topics, worker.group), within=within, every=0.1, what="drained")


async def test_what_cannot_be_processed_is_in_both_places_with_its_bytes(
    stack: Stack, database: str, topics: Topics, tmp_path: Path
) -> None:
    bad = [
        Record(b"k", b"\xff\x00junk", [("h", b"\xfe"), ("traceparent", b"\xff")]),
        Record(b"k", None),
        Record(None, b"[]"),
        event(0, do="fail"),
    ]
    async with worker_process(
        stack, database, topics, tmp_path, WORKER_HANDLERS=HANDLERS, DLQ_HEADER_DIALECTS='["connect"]'
    ) as worker:
        await produce(stack, topics.events, [*bad, event(1)])
        await until_drained(stack, topics, worker)
        assert await effects(database) == Counter({"k1": 1})
        metrics = await worker.metrics()
    assert metrics["processing_success_total"] == 1
    assert metrics["processing_failure_total"] == 4
    assert metrics["plutus_worker_dead_letters_sent_total"] == 4
    letters = await consume(stack, topics.dlq)
    assert {(r.key, r.value) for r in letters} == {(r.key, r.value) for r in bad}
    async with connected(database) as db:
        rows = await db.fetch("SELECT * FROM failures")
        assert {(row["dlq_partition"], row["dlq_offset"]) for row in rows} == {(r.partition, r.offset) for r in letters}
        assert {row["reason"] for row in rows} == {"malformed_json", "null_value", "not_object", "handler_error"}
    by_id = {str(row["failure_id"]): row for row in rows}
    for letter in letters:
        headers = dict(letter.headers)
        row = by_id[headers["plutus-dlq-failure-id"].decode()]
        assert headers["plutus-dlq-reason"].decode() == row["reason"]
        assert headers["plutus-dlq-topic"].decode() == headers["__connect.errors.topic"].decode() == topics.events
        origin = (headers["plutus-dlq-partition"], headers["plutus-dlq-offset"])
        assert origin == (b"%d" % row["partition"], b"%d" % row["offset"])
    first = next(r for r in letters if r.value == b"\xff\x00junk")
    assert list(first.headers)[:2] == [("h", b"\xfe"), ("traceparent", b"\xff")]


async def test_a_dead_letter_topic_that_refuses_holds_the_partition_and_nothing_is_lost(
    stack: Stack, database: str, topics: Topics, tmp_path: Path
) -> None:
    await set_topic(stack, topics.dlq, "100")
    async with worker_process(stack, database, topics, tmp_path, WORKER_HANDLERS=HANDLERS) as worker:
        [poison, *_] = await produce(stack, topics.events, [Record(b"s", b"junk" * 100), event(0)])
        held = f"plutus_worker_partition_paused{{partition={poison.partition}}}"
        await eventually(lambda: _metric(worker, held), what="the partition is held")
        tp = TopicPartition(topics.events, poison.partition)
        assert (await committed_offsets(stack, worker.group)).get(tp, -1) <= poison.offset
        assert await consume(stack, topics.dlq) == []
        await set_topic(stack, topics.dlq, "1100000")
        await until_drained(stack, topics, worker)
    assert [letter.value for letter in await consume(stack, topics.dlq)] == [b"junk" * 100]
    await expect_exactly(database, 1)


async def _metric(worker: Service, name: str) -> bool:
    return (await worker.metrics()).get(name, 0) == 1


async def set_topic(stack: Stack, topic: str, max_message_bytes: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=stack.bootstrap)
    await admin.start()
    try:
        settings = {"max.message.bytes": max_message_bytes, "message.timestamp.type": "LogAppendTime"}
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs=settings)])
    finally:
        await admin.close()


async def test_workers_join_and_leave_under_load(stack: Stack, database: str, topics: Topics, tmp_path: Path) -> None:
    count = 3_000
    records = [event(n, source=f"s{n % 20}") for n in range(count)]
    shared: dict[str, str] = {
        "WORKER_HANDLERS": HANDLERS,
        "KAFKA_GROUP": f"g-{topics.events}",
        "WORKER_BATCH_RECORDS": "50",
    }
    async with (
        worker_process(stack, database, topics, tmp_path, start=True, **shared) as one,
        worker_process(stack, database, topics, tmp_path, start=False, **shared) as two,
    ):
        feeding = asyncio.create_task(feed(stack, topics, records))
        await two.start()
        await eventually(lambda: _owns(two), what="the second worker owns partitions")
        assert await one.stop() == "exited with code 0"
        await one.start()
        assert await two.stop() == "exited with code 0"
        await feeding
        await until_drained(stack, topics, one)
    await expect_exactly(database, count)
    async with connected(database) as db:
        disorder = await db.fetchval(
            "SELECT count(*) FROM (SELECT substr(note, 2)::int - lag(substr(note, 2)::int) OVER (PARTITION BY source"
            " ORDER BY n) AS step FROM effects) AS steps WHERE step < 0"
        )
        assert disorder == 0


async def feed(stack: Stack, topics: Topics, records: list[Record]) -> None:
    for start in range(0, len(records), 100):
        await produce(stack, topics.events, records[start : start + 100])


async def _owns(worker: Service) -> bool:
    return (await worker.metrics()).get("plutus_worker_partitions_assigned", 0) > 0


async def test_resetting_offsets_backwards_replays_without_a_second_effect(
    stack: Stack, database: str, topics: Topics, tmp_path: Path
) -> None:
    async with worker_process(stack, database, topics, tmp_path, WORKER_HANDLERS=HANDLERS) as worker:
        await produce(stack, topics.events, [event(n, source=f"s{n}") for n in range(100)])
        await until_drained(stack, topics, worker)
        assert await worker.stop() == "exited with code 0"
        await commit_everywhere(stack, topics, worker.group, 0)
        await worker.start()
        await eventually(lambda: _duplicates(worker, 100), what="all are read again")
        metrics = await worker.metrics()
    assert metrics["plutus_worker_offset_differences_total"] == topics.partitions
    await expect_exactly(database, 100)


async def _duplicates(worker: Service, count: int) -> bool:
    return (await worker.metrics())["plutus_worker_duplicates_total"] == count


async def commit_everywhere(stack: Stack, topics: Topics, group: str, offset: int) -> None:
    async with AIOKafkaConsumer(
        bootstrap_servers=stack.bootstrap, group_id=group, enable_auto_commit=False
    ) as consumer:
        tps = [TopicPartition(topics.events, n) for n in range(topics.partitions)]
        consumer.assign(tps)
        await consumer.commit(dict.fromkeys(tps, offset))


async def test_10_a_database_restored_to_an_earlier_moment_loses_nothing(
    stack: Stack, database: str, topics: Topics, tmp_path: Path
) -> None:
    """Interleaving 10: the effects are gone, Kafka's offsets are ahead; the smaller offset is taken."""
    async with worker_process(stack, database, topics, tmp_path, WORKER_HANDLERS=HANDLERS) as worker:
        await produce(stack, topics.events, [event(n, source=f"s{n}") for n in range(60)])
        await until_drained(stack, topics, worker)
        assert await worker.stop() == "exited with code 0"
        async with connected(database) as db:
            await db.execute("TRUNCATE event_keys, events, effects")
            await db.execute("UPDATE partition_claims SET next_offset = 0")
        await worker.start()
        await eventually(lambda: _effects(database, 60), what="all took effect again")
    await expect_exactly(database, 60)


async def _effects(database: str, count: int) -> bool:
    return (await effects(database)).total() >= count


async def test_17_a_worker_stopped_past_its_session_has_no_effect_when_it_goes_on(
    stack: Stack, database: str, topics: Topics, tmp_path: Path
) -> None:
    shared: dict[str, str] = {
        "WORKER_HANDLERS": HANDLERS,
        "KAFKA_GROUP": f"g-{topics.events}",
        "WORKER_BATCH_RECORDS": "10",
    }
    async with (
        worker_process(stack, database, topics, tmp_path, start=True, **shared) as zombie,
        worker_process(stack, database, topics, tmp_path, start=False, **shared) as successor,
    ):
        await produce(stack, topics.events, [event(n, source=f"s{n}") for n in range(2_000)])
        await eventually(lambda: _effects(database, 100), what="the first worker is at work")
        zombie.send(signal.SIGSTOP)
        try:
            await successor.start()
            await until_drained(stack, topics, successor)
        finally:
            zombie.send(signal.SIGCONT)
        await eventually(lambda: _owns(zombie), within=30, what="the first worker owns partitions again")
        await produce(stack, topics.events, [event(n, source=f"s{n}") for n in range(2_000, 2_100)])
        await until_drained(stack, topics, zombie)
    await expect_exactly(database, 2_100)


async def test_sessions_that_are_cut_cost_nothing_but_time(
    stack: Stack, database: str, topics: Topics, tmp_path: Path
) -> None:
    async with (
        worker_process(stack, database, topics, tmp_path, WORKER_HANDLERS=HANDLERS, WORKER_BATCH_RECORDS=20) as worker,
        connected(database) as db,
    ):
        await produce(stack, topics.events, [event(n, source=f"s{n}") for n in range(2_000)])
        for enough in range(100, 1_800, 300):
            await eventually(partial(_effects, database, enough), what="more effects")
            await db.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'plutus-worker'"
            )
        await until_drained(stack, topics, worker)
        metrics = await worker.metrics()
        assert await worker.stop() == "exited with code 0"
    assert metrics["plutus_worker_holds_total"] > 0
    assert metrics["processing_failure_total"] == 0
    await expect_exactly(database, 2_000)


async def test_an_event_that_asks_for_later_takes_effect_in_order_when_it_can(
    stack: Stack, database: str, topics: Topics, tmp_path: Path
) -> None:
    patient: dict[str, str] = {
        "WORKER_RETRY_ATTEMPTS": "100",
        "WORKER_RETRY_BASE": "0.05",
        "WORKER_RETRY_CEILING": "0.1",
    }
    async with worker_process(
        stack, database, topics, tmp_path, start=True, WORKER_HANDLERS=HANDLERS, **patient
    ) as worker:
        await produce(stack, topics.events, [event(0), event(1, do="later"), event(2), event(3, source="elsewhere")])
        await eventually(lambda: _retried(worker), what="it is tried again")
        async with connected(database) as db:
            await db.execute("INSERT INTO mended DEFAULT VALUES")
        await eventually(partial(_effects, database, 4), what="all took effect")
    async with connected(database) as db:
        assert [r[0] for r in await db.fetch("SELECT note FROM effects WHERE source = 's' ORDER BY n")] == [
            "k0",
            "k1",
            "k2",
        ]
        attempts = await db.fetchval("SELECT attempts FROM events WHERE idempotency_key = 'k1'")
        assert attempts >= 2
        assert await db.fetchval("SELECT count(*) FROM failures") == 0


async def _retried(worker: Service) -> bool:
    return (await worker.metrics()).get("plutus_worker_retries_total{reason=handler_error}", 0) >= 2


async def test_a_worker_waits_for_its_database_and_topics(
    stack: Stack, database: str, topics: Topics, tmp_path: Path
) -> None:
    """Both missing at the start: alive, not ready, and ready as soon as they are there; SIGTERM works meanwhile."""
    async with worker_process(
        stack, database, topics, tmp_path, start=False, WORKER_HANDLERS=HANDLERS, KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1"
    ) as worker:
        await worker.start(ready=False)
        await eventually(lambda: _alive_and_not_ready(worker), what="alive, not ready")
        assert await worker.stop() == "exited with code 0"


async def _alive_and_not_ready(worker: Service) -> bool:
    try:
        health, ready = await worker.http.get("/healthz"), await worker.http.get("/readyz")
    except OSError:
        return False
    except Exception as error:
        if type(error).__name__ == "ConnectError":
            return False
        raise
    return health.status_code == 200 and ready.status_code == 503


async def test_no_payload_and_no_secret_is_ever_logged(
    stack: Stack, database: str, topics: Topics, tmp_path: Path
) -> None:
    canary = "canary-5fb1"
    values = [
        envelope("s", "k0", {"secret": canary}, type="effect"),
        envelope("s", "k0", {"secret": canary, "n": 2}, type="effect"),
        envelope("s", "k1", {"do": "fail", "secret": canary}, type="effect"),
        canary.encode(),
        envelope("s", "k2", canary, type="card_swipe"),
    ]
    records = [Record(b"s", value, [("h", canary.encode())]) for value in values]
    async with worker_process(stack, database, topics, tmp_path, WORKER_HANDLERS=HANDLERS, LOG_LEVEL="DEBUG") as worker:
        await produce(stack, topics.events, records)
        await until_drained(stack, topics, worker)
        text = (await worker.http.get("/metrics")).text
        assert await worker.stop() == "exited with code 0"
    password = urlsplit(database).password
    assert password
    for output in (worker.log.read_text(), text):
        assert canary not in output
        assert password not in output
    for letter in await consume(stack, topics.dlq):
        ours = [value for name, value in letter.headers if name.startswith("plutus-")]
        assert all(canary.encode() not in value for value in ours)


async def test_a_handler_that_always_raises_fills_the_dead_letters_to_the_limit_only(
    stack: Stack, database: str, topics: Topics, tmp_path: Path
) -> None:
    limits: dict[str, str] = {"BREAKER_DEATHS_IN_A_ROW": "10", "BREAKER_PROBE_CEILING": "1"}
    async with worker_process(
        stack, database, topics, tmp_path, start=True, WORKER_HANDLERS=HANDLERS, **limits
    ) as worker:
        await produce(stack, topics.events, [event(n, do="bug") for n in range(100)])
        await eventually(lambda: _alarmed(worker), what="the breaker is open")
        probes = (await worker.metrics())["plutus_worker_batch_seconds_count"]
        await eventually(lambda: _batches(worker, probes + 3), what="it probes")
        async with connected(database) as db:
            assert await db.fetchval("SELECT count(*) FROM failures") == 10
            await db.execute("INSERT INTO mended DEFAULT VALUES")
        await until_drained(stack, topics, worker)
        assert (await worker.metrics())["processing_failure_total"] == 10
    assert len(await effects(database)) == 90
    assert len(await consume(stack, topics.dlq)) == 10


async def _alarmed(worker: Service) -> bool:
    return (await worker.metrics())["plutus_worker_alarms_total"] == 1


async def _batches(worker: Service, count: float) -> bool:
    return (await worker.metrics())["plutus_worker_batch_seconds_count"] >= count


async def test_an_event_that_kills_its_worker_is_dead_lettered_in_the_end(
    stack: Stack, database: str, topics: Topics, tmp_path: Path
) -> None:
    async with worker_process(
        stack, database, topics, tmp_path, start=False, WORKER_HANDLERS=HANDLERS, WORKER_INSTANCE_ID="one"
    ) as worker:
        records = [event(n, source=f"s{n % 7}", **({"do": "crash"} if n == 20 else {})) for n in range(60)]
        await produce(stack, topics.events, records)
        deaths = 0
        while not await is_drained(stack, topics, worker.group):
            if not worker.alive:
                deaths += 1
                assert deaths < 10
                await worker.start(ready=False)
        assert deaths == 5, "the first start, one death unmarked, three marked"
    assert await effects(database) == Counter({f"k{n}": 1 for n in range(60) if n != 20})
    async with connected(database) as db:
        assert await db.fetchval("SELECT reason FROM failures") == "crash_suspect"


async def test_a_header_that_is_no_utf8_costs_its_record_only(
    stack: Stack, database: str, topics: Topics, tmp_path: Path
) -> None:
    class Raw(str):
        """A header name whose bytes are not UTF-8: no client would send it, and the broker takes it."""

        def encode(self, *_: object) -> bytes:
            return b"\xff\xfe"

    async with worker_process(stack, database, topics, tmp_path, WORKER_HANDLERS=HANDLERS) as worker:
        async with AIOKafkaProducer(bootstrap_servers=stack.bootstrap) as producer:
            for round_number in range(2):
                batch = producer.create_batch()
                batch._builder = _DefaultRecordBatchBuilderPy(2, 0, False, -1, -1, 0, 1 << 20)
                for n in range(3):
                    record = event(round_number * 3 + n)
                    headers = [(Raw("bad"), b"")] if n == 1 else []
                    batch.append(timestamp=None, key=record.key, value=record.value, headers=headers)
                await (await producer.send_batch(batch, topics.events, partition=0))
        await produce(stack, topics.events, [event(6, source="elsewhere")])
        await until_drained(stack, topics, worker)
        assert worker.alive
    assert await effects(database) == Counter({f"k{n}": 1 for n in (0, 2, 3, 5, 6)})
    async with connected(database) as db:
        found = await db.fetch('SELECT reason, "partition", "offset" FROM failures ORDER BY "offset"')
        assert [tuple(row) for row in found] == [("undecodable", 0, 1), ("undecodable", 0, 4)]


async def test_partitions_added_live_are_read_from_their_beginning(
    stack: Stack, database: str, make_topics: MakeTopics, tmp_path: Path
) -> None:
    topics = await make_topics(1)
    soon: dict[str, str] = {"WORKER_METADATA_MAX_AGE": "1"}
    async with worker_process(
        stack, database, topics, tmp_path, start=True, WORKER_HANDLERS=HANDLERS, **soon
    ) as worker:
        await produce(stack, topics.events, [event(n) for n in range(10)])
        await until_drained(stack, topics, worker)
        admin = AIOKafkaAdminClient(bootstrap_servers=stack.bootstrap)
        await admin.start()
        await admin.create_partitions({topics.events: NewPartitions(4)})
        await admin.close()
        wider = replace(topics, partitions=4)
        await produce(stack, topics.events, [event(n, source=f"s{n}") for n in range(10, 60)])
        await until_drained(stack, wider, worker, within=90)
    await expect_exactly(database, 60)


async def test_records_deleted_before_they_were_processed_raise_an_alarm(
    stack: Stack, database: str, make_topics: MakeTopics, tmp_path: Path
) -> None:
    topics = await make_topics(1)
    async with worker_process(stack, database, topics, tmp_path, WORKER_HANDLERS=HANDLERS) as worker:
        await produce(stack, topics.events, [event(n) for n in range(5)])
        await until_drained(stack, topics, worker)
        assert await worker.stop() == "exited with code 0"
        await produce(stack, topics.events, [event(n) for n in range(5, 20)])
        admin = AIOKafkaAdminClient(bootstrap_servers=stack.bootstrap)
        await admin.start()
        await admin.delete_records({TopicPartition(topics.events, 0): RecordsToDelete(12)})
        await admin.close()
        await worker.start()
        await until_drained(stack, topics, worker)
        assert (await worker.metrics())["plutus_worker_lost_records_total"] == 7
    assert await effects(database) == Counter({f"k{n}": 1 for n in (*range(5), *range(12, 20))})


async def test_other_keys_flow_while_one_waits(
    stack: Stack, database: str, make_topics: MakeTopics, tmp_path: Path
) -> None:
    topics = await make_topics(1)
    async with worker_process(stack, database, topics, tmp_path, WORKER_HANDLERS=HANDLERS) as worker:
        records = [event(0, source="s0", do="later"), *(event(n, source=f"s{n % 10}") for n in range(1, 300))]
        await produce(stack, topics.events, records)
        await until_drained(stack, topics, worker)
        others = await effects(database)
        assert others == Counter({f"k{n}": 1 for n in range(300) if n % 10})
        async with connected(database) as db:
            await db.execute("INSERT INTO mended DEFAULT VALUES")
            await db.execute("UPDATE parked_keys SET next_at = now()")
        await eventually(lambda: _effects(database, 300), what="the parked key is drained")
    async with connected(database) as db:
        order = await db.fetch("SELECT note FROM effects WHERE source = 's0' ORDER BY n")
    assert [row[0] for row in order] == [f"k{n}" for n in range(0, 300, 10)]


async def test_a_parked_event_that_dies_is_dead_lettered_at_once(
    stack: Stack, database: str, topics: Topics, tmp_path: Path
) -> None:
    soon = {"WORKER_RETRY_ATTEMPTS": "3", "WORKER_RETRY_BASE": "0.05"}
    async with worker_process(stack, database, topics, tmp_path, start=True, WORKER_HANDLERS=HANDLERS, **soon):
        await produce(stack, topics.events, [event(0, do="later")])
        async with connected(database) as db:
            await eventually(
                partial(db.fetchval, "SELECT count(*) FROM failures"), what="it has been tried often enough"
            )
            # Half of what a partition without work waits before it looks around.
            await eventually(
                partial(db.fetchval, "SELECT dlq_at FROM failures"), within=5, what="its dead letter is sent"
            )
    assert [letter.value for letter in await consume(stack, topics.dlq)] == [event(0, do="later").value]


async def test_emitted_events_take_effect_once_across_kills(
    stack: Stack, database: str, topics: Topics, tmp_path: Path
) -> None:
    async with worker_process(
        stack, database, topics, tmp_path, WORKER_HANDLERS=HANDLERS, WORKER_INSTANCE_ID="one"
    ) as worker:
        records = [Record(b"s", envelope("s", f"k{n}", {}, type="chain")) for n in range(300)]
        await produce(stack, topics.events, records)
        for enough in (50, 250):
            await eventually(partial(_effects, database, enough), what="more effects")
            worker.kill()
            await worker.ended()
            await worker.start()
        await eventually(partial(_effects, database, 600), within=60, what="all effects and all they emitted")
        await until_drained(stack, topics, worker)
    async with connected(database) as db:
        assert await db.fetchval("SELECT count(*) FROM effects") == 600
        assert await db.fetchval("SELECT count(DISTINCT event_id) FROM effects") == 600
        assert await db.fetchval("SELECT count(*) FROM emitted_events") == 0
