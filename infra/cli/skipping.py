"""What `plutus offsets` does: looks at both sides of every partition, and sets both forwards.

The order is audit, Postgres, Kafka. Cut short after any of them, nothing is left out yet or all of it is, because a worker
begins at the smaller offset; the same command goes on. The claim's epoch rises with its offset, so that a worker which
was only stopped, and comes back, cannot write the old one over it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime

from aiokafka import AIOKafkaConsumer, OffsetAndMetadata, TopicPartition
from aiokafka.errors import KafkaError
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from infra.cli import jobs
from infra.cli.connect import database, operator_settings, reaching_kafka
from infra.cli.filters import confirm
from infra.cli.jobs import Kind, Status
from infra.cli.output import DONE, NOTHING_MATCHED, USAGE, Failure, Problem, plural, say, show_json, show_table
from infra.runtime import topics
from infra.runtime.kafka import connection
from infra.runtime.settings import RuntimeSettings
from infra.runtime.tables import partition_claims

_SECONDS = 15.0
_CLOSE_SECONDS = 5.0


@dataclass(frozen=True)
class Order:
    """What the command was told. partitions: None for all. Neither offset nor time: to the end."""

    partitions: frozenset[int] | None
    to_offset: int | None
    to_time: datetime | None
    dry_run: bool
    yes: bool
    as_json: bool


@dataclass(frozen=True)
class Place:
    """A partition. committed, next_offset: what Kafka and Postgres know, None: nothing. to: where to go on."""

    partition: int
    beginning: int
    end: int
    committed: int | None
    next_offset: int | None
    to: int | None = None

    @property
    def start(self) -> int:
        """Where a worker would begin: as `stream_worker.consumer_loop` decides."""
        known = [offset for offset in (self.committed, self.next_offset) if offset is not None]
        return max(self.beginning, min(known)) if self.committed is not None else self.beginning

    @property
    def skipped(self) -> int:
        """Offsets that would be left out; those of control records count too."""
        return max(0, (self.to or 0) - self.start)


async def show_places(*, as_json: bool) -> int:
    """Tell where the workers are."""
    settings = operator_settings(kafka=True, postgres=True)
    async with _group(settings) as consumer, database(settings) as db:
        places = await _places(settings, consumer, db)
    if as_json:
        for place in places:
            known = {name: value for name, value in asdict(place).items() if name != "to"}
            show_json({**known, "start": place.start, "lag": place.end - place.start})
    else:
        columns = ("partition", "beginning", "in Kafka", "in Postgres", "begins at", "end", "lag")
        show_table(
            columns,
            [[p.partition, p.beginning, p.committed, p.next_offset, p.start, p.end, p.end - p.start] for p in places],
        )
    return DONE


async def skip_forwards(order: Order) -> int:
    """Leave out what the order says."""
    settings = operator_settings(kafka=True, postgres=True)
    async with _group(settings) as consumer, database(settings) as db:
        await _refuse_workers(settings)
        all_places = await _places(settings, consumer, db)
        missing = sorted((order.partitions or set()) - {place.partition for place in all_places})
        if missing:
            raise Failure(f"Topic {settings.kafka_topic} has no partition {missing[0]}.", code=USAGE)
        asked = [p for p in all_places if order.partitions is None or p.partition in order.partitions]
        chosen = [place for place in await _aimed(settings, consumer, asked, order) if place.skipped]
        records = sum(place.skipped for place in chosen)
        if chosen and not order.dry_run:
            confirm(f"Leave out {plural(records, 'record')} for good?", yes=order.yes)
            await _skip(settings, consumer, db, chosen)
    if order.as_json:
        show_json({"dry_run": order.dry_run, "records": records, "partitions": [_told(place) for place in chosen]})
    elif chosen:
        show_table(("partition", "from", "to", "records"), [[p.partition, p.start, p.to, p.skipped] for p in chosen])
    say(f"{plural(records, 'record')} {'would be ' if order.dry_run else ''}left out")
    return DONE if chosen else NOTHING_MATCHED


async def _skip(
    settings: RuntimeSettings, consumer: AIOKafkaConsumer, db: AsyncConnection, chosen: list[Place]
) -> None:
    request = {"filter": {"topic": settings.kafka_topic, "group": settings.kafka_group}}
    job = await jobs.start(db, Kind.SKIP, {**request, "partitions": [_told(place) for place in chosen]})
    claims = [
        {"group": settings.kafka_group, "topic": settings.kafka_topic, "partition": p.partition, "next_offset": p.to}
        for p in chosen
    ]
    statement = insert(partition_claims).values([{**claim, "epoch": 1} for claim in claims])
    await db.execute(
        statement.on_conflict_do_update(
            index_elements=["group", "topic", "partition"],
            set_={"next_offset": statement.excluded.next_offset, "epoch": partition_claims.c.epoch + 1},
        )
    )
    with reaching_kafka(settings):
        async with asyncio.timeout(_SECONDS):
            await consumer.commit(
                {TopicPartition(settings.kafka_topic, p.partition): OffsetAndMetadata(p.to or 0, "") for p in chosen}
            )
    await jobs.save(db, job, Status.DONE, {"skipped": sum(place.skipped for place in chosen)})


async def _refuse_workers(settings: RuntimeSettings) -> None:
    """Kafka takes no offsets from us while the group has members, and a worker would overwrite Postgres's.

    Raises:
        Failure: workers run.
    """
    with reaching_kafka(settings):
        busy = await topics.has_workers(settings)
    if busy:
        raise Failure(
            f"Group {settings.kafka_group} has workers.",
            advice="stop them all and run this again (one that died is a member until its session ends)",
        )


async def _places(settings: RuntimeSettings, consumer: AIOKafkaConsumer, db: AsyncConnection) -> list[Place]:
    tps = sorted(consumer.assignment(), key=lambda tp: int(tp.partition))
    with reaching_kafka(settings):
        async with asyncio.timeout(_SECONDS):
            beginnings, ends = await consumer.beginning_offsets(tps), await consumer.end_offsets(tps)
            committed = {tp: await consumer.committed(tp) for tp in tps}
    claims = partition_claims.c
    mine = (claims.group == settings.kafka_group, claims.topic == settings.kafka_topic)
    known = {row[0]: row[1] for row in await db.execute(select(claims.partition, claims.next_offset).where(*mine))}
    return [Place(tp.partition, beginnings[tp], ends[tp], committed[tp], known.get(tp.partition)) for tp in tps]


async def _aimed(
    settings: RuntimeSettings, consumer: AIOKafkaConsumer, places: list[Place], order: Order
) -> list[Place]:
    """The same with where to go on: never before the log's beginning, never beyond its end."""
    at: Mapping[int, int] = {}
    if order.to_time is not None:
        wanted = {
            TopicPartition(settings.kafka_topic, p.partition): round(order.to_time.timestamp() * 1000) for p in places
        }
        with reaching_kafka(settings):
            async with asyncio.timeout(_SECONDS):
                found = await consumer.offsets_for_times(wanted)
        at = {tp.partition: answer.offset for tp, answer in found.items() if answer is not None}
    aimed = []
    for place in places:
        to = order.to_offset if order.to_offset is not None else at.get(place.partition, place.end)
        bounded = min(max(to, place.beginning), place.end)
        aimed.append(replace(place, to=bounded))
    return aimed


@asynccontextmanager
async def _group(settings: RuntimeSettings) -> AsyncIterator[AIOKafkaConsumer]:
    """A client that speaks for the workers' group without being a member: no subscription, so nobody rebalances.

    Raises:
        Failure: no broker, or the topic does not exist.
    """
    consumer = AIOKafkaConsumer(
        **connection(settings, "plutus-cli"), group_id=settings.kafka_group, enable_auto_commit=False
    )
    try:
        with reaching_kafka(settings):
            async with asyncio.timeout(_SECONDS):
                await consumer.start()
            numbers = await topics.partitions(settings)
        if not numbers:
            raise Failure(
                f"Topic {settings.kafka_topic} does not exist.",
                advice="plutus topics create",
                problem=Problem.TOPIC_MISSING,
            )
        consumer.assign([TopicPartition(settings.kafka_topic, number) for number in numbers])
        yield consumer
    finally:
        with suppress(TimeoutError, KafkaError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await consumer.stop()


def _told(place: Place) -> dict[str, int | None]:
    return {"partition": place.partition, "from": place.start, "to": place.to, "records": place.skipped}
