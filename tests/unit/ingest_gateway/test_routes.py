"""The ingest endpoint and the shell around it, called as ASGI."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from infra.runtime.telemetry import Telemetry, parse_traceparent
from ingest_gateway import bulk
from ingest_gateway.breaker import Breaker
from ingest_gateway.bulk import Bulk
from ingest_gateway.deferred import Deferred
from ingest_gateway.events import Found
from ingest_gateway.head import Head
from ingest_gateway.intake import Intake, Receive
from ingest_gateway.metrics import Metrics
from ingest_gateway.pipeline import Pipeline, Policy
from ingest_gateway.problems import Answer, Kind, problem
from ingest_gateway.routes import BATCH, INGEST, Shell, single_or_batch
from ingest_gateway.settings import GatewaySettings
from ingest_gateway.single import single
from ingest_gateway.waiting import Waiting
from schemas.event import parse_envelope
from schemas.registry import default
from tests.fakes.gateway import MemoryKeys, MemoryLog, Steps
from tests.harness import envelope, eventually

SETTINGS = GatewaySettings(
    kafka_bootstrap_servers="unused:1",
    database_url="postgresql://u:p@unused/db",
    gateway_body_bytes=2048,
    gateway_bulk_items=10,
    gateway_bulk_bytes=8192,
)
TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Rig:
    """A shell with the ingest endpoints over ports in memory.

    held: the steps of look-up and publication wait to be released. bytes_held, wait: of batches.
    """

    def __init__(
        self,
        *,
        max_in_flight: int = 100,
        exporter: InMemorySpanExporter | None = None,
        held: bool = False,
        bytes_held: int = 1_000_000,
        wait: float = 30.0,
        waiting: Waiting | None = None,
    ) -> None:
        steps = Steps(held=held)
        self.keys, self.log = MemoryKeys(steps), MemoryLog(steps)
        self.metrics = Metrics()
        self.draining = False
        self.telemetry = Telemetry(SETTINGS, "test", exporter)
        breaker = Breaker(3, 1.0, lambda: 0.0)
        policy = Policy(100, 3, max_in_flight, 5.0, False)
        deferred = Deferred(self.keys, breaker, 10)
        self.pipeline = Pipeline(self.keys, self.log, deferred, breaker, policy, lambda: 0.0)
        intake = Intake(self.pipeline, self.metrics, self.telemetry, default(strict=False).check, waiting=waiting)
        batch = Bulk(BATCH, intake, SETTINGS.limits, bulk.Policy(2, bytes_held, wait), self.pipeline.refusal)
        ingest = single_or_batch(intake.endpoint(INGEST, single(SETTINGS.limits)), batch)
        self.shell = Shell({INGEST: ingest, BATCH: batch, "/crash": crash}, elsewhere, lambda: self.draining)

    async def call(
        self,
        *chunks: bytes,
        method: str = "POST",
        path: str = INGEST,
        kind: bytes | None = b"application/json",
        headers: tuple[tuple[bytes, bytes], ...] = (),
        cut: bool = False,
        receive: Receive | None = None,
    ) -> Any:
        """The answer to a request whose body comes in these chunks: (status, headers, document); None for none."""
        messages = [{"type": "http.request", "body": one, "more_body": True} for one in chunks]
        end: dict[str, Any] = {"type": "http.disconnect"} if cut else {"type": "http.request", "more_body": False}
        incoming = iter([*messages, end])
        sent: list[Any] = []

        async def said() -> Any:
            return next(incoming)

        async def send(message: Any) -> None:
            sent.append(message)

        named = [] if kind is None else [(b"content-type", kind)]
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "http_version": "1.1",
            "headers": [(b"host", b"h"), *named, *headers],
        }
        await self.shell(scope, receive or said, send)
        if not sent:
            return None
        return sent[0]["status"], dict(sent[0]["headers"]), json.loads(sent[1]["body"])

    def count(self, outcome: str) -> float | None:
        """ingest_requests_total of this outcome."""
        return self.metrics.registry.get_sample_value("ingest_requests_total", {"outcome": outcome})


async def crash(head: Head, receive: Receive) -> Answer:
    """An endpoint with a bug, whose error holds a payload."""
    raise ValueError("SECRET")


async def elsewhere(scope: Any, receive: Any, send: Any) -> None:
    """The application behind the shell."""
    await send({"type": "http.response.start", "status": 299, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})


async def test_the_contract_of_existing_users() -> None:
    rig = Rig()
    body = envelope("payment_service", "evt_123456", {"amount": 100, "currency": "KES"})
    status, headers, document = await rig.call(body)
    event = parse_envelope(body)
    assert (status, document) == (202, {"event_id": str(event.id), "status": "accepted"})
    assert headers[b"location"] == f"/api/v1/events/{event.id}".encode()
    status, headers, document = await rig.call(body)
    assert (status, document["status"], headers[b"idempotent-replayed"]) == (200, "duplicate", b"true")
    assert (rig.count("accepted"), rig.count("duplicate")) == (1, 1)
    assert rig.metrics.registry.get_sample_value("raw_events_created_total") == 1
    assert rig.metrics.registry.get_sample_value("raw_events_duplicate_total") == 1


async def test_the_record_is_the_senders_text_on_one_line() -> None:
    rig = Rig()
    body = b'{"source": "shop",\r\n "schema_version":"1.0",\n\n"idempotency_key":"a","payload":{"n": 12345678901234567890.10}}'
    await rig.call(body[:20], body[20:])
    assert rig.log.order[0].wire == body.replace(b"\r", b" ").replace(b"\n", b" ")


async def test_the_key_may_come_in_the_header() -> None:
    rig = Rig()
    bare = json.dumps({"source": "shop", "schema_version": "1.0", "payload": {"n": 1.10}}).encode()
    key = (b"idempotency-key", b'"k-1"')
    assert (await rig.call(bare, headers=(key,)))[0] == 202
    assert (await rig.call(envelope("shop", "k-1", {"n": 1.1}), headers=(key,)))[0] == 200
    assert (await rig.call(envelope("shop", "k-1", {"n": 1.1})))[0] == 200
    assert parse_envelope(rig.log.order[0].wire).idempotency_key == "k-1"
    assert (await rig.call(envelope("shop", "k-2", 1), headers=(key,)))[0] == 400
    assert (await rig.call(bare, headers=(key, key)))[0] == 400
    assert (await rig.call(bare))[0] == 422


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "malformed_json"),
        (b"  \n", 400, "malformed_json"),
        (b"{", 400, "malformed_json"),
        (b"[]", 422, "not_object"),
        (envelope("shop", "a b", 1), 400, "bad_id"),
        (envelope("shop", "k" * 256, 1), 422, "bad_id"),
        (envelope("sh op", "a", 1), 422, "schema_invalid"),
        (envelope("shop", "a", 1, extra=1), 422, "schema_invalid"),
        (envelope("shop", "a", "x" * 3000), 413, "too_large"),
        (envelope("shop", "a", {"SECRET": 1}, type="page_view"), 422, "schema_invalid"),
    ],
)
async def test_what_is_refused_is_named_and_not_repeated(body: bytes, status: int, code: str) -> None:
    rig = Rig()
    got, _, document = await rig.call(body)
    assert (got, document["status"], document["code"]) == (status, status, code)
    assert document["errors"][0].keys() == {"pointer", "detail"}
    assert "SECRET" not in json.dumps(document)
    assert len(rig.log) == 0
    assert rig.count("rejected") == 1


async def test_a_body_announced_too_large_is_refused_unread_and_the_connection_given_up() -> None:
    status, headers, _ = await Rig().call(headers=((b"content-length", b"2049"),))
    assert (status, headers[b"connection"]) == (413, b"close")
    status, headers, _ = await Rig().call(b"x" * 2048, b"x", b"never asked for")
    assert (status, headers[b"connection"]) == (413, b"close")


async def test_a_wrong_content_type_is_told_what_would_be_right() -> None:
    status, headers, _ = await Rig().call(envelope("shop", "a", 1), kind=b"text/plain")
    assert (status, headers[b"accept"]) == (415, b"application/json, application/cloudevents+json")
    assert (await Rig().call(envelope("shop", "a", 1), kind=None))[0] == 415


async def test_a_half_sent_body_is_never_published() -> None:
    rig = Rig()
    body = envelope("shop", "a", 1)
    assert await rig.call(body, cut=True) is None
    assert len(rig.log) == 0
    assert rig.count("disconnected") == 1


async def test_too_many_in_flight_are_refused_before_the_body_is_read() -> None:
    rig = Rig(max_in_flight=0)
    status, headers, document = await rig.call(b"not even JSON")
    assert (status, document["code"]) == (429, "overloaded")
    assert int(headers[b"retry-after"]) >= 1
    assert rig.count("overloaded") == 1


async def test_while_it_depends_on_the_source_a_body_is_not_waited_for() -> None:
    rig = Rig(max_in_flight=8)
    rig.keys.steps.held = True
    inside = [asyncio.create_task(rig.call(envelope("noisy", f"k{number}", 1))) for number in range(8)]
    await eventually(lambda: rig.pipeline.crowded)
    never = asyncio.get_running_loop().create_future()

    async def receive() -> Any:
        return await never

    status, headers, document = await rig.call(receive=receive)
    assert (status, document["code"]) == (429, "overloaded")
    assert int(headers[b"retry-after"]) >= 1
    assert (await rig.call(envelope("noisy", "one-more", 1)))[0] == 429
    assert (await rig.call(b"not JSON"))[0] == 400
    inside.append(asyncio.create_task(rig.call(envelope("quiet", "k", 1))))
    await eventually(lambda: rig.pipeline.in_flight == 9)
    rig.keys.steps.held = False
    while rig.keys.steps.waiting:
        rig.keys.steps.release()
    assert [answer[0] for answer in await asyncio.gather(*inside)] == [202] * 9


async def test_only_post_is_taken_and_the_path_is_exact() -> None:
    rig = Rig()
    status, headers, _ = await rig.call(method="GET")
    assert (status, headers[b"allow"]) == (405, b"POST")
    assert (await rig.call(path=INGEST + "/"))[0] == 299
    assert (await rig.call(path="/elsewhere", headers=((b"host", b"h"),)))[0] == 400


async def test_a_bug_is_an_answer_that_tells_nothing() -> None:
    status, _, document = await Rig().call(path="/crash")
    assert (status, document["code"]) == (500, "internal_error")
    assert "SECRET" not in json.dumps(document)


async def test_while_draining_connections_are_given_back() -> None:
    rig = Rig()
    rig.draining = True
    status, headers, _ = await rig.call(envelope("shop", "a", 1))
    assert (status, headers[b"connection"]) == (202, b"close")


@pytest.mark.parametrize("junk", [b"\xff", b"00-" + b"0" * 32 + b"-b7ad6b7169203331-01", b"x" * 64_000, b""])
async def test_a_hostile_trace_header_costs_nothing(junk: bytes) -> None:
    rig = Rig()
    assert (await rig.call(envelope("shop", "a", 1), headers=((b"traceparent", junk),)))[0] == 202
    assert rig.log.order[0].traceparent is None


async def test_a_senders_trace_reaches_the_record_with_and_without_tracing_here() -> None:
    rig = Rig()
    await rig.call(envelope("shop", "a", 1), headers=((b"traceparent", TRACE),))
    assert rig.log.order[0].traceparent == TRACE
    exporter = InMemorySpanExporter()
    rig = Rig(exporter=exporter)
    await rig.call(envelope("shop", "a", 1), headers=((b"traceparent", TRACE),))
    rig.telemetry.shutdown()
    (span,) = exporter.get_finished_spans()
    published = parse_traceparent(rig.log.order[0].traceparent)
    assert published is not None
    assert span.context is not None
    assert (published.trace_id, published.span_id) == (span.context.trace_id, span.context.span_id)
    assert f"{published.trace_id:032x}".encode() in TRACE
    assert "evt" not in str(span.attributes)


async def test_concurrent_requests_of_one_event_are_one_record() -> None:
    rig = Rig()
    answers = await asyncio.gather(*(rig.call(envelope("shop", "a", 1)) for _ in range(50)))
    assert sorted(answer[0] for answer in answers) == [200] * 49 + [202]
    assert len(rig.log) == 1


def test_a_problem_may_carry_more_members() -> None:
    assert json.loads(problem(Kind.NOT_FOUND, "No.", hint="yes").body)["hint"] == "yes"


class Waits(Waiting):
    """Those who wait, for events of whose outcome the test decides."""

    def __init__(self, outcome: str | None, most: int = 10) -> None:
        async def find(ids: Sequence[UUID]) -> dict[UUID, Found]:
            status = {"status": outcome or "RECEIVED"}
            return {one: Found("shop", {"event_id": str(one), **status}) for one in ids}

        super().__init__(find, most, longest=1, interval=0)


async def test_who_asks_to_wait_is_told_the_outcome() -> None:
    prefer = ((b"prefer", b"wait=60"),)
    rig = Rig(waiting=Waits("PROCESSED"))
    for expected in (202, 200):
        status, headers, document = await rig.call(envelope("shop", "a", 1), headers=prefer)
        assert (status, headers[b"preference-applied"]) == (expected, b"wait=1")
        assert document["outcome"] == {"event_id": document["event_id"], "status": "PROCESSED"}
        assert document["status"] == ("accepted" if expected == 202 else "duplicate")
        assert headers[b"location"].endswith(document["event_id"].encode())
    # What is measured is how long it took to accept the event, not how long its sender chose to wait.
    assert rig.count("accepted") == 1
    assert b"preference-applied" not in (await rig.call(envelope("shop", "b", 1)))[1]
    assert (await rig.call(envelope("shop", "a", 2), headers=prefer))[0] == 422


async def test_an_outcome_that_takes_too_long_is_left_out() -> None:
    answer = await Rig(waiting=Waits(None)).call(envelope("shop", "a", 1), headers=((b"prefer", b"wait=1"),))
    assert (answer[0], answer[1][b"preference-applied"]) == (202, b"wait=1")
    assert "outcome" not in answer[2]


@pytest.mark.parametrize("prefer", [b"wait=0", b"wait=x", b"return=minimal", b""])
async def test_no_wish_or_one_that_is_not_understood_changes_nothing(prefer: bytes) -> None:
    answer = await Rig(waiting=Waits("PROCESSED")).call(envelope("shop", "a", 1), headers=((b"prefer", prefer),))
    assert b"preference-applied" not in answer[1]
    assert answer[2].keys() == {"event_id", "status"}


async def test_without_room_to_wait_the_answer_comes_at_once() -> None:
    full, closed = Waits("PROCESSED", most=0), Waits("PROCESSED")
    closed.close()
    for waiting in (full, closed, None):
        answer = await Rig(waiting=waiting).call(envelope("shop", "a", 1), headers=((b"prefer", b"wait=60"),))
        assert (answer[0], answer[2].keys()) == (202, {"event_id", "status"})
