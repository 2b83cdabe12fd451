"""One trace from the HTTP request through the record's header to the worker, as a collector sees it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiokafka.structs import ConsumerRecord

from infra.runtime.producer import Record
from tests.harness import (
    Service,
    connected,
    consume,
    envelope,
    eventually,
    gateway_process,
    is_drained,
    produce,
    worker_process,
)
from tests.otlp import Collector, Seen, collecting
from tests.stack import Stack, Topics

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
VALID = f"00-{TRACE}-{SPAN}-01".encode()
HEADER = re.compile(rb"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")
HOSTILE = [b"\xff", b"00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-01", VALID * 50, b"", None]
SECRET = "card-4711"


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A collector that listens."""
    with collecting() as listening:
        yield listening


@dataclass(frozen=True)
class Whole:
    """A gateway and a worker, and what lies between them."""

    stack: Stack
    topics: Topics
    database: str
    gateway: Service
    worker: Service

    async def post(self, key: str, traceparent: bytes | None = None) -> int:
        """Submit an event; returns the status of the answer."""
        trace = [] if traceparent is None else [(b"traceparent", traceparent)]
        answer = await self.gateway.http.post(
            "/api/v1/ingest",
            content=envelope("shop", key, {"card": SECRET}),
            headers=[(b"content-type", b"application/json"), *trace],
        )
        return answer.status_code

    async def drained(self) -> list[ConsumerRecord]:
        """The records of the events topic, once the worker has done with all of them."""
        await eventually(lambda: is_drained(self.stack, self.topics, self.worker.group))
        return await consume(self.stack, self.topics.events)

    async def stored(self) -> int:
        """How many events took effect."""
        async with connected(self.database) as db:
            return int(await db.fetchval("SELECT count(*) FROM events"))


@asynccontextmanager
async def whole(
    stack: Stack, database: str, topics: Topics, folder: Path, endpoint: str | None
) -> AsyncIterator[Whole]:
    """Both processes, which export within a moment, or have no endpoint."""
    on: dict[str, Any] = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_BSP_SCHEDULE_DELAY": "50"} if endpoint else {}
    async with (
        gateway_process(stack, database, topics, folder, **on) as gateway,
        worker_process(stack, database, topics, folder, **on) as worker,
    ):
        yield Whole(stack, topics, database, gateway, worker)


def trace_header(record: ConsumerRecord) -> list[bytes | None]:
    """Every traceparent of a record."""
    return [value for name, value in record.headers if name == "traceparent"]


def ids(record: ConsumerRecord) -> tuple[str, str]:
    """Trace and span of a record's only traceparent."""
    (value,) = trace_header(record)
    found = HEADER.fullmatch(value or b"")
    assert found is not None, value
    return found[1].decode(), found[2].decode()


async def spans(collector: Collector, service: str, name: str, count: int) -> list[Seen]:
    """So many spans of that name, once they have arrived."""
    await eventually(lambda: len(collector.spans(service, name)) >= count, what=f"{count} spans {name} of {service}")
    return collector.spans(service, name)


async def test_one_trace_goes_from_the_request_to_the_worker(
    stack: Stack, database: str, topics: Topics, tmp_path: Path, collector: Collector
) -> None:
    async with whole(stack, database, topics, tmp_path, collector.url) as system:
        assert await system.post("one", traceparent=VALID) == 202
        (record,) = await system.drained()
        (request,) = await spans(collector, "plutus-gateway", "POST", 1)
        (process,) = await spans(collector, "plutus-worker", "process", 1)
        assert (request.trace, request.parent) == (TRACE, SPAN)
        assert ids(record) == (TRACE, request.span)
        assert (process.trace, process.parent) == (TRACE, request.span)
        assert process.attributes["messaging.destination.name"] == topics.events
        assert process.attributes["messaging.consumer.group.name"] == system.worker.group
        # A second event of nobody's trace begins its own.
        assert await system.post("two") == 202
        records = await system.drained()
        (begun,) = [span for span in await spans(collector, "plutus-gateway", "POST", 2) if span.trace != TRACE]
        assert begun.parent == ""
        assert (begun.trace, begun.span) in [ids(found) for found in records]
        processed = await spans(collector, "plutus-worker", "process", 2)
        assert {span.trace for span in processed} == {TRACE, begun.trace}
        assert not any(SECRET in span.raw or "shop" in span.raw for span in [request, begun, *processed])


async def test_a_hostile_traceparent_costs_no_request_and_begins_a_trace(
    stack: Stack, database: str, topics: Topics, tmp_path: Path, collector: Collector
) -> None:
    async with whole(stack, database, topics, tmp_path, collector.url) as system:
        sent = [value for value in HOSTILE if value is not None]
        for number, value in enumerate(sent):
            assert await system.post(f"hostile {number}".replace(" ", "-"), traceparent=value) == 202
        records = await system.drained()
        requests = await spans(collector, "plutus-gateway", "POST", len(sent))
        assert {span.parent for span in requests} == {""}
        assert {ids(record) for record in records} == {(span.trace, span.span) for span in requests}
        assert len({span.trace for span in requests}) == len(sent)


async def test_a_hostile_header_of_a_record_costs_no_record(
    stack: Stack, database: str, topics: Topics, tmp_path: Path, collector: Collector
) -> None:
    async with whole(stack, database, topics, tmp_path, collector.url) as system:
        hostile = [
            Record(b"shop", envelope("shop", f"h{number}", {}), (("traceparent", value), ("tracestate", b"\xff")))
            for number, value in enumerate(HOSTILE)
        ]
        twice = (("traceparent", VALID), ("traceparent", b"\xff"), ("baggage", b"\xff\xfe"))
        await produce(stack, topics.events, [*hostile, Record(b"shop", envelope("shop", "valid", {}), twice)])
        await system.drained()
        assert await system.stored() == len(HOSTILE) + 1
        # One span for each batch, linked to the only trace among them (or its child, were it a batch of its own).
        found = await spans(collector, "plutus-worker", "process", 1)
        assert [link for span in found for link in span.links] + [span.trace for span in found if span.parent] == [
            TRACE
        ]


async def test_a_dead_letter_keeps_the_trace_it_came_with_and_tells_no_key(
    stack: Stack, database: str, topics: Topics, tmp_path: Path, collector: Collector
) -> None:
    async with whole(stack, database, topics, tmp_path, collector.url) as system:
        given: list[tuple[tuple[str, bytes | None], ...]] = [
            (("traceparent", VALID),),
            (("traceparent", b"\xff"),),
            (("traceparent", None),),
            (),
        ]
        await produce(stack, topics.events, [Record(SECRET.encode(), b"nonsense", headers) for headers in given])
        await system.drained()
        letters = sorted(
            await eventually(lambda: _all_letters(system, len(given)), what="every dead letter"),
            key=lambda letter: next(int(value) for name, value in letter.headers if name == "plutus-dlq-offset"),
        )
        assert [trace_header(letter) for letter in letters[:3]] == [[VALID], [b"\xff"], [None]]
        sends = await spans(collector, "plutus-worker", f"{topics.dlq} send", len(given))
        assert ids(letters[3]) in [(span.trace, span.span) for span in sends]
        assert {span.attributes["messaging.kafka.message.key"] for span in sends} == {""}
        assert not any(SECRET in span.raw for span in collector.spans("plutus-worker"))


async def _all_letters(system: Whole, count: int) -> list[ConsumerRecord]:
    letters = await consume(system.stack, system.topics.dlq)
    return letters if len(letters) >= count else []


async def test_without_an_endpoint_nothing_is_added(
    stack: Stack, database: str, topics: Topics, tmp_path: Path
) -> None:
    async with whole(stack, database, topics, tmp_path, None) as system:
        given = {"none": None, "hostile": b"\xff", "valid": VALID}
        for key, traceparent in given.items():
            assert await system.post(key, traceparent) == 202
        await produce(stack, topics.events, [Record(b"shop", b"nonsense")])
        for record in await system.drained():
            # A valid trace of the sender's goes on to whoever records it.
            assert trace_header(record) == ([VALID] if b'"valid"' in record.value else [])
        (letter,) = await eventually(lambda: _all_letters(system, 1), what="the dead letter")
        assert trace_header(letter) == []
        assert await system.stored() == 3
