"""Batches: a result for each item in its order, and refusals that take nothing."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from ingest_gateway.routes import BATCH, INGEST
from schemas.event import parse_envelope
from tests.harness import envelope
from tests.unit.ingest_gateway.test_routes import TRACE, Rig

NDJSON = b"application/x-ndjson"
CLOUDEVENTS = b"application/cloudevents-batch+json"
OTHER_TRACE = "00-11111111111111111111111111111111-2222222222222222-01"


def lines(*items: bytes) -> bytes:
    return b"\n".join(items)


def array(*items: bytes) -> bytes:
    return b"[%b]" % b",\n".join(items)


def one(key: str, payload: Any = 1, **members: Any) -> bytes:
    return envelope("shop", key, payload, **members)


def cloudevent(key: str, data: Any = 1, **members: Any) -> bytes:
    made = {"specversion": "1.0", "id": key, "source": "shop", "type": "t", "data": data, **members}
    return json.dumps(made).encode()


async def batch(rig: Rig, *chunks: bytes, kind: bytes = NDJSON, **options: Any) -> Any:
    return await rig.call(*chunks, path=BATCH, kind=kind, **options)


def statuses(document: Any) -> list[int]:
    return [result["status"] for result in document["results"]]


@pytest.mark.parametrize(("kind", "joined"), [(NDJSON, lines), (b"application/json", array)])
async def test_each_item_has_its_result_in_order(kind: bytes, joined: Any) -> None:
    rig = Rig()
    items = [one("a"), one("b", {"n": 1}), b'{"source":"shop"}', one("a"), one("b", {"n": 2}), b"[]", one("c")]
    status, headers, document = await batch(rig, joined(*items), kind=kind)
    assert (status, headers[b"content-type"]) == (200, b"application/json")
    assert statuses(document) == [202, 202, 422, 200, 422, 422, 202]
    ids = [str(parse_envelope(item).id) for item in (items[0], items[1], items[6])]
    results = document["results"]
    assert [results[0]["event_id"], results[1]["event_id"], results[6]["event_id"]] == ids
    assert results[3] == {"status": 200, "event_id": ids[0]}
    assert results[2]["problem"]["errors"][0]["pointer"] == "/schema_version"
    assert results[4]["problem"]["code"] == "idempotency_conflict"
    assert results[5]["problem"]["code"] == "not_object"
    assert [flight.wire for flight in rig.log.order] == [items[0], items[1], items[6]]
    counts = {name: rig.count(name) for name in ("accepted", "duplicate", "conflict", "rejected")}
    assert counts == {"accepted": 3, "duplicate": 1, "conflict": 1, "rejected": 2}
    assert rig.metrics.registry.get_sample_value("raw_events_created_total") == 3
    assert rig.metrics.registry.get_sample_value("raw_events_duplicate_total") == 1
    assert rig.metrics.registry.get_sample_value("gateway_rejected_total", {"reason": "not_object"}) == 1
    again = await batch(rig, joined(*items), kind=kind)
    assert statuses(again[2]) == [200, 200, 422, 200, 422, 422, 200]
    assert len(rig.log) == 3


async def test_a_line_of_ndjson_that_is_no_json_costs_no_other() -> None:
    rig = Rig()
    _, _, document = await batch(rig, lines(one("a"), b"{", b"\xff", b"", b"  \r", one("b") + b"\r", b"{}{}"), b"\n")
    assert statuses(document) == [202, 400, 400, 202, 400]
    assert rig.log.order[1].wire == one("b") + b" "


async def test_an_array_that_is_no_json_is_refused_as_a_whole() -> None:
    rig = Rig()
    assert (await batch(rig, b"[" + one("a") + b",{]", kind=b"application/json"))[0] == 400
    assert (await batch(rig, b"[" * 1_500, kind=b"application/json"))[2]["code"] == "too_deep"
    assert (await batch(rig, one("a"), kind=b"application/json"))[2]["code"] == "not_object"
    assert len(rig.log) == 0


async def test_a_batch_of_cloudevents_is_one_at_both_paths() -> None:
    rig = Rig()
    items = array(cloudevent("a"), cloudevent("b", traceparent=OTHER_TRACE), cloudevent("c", specversion="2"))
    trace = ((b"traceparent", TRACE),)
    assert statuses((await batch(rig, items, kind=CLOUDEVENTS, headers=trace))[2]) == [202, 202, 422]
    assert [flight.traceparent for flight in rig.log.order] == [TRACE, OTHER_TRACE.encode()]
    again = await rig.call(items, path=INGEST, kind=b"Application/CloudEvents-Batch+JSON; charset=utf-8")
    assert statuses(again[2]) == [200, 200, 422]
    assert (await rig.call(one("a")))[0] == 200


@pytest.mark.parametrize(
    ("body", "kind", "status", "code"),
    [
        (b"", NDJSON, 422, "schema_invalid"),
        (b"\n \n", NDJSON, 422, "schema_invalid"),
        (b"[]", b"application/json", 422, "schema_invalid"),
        (b"", b"application/json", 400, "malformed_json"),
        (lines(*[b"1"] * 11), NDJSON, 413, "too_large"),
        (array(*[b"1"] * 11), b"application/json", 413, "too_large"),
        (b"\n" * 2000, NDJSON, 413, "too_large"),
        (array(b"[%b]" % (b"1," * 1990 + b"1"), b"[" + b"1," * 10 + b"1]"), b"application/json", 413, "too_large"),
        (b" " * 8193, NDJSON, 413, "too_large"),
        (one("a"), b"text/plain", 415, "unsupported_media"),
        (one("a"), b"application/x-ndjson; charset=latin-1", 415, "unsupported_media"),
        (one("a"), b"application/cloudevents+json", 415, "unsupported_media"),
    ],
)
async def test_what_is_refused_as_a_whole_takes_nothing(body: bytes, kind: bytes, status: int, code: str) -> None:
    rig = Rig()
    answer = await batch(rig, one("good") + b"\n" + body if status == 413 and kind == NDJSON else body, kind=kind)
    assert (answer[0], answer[2]["code"]) == (status, code)
    assert rig.count("rejected") == 1
    assert len(rig.log) == 0
    if status == 415:
        assert b"application/x-ndjson" in answer[1][b"accept"]


async def test_ten_items_are_taken_and_one_too_large_is_refused_alone() -> None:
    rig = Rig()
    status, _, document = await batch(rig, lines(*[one(f"k{n}", "x" * (2100 if n == 4 else 1)) for n in range(10)]))
    assert status == 200
    assert statuses(document) == [202] * 4 + [413] + [202] * 5


async def test_a_key_beside_the_items_is_refused() -> None:
    rig = Rig()
    assert (await batch(rig, one("a"), headers=((b"idempotency-key", b"a"),)))[2]["code"] == "bad_id"
    assert (await batch(rig, one("a"), headers=((b"content-encoding", b"gzip"),)))[0] == 415
    assert len(rig.log) == 0


async def test_a_cut_connection_takes_nothing_and_gives_its_memory_back() -> None:
    rig = Rig(bytes_held=3000)
    body = lines(*[one(f"k{n}") for n in range(10)])
    for _ in range(10):
        assert await batch(rig, body[:-30], cut=True) is None
    assert rig.count("disconnected") == 10
    assert len(rig.log) == 0
    assert statuses((await batch(rig, body))[2]) == [202] * 10
    assert statuses((await batch(rig, body))[2]) == [200] * 10


async def test_nothing_taken_and_worth_another_try_is_503() -> None:
    rig = Rig()
    rig.log.refusing = True
    status, headers, document = await batch(rig, lines(one("a"), b"{"))
    assert (status, document["code"], headers[b"retry-after"]) == (503, "not_accepted", b"2")
    assert statuses(document) == [503, 400]
    assert rig.count("not_accepted") == 1
    rig.log.refusing, rig.log.silent = False, "kept"
    status, headers, document = await batch(rig, lines(one("b"), b"{"))
    assert (status, document["code"], headers[b"retry-after"]) == (503, "outcome_unknown", b"1")
    rig.log.silent = None
    assert statuses((await batch(rig, lines(one("a"), one("b"), b"{")))[2]) == [202, 202, 400]
    rig.log.refusing = True
    status, _, document = await batch(rig, lines(one("a"), one("new")))
    assert (status, statuses(document)) == (200, [200, 503])
    assert document["results"][1]["problem"]["code"] == "not_accepted"


async def test_nothing_but_refused_items_is_200() -> None:
    assert statuses((await batch(Rig(), lines(b"{", b"[]")))[2]) == [400, 422]


async def test_deferred_items_say_so() -> None:
    rig = Rig()
    rig.keys.down = True
    document = (await batch(rig, one("a")))[2]
    assert document["results"][0]["dedup"] == "deferred"
    assert rig.metrics.registry.get_sample_value("gateway_dedup_deferred_total") == 1


async def test_no_more_batches_at_once_than_allowed_and_the_others_wait() -> None:
    rig = Rig(held=True)
    calls = [asyncio.create_task(batch(rig, one(f"k{n}"))) for n in range(3)]
    await _until_quiet()
    assert rig.pipeline.in_flight == 2
    while not all(call.done() for call in calls):
        await _until_quiet()
        if rig.keys.steps.waiting:
            rig.keys.steps.release()
    assert [statuses(call.result()[2]) for call in calls] == [[202]] * 3
    assert rig.pipeline.in_flight == 0


async def test_who_waits_too_long_is_told_when_to_come_back() -> None:
    rig = Rig(held=True, wait=0.05)
    working = [asyncio.create_task(batch(rig, one(f"k{n}"))) for n in range(2)]
    await _until_quiet()
    status, headers, document = await batch(rig, one("late"))
    assert (status, document["code"]) == (429, "overloaded")
    assert int(headers[b"retry-after"]) >= 1
    assert rig.count("overloaded") == 1
    await _release_all(rig, working)
    assert (await batch(rig, one("late")))[0] == 200


async def test_a_body_without_room_is_refused_before_all_of_it_is_read() -> None:
    rig = Rig(held=True, bytes_held=200)
    body = one("first")
    working = [asyncio.create_task(batch(rig, body))]
    await _until_quiet()
    pieces = [b" " * 150, b" " * 150, body]
    status, _, document = await batch(rig, *pieces)
    assert (status, document["code"]) == (429, "overloaded")
    await _release_all(rig, working)
    assert (await batch(rig, one("other"), b"\n" * 100))[0] == 200


async def _release_all(rig: Rig, working: list[asyncio.Task[Any]]) -> None:
    rig.keys.steps.held = False
    while rig.keys.steps.waiting:
        rig.keys.steps.release()
        await _until_quiet()
    assert [statuses(each[2]) for each in await asyncio.gather(*working)] == [[202]] * len(working)


async def test_one_span_for_a_batch_and_its_records_carry_it() -> None:
    exporter = InMemorySpanExporter()
    rig = Rig(exporter=exporter)
    await batch(rig, lines(one("a"), one("b"), b"{"), headers=((b"traceparent", TRACE),))
    rig.telemetry.shutdown()
    (span,) = exporter.get_finished_spans()
    assert (span.name, dict(span.attributes or {})["messaging.batch.message_count"]) == (f"POST {BATCH}", 2)
    context = span.get_span_context()
    assert context is not None
    carried = f"00-{context.trace_id:032x}-{context.span_id:016x}-01".encode()
    assert [flight.traceparent for flight in rig.log.order] == [carried, carried]


async def test_a_payload_that_breaks_its_registered_schema_is_refused_alone() -> None:
    rig = Rig()
    document = (await batch(rig, lines(one("a", {}, type="transfer_requested"), one("b"))))[2]
    assert statuses(document) == [422, 202]


async def _until_quiet() -> None:
    for _ in range(30):
        await asyncio.sleep(0)
