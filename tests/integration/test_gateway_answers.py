"""The gateway's answers, from a real process on real services: the table, the other routes, and the limits of HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from schemas.event import parse_envelope
from tests import stack as real
from tests.gateway_kit import INGEST, JSON, Wire, code, post, request
from tests.harness import Service, connected, consume, envelope, gateway_process
from tests.stack import Stack, Topics


class Place:
    """A gateway and what is behind it."""

    def __init__(self, gateway: Service, stack: Stack, database: str, topics: Topics) -> None:
        self.gateway, self.stack, self.database, self.topics = gateway, stack, database, topics


@pytest.fixture(scope="module")
async def place(stack: Stack, migrated_template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    """One gateway for the whole module; each test has keys of its own."""
    topics = await real.make_topics(stack, 3)
    async with real.new_database(stack, template=migrated_template) as name:
        database = stack.dsn_of(name)
        folder = tmp_path_factory.mktemp("gateway")
        short: dict[str, Any] = {"GATEWAY_FIRST_BYTE_TIMEOUT": 1, "GATEWAY_HEAD_TIMEOUT": 1, "GATEWAY_BODY_TIMEOUT": 1}
        async with gateway_process(stack, database, topics, folder, GATEWAY_LOOK_TIMEOUT=2, **short) as gateway:
            yield Place(gateway, stack, database, topics)


async def test_an_event_becomes_a_record_and_a_row(place: Place) -> None:
    body = envelope("payment_service", "evt_123456", {"amount": 100, "currency": "KES"})
    event = parse_envelope(body)
    response = await place.gateway.http.post(INGEST, content=body, headers=JSON)
    assert (response.status_code, response.json()) == (202, {"event_id": str(event.id), "status": "accepted"})
    record = next(one for one in await consume(place.stack, place.topics.events) if one.value == body)
    async with connected(place.database) as db:
        row = await db.fetchrow("SELECT * FROM event_keys WHERE event_id = $1", event.id)
    assert row is not None
    assert (row["partition"], row["record_offset"]) == (record.partition, record.offset)
    assert (row["fingerprint"], row["state"], row["runs"]) == (event.fingerprint, "accepted", 0)
    assert record.key == b"payment_service"
    status = await place.gateway.http.get(response.headers["location"])
    assert status.json() == {
        "event_id": str(event.id),
        "status": "RECEIVED",
        "received_at": row["accepted_at"].isoformat(),
        "processed_at": None,
        "attempts": 0,
        "handled_by": None,
        "reason": None,
        "step": None,
    }


async def test_duplicate_conflict_and_refusals(place: Place) -> None:
    gateway = place.gateway
    first = await post(gateway, "dup", {"n": 1.0, "m": "é"})
    again = await gateway.http.post(
        INGEST,
        content=rb'{"payload": {"m":"\u00e9","n":1e0}, "idempotency_key":"dup","schema_version":"1.0","source":"shop"}',
        headers=JSON,
    )
    assert (first.status_code, again.status_code) == (202, 200)
    assert again.json() == {"event_id": first.json()["event_id"], "status": "duplicate"}
    assert again.headers["idempotent-replayed"] == "true"
    conflict = await post(gateway, "dup", {"n": 2})
    assert (conflict.status_code, code(conflict)) == (422, "idempotency_conflict")
    assert conflict.json()["type"] == "tag:plutus,2026:problem/idempotency-conflict"
    other_source = await post(gateway, "dup", {"n": 2}, source="till")
    assert other_source.status_code == 202


@pytest.mark.parametrize(
    ("members", "status", "word"),
    [
        ({"source": "sh op"}, 422, "schema_invalid"),
        ({"extra": 1}, 422, "schema_invalid"),
        ({"idempotency_key": ""}, 400, "bad_id"),
        ({"occurred_at": "yesterday"}, 422, "schema_invalid"),
        ({"type": "page_view"}, 422, "schema_invalid"),
        ({"payload": "x" * 262_144}, 413, "too_large"),
    ],
)
async def test_what_breaks_a_rule_is_refused(place: Place, members: dict[str, object], status: int, word: str) -> None:
    response = await post(place.gateway, "SECRET", **{"payload": {"SECRET": 1}, **members})  # type: ignore[arg-type]
    assert (response.status_code, code(response)) == (status, word)
    assert "SECRET" not in response.text


async def test_status_of_what_is_stored_or_failed(place: Place) -> None:
    stored = (await post(place.gateway, "stored")).json()["event_id"]
    failed = (await post(place.gateway, "failed")).json()["event_id"]
    async with connected(place.database) as db:
        for event_id, status, state in ((stored, "PROCESSED", "stored"), (failed, "FAILED", "failed")):
            await db.execute(
                "INSERT INTO events (event_id, source, idempotency_key, schema_version, payload, status, handled_by,"
                ' received_at, attempts, topic, "partition", "offset")'
                " SELECT event_id, 'shop', 'k', '1.0', '1', $2, 'ledger', accepted_at, 3, 't', 0, 0"
                " FROM event_keys WHERE event_id = $1",
                event_id,
                status,
            )
            await db.execute("UPDATE event_keys SET state = $2 WHERE event_id = $1", event_id, state)
        await db.execute(
            'INSERT INTO failures (event_id, reason, step, topic, "partition", "offset", appended_at, headers)'
            " VALUES ($1, 'handler_error', 'handler', 't', 0, 0, now(), '[]')",
            failed,
        )
    found = (await place.gateway.http.get(f"/api/v1/events/{stored}")).json()
    assert (found["status"], found["attempts"], found["handled_by"], found["reason"]) == (
        "PROCESSED",
        3,
        "ledger",
        None,
    )
    assert found["processed_at"] >= found["received_at"]
    found = (await place.gateway.http.get(f"/api/v1/events/{failed}")).json()
    assert (found["status"], found["reason"], found["step"]) == ("FAILED", "handler_error", "handler")


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/events/00000000-0000-0000-0000-000000000000",
        "/api/v1/events/none",
        "/api/v1/ingest/",
        "/x%00",
        "/%ff",
        "/",
    ],
)
async def test_what_is_not_there_is_a_404_problem(place: Place, path: str) -> None:
    response = await place.gateway.http.get(path)
    assert (response.status_code, code(response)) == (404, "not_found")


async def test_the_other_routes(place: Place) -> None:
    http = place.gateway.http
    assert (await http.get("/healthz")).json() == {"status": "alive"}
    ready = await http.get("/readyz")
    assert ready.status_code == 200
    assert [(one["name"], one["ok"]) for one in ready.json()["checks"]] == [
        ("not_draining", True),
        ("kafka_producer", True),
        ("kafka_topic", True),
    ]
    wrong = await http.get(INGEST)
    assert (wrong.status_code, code(wrong), wrong.headers["allow"]) == (405, "method_not_allowed", "POST")
    assert (await http.post("/metrics")).status_code == 405
    document = (await http.get("/openapi.json")).json()
    answers = document["paths"][INGEST]["post"]["responses"].keys()
    assert {"200", "202", "400", "408", "413", "415", "422", "429", "503"} <= answers
    assert "server" not in ready.headers


async def test_metrics_count_each_answer_once(place: Place) -> None:
    before = await place.gateway.metrics()
    await post(place.gateway, "m1")
    await post(place.gateway, "m1")
    await post(place.gateway, "m1", 2)
    await post(place.gateway, "m 1")
    after = await place.gateway.metrics()
    grown = {
        name: after[name] - before[name] for name in after if name.endswith("_total") or name.startswith("ingest_requ")
    }
    assert grown["raw_events_created_total"] == grown["raw_events_duplicate_total"] == 1
    for outcome in ("accepted", "duplicate", "conflict", "rejected"):
        assert grown[f"ingest_requests_total{{outcome={outcome}}}"] == 1
    assert after["plutus_build_info{process=gateway,version=" + version_label(after) + "}"] == 1


def version_label(metrics: dict[str, float]) -> str:
    """The version that the build info names."""
    (name,) = [one for one in metrics if one.startswith("plutus_build_info")]
    return name.rpartition("version=")[2].rstrip("}")


GOOD = envelope("shop", "raw", 1)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (request(GOOD).replace(b"Host: gateway\r\n", b""), 400),
        (request(GOOD, "Host: other"), 400),
        (request(GOOD, "Upgrade: websocket", "Connection: upgrade"), 400),
        (request(GOOD, "Transfer-Encoding: gzip, chunked"), 400),
        (request(GOOD, "Transfer-Encoding: chunked"), 400),
        (request(GOOD, f"Content-Length: {len(GOOD)}"), 400),
        (request(GOOD, length=-1), 400),
        (request(GOOD).replace(b"Host: gateway", b"Host : gateway"), 400),
        (request(GOOD).replace(b"\r\n", b"\n"), 400),
        (request(GOOD, "X: a\r\n b"), 400),
        (request(GOOD, "X: a\x00b"), 400),
        (b"GET\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64, 400),
        (request(GOOD, "X: " + "y" * 20_000), 431),
        (request(GOOD, *(f"X-{number}: y" for number in range(100))), 431),
        (request(b"", "Expect: 100-continue", length=300_000), 413),
        (request(GOOD, "Idempotency-Key: a", "Idempotency-Key: b"), 400),
        (request(GOOD, "Content-Encoding: gzip"), 415),
        (request(GOOD).replace(b"application/json", b"text/plain"), 415),
        (request(b""), 400),
        (request(GOOD, method="PUT"), 405),
    ],
)
async def test_bad_http_is_refused_with_a_problem(place: Place, sent: bytes, status: int) -> None:
    async with Wire.to(place.gateway) as wire:
        await wire.send(sent)
        answer = await wire.answer()
    assert answer.status == status, answer
    assert json.loads(answer.body)["status"] == status
    assert answer.headers["content-type"] == "application/problem+json"


async def test_http_1_0_chunks_and_pipelines_are_served(place: Place) -> None:
    async with Wire.to(place.gateway) as wire:
        await wire.send(request(envelope("shop", "old", 1)).replace(b"HTTP/1.1", b"HTTP/1.0"))
        answer = await wire.answer()
        assert (answer.status, answer.closed) == (202, True)
    async with Wire.to(place.gateway) as wire:
        chunked = envelope("shop", "chunked", 1)
        head = request(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
        rest = b"%x\r\n" % len(chunked[5:]) + chunked[5:]
        await wire.send(head + b"5\r\n" + chunked[:5] + b"\r\n" + rest + b"\r\n0\r\n\r\n")
        assert (await wire.answer()).status == 202
        keys = [f"pipe{number}" for number in range(5)]
        await wire.send(b"".join(request(envelope("shop", key, 1)) for key in keys))
        expected = [str(parse_envelope(envelope("shop", key, 1)).id) for key in keys]
        assert [json.loads((await wire.answer()).body)["event_id"] for _ in keys] == expected


async def test_a_body_over_the_limit_is_not_read_to_its_end(place: Place) -> None:
    async with Wire.to(place.gateway) as wire:
        await wire.send(request(b"x" * 1000, length=10_000_000))
        answer = await wire.answer()
        assert (answer.status, answer.closed) == (413, True)
        assert await wire.ended() == b""


async def test_what_never_arrives_is_given_up_and_not_published(place: Place) -> None:
    async def cut(sent: bytes, *, eof: bool = False) -> int | None:
        """The status of the answer, if any, before the server closes."""
        async with Wire.to(place.gateway) as wire:
            await wire.send(sent)
            if eof:
                wire.writer.write_eof()
            said = await wire.ended()
            return int(said.split()[1]) if said else None

    answers = await asyncio.gather(
        cut(request(GOOD)[:40]),
        cut(request(envelope("shop", "half-timeout", 1))[:-5]),
        cut(request(envelope("shop", "half-closed", 1))[:-5], eof=True),
        cut(b""),
    )
    assert list(answers) == [408, 408, None, None]
    values = [record.value or b"" for record in await consume(place.stack, place.topics.events)]
    assert not any(b"half-" in value for value in values)
    assert (await post(place.gateway, "after")).status_code == 202


async def test_no_log_line_tells_a_payload(place: Place) -> None:
    await post(place.gateway, "logged", {"card": "4111-SECRET"})
    await post(place.gateway, "logged", {"card": "4111-SECRET-2"})
    await place.gateway.http.post(INGEST, content=b'{"card": 4111-SECRET', headers=JSON)
    assert "SECRET" not in place.gateway.log.read_text()
