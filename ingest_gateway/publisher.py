"""The way into Kafka: a flight becomes a record of the events topic. An ack means every in-sync replica has it."""

from __future__ import annotations

from collections.abc import Sequence

from infra.runtime.producer import Producer, Record, Result
from ingest_gateway.metrics import Metrics
from ingest_gateway.pipeline import Flight
from ingest_gateway.settings import GatewaySettings
from schemas.headers import gateway_headers

_PLAIN = tuple(gateway_headers())


class KafkaPublisher:
    """Publishes flights through the process's one producer.

    Args:
        producer: may still be connecting; then every answer is NotAccepted.
    """

    def __init__(self, producer: Producer, settings: GatewaySettings, metrics: Metrics) -> None:
        self._producer = producer
        self._topic = settings.kafka_topic
        self._timeout = settings.gateway_produce_timeout
        self._spread = settings.gateway_spread_sources
        self._seconds = metrics.produce_seconds
        self._events = metrics.batch_events

    async def publish(self, flights: Sequence[Flight]) -> Sequence[Result]:
        """Publish in the given order per partition; Receipt, NotAccepted or Unknown for each."""
        self._events.observe(len(flights))
        with self._seconds.time():
            return await self._producer.publish(self._topic, [self._record(f) for f in flights], self._timeout)

    def _record(self, flight: Flight) -> Record:
        event = flight.event
        key = event.partition_key(spread=event.source in self._spread)
        trace, encoding = flight.traceparent, event.payload_encoding
        plain = trace is None and encoding == "json"
        return Record(key, flight.wire, _PLAIN if plain else gateway_headers(trace, encoding))
