"""Tracing: one trace from the HTTP request through the Kafka headers to the handler. Off and free without an endpoint.

Spans are made by hand on the hot paths; aiokafka's instrumentation is used for `AIOKafkaProducer.send` only. Its consumer
side is taken off again: a header `traceparent: \\xff` makes it raise after aiokafka has moved on, which would skip a whole
batch. Trace headers are read with a strict parser that never raises (W3C Trace Context, section 3.2).
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import aiokafka
from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.instrumentation.aiokafka import AIOKafkaInstrumentor
from opentelemetry.instrumentation.utils import unwrap
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind, StatusCode, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from infra.runtime.settings import RuntimeSettings

_TRACEPARENT = re.compile(rb"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")
_HEADER = "traceparent"
_SHUTDOWN_SECONDS = 3.0
_KEY_ATTRIBUTE = "messaging.kafka.message.key"


class Telemetry:
    """This process's tracing. Without an endpoint every method returns at once and no span object is made.

    Args:
        settings: endpoint and sampling.
        service: value of `service.name`.
        exporter: in place of the OTLP exporter, for tests.
    """

    def __init__(self, settings: RuntimeSettings, service: str, exporter: SpanExporter | None = None) -> None:
        self._provider: TracerProvider | None = None
        self._tracer: trace.Tracer | None = None
        endpoint = settings.otel_exporter_otlp_endpoint
        if exporter is None and endpoint is None:
            return
        self._provider = TracerProvider(
            shutdown_on_exit=False,  # `shutdown` has a deadline, that one has none
            resource=Resource.create({"service.name": service}),
            sampler=ParentBased(TraceIdRatioBased(settings.otel_traces_sample_ratio)),
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter or _otlp_exporter(f"{endpoint}")))
        self._tracer = self._provider.get_tracer("plutus")
        # Baggage is never forwarded: only the trace itself crosses the pipe.
        propagate.set_global_textmap(TraceContextTextMapPropagator())
        _instrument_send(self._provider)

    @property
    def enabled(self) -> bool:
        """True when spans are recorded."""
        return self._tracer is not None

    @contextmanager
    def span(
        self,
        name: str,
        kind: SpanKind,
        *,
        parent: bytes | None = None,
        links: Sequence[bytes | None] = (),
        attributes: dict[str, Any] | None = None,
    ) -> Iterator[Span | None]:
        """A span around a block; yields None when tracing is off. Of an exception only its class is told.

        Args:
            parent: a traceparent value from outside; anything but a valid one starts a new trace. None: the span around
                this one, if there is one.
            links: traceparent values of creation contexts; invalid ones are left out.
        """
        if self._tracer is None:
            yield None
            return
        with self._tracer.start_as_current_span(
            name,
            context=_context(parent),
            kind=kind,
            links=[Link(context) for value in links if (context := parse_traceparent(value))],
            attributes=attributes,
            # An exception's message may hold a payload, and both of these tell it.
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield span
            except BaseException as error:
                span.set_status(StatusCode.ERROR)
                span.set_attribute("error.type", type(error).__qualname__)
                raise

    def shutdown(self, timeout: float = _SHUTDOWN_SECONDS) -> None:
        """Export what is pending, for at most `timeout` seconds: a collector that does not answer holds nobody up."""
        if self._provider is not None:
            exporting = threading.Thread(target=self._provider.shutdown, name="telemetry-shutdown", daemon=True)
            exporting.start()
            exporting.join(timeout)


def traceparent(span: Span | None) -> bytes | None:
    """The W3C `traceparent` header of a span, or None for no span."""
    if span is None:
        return None
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}".encode()


def parse_traceparent(value: bytes | None) -> SpanContext | None:
    """The span context in a traceparent header; None for everything that is not exactly one. Never raises."""
    match = _TRACEPARENT.fullmatch(value) if value else None
    if match is None:
        return None
    return SpanContext(int(match[1], 16), int(match[2], 16), is_remote=True, trace_flags=TraceFlags(int(match[3], 16)))


def _otlp_exporter(endpoint: str) -> SpanExporter:
    # Imported here: it is an eighth of a process's start, and most have no collector.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces", timeout=5)


def _context(parent: bytes | None) -> Context | None:
    if parent is None:
        return None
    context = parse_traceparent(parent)
    return trace.set_span_in_context(NonRecordingSpan(context), Context()) if context else Context()


def _instrument_send(provider: TracerProvider) -> None:
    AIOKafkaInstrumentor().instrument(tracer_provider=provider, async_produce_hook=_keep_creation_context)
    unwrap(aiokafka.AIOKafkaConsumer, "getone")
    unwrap(aiokafka.AIOKafkaConsumer, "getmany")


async def _keep_creation_context(span: Span, args: Any, kwargs: dict[str, Any]) -> None:
    """The instrumentation appends a second traceparent and records the key: the first one stands, the key goes."""
    if span.is_recording():
        span.set_attribute(_KEY_ATTRIBUTE, "")
    headers = kwargs.get("headers")
    if isinstance(headers, list):
        ours = [position for position, (name, _) in enumerate(headers) if name == _HEADER]
        for position in reversed(ours[1:]):
            del headers[position]
