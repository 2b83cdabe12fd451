"""Every way in, on one gateway and one worker: the same event by whichever, one row, one id, one run of its handler.

A new way in is a function entered in `WAYS`: it sends the event of this key and returns the id it was told, or None where
nobody answers.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime

import httpx
import pytest
from aiokafka import AIOKafkaProducer
from cloudevents.core.bindings import http as sdk_http
from cloudevents.core.bindings import kafka as sdk_kafka
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from schemas.ids import event_id
from tests import stack as real
from tests.gateway_kit import BATCH, INGEST, JSON, Line, request
from tests.harness import Service, connected, consume, envelope, eventually, gateway_process, is_drained, worker_process
from tests.stack import Stack, Topics

NDJSON = {"content-type": "application/x-ndjson"}
SOURCE = "till/7"
PAYLOAD = {"amount": 12.5, "note": "Zoë", "lines": [1, 2]}
SPELLED = b'{"note":"Zo\\u00eb", "lines":[1.0,2e0],\n "amount":12.50}'


class Place:
    """A gateway, a worker that counts its handler's runs, and a producer of somebody else's."""

    def __init__(
        self, gateway: Service, worker: Service, producer: AIOKafkaProducer, stack: Stack, database: str, topics: Topics
    ) -> None:
        self.gateway, self.worker, self.producer = gateway, worker, producer
        self.stack, self.database, self.topics = stack, database, topics

    async def post(self, path: str, content: bytes, headers: dict[str, str]) -> httpx.Response:
        """POST, and see that it was taken."""
        response = await self.gateway.http.post(path, content=content, headers=headers)
        assert response.status_code in (200, 202), response.text
        return response

    async def record(self, value: bytes, headers: list[tuple[str, bytes]]) -> None:
        """A record of the events topic."""
        await self.producer.send_and_wait(self.topics.events, value, key=SOURCE.encode(), headers=headers)

    async def settled(self) -> None:
        """Wait until the worker has done all there is."""

        async def drained() -> bool:
            return await is_drained(self.stack, self.topics, self.worker.group)

        await eventually(drained)


@pytest.fixture(scope="module")
async def place(stack: Stack, migrated_template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    """One of each for the whole module; each test has keys of its own."""
    topics = await real.make_topics(stack, 3)
    async with real.new_database(stack, template=migrated_template) as name:
        database, folder = stack.dsn_of(name), tmp_path_factory.mktemp("ways")
        async with (
            gateway_process(stack, database, topics, folder, GATEWAY_LOOK_TIMEOUT=3) as gateway,
            worker_process(stack, database, topics, folder, WORKER_HANDLERS="tests.effect_handlers") as worker,
            AIOKafkaProducer(bootstrap_servers=stack.bootstrap, acks="all") as producer,
        ):
            yield Place(gateway, worker, producer, stack, database, topics)


def in_envelope(key: str) -> bytes:
    return envelope(SOURCE, key, PAYLOAD, type="effect")


def spelled(key: str, *, with_key: bool = True) -> bytes:
    """The same in other words."""
    members = {"type": "effect", "schema_version": "1.0", "source": SOURCE}
    if with_key:
        members["idempotency_key"] = key
    return json.dumps(members).encode()[:-1] + b', "payload": ' + SPELLED + b"}"


def cloudevent(key: str) -> CloudEvent:
    """The same, by the SDK."""
    attributes = {"id": key, "source": SOURCE, "type": "effect", "specversion": "1.0"}
    more = {"datacontenttype": "application/json", "time": datetime(2026, 1, 2, tzinfo=UTC)}
    return CloudEvent({**attributes, **more}, PAYLOAD)


async def _envelope(place: Place, key: str) -> str | None:
    return str((await place.post(INGEST, in_envelope(key), JSON)).json()["event_id"])


async def _key_in_the_header(place: Place, key: str) -> str | None:
    headers = {**JSON, "idempotency-key": f'"{key}"'}
    return str((await place.post(INGEST, spelled(key, with_key=False), headers)).json()["event_id"])


async def _batch(place: Place, content: bytes, kind: str) -> str | None:
    results = (await place.post(BATCH, content, {"content-type": kind})).json()["results"]
    told = {result["event_id"] for result in results}
    assert [result["status"] for result in results[1:]] == [200] * (len(results) - 1)
    assert len(told) == 1
    return str(told.pop())


async def _array(place: Place, key: str) -> str | None:
    return await _batch(place, b"[" + in_envelope(key) + b"," + spelled(key) + b"]", "application/json")


async def _ndjson(place: Place, key: str) -> str | None:
    lines = in_envelope(key) + b"\n" + spelled(key).replace(b"\n", b"") + b"\n"
    return await _batch(place, lines, "application/x-ndjson")


async def _http_structured(place: Place, key: str) -> str | None:
    message = sdk_http.to_structured(cloudevent(key), JSONFormat())
    return str((await place.post(INGEST, message.body, message.headers)).json()["event_id"])


async def _http_binary(place: Place, key: str) -> str | None:
    message = sdk_http.to_binary(cloudevent(key), JSONFormat())
    return str((await place.post(INGEST, message.body, message.headers)).json()["event_id"])


async def _http_batched(place: Place, key: str) -> str | None:
    body = sdk_http.to_structured(cloudevent(key), JSONFormat()).body
    return await _batch(place, b"[" + body + b"," + body + b"]", "application/cloudevents-batch+json")


async def _kafka_envelope(place: Place, key: str) -> str | None:
    await place.record(spelled(key), [])
    return None


async def _kafka_structured(place: Place, key: str) -> str | None:
    message = sdk_kafka.to_structured(cloudevent(key), JSONFormat())
    await place.record(message.value or b"", list(message.headers.items()))
    return None


async def _kafka_binary(place: Place, key: str) -> str | None:
    message = sdk_kafka.to_binary(cloudevent(key), JSONFormat())
    await place.record(message.value or b"", list(message.headers.items()))
    return None


WAYS: list[Callable[[Place, str], Awaitable[str | None]]] = [
    _envelope,
    _key_in_the_header,
    _array,
    _ndjson,
    _http_structured,
    _http_binary,
    _http_batched,
    _kafka_envelope,
    _kafka_structured,
    _kafka_binary,
]


async def test_one_event_through_every_way_in_takes_effect_once(place: Place) -> None:
    # As many events as there are ways, so that each way is the first one once.
    expected = {}
    for first in range(len(WAYS)):
        key = f"every-{first}"
        expected[event_id(SOURCE, key)] = key
        for way in WAYS[first:] + WAYS[:first]:
            told = await way(place, key)
            assert told in (None, str(event_id(SOURCE, key))), way.__name__
    await place.settled()
    async with connected(place.database) as db:
        rows = await db.fetch(
            "SELECT event_id, idempotency_key, status FROM events WHERE idempotency_key LIKE 'every-%'"
        )
        assert {row["event_id"]: row["idempotency_key"] for row in rows} == expected
        assert [row["status"] for row in rows] == ["PROCESSED"] * len(WAYS)
        runs = await db.fetch("SELECT event_id FROM effects WHERE note LIKE 'every-%'")
        assert sorted(row["event_id"] for row in runs) == sorted(expected)
        assert await db.fetchval("SELECT count(*) FROM failures") == 0


async def test_what_a_string_stands_for_reaches_the_row_by_every_way(place: Place) -> None:
    async def over_http(key: str, kind: str, body: bytes) -> None:
        headers = {"ce-id": key, "ce-source": SOURCE, "ce-type": "effect", "ce-specversion": "1.0"}
        await place.post(INGEST, body, {**headers, "content-type": kind})

    async def over_kafka(key: str, kind: str, body: bytes) -> None:
        attributes = {"ce_id": key, "ce_source": SOURCE, "ce_type": "effect", "ce_specversion": "1.0"}
        headers = [(name, value.encode()) for name, value in {**attributes, "content-type": kind}.items()]
        await place.record(body, headers)

    for name, send in (("http", over_http), ("kafka", over_kafka)):
        await send(f"body-{name}-text", "text/plain", "Zoë".encode())
        await send(f"body-{name}-base64", "application/octet-stream", b"\xff\x00")
        await send(f"body-{name}-json", "application/json", b'"Zo\\u00eb"')
    await place.settled()
    async with connected(place.database) as db:
        rows = await db.fetch(
            "SELECT idempotency_key, payload_encoding, payload FROM events WHERE idempotency_key LIKE 'body-%'"
        )
    found = {row["idempotency_key"].removeprefix("body-"): (row["payload_encoding"], row["payload"]) for row in rows}
    expected = {"text": ("text", '"Zoë"'), "base64": ("base64", '"/wA="'), "json": ("json", '"Zo\\u00eb"')}
    assert found == {f"{name}-{kind}": row for name in ("http", "kafka") for kind, row in expected.items()}


async def test_of_a_batch_that_is_cut_nothing_is_taken_and_it_can_be_sent_again(place: Place) -> None:
    keys = [f"cut-{number}" for number in range(300)]
    body = b"\n".join(in_envelope(key) for key in keys)
    cut = request(body, target=BATCH).replace(b"application/json", b"application/x-ndjson")
    async with Line.to(place.gateway) as line:
        await line.send(cut[:-50])

    async def cut_off() -> bool:
        return bool((await place.gateway.metrics())["ingest_requests_total{outcome=disconnected}"])

    await eventually(cut_off)

    async def statuses() -> list[int]:
        results = (await place.post(BATCH, body, NDJSON)).json()["results"]
        return [result["status"] for result in results]

    async def all_known() -> bool:
        ids = [event_id(SOURCE, key) for key in keys]
        async with connected(place.database) as db:
            known = await db.fetchval("SELECT count(*) FROM event_keys WHERE event_id = ANY($1)", ids)
        return bool(known == len(ids))

    assert await statuses() == [202] * 300
    # A busy machine may defer remembering.
    await eventually(all_known)
    assert await statuses() == [200] * 300
    lines = body.split(b"\n")
    records = [record.value for record in await consume(place.stack, place.topics.events)]
    assert [value for value in records if value in set(lines)] == lines
