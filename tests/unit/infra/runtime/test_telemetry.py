"""Tracing: off it costs nothing, on it takes nothing on trust. Spans of whole processes: tests/integration/test_tracing.py."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Sequence

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.instrumentation.aiokafka import AIOKafkaInstrumentor
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from pydantic import SecretStr

from infra.runtime.settings import RuntimeSettings
from infra.runtime.telemetry import Telemetry, parse_traceparent, traceparent

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
VALID = f"00-{TRACE}-{SPAN}-01".encode()
HOSTILE = {
    "null": None,
    "empty": b"",
    "no UTF-8": b"\xff",
    "no UTF-8 inside": VALID[:-1] + b"\xff",
    "too long": VALID + b"-x",
    "much too long": VALID * 10_000,
    "too short": VALID[:-1],
    "a line break": VALID + b"\n",
    "white space": b" " + VALID,
    "upper case": VALID.upper(),
    "no hex": VALID.replace(b"a", b"g"),
    "no trace": f"00-{'0' * 32}-{SPAN}-01".encode(),
    "no span": f"00-{TRACE}-{'0' * 16}-01".encode(),
    "version ff": b"ff" + VALID[2:],
    "other digits": VALID.replace(b"1", "\u0661".encode()),
}


def settings(**given: object) -> RuntimeSettings:
    """Settings with these beside the addresses."""
    url = SecretStr("postgresql://nobody@localhost/none")
    return RuntimeSettings(kafka_bootstrap_servers="localhost:1", database_url=url, **given)  # type: ignore[arg-type]


class Recorder:
    """Telemetry that keeps what it exports."""

    def __init__(self, telemetry: Telemetry, exporter: InMemorySpanExporter) -> None:
        self.telemetry = telemetry
        self._exporter = exporter

    def spans(self) -> Sequence[ReadableSpan]:
        """Everything so far; it is the end of the telemetry."""
        self.telemetry.shutdown()
        return self._exporter.get_finished_spans()


@pytest.fixture
def clients() -> Iterator[None]:
    """The Kafka clients are themselves again afterwards."""
    yield
    AIOKafkaInstrumentor().uninstrument()


@pytest.fixture
def record(clients: None) -> Callable[..., Recorder]:
    """Makes telemetry that is on."""

    def made(**given: object) -> Recorder:
        exporter = InMemorySpanExporter()
        return Recorder(Telemetry(settings(**given), "test", exporter), exporter)

    return made


def is_wrapped(function: object) -> bool:
    """Whether the instrumentation stands around it."""
    return hasattr(function, "__wrapped__")


# --- off


def test_off_it_makes_no_span_and_touches_no_client() -> None:
    before = AIOKafkaProducer.__dict__["send"]
    telemetry = Telemetry(settings(), "test")
    assert not telemetry.enabled
    with telemetry.span("work", SpanKind.CONSUMER, parent=VALID, links=[VALID]) as span:
        assert span is None
        assert trace.get_current_span() is trace.INVALID_SPAN
    assert traceparent(span) is None
    assert AIOKafkaProducer.__dict__["send"] is before
    telemetry.shutdown()


def test_off_it_costs_next_to_nothing() -> None:
    telemetry = Telemetry(settings(), "test")
    began = time.process_time()
    for _ in range(20_000):
        with telemetry.span("work", SpanKind.CONSUMER, parent=VALID):
            pass
    # Some 20 ms here; a span that is made and thrown away costs a second.
    assert time.process_time() - began < 0.4


# --- what comes from outside


def test_a_valid_value_is_read_in_full() -> None:
    context = parse_traceparent(VALID)
    assert context is not None
    assert (f"{context.trace_id:032x}", f"{context.span_id:016x}") == (TRACE, SPAN)
    assert (context.trace_flags.sampled, context.is_remote) == (True, True)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_value_is_none(name: str) -> None:
    assert parse_traceparent(HOSTILE[name]) is None


@given(st.binary(max_size=80) | st.binary(max_size=4).map(lambda noise: VALID + noise))
def test_no_value_ever_raises(value: bytes) -> None:
    context = parse_traceparent(value)
    assert context is None or context.is_valid


# --- on


def test_a_span_continues_the_trace_it_was_given(record: Callable[..., Recorder]) -> None:
    on = record()
    assert on.telemetry.enabled
    with on.telemetry.span("work", SpanKind.CONSUMER, parent=VALID, attributes={"messaging.system": "kafka"}) as span:
        header = traceparent(span)
    (found,) = on.spans()
    assert found.context is not None
    assert found.parent is not None
    assert (found.name, found.kind, dict(found.attributes or {})) == (
        "work",
        SpanKind.CONSUMER,
        {"messaging.system": "kafka"},
    )
    assert (f"{found.context.trace_id:032x}", f"{found.parent.span_id:016x}") == (TRACE, SPAN)
    assert found.resource.attributes["service.name"] == "test"
    assert header == f"00-{TRACE}-{found.context.span_id:016x}-01".encode()


def test_a_hostile_parent_starts_a_new_trace(record: Callable[..., Recorder]) -> None:
    on = record()
    for value in HOSTILE.values():
        with on.telemetry.span("work", SpanKind.SERVER, parent=value) as span:
            header = traceparent(span)
            assert header is not None
            assert parse_traceparent(header) is not None
    spans = on.spans()
    assert len({span.context.trace_id for span in spans if span.context}) == len(HOSTILE)
    assert [span.parent for span in spans] == [None] * len(HOSTILE)


def test_a_hostile_parent_does_not_join_the_trace_around_it(record: Callable[..., Recorder]) -> None:
    on = record()
    with on.telemetry.span("outer", SpanKind.SERVER):
        with on.telemetry.span("inner", SpanKind.INTERNAL):
            pass
        with on.telemetry.span("stranger", SpanKind.CONSUMER, parent=b"\xff"):
            pass
    parents = {span.name: span.parent is not None for span in on.spans()}
    assert parents == {"outer": False, "inner": True, "stranger": False}


def test_of_the_links_only_valid_ones_are_kept(record: Callable[..., Recorder]) -> None:
    on = record()
    with on.telemetry.span("work", SpanKind.CONSUMER, links=[*HOSTILE.values(), VALID]):
        pass
    (found,) = on.spans()
    assert [f"{link.context.trace_id:032x}" for link in found.links] == [TRACE]


def test_an_exception_is_told_by_its_class_alone(record: Callable[..., Recorder]) -> None:
    on = record()
    with pytest.raises(ValueError, match="4711"), on.telemetry.span("work", SpanKind.CONSUMER):
        raise ValueError("the payload was 4711")
    (found,) = on.spans()
    assert found.status.status_code is StatusCode.ERROR
    assert dict(found.attributes or {}) == {"error.type": "ValueError"}
    assert "4711" not in found.to_json()


def test_a_share_of_the_traces_is_recorded_and_others_decisions_stand(record: Callable[..., Recorder]) -> None:
    on = record(otel_traces_sample_ratio=0.0)
    with on.telemetry.span("ours", SpanKind.SERVER) as span:
        header = traceparent(span)
    with on.telemetry.span("theirs", SpanKind.SERVER, parent=VALID):
        pass
    context = parse_traceparent(header)
    assert context is not None
    assert not context.trace_flags.sampled
    assert [found.name for found in on.spans()] == ["theirs"]


def test_the_producer_is_instrumented_and_the_consumer_is_not(record: Callable[..., Recorder]) -> None:
    # Its wrapper decodes headers after the consumer has moved on: one `traceparent: \xff` would skip a whole batch.
    record()
    assert is_wrapped(AIOKafkaProducer.send)
    assert not is_wrapped(AIOKafkaProducer.send_batch)
    assert not is_wrapped(AIOKafkaConsumer.getone)
    assert not is_wrapped(AIOKafkaConsumer.getmany)


@pytest.mark.parametrize("answering", [True, False], ids=["never answers", "is not there"])
def test_a_collector_that_does_not_answer_holds_nobody_up(clients: None, answering: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        if not answering:
            silent.close()
        telemetry = Telemetry(settings(otel_exporter_otlp_endpoint=f"http://127.0.0.1:{port}"), "test")
        began = time.monotonic()
        for _ in range(3_000):
            with telemetry.span("work", SpanKind.CONSUMER):
                pass
        assert time.monotonic() - began < 3.0
        began = time.monotonic()
        telemetry.shutdown(1.0)
        assert time.monotonic() - began < 2.0
