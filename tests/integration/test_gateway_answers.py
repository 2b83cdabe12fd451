"""The gateway's answers, from a real process on real services: the table and the other routes."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from schemas.event import parse_envelope
from tests import stack as real
from tests.gateway_kit import INGEST, JSON, code, post
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
        async with gateway_process(stack, database, topics, folder, GATEWAY_LOOK_TIMEOUT=2) as gateway:
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
        "partition": record.partition,
        "offset": record.offset,
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


@pytest.mark.parametrize("path", ["/api/v1/events/00000000-0000-0000-0000-000000000000", "/api/v1/events/none", "/"])
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
