"""A worker process, put together: the only module that knows all concrete classes, and the order of start and stop.

Start: settings → codecs → handlers → health port → producer → hooks → consumer. Both Kafka and Postgres may be down at
the start: the process waits, not ready. Stop (SIGTERM): poll no more, settle what is in flight, commit, leave the group,
close the producer and the pool; a second signal ends at once.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Coroutine
from functools import partial
from typing import Any, cast

import asyncpg
import stamina
from aiokafka import AIOKafkaConsumer
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import KafkaError

from infra.runtime import log, postgres
from infra.runtime.kafka import check_codecs, connection, pace_metadata
from infra.runtime.postgres import Deadlines
from infra.runtime.producer import Producer
from infra.runtime.telemetry import Telemetry
from infra.runtime.topics import longer_than, wait_for_topics
from schemas import registry as schema_registry
from stream_worker import handlers, records, store
from stream_worker.backoff import Backoff
from stream_worker.batch import Processor
from stream_worker.batch_size import BatchSize
from stream_worker.breaker import Breaker
from stream_worker.consumer_loop import ConsumerLoop
from stream_worker.handlers import Registry
from stream_worker.health import HealthServer
from stream_worker.maintenance import keep_house
from stream_worker.marked_runs import MarkedRuns
from stream_worker.metrics import Metrics
from stream_worker.observe import Observer
from stream_worker.parking import Drainer
from stream_worker.partition import Shared
from stream_worker.run import Runner
from stream_worker.settings import WorkerSettings
from stream_worker.sqlstate import Verdict, in_handler
from stream_worker.together import Together

_LOG = log.get(__name__)
_TICK_LIMIT = 30.0
_CLOSE_TIMEOUT = 5.0
_FETCH = 4 << 20
"""Bytes in one answer of a broker at most (KIP-74: one batch always comes). It is held three times while it is taken apart."""


class NotSo(Exception):
    """A worker must not start like this. The text is for people: what does not fit, and what to change."""


async def run(settings: WorkerSettings) -> None:
    """Run a worker until SIGTERM or SIGINT.

    Raises:
        ImportError: a handler module. NotSo: the settings and what they meet do not go together. OSError: the metrics port.
        Anything that ended the work unasked.
    """
    stop = _stop_on_signals()
    check_codecs()
    registry = handlers.load(settings.worker_handlers)
    refuse_slow(registry, settings)
    metrics = Metrics()
    worker = _Worker()
    health = HealthServer(
        settings.worker_metrics_host,
        settings.worker_metrics_port,
        metrics.registry,
        alive=worker.alive,
        ready=worker.ready,
    )
    _LOG.info("The worker starts.", action="starting", metrics_port=health.port, handlers=registry.names())
    telemetry = Telemetry(settings, "plutus-worker")
    producer = Producer(settings, "plutus-worker", on_swap=lambda why: metrics.producer_swaps.inc())
    pool = await postgres.pool(
        settings, name="plutus-worker", size=settings.worker_db_connections + 2, deadlines=deadlines(settings)
    )
    try:
        if await _until(stop, _prepare(settings, producer, pool, registry)):
            consumer = _consumer(settings)
            if await _until(stop, _start(consumer)):
                worker.loop = ConsumerLoop(
                    consumer,
                    _shared(
                        settings, registry, pool, producer, Observer(metrics, telemetry, settings.kafka_group), metrics
                    ),
                    topic=settings.kafka_topic,
                    group=settings.kafka_group,
                    buffer_bytes=settings.worker_buffer_bytes,
                    drain_timeout=settings.worker_drain,
                    watchdog=settings.worker_watchdog,
                )
                house = asyncio.create_task(
                    keep_house(pool, metrics, settings.events_retention_days, settings.dedup_window_days)
                )
                try:
                    await worker.loop.run(stop)
                finally:
                    house.cancel()
                    await asyncio.gather(house, return_exceptions=True)
    finally:
        worker.draining = True
        await producer.stop(_CLOSE_TIMEOUT)
        await _close(pool)
        telemetry.shutdown()
        health.close()
        _LOG.info("The worker has stopped.", action="stopped")


def refuse_slow(registry: Registry, settings: WorkerSettings) -> None:
    """A handler that may run for longer than Postgres lets a transaction idle would be ended every time, anew.

    Raises:
        NotSo: there is one; it is named.
    """
    slow = registry.slower_than(settings.idle_in_transaction)
    if slow:
        raise NotSo(
            f"The timeout of these handlers is longer than 0.6 x WORKER_SESSION_TIMEOUT: {', '.join(slow)}. "
            "Shorten it, or raise WORKER_SESSION_TIMEOUT."
        )


async def refuse_short_window(settings: WorkerSettings) -> None:
    """What a topic still holds after its key was forgotten would take effect a second time (interleaving 11).

    Raises:
        NotSo: a topic may keep a record for as long as the window, or longer. KafkaError: the brokers refuse to tell.
    """
    days = settings.dedup_window_days
    if days is None:
        return
    found: list[str] = []
    async for attempt in stamina.retry_context(on=_kafka_is_passing, attempts=None, timeout=None, wait_max=2.0):
        with attempt:
            found = await longer_than(settings, days)
    if found:
        raise NotSo(
            f"DEDUP_WINDOW_DAYS={days} is too short: {', '.join(found)}. Raise it, or shorten retention.ms of the topics "
            "(KAFKA_RETENTION_DAYS and KAFKA_DLQ_RETENTION_DAYS for `plutus topics create`)."
        )


def _kafka_is_passing(error: Exception) -> bool:
    """No broker answers, or one that has just started does not know yet what the controller knows of its topics."""
    return isinstance(error, OSError) or (isinstance(error, KafkaError) and error.retriable)


class _Worker:
    """What the health checks look at."""

    def __init__(self) -> None:
        self.loop: ConsumerLoop | None = None
        self.draining = False

    def alive(self) -> dict[str, bool]:
        loop = self.loop
        return {"poll_loop": loop is None or time.monotonic() - loop.last_tick < _TICK_LIMIT}

    def ready(self) -> dict[str, bool]:
        loop = self.loop
        return {**self.alive(), "joined_group": loop is not None and loop.joined, "not_draining": not self.draining}


def _stop_on_signals() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if stop.is_set():
            raise SystemExit(1)  # asked twice: now
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    return stop


async def _until(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Wait for `work`, or for the stop; False: stopped before it was done."""
    task = asyncio.create_task(work)
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait([task, stopped], return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if task.done():
        task.result()
        return not stop.is_set()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return False


async def _prepare(settings: WorkerSettings, producer: Producer, pool: asyncpg.Pool, registry: Registry) -> None:
    await wait_for_topics(settings)
    await refuse_short_window(settings)
    await producer.start()
    async for attempt in stamina.retry_context(on=_passing, attempts=None, timeout=None, wait_max=5.0):
        with attempt:
            await _with_hooks(pool, registry)


def _passing(error: Exception) -> bool:
    """The database is not there yet; anything else, a hook's own mistake say, ends the start."""
    return isinstance(error, OSError | asyncpg.InterfaceError) or in_handler(error) is Verdict.HOLD


async def _with_hooks(pool: asyncpg.Pool, registry: Registry) -> None:
    async with pool.acquire(timeout=_CLOSE_TIMEOUT) as connection:
        await run_hooks(cast(asyncpg.Connection, connection), registry)


async def run_hooks(db: asyncpg.Connection, registry: Registry) -> None:
    """What handler modules bring along, one process at a time; also proves that the database is there."""
    async with db.transaction():
        if registry.hooks:
            await db.execute("SET LOCAL lock_timeout = '10s'")
            await db.execute(store.SQL["start_hooks_lock"])
        for hook in registry.hooks:
            await hook(db)


async def _start(consumer: AIOKafkaConsumer) -> None:
    """aiokafka's `start` without a subscription only connects; tried again until a broker answers."""
    async for attempt in stamina.retry_context(on=(KafkaError, OSError), attempts=None, timeout=None, wait_max=5.0):
        with attempt:
            await consumer.start()


def _consumer(settings: WorkerSettings) -> AIOKafkaConsumer:
    session = round(settings.worker_session_timeout * 1000)
    rebalance = max(session, round((settings.worker_drain + 5) * 1000))
    consumer = AIOKafkaConsumer(
        # A member that joins is answered when the slowest one has drained: such a request must wait that long.
        **{**connection(settings, "plutus-worker"), "request_timeout_ms": rebalance + 5_000},
        group_id=settings.kafka_group,
        group_instance_id=settings.worker_instance_id,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        # Exactly one: with two, every rebalance sends one JoinGroup per assignor. This one, Kafka's own default, leaves a
        # member more of what it has when another joins or leaves: of 12 partitions 6 change hands from two members to three,
        # 8 where they are dealt out in turn.
        partition_assignment_strategy=[RangePartitionAssignor],
        session_timeout_ms=session,
        heartbeat_interval_ms=session // 10,
        rebalance_timeout_ms=rebalance,
        max_poll_interval_ms=300_000,
        fetch_max_wait_ms=250,
        metadata_max_age_ms=round(settings.worker_metadata_max_age * 1000),
        # The largest record the topic takes always fits, or it would be skipped.
        max_partition_fetch_bytes=max(1 << 20, settings.dead_letter_bytes),
        fetch_max_bytes=max(_FETCH, settings.dead_letter_bytes),
    )
    pace_metadata(consumer._client)
    return consumer


def _shared(
    settings: WorkerSettings,
    registry: Registry,
    pool: asyncpg.Pool,
    producer: Producer,
    observer: Observer,
    metrics: Metrics,
) -> Shared:
    # Direct producers skip the edge, so the worker checks payloads again.
    payload_schemas = schema_registry.default(strict=settings.strict_schemas)
    read = partial(records.read, check=payload_schemas.check, refuse_key_mismatch=settings.key_mismatch == "dead")
    runner = Runner(
        settings.worker_handler_timeout,
        settings.transaction_budget,
        Backoff(settings.worker_retry_base, 2.0, settings.worker_retry_ceiling, settings.worker_retry_attempts),
        settings.worker_batch_records,
        settings.worker_retry_in_place,
    )
    processor = Processor(registry, runner, settings.replay_limit, settings.unhandled == "dead")
    slots = asyncio.Semaphore(settings.worker_db_connections)
    return Shared(
        pool=pool,
        slots=slots,
        processor=processor,
        drainer=Drainer(processor, read, settings.worker_retry_max_age, settings.breaker_probe_ceiling),
        sender=producer,
        read=read,
        observer=observer,
        metrics=metrics,
        backoff=Backoff(0.1, 2.0, settings.worker_hold_ceiling),
        probes=Backoff(1.0, 2.0, settings.breaker_probe_ceiling),
        breaker=Breaker(settings.breaker_deaths_in_a_row, settings.breaker_share),
        dlq_topic=settings.kafka_dlq_topic,
        dialects=settings.dlq_header_dialects,
        size=BatchSize(settings.worker_batch_records),
        together=Together(pool, slots, processor, observer, settings.worker_batch_records),
        marked_runs=MarkedRuns(),
        batch_bytes=settings.worker_batch_bytes,
        produce_timeout=settings.kafka_request_timeout,
    )


def deadlines(settings: WorkerSettings) -> Deadlines:
    """Of every connection that runs handlers."""
    return Deadlines(
        command=settings.worker_session_timeout,
        # Above the second after which the server looks for deadlocks, which must show as what they are.
        statement=settings.idle_in_transaction,
        lock=settings.idle_in_transaction,
        idle_in_transaction=settings.idle_in_transaction,
    )


async def _close(pool: asyncpg.Pool) -> None:
    try:
        async with asyncio.timeout(_CLOSE_TIMEOUT):
            await pool.close()
    except TimeoutError:
        pool.terminate()
