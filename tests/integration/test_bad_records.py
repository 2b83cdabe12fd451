"""The catalogue of bad Kafka records, row by row, against one real worker: what each comes to, and that others flow.

A refused record has its reason in the failures table and in the dead-letter topic, with its bytes; and in under a second
the next record of its partition has taken effect, whatever came before it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy
from aiokafka.structs import RecordMetadata
from pydantic import SecretStr

from infra.runtime import topics as all_topics
from infra.runtime.producer import Record
from infra.runtime.settings import RuntimeSettings
from schemas.ids import event_id
from schemas.limits import SAFETY
from tests import stack as real
from tests.harness import Service, connected, envelope, eventually, worker_process
from tests.stack import Stack, Topics

HANDLERS = "tests.integration.bad_record_handlers"
LIMIT = 3
LARGEST = SAFETY.body_bytes + 256 * 1024
"""max.message.bytes of these topics: more than the worker itself takes, so that there is something for it to refuse."""
BATCH_OVERHEAD = 256
WITHIN = 5.0  # alone on the machine it is well under a second; the suite runs beside other tests
_SECONDS = 20.0
MAIN, OTHER, BOMBED = 0, 1, 2  # partitions

PROCESSED, ABSORBED, INVISIBLE, LIMITED = "PROCESSED", "ABSORBED", "INVISIBLE", "LIMITED"
"""What can come of a record beside a reason: took effect; no effect of its own; never seen; put down and not dead-lettered
once more."""


@dataclass
class Bench:
    """The worker, a producer that sends anything, and eyes on both ends."""

    stack: Stack
    topics: Topics
    worker: Service
    db: asyncpg.Connection
    producer: AIOKafkaProducer
    letters: AIOKafkaConsumer
    sent: int = 0

    async def send(self, record: Record, partition: int = MAIN, timestamp: int | None = None) -> RecordMetadata:
        """Publish one record as it is."""
        return await self.producer.send_and_wait(
            self.topics.events,
            record.value,
            key=record.key,
            partition=partition,
            timestamp_ms=timestamp,
            headers=list(record.headers),
        )

    async def seconds_to_the_next(self, partition: int = MAIN) -> float:
        """How long the next record of a partition takes to take effect, from its acknowledgement on."""
        self.sent += 1
        key = f"next-{self.sent}"
        await self.send(event(key, source="bystander"), partition)
        clock = asyncio.get_running_loop().time
        began = clock()
        await eventually(lambda: self.processed("bystander", key), within=_SECONDS, every=0.01, what="it moved on")
        return clock() - began

    async def processed(self, source: str, key: str) -> bool:
        """Whether this event took effect."""
        row = await self.event(source, key)
        return row is not None and row["status"] == "PROCESSED"

    async def event(self, source: str, key: str) -> asyncpg.Record | None:
        """Its row."""
        return await self.db.fetchrow(
            "SELECT * FROM events WHERE event_id = $1"
            " AND received_at = (SELECT accepted_at FROM event_keys WHERE event_id = $1)",
            event_id(source, key),
        )

    async def effects(self, source: str, key: str) -> int:
        """How often its handler left a row."""
        count: int = await self.db.fetchval(
            "SELECT count(*) FROM bad_record_effects WHERE event_id = $1", event_id(source, key)
        )
        return count

    async def failure(self, at: RecordMetadata) -> asyncpg.Record | None:
        """The failures row of a record."""
        return await self.db.fetchrow(
            'SELECT * FROM failures WHERE topic = $1 AND "partition" = $2 AND "offset" = $3',
            at.topic,
            at.partition,
            at.offset,
        )

    async def letter(self, failure: asyncpg.Record) -> Any:
        """The dead letter that a failures row names."""
        tp = TopicPartition(self.topics.dlq, failure["dlq_partition"])
        self.letters.assign([tp])
        self.letters.seek(tp, failure["dlq_offset"])
        async with asyncio.timeout(_SECONDS):
            return await self.letters.getone()

    async def metric(self, name: str) -> float:
        """A sample of the worker."""
        return (await self.worker.metrics()).get(name, 0.0)


@pytest.fixture(scope="module")
async def bench(stack: Stack, migrated_template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
    """One worker for the whole catalogue. An event is tried twice, almost at once."""
    topics = await _wide_topics(stack)
    settings: dict[str, str | float] = {
        "WORKER_HANDLERS": HANDLERS,
        "WORKER_RETRY_ATTEMPTS": 2,
        "WORKER_RETRY_BASE": 0.02,
        "WORKER_RETRY_CEILING": 0.02,
        "REPLAY_LIMIT": LIMIT,
        "KAFKA_MAX_MESSAGE_BYTES": LARGEST,
    }
    folder = tmp_path_factory.mktemp("bad-records")
    async with (
        real.new_database(stack, template=migrated_template) as name,
        worker_process(stack, stack.dsn_of(name), topics, folder, start=True, **settings) as worker,
        connected(stack.dsn_of(name)) as db,
        AIOKafkaProducer(bootstrap_servers=stack.bootstrap, max_request_size=2 * LARGEST) as producer,
        AIOKafkaConsumer(bootstrap_servers=stack.bootstrap) as letters,
    ):
        made = Bench(stack, topics, worker, db, producer, letters)
        for partition in range(topics.partitions):
            await made.seconds_to_the_next(partition)  # assigned, and warm
        yield made


async def _wide_topics(stack: Stack) -> Topics:
    token = os.urandom(6).hex()
    made = Topics(f"test.{token}.events", f"test.{token}.dlq", 3)
    await all_topics.create(
        RuntimeSettings(
            kafka_bootstrap_servers=stack.bootstrap,
            database_url=SecretStr(stack.dsn),
            kafka_topic=made.events,
            kafka_dlq_topic=made.dlq,
            kafka_partitions=made.partitions,
            kafka_max_message_bytes=LARGEST,
        )
    )
    return made


def event(key: str, payload: object = None, *, source: str = "s", **members: Any) -> Record:
    """A record whose handler does its work, unless another type is given."""
    return Record(source.encode(), envelope(source, key, payload, **{"type": "good", **members}))


def text(key: str, payload: str, key_json: str | None = None) -> Record:
    """An event whose payload is this JSON text."""
    head = envelope("s", key, 0, type="good").removesuffix(b'"payload": 0, "type": "good"}')
    if key_json is not None:
        head = head.replace(orjson.dumps(key), key_json.encode())
    return Record(b"s", head + b'"payload": ' + payload.encode() + b', "type": "good"}')


def broken(value: bytes | None, *headers: tuple[str, bytes | None]) -> Record:
    """A record that is no event."""
    return Record(b"s", value, headers)


Send = Callable[[Bench, Sequence[Record]], Awaitable[list[RecordMetadata | None]]]


async def plain(bench: Bench, records: Sequence[Record]) -> list[RecordMetadata | None]:
    """One after the other to one partition."""
    return [await bench.send(record) for record in records]


async def on_two_partitions(bench: Bench, records: Sequence[Record]) -> list[RecordMetadata | None]:
    """To one partition each."""
    first, second = records
    return [await bench.send(first, MAIN), await bench.send(second, OTHER)]


def stamped(*timestamps: int) -> Send:
    """With these times; a broker with LogAppendTime puts its own in their place."""

    async def send(bench: Bench, records: Sequence[Record]) -> list[RecordMetadata | None]:
        return [
            await bench.send(record, timestamp=timestamp) for record, timestamp in zip(records, timestamps, strict=True)
        ]

    return send


async def compressed(bench: Bench, records: Sequence[Record]) -> list[RecordMetadata | None]:
    """Each with another codec."""
    found: list[RecordMetadata | None] = []
    for codec, record in zip(("gzip", "snappy", "lz4", "zstd"), records, strict=True):
        found.append(await packed(bench, record, codec, MAIN))
    return found


async def packed(bench: Bench, record: Record, codec: str, partition: int) -> RecordMetadata:
    """One record, compressed."""
    async with AIOKafkaProducer(
        bootstrap_servers=bench.stack.bootstrap, compression_type=codec, max_request_size=1 << 26
    ) as producer:
        return await producer.send_and_wait(bench.topics.events, record.value, key=record.key, partition=partition)


def in_transaction(*, commit: bool) -> Send:
    """All of them in one transaction."""

    async def send(bench: Bench, records: Sequence[Record]) -> list[RecordMetadata | None]:
        async with AIOKafkaProducer(
            bootstrap_servers=bench.stack.bootstrap, transactional_id=os.urandom(6).hex()
        ) as producer:
            await producer.begin_transaction()
            sent = [
                await producer.send_and_wait(bench.topics.events, record.value, key=record.key, partition=MAIN)
                for record in records
            ]
            await (producer.commit_transaction() if commit else producer.abort_transaction())
        return list(sent)

    return send


class RawName(str):
    """A header name whose bytes are not UTF-8: no client would send it, and the broker takes it."""

    __slots__ = ()

    def encode(self, *_: object) -> bytes:
        """Its bytes."""
        return b"\xff\xfe"


async def by_hand(bench: Bench, records: Sequence[Record]) -> list[RecordMetadata | None]:
    """In one batch, written as no client would write it."""
    batch = bench.producer.create_batch()
    batch._builder = _DefaultRecordBatchBuilderPy(2, 0, False, -1, -1, 0, 1 << 20)
    for record in records:
        batch.append(timestamp=None, key=record.key, value=record.value, headers=list(record.headers))
    first = await (await bench.producer.send_batch(batch, bench.topics.events, partition=MAIN))
    return [first._replace(offset=first.offset + n) for n in range(len(records))]


@dataclass(frozen=True)
class Case:
    """Records of a row of the catalogue, how they are sent, and what each comes to: a reason or one of the words above.

    counts: metrics that grow by so much.
    """

    row: int
    what: str
    records: Sequence[Record]
    comes_to: Sequence[str]
    send: Send = plain
    counts: tuple[tuple[str, int], ...] = ()


def _all(reason: str, row: int, what: str, *records: Record, **more: Any) -> Case:
    return Case(row, what, records, [reason] * len(records), **more)


HEADERS_30K: tuple[tuple[str, bytes | None], ...] = tuple((f"h{n}", b"x" * 3_000) for n in range(10))
TRACES: tuple[tuple[tuple[str, bytes | None], ...], ...] = (
    (("traceparent", b"\xff"),),
    (("traceparent", None),),
    (("traceparent", b"00-" + b"0" * 32), ("traceparent", b"x"), ("", b"")),
)
FORGED: tuple[tuple[str, bytes | None], ...] = (
    ("plutus-dlq-topic", b"elsewhere"),
    ("plutus-dlq-reason", b"none"),
    ("plutus-dlq-attempts", b"9999"),
    ("plutus-replay-count", b"9999"),
)

CASES = [
    _all("null_value", 1, "null value", broken(None)),
    _all("null_value", 1, "null key and null value", Record(None, None), send=by_hand),
    _all("malformed_json", 2, "no JSON", broken(b""), broken(b"{"), broken(b"\x00\x01"), broken(b"\xff\xfe{}")),
    _all("not_object", 3, "no object", *(broken(value) for value in (b"[]", b'"x"', b"1", b"null"))),
    _all("schema_invalid", 4, "not its schema", event("r4a", {}, type="feature_used"), event("r4b", extra=1)),
    _all("schema_unknown", 4, "a version nobody knows", event("r4c", {}, type="feature_used", schema_version="99.0")),
    _all(
        "bad_id",
        5,
        "no id, too long, no text",
        Record(b"s", envelope("s", "r5", 0).replace(b'"idempotency_key"', b'"idempotency"')),
        event("x" * 256),
        text("r5c", "0", "12"),
        text("r5d", "0", "null"),
        text("r5e", "0", '" "'),
    ),
    _all(
        "unstorable_text",
        6,
        "NUL, lone surrogates",
        text("r6a", r'"a\u0000b"'),
        text("r6b", r'{"\u0000": 1}'),
        text("r6c", r'"\ud800"'),
        text("r6d", r'["\udc00\ud800"]'),
    ),
    _all("unstorable_number", 7, "beyond any column", text("r7a", "1e200000"), text("r7b", "9" * 140_000)),
    _all(PROCESSED, 7, "beyond int64, kept digit for digit", text("r7c", "18446744073709551616")),
    _all("too_deep", 8, "depth 65 to 20,000", *(text(f"r8-{n}", "[" * n + "]" * n) for n in (65, 255, 20_000))),
    _all(
        "too_large",
        9,
        "larger than the worker takes, too many values",
        broken(envelope("s", "r9a", 0).ljust(SAFETY.body_bytes + 1)),
        event("r9b", [0] * 10_001),
    ),
    _all(PROCESSED, 9, "as large as the edge takes", event("r9c", "x" * 200_000)),
    _all("too_large", 10, "fills its topic", broken(b"x" * (LARGEST - BATCH_OVERHEAD - 30_200), *HEADERS_30K)),
    _all(PROCESSED, 11, "gzip, snappy, lz4, zstd", *(event(f"r11-{n}", "x" * 9) for n in range(4)), send=compressed),
    Case(
        13,
        "a header name that is not UTF-8",
        [event("r13a"), Record(b"s", event("r13b").value, [(RawName("bad"), b"")]), event("r13c")],
        [PROCESSED, "undecodable", PROCESSED],
        by_hand,
    ),
    _all(
        PROCESSED,
        14,
        "traceparent of any kind",
        *(Record(b"s", event(f"r14-{n}").value, headers) for n, headers in enumerate(TRACES)),
    ),
    _all(
        "headers_too_large",
        15,
        "1,000 headers, 900 kB of headers",
        Record(b"s", event("r15a").value, [(f"h{n}", b"") for n in range(1_000)]),
        Record(b"s", event("r15b").value, [("h", b"x" * 900_000)]),
    ),
    _all(
        PROCESSED,
        16,
        "no key, another key",
        Record(None, event("r16a").value),
        Record(b"else", event("r16b").value),
        counts=(("plutus_worker_key_mismatch_total", 2),),
    ),
    Case(
        17,
        "same id, same body",
        [event("r17", {"n": 1}), event("r17", {"n": 1}), event("r17", {"n": 1.0})],
        [PROCESSED, ABSORBED, ABSORBED],
        counts=(("plutus_worker_duplicates_total", 2),),
    ),
    Case(18, "same id, other body", [event("r18", 1), event("r18", 2)], [PROCESSED, "idempotency_conflict"]),
    Case(
        19,
        "same id on two partitions",
        [event("r19"), event("r19")],
        [PROCESSED, PROCESSED],
        on_two_partitions,
        counts=(("plutus_worker_duplicates_total", 1),),
    ),
    _all(
        PROCESSED,
        20,
        "times before and after all time",
        *(event(f"r20-{n}") for n in range(3)),
        send=stamped(0, 2**63 - 1, 7_200_000 + 1_767_225_600_000),
    ),
    _all(INVISIBLE, 21, "an aborted transaction", event("r21a"), broken(b"junk"), send=in_transaction(commit=False)),
    _all(
        PROCESSED,
        22,
        "offsets without a record",
        event("r22"),
        send=in_transaction(commit=True),
        counts=(("plutus_worker_lost_records_total", 0), ("plutus_worker_alarms_total", 0)),
    ),
    Case(
        23,
        "forged origin and replay count",
        [Record(b"s", event("r23").value, FORGED), broken(b"forged", *FORGED)],
        [PROCESSED, "malformed_json"],
    ),
    Case(
        24,
        "the same bytes over the limit",
        [broken(b"again and again")] * (LIMIT + 2),
        ["malformed_json"] * LIMIT + [LIMITED] * 2,
    ),
    _all("handler_error", 25, "the handler raises", event("r25a", type="raises")),
    _all("handler_timeout", 25, "the handler waits for ever", event("r25b", type="times_out")),
    _all("handler_broke_transaction", 26, "the handler swallows an SQL error", event("r26", type="swallows")),
    _all(
        "handler_error",
        27,
        "the handler cancels, or exits",
        event("r27a", type="cancels"),
        event("r27b", source="t", type="exits"),
        counts=(("plutus_worker_retries_total{reason=handler_error}", 2),),
    ),
    _all(PROCESSED, 28, "no handler", event("r28", type="nobody")),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.row}: {case.what}")
async def test_a_record_comes_to_what_the_catalogue_says_and_the_partition_moves_on(bench: Bench, case: Case) -> None:
    before = {name: await bench.metric(name) for name, _ in case.counts}
    sent = await case.send(bench, case.records)
    seconds = await bench.seconds_to_the_next()
    assert seconds < WITHIN
    for record, at, what in zip(case.records, sent, case.comes_to, strict=True):
        assert at is not None
        await _check(bench, record, at, what)
    for name, count in case.counts:
        await eventually(partial(_is_at, bench, name, before[name] + count), within=5, what=f"{name} + {count}")


async def _is_at(bench: Bench, name: str, value: float) -> bool:
    return await bench.metric(name) == value


async def _check(bench: Bench, record: Record, at: RecordMetadata, what: str) -> None:
    if what in (PROCESSED, ABSORBED):
        await _took_effect(bench, record, what)
        assert await bench.failure(at) is None
    elif what == INVISIBLE:
        assert await bench.failure(at) is None
        assert await bench.event("s", "r21a") is None
    elif what == LIMITED:
        row = await bench.failure(at)
        assert row is not None
        assert (row["reason"], row["status"], row["dlq_offset"]) == ("replay_limit", "discarded", None)
    else:
        await _is_dead(bench, record, at, what)


async def _took_effect(bench: Bench, record: Record, what: str) -> None:
    assert record.value is not None
    members = orjson.loads(record.value)
    source, key = members["source"], members["idempotency_key"]
    await eventually(lambda: bench.processed(source, key), within=5, what=f"{key} is processed")
    row = await bench.event(source, key)
    assert row is not None
    assert orjson.loads(row["payload"]) == members["payload"]
    assert what == ABSORBED or row["payload"].encode() in record.value, "kept as sent"
    handled = members["type"] == "good"
    assert (await bench.effects(source, key), row["handled_by"] is not None) == (int(handled), handled)


async def _is_dead(bench: Bench, record: Record, at: RecordMetadata, reason: str) -> None:
    row = await eventually(lambda: bench.failure(at), within=5, what="its failures row")
    assert (row["reason"], row["status"]) == (reason, "open")
    assert (row["key"], row["value"]) == (record.key, record.value)
    row = await eventually(lambda: _sent(bench, at), within=5, what="its dead letter")
    letter = await bench.letter(row)
    assert (letter.key, letter.value) == (record.key, record.value)
    own = [header for header in record.headers if not header[0].startswith("plutus-dlq-")]
    if reason != "undecodable":
        assert list(letter.headers)[: len(own)] == own
    said = dict(letter.headers[len(own) :])
    assert len(said) == len(letter.headers) - len(own), "each of ours once"
    assert said["plutus-dlq-reason"].decode() == reason
    assert said["plutus-dlq-failure-id"].decode() == str(row["failure_id"])
    origin = [said[f"plutus-dlq-{name}"].decode() for name in ("topic", "partition", "offset")]
    assert origin == [at.topic, str(at.partition), str(at.offset)]
    if row["event_id"] is not None:
        effects = await bench.db.fetchval(
            "SELECT count(*) FROM bad_record_effects WHERE event_id = $1", row["event_id"]
        )
        assert effects == (1 if reason == "idempotency_conflict" else 0), "nothing half done"


async def _sent(bench: Bench, at: RecordMetadata) -> asyncpg.Record | None:
    row = await bench.failure(at)
    return row if row is not None and row["dlq_offset"] is not None else None


async def test_row_12_a_record_that_unpacks_to_more_than_any_topic_takes(bench: Bench) -> None:
    bomb = Record(b"s", bytes(LARGEST + (1 << 20)))
    at = await packed(bench, bomb, "gzip", BOMBED)
    await bench.seconds_to_the_next(MAIN)  # others flow
    row = await eventually(lambda: bench.failure(at), within=5, what="its failures row")
    assert row["reason"] in ("too_large", "crash_suspect")
    await eventually(lambda: _sent(bench, at), within=10, what="its dead letter, without the bytes that no topic takes")


async def test_dead_by_setting(stack: Stack, database: str, topics: Topics, tmp_path: Path) -> None:
    """Rows 16 and 28 for those who want no surprises."""
    async with (
        worker_process(
            stack, database, topics, tmp_path, WORKER_HANDLERS=HANDLERS, KEY_MISMATCH="dead", UNHANDLED="dead"
        ) as worker,
        connected(database) as db,
        AIOKafkaProducer(bootstrap_servers=stack.bootstrap) as producer,
        AIOKafkaConsumer(bootstrap_servers=stack.bootstrap) as letters,
    ):
        bench = Bench(stack, topics, worker, db, producer, letters)
        records = [Record(None, event("a").value), Record(b"else", event("b").value), event("c", type="nobody")]
        sent = await plain(bench, records)
        await bench.seconds_to_the_next()
        for record, at, reason in zip(records, sent, ("key_mismatch", "key_mismatch", "no_handler"), strict=True):
            assert at is not None
            await _is_dead(bench, record, at, reason)


def test_every_row_of_the_catalogue_is_here() -> None:
    assert {case.row for case in CASES} | {12} == set(range(1, 29))
