"""Reads back what became of a demo: the log, the key table, events, effects, failures, dead letters, the counters.

Everything is read for the events of this run alone, so that others may use the system meanwhile; only the counters of
the processes cannot tell whose they count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import ARRAY, BindParameter, LargeBinary, Uuid, any_, column, func, literal, select, table
from sqlalchemy.ext.asyncio import AsyncConnection

from infra.cli.http import Answer, get
from infra.cli.reader import Offsets, Reader
from infra.cli.replay import FAILURE_ID
from infra.demo.bad import Poison
from infra.demo.laws import Facts, Metrics, PoisonFacts, SourceFacts
from infra.demo.quakes import Quake
from infra.local.endpoints import Endpoints
from infra.runtime.settings import RuntimeSettings
from infra.runtime.tables import event_keys, events, failures, partition_claims
from schemas.headers import GATEWAY, first

_EFFECTS = table("example_earthquakes", column("event_id", Uuid))


@dataclass(frozen=True)
class Run:
    """What one demo sent, and since when.

    started: Postgres's time before the first send. log_starts, dlq_starts: where the topics ended then.
    """

    quakes: list[Quake]
    poison: list[Poison]
    started: datetime
    log_starts: Offsets
    dlq_starts: Offsets

    @property
    def ids(self) -> list[UUID]:
        """The quakes' event ids."""
        return [quake.id for quake in self.quakes]


@dataclass
class Log:
    """The copies of this run in the events topic. by_place: whether the gateway wrote the copy at (partition, offset)."""

    by_place: dict[tuple[int, int], bool] = field(default_factory=dict)
    quakes: Counter[tuple[str, bool]] = field(default_factory=Counter)
    poison: Counter[bytes] = field(default_factory=Counter)


async def read_log(reader: Reader, run: Run, ends: Offsets) -> Log:
    """Every copy of this run's records from where the topic ended before to `ends`."""
    mine = {(quake.source, quake.key) for quake in run.quakes}
    bad = {poison.key for poison in run.poison}
    log = Log()
    async for records in reader.read(run.log_starts, ends):
        for record in records:
            if record.key in bad:
                log.poison[record.key] += 1
            elif (source := _source_of(record.value, mine)) is not None:
                from_gateway = first(record.headers, GATEWAY) is not None
                log.by_place[record.partition, record.offset] = from_gateway
                log.quakes[source, from_gateway] += 1
    return log


def _source_of(value: bytes | None, mine: set[tuple[str, str]]) -> str | None:
    """The source of a record of ours, None for any other."""
    try:
        members = orjson.loads(value or b"")
        found = (members["source"], members["idempotency_key"])
    except (orjson.JSONDecodeError, KeyError, TypeError, IndexError):
        return None
    return found[0] if found in mine else None


async def is_drained(db: AsyncConnection, settings: RuntimeSettings, run: Run, ends: Offsets) -> bool:
    """Whether everything before `ends` has taken effect, and every dead letter of this run is acknowledged."""
    claims = partition_claims
    mine = (claims.c.group == settings.kafka_group, claims.c.topic == settings.kafka_topic)
    reached = {
        row[0]: row[1] or 0 for row in await db.execute(select(claims.c.partition, claims.c.next_offset).where(*mine))
    }
    if any(
        reached.get(partition, 0) < end for partition, end in ends.items() if end > run.log_starts.get(partition, 0)
    ):
        return False
    unsent = select(func.count()).select_from(failures).where(_is_poison(run), failures.c.dlq_offset.is_(None))
    return bool((await db.execute(unsent)).scalar_one() == 0)


async def stored(db: AsyncConnection, run: Run) -> int:
    """How many quakes have taken effect so far."""
    query = (
        select(func.count())
        .select_from(event_keys)
        .where(_is_one_of(event_keys.c.event_id, run), event_keys.c.state == "stored")
    )
    return int((await db.execute(query)).scalar_one())


async def read_events(db: AsyncConnection, run: Run, log: Log, facts: Facts) -> list[float]:
    """Adds what the tables say of the quakes; returns the seconds from acceptance to effect of those created over HTTP."""
    source_of = {quake.id: quake.source for quake in run.quakes}
    over_http = await _read_keys(db, run, log, facts, source_of)
    columns = (events.c.event_id, events.c.status, events.c.handled_by, events.c.received_at, events.c.processed_at)
    query = select(*columns).where(events.c.received_at >= run.started, _is_one_of(events.c.event_id, run))
    seen: set[UUID] = set()
    seconds = []
    for event_id, status, handled_by, received_at, processed_at in await db.execute(query):
        count = facts.sources[source_of[event_id]]
        count.stored += 1
        count.stored_ids += event_id not in seen
        count.processed += status == "PROCESSED"
        count.with_handler += handled_by is not None
        seen.add(event_id)
        if event_id in over_http and processed_at is not None:
            seconds.append((processed_at - received_at).total_seconds())
    await _read_effects(db, run, facts, source_of)
    return seconds


async def _read_keys(db: AsyncConnection, run: Run, log: Log, facts: Facts, source_of: Mapping[UUID, str]) -> set[UUID]:
    """Who created each event: the row in the key table names the record; the ids of those created over HTTP."""
    query = select(event_keys.c.event_id, event_keys.c.partition, event_keys.c.record_offset)
    over_http = set()
    for event_id, partition, offset in await db.execute(query.where(_is_one_of(event_keys.c.event_id, run))):
        count = facts.sources[source_of[event_id]]
        match log.by_place.get((partition, offset)):
            case True:
                count.created_by_http += 1
                over_http.add(event_id)
            case False:
                count.created_by_producer += 1
    return over_http


async def _read_effects(db: AsyncConnection, run: Run, facts: Facts, source_of: Mapping[UUID, str]) -> None:
    if (await db.execute(select(func.to_regclass("public.example_earthquakes")))).scalar_one() is None:
        return
    query = select(_EFFECTS.c.event_id, func.count()).where(_is_one_of(_EFFECTS.c.event_id, run))
    for event_id, times in await db.execute(query.group_by(_EFFECTS.c.event_id)):
        count = facts.sources[source_of[event_id]]
        count.effects += times
        count.handled += 1


async def read_failures(db: AsyncConnection, dlq: Reader, run: Run, log: Log, facts: Facts) -> None:
    """Adds what became of the poison records, and of quakes that failed and should not have."""
    found = {poison.key: PoisonFacts(poison.name, poison.reason.value, log.poison[poison.key]) for poison in run.poison}
    columns = (failures.c.key, failures.c.reason, failures.c.dlq_offset)
    for key, reason, dlq_offset in await db.execute(select(*columns).where(_is_poison(run))):
        found[key].failures += 1
        found[key].acknowledged += dlq_offset is not None
        found[key].reasons |= {reason}
    named: dict[bytes, set[bytes | None]] = {key: set() for key in found}
    async for records in dlq.read(run.dlq_starts, await dlq.ends()):
        for record in records:
            if record.key in named:
                named[record.key].add(first(record.headers, FAILURE_ID))
    for key, ids in named.items():
        found[key].dead_letters = len(ids)
    facts.poison = list(found.values())
    query = select(func.count()).select_from(failures).where(_is_one_of(failures.c.event_id, run))
    facts.quake_failures = (await db.execute(query)).scalar_one()


def add_answers(facts: Facts, answers: Sequence[tuple[Quake, Answer]]) -> None:
    """Adds what the gateway said of each quake."""
    sure: Counter[UUID] = Counter()
    for quake, answer in answers:
        count = facts.sources[quake.source]
        members = answer.members
        if members.get("event_id") != str(quake.id):
            continue
        if answer.status == 202:
            count.accepted += 1
            count.deferred += "dedup" in members
            sure[quake.id] += "dedup" not in members
        elif answer.status == 200:
            count.duplicates += 1
    facts.accepted_twice = sum(times > 1 for times in sure.values())


def new_facts(run: Run, log: Log) -> Facts:
    """Facts with what was to be sent and what is in the log."""
    quakes = Counter(quake.source for quake in run.quakes)
    return Facts(
        {
            source: SourceFacts(
                quakes=number, from_gateway=log.quakes[source, True], from_producer=log.quakes[source, False]
            )
            for source, number in quakes.items()
        }
    )


async def read_metrics(found: Endpoints) -> Metrics:
    """The counters of all processes, added up."""
    gateway = _samples(await get(f"{found.gateway_metrics}/metrics"))
    workers: Counter[str] = Counter()
    for url in found.worker_metrics:
        workers.update(_samples(await get(f"{url}/metrics")))
    return Metrics(
        ingest_requests=gateway["ingest_requests_total"],
        created=gateway["raw_events_created_total"],
        duplicates=gateway["raw_events_duplicate_total"],
        processed=workers["processing_success_total"],
        failed=workers["processing_failure_total"],
        worker_duplicates=workers["plutus_worker_duplicates_total"],
        rebalances=workers["plutus_worker_rebalances_total"],
    )


def _samples(page: str) -> Counter[str]:
    """The samples of a Prometheus page by name, over all labels, rounded."""
    found: Counter[str] = Counter()
    for line in page.splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            found[name.partition("{")[0]] += round(float(value)) if value not in ("+Inf", "NaN") else 0
    return found


def _is_one_of(ids: Any, run: Run) -> Any:
    return ids == any_(_array(run.ids, Uuid()))


def _is_poison(run: Run) -> Any:
    return failures.c.key == any_(_array([poison.key for poison in run.poison], LargeBinary()))


def _array(values: list[Any], kind: Any) -> BindParameter[Any]:
    return literal(values, ARRAY(kind))
