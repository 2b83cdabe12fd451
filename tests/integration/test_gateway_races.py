"""Concurrent copies and rivals of one key, over two gateway processes, with and without a worker on the same keys."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from schemas.event import parse_envelope
from tests.gateway_kit import Line, post, request
from tests.harness import Service, connected, consume, envelope, eventually, gateway_process, is_drained, worker_process
from tests.stack import Stack, Topics

pytestmark = pytest.mark.slow

TWO: dict[str, Any] = {"GATEWAY_PROCESSES": 2, "GATEWAY_LOOK_TIMEOUT": 5, "GATEWAY_REMEMBER_TIMEOUT": 5}


async def rows(database: str) -> dict[UUID, tuple[bytes, int, int]]:
    """event_keys: id -> fingerprint, partition, offset."""
    async with connected(database) as db:
        found = await db.fetch('SELECT event_id, fingerprint, "partition", record_offset FROM event_keys')
    return {row[0]: (row[1], row[2], row[3]) for row in found}


async def test_of_ten_thousand_copies_one_is_created_and_the_rest_are_duplicates(
    stack: Stack, database: str, topics: Topics, tmp_path: Path
) -> None:
    """500 connections to two processes, twenty copies sent on each at once: one event, one row, one effect."""
    body = envelope("shop", "storm", {"n": 1})
    told: Counter[tuple[int, str]] = Counter()

    async def storm(gateway: Service) -> None:
        async with Line.to(gateway) as line:
            await line.send(request(body) * COPIES)
            for answer in (await line.hear(COPIES, within=60)).answers:
                told[answer.status, json.loads(answer.body)["event_id"]] += 1

    async with (
        worker_process(stack, database, topics, tmp_path) as worker,
        gateway_process(stack, database, topics, tmp_path, **TWO) as gateway,
    ):
        await asyncio.gather(*(storm(gateway) for _ in range(CONNECTIONS)))
        metrics = await gateway.metrics()
        await eventually(lambda: is_drained(stack, topics, worker.group))
    event_id = str(parse_envelope(body).id)
    assert told == {(202, event_id): 1, (200, event_id): CONNECTIONS * COPIES - 1}
    assert metrics["raw_events_created_total"] == 1
    assert metrics["raw_events_duplicate_total"] == CONNECTIONS * COPIES - 1
    assert len(await rows(database)) == 1
    assert len(await consume(stack, topics.events)) <= 2, "one record a process at most"
    async with connected(database) as db:
        assert await db.fetchval("SELECT count(*) FROM events WHERE status = 'PROCESSED'") == 1


CONNECTIONS, COPIES = 500, 20


async def test_of_rival_payloads_one_wins_and_everybody_is_told_the_same(
    stack: Stack, database: str, topics: Topics, tmp_path: Path
) -> None:
    shuffled = random.Random(7)
    async with gateway_process(stack, database, topics, tmp_path, **TWO) as gateway:
        sends = [(f"key-{number}", payload) for number in range(60) for payload in ("A", "A", "B")]
        shuffled.shuffle(sends)
        answers = await asyncio.gather(*(post(gateway, key, payload) for key, payload in sends))
    await check_rivals(stack, database, topics, sends, answers)


async def check_rivals(
    stack: Stack, database: str, topics: Topics, sends: list[tuple[str, str]], answers: list[httpx.Response]
) -> None:
    """One payload of each key is stored, who sent it was told 2xx (one of them 202), everybody else 422."""
    log = {(record.partition, record.offset): record for record in await consume(stack, topics.events)}
    remembered = await rows(database)
    winners = {}
    for fingerprint, *where in remembered.values():
        event = parse_envelope(log[where[0], where[1]].value or b"")
        assert event.fingerprint == fingerprint, "the row names the record that made it"
        winners[event.idempotency_key] = event.data
    created: Counter[str] = Counter()
    for (key, payload), answer in zip(sends, answers, strict=True):
        assert answer.status_code in ((200, 202) if winners[key] == payload else (422,)), (key, payload, answer.text)
        created[key] += answer.status_code == 202
    assert created == dict.fromkeys(winners, 1)
    assert len(winners) == len({key for key, _ in sends})


async def test_7_a_fresh_event_is_never_told_duplicate_however_fast_the_worker_is(
    stack: Stack, database: str, topics: Topics, tmp_path: Path
) -> None:
    """Interleaving 7: without the row's coordinates 2 to 4 of 100 fresh events were."""
    async with (
        worker_process(stack, database, topics, tmp_path) as worker,
        gateway_process(stack, database, topics, tmp_path, **TWO) as gateway,
    ):
        await fill(gateway, 600, at_once=24)
        await eventually(lambda: is_drained(stack, topics, worker.group))
        metrics = await gateway.metrics()
        assert metrics["raw_events_created_total"] == 600
        assert metrics["raw_events_duplicate_total"] == 0
    async with connected(database) as db:
        assert await db.fetchval("SELECT count(*) FROM events WHERE status = 'PROCESSED'") == 600


async def test_no_sender_waits_behind_a_slow_handler(
    stack: Stack, database: str, topics: Topics, tmp_path: Path
) -> None:
    """Interleaving 16: the worker's uncommitted rows block nobody, and nobody is told duplicate or deferred for them."""
    slow = {
        "WORKER_HANDLERS": "tests.integration.slow_handlers",
        "WORKER_HANDLER_TIMEOUT": 5,
        "WORKER_SESSION_TIMEOUT": 9,
    }
    patient: dict[str, Any] = {**TWO, "GATEWAY_PROCESSES": 1}
    loop = asyncio.get_running_loop()
    seconds: list[float] = []
    async with (
        worker_process(stack, database, topics, tmp_path, **slow) as worker,  # type: ignore[arg-type]
        gateway_process(stack, database, topics, tmp_path, **patient) as gateway,
    ):
        enough = asyncio.Event()

        async def sender(name: int) -> None:
            for number in itertools.count():
                began = loop.time()
                answer = await post(gateway, f"slow-{name}-{number}", 1, source=f"source-{number % 10}", type="slow")
                seconds.append(loop.time() - began)
                assert answer.status_code == 202
                assert answer.json().keys() == {"event_id", "status"}, answer.text
                if enough.is_set():
                    return
                # A pace: some come while rows are written and not committed.
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.02):
                        await enough.wait()

        async def handled() -> bool:
            return (await worker.metrics())["processing_success_total"] >= 4

        senders = [asyncio.create_task(sender(name)) for name in range(4)]
        await eventually(handled)
        enough.set()
        await asyncio.gather(*senders)
        assert max(seconds) < 1.0, "no sender waited for a handler, which takes longer"


async def fill(gateway: Service, count: int, *, at_once: int) -> None:
    """POST that many fresh events, so many at a time; all must be accepted as new."""
    numbers = iter(range(count))

    async def sender() -> None:
        for number in numbers:
            answer = await post(gateway, f"fresh-{number}", number, source=f"source-{number % 10}")
            assert answer.status_code == 202, answer.text

    await asyncio.gather(*(sender() for _ in range(at_once)))


async def test_rivals_over_http_and_a_worker_end_in_one_effect_each(
    stack: Stack, database: str, topics: Topics, tmp_path: Path
) -> None:
    async with (
        worker_process(stack, database, topics, tmp_path) as worker,
        gateway_process(stack, database, topics, tmp_path, **TWO) as gateway,
    ):
        sends = [(f"key-{number}", payload) for number in range(40) for payload in ("A", "B", "A")]
        random.Random(11).shuffle(sends)
        answers = await asyncio.gather(*(post(gateway, key, payload) for key, payload in sends))
        await eventually(lambda: is_drained(stack, topics, worker.group))
    await check_rivals(stack, database, topics, sends, answers)
    async with connected(database) as db:
        stored = await db.fetch("SELECT idempotency_key, payload FROM events")
    told = {key: payload for (key, payload), answer in zip(sends, answers, strict=True) if answer.status_code < 300}
    assert {row["idempotency_key"]: row["payload"].strip('"') for row in stored} == told
