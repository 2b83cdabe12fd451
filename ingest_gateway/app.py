"""Wiring: the only module of the gateway that knows every concrete class, and the order of starting and stopping.

Start: nothing waits for Kafka or Postgres; the process answers at once, is not ready, and keeps connecting.
Stop: the last request has been answered; then keys in memory are remembered, the producer is flushed, connections close,
all under one deadline.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from infra.runtime import log
from infra.runtime.producer import Producer
from infra.runtime.telemetry import Telemetry
from ingest_gateway import bulk
from ingest_gateway.breaker import Breaker
from ingest_gateway.declarations import Declarations
from ingest_gateway.deferred import Deferred
from ingest_gateway.events import EventStatus
from ingest_gateway.health import Check
from ingest_gateway.intake import Endpoint, Intake
from ingest_gateway.keys import PostgresKeys
from ingest_gateway.metrics import Metrics
from ingest_gateway.pipeline import Pipeline, Policy
from ingest_gateway.publisher import KafkaPublisher
from ingest_gateway.routes import BATCH, INGEST, WEBHOOKS, Shell, nothing, single_or_batch
from ingest_gateway.senders import Identify, bearer
from ingest_gateway.settings import GatewaySettings
from ingest_gateway.single import Plain, single
from ingest_gateway.waiting import Waiting
from ingest_gateway.web import web
from ingest_gateway.webhooks import known_by_key, webhooks
from schemas.registry import default as payload_schemas

_LOG = log.get(__name__)
_CHECK_TIMEOUT = 1.0


class Gateway:
    """One gateway process.

    shell: the ASGI application of the port where events come in.
    operators: the one of the operators' port, where there is such a port; then `shell` refuses what is theirs.

    Args:
        declared: what the operator's files say.
        scrape: gives the metrics page, this process's own metrics alone or all processes' sums.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        declared: Declarations,
        metrics: Metrics,
        scrape: Callable[[], Awaitable[bytes]],
    ) -> None:
        self._settings = settings
        self._declared = declared
        self._telemetry = Telemetry(settings, "plutus-gateway")
        self._producer = Producer(settings, "plutus-gateway", on_swap=lambda why: metrics.producer_swaps.inc())
        self._keys = PostgresKeys(settings, metrics)
        self._status = EventStatus(settings)
        self._waiting = Waiting(self._status.find, settings.gateway_waiters, settings.gateway_wait_longest)
        breaker = Breaker(settings.breaker_failures, settings.breaker_pause, time.monotonic)
        self._deferred = Deferred(self._keys, breaker, settings.dedup_deferred_max)
        policy = Policy(
            batch_size=settings.gateway_batch_size,
            batches=settings.gateway_batches,
            linger=settings.gateway_linger,
            max_in_flight=settings.gateway_max_in_flight,
            queue_timeout=settings.gateway_queue_timeout,
            reject_in_outage=settings.dedup_outage == "reject",
            bytes_in_flight=settings.gateway_max_bytes // 2,
        )
        publisher = KafkaPublisher(self._producer, settings, metrics)
        self._pipeline = Pipeline(self._keys, publisher, self._deferred, breaker, policy, time.monotonic)
        self._background: list[asyncio.Task[None]] = []
        self.draining = False
        registry = payload_schemas(strict=settings.strict_schemas)
        keys = declared.api_keys
        identify = None if keys is None else bearer(lambda: keys.value)
        intake = Intake(
            self._pipeline, metrics, self._telemetry, registry.check, identify=identify, waiting=self._waiting
        )
        alone = settings.gateway_operator_port == 0
        behind = web(self._status, self._checks(), scrape, settings.limits, identify if alone else None)
        self.operators = Shell({}, behind, lambda: self.draining)
        self.shell = Shell(
            self._ways_in(intake, identify),
            behind if alone else nothing,
            lambda: self.draining,
            {INGEST: Plain(intake, settings.limits)},
        )
        metrics.in_flight.set_function(lambda: self._pipeline.in_flight)
        metrics.waiting.set_function(lambda: self._waiting.count)
        metrics.breaker_state.set_function(lambda: breaker.state)
        metrics.deferred_waiting.set_function(lambda: self._deferred.waiting)
        metrics.deferred_dropped.set_function(lambda: self._deferred.dropped)
        metrics.log_lines_dropped.set_function(log.dropped_lines)
        for file in declared.files():
            metrics.stale_file.labels(file.setting).set_function(file.is_stale)

    def start(self) -> None:
        """Begin connecting, and remembering what is deferred."""
        self._keys.prepare()
        self._background = [
            asyncio.create_task(self._producer.start(), name="producer-start"),
            asyncio.create_task(self._deferred.run(), name="deferred"),
            *(asyncio.create_task(file.run(), name=f"reload-{file.setting}") for file in self._declared.files()),
        ]
        for task in self._background:
            task.add_done_callback(_say_if_failed)

    def drain(self) -> None:
        """From now on /readyz says no, connections are given back, and nobody waits for an outcome."""
        self.draining = True
        self._waiting.close()

    async def stop(self) -> None:
        """Flush and close everything within the flush time-out. Call it once no request is being answered."""
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        budget = self._settings.gateway_flush_timeout
        try:
            async with asyncio.timeout(budget):
                await self._pipeline.drain()
                await self._deferred.flush()
        except TimeoutError:
            _LOG.warning("Not everything was flushed in time.", action="flush_timeout")
            self._pipeline.abandon()
        await self._producer.stop(budget)
        await self._keys.close()
        await self._status.close()
        self._telemetry.shutdown()

    def _ways_in(self, intake: Intake, identify: Identify | None) -> dict[str, Endpoint]:
        settings, limits, hooks = self._settings, self._settings.limits, self._declared.webhooks
        bounds = bulk.Policy(
            settings.gateway_bulk_requests, settings.gateway_max_bytes // 4, settings.gateway_queue_timeout
        )
        batch = bulk.Bulk(BATCH, intake, limits, bounds, self._pipeline.refusal)
        one = intake.endpoint(INGEST, single(limits))
        ways: dict[str, Endpoint] = {INGEST: single_or_batch(one, batch), BATCH: batch}
        if hooks is not None:
            # A signature's time is that of the sender's clock: the one thing here that this machine's is compared with.
            read = webhooks(WEBHOOKS, lambda: hooks.value, limits, time.time)
            known = None if identify is None else known_by_key(WEBHOOKS, lambda: hooks.value, identify)
            ways[WEBHOOKS] = intake.endpoint(f"{WEBHOOKS}{{source}}", read, identify=known)
        return ways

    def _checks(self) -> list[Check]:
        checks = [
            Check("not_draining", self._not_draining),
            Check("kafka_producer", self._producer_healthy),
            Check("kafka_topic", self._topic_known),
        ]
        if self._settings.dedup_outage == "reject":
            checks.append(Check("postgres", self._status.answers))
        return checks

    async def _not_draining(self) -> bool:
        return not self.draining

    async def _producer_healthy(self) -> bool:
        return self._producer.healthy

    async def _topic_known(self) -> bool:
        return await self._producer.partitions(self._settings.kafka_topic, _CHECK_TIMEOUT) > 0


def _say_if_failed(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        _LOG.error("A background task ended.", action="task_died", task=task.get_name(), exc_info=task.exception())
