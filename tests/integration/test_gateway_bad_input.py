"""The bad-input catalogue on bare sockets against a real gateway process: each row's answer, and what it leaves behind.

All requests of `bad_input` are sent once, side by side, when the first test asks; each test looks at one of them.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import pytest

from ingest_gateway.problems import Kind
from schemas.event import one_line, parse_envelope
from tests import stack as real
from tests.gateway_kit import Answer, Heard, Line, post, request
from tests.harness import Service, consume, envelope, eventually, gateway_process
from tests.integration import bad_input
from tests.integration.bad_input import CASES, ELSEWHERE, GUARDED, ROWS, Case
from tests.stack import ROOT, Stack, Topics

SHORT: dict[str, Any] = {
    "GATEWAY_FIRST_BYTE_TIMEOUT": 2,
    "GATEWAY_HEAD_TIMEOUT": 2,
    "GATEWAY_BODY_TIMEOUT": 2,
    "GATEWAY_LOOK_TIMEOUT": 5,
}
AT_ONCE = 24
SOURCES = 10_000
TYPES = {kind.uri for kind in Kind}


class Place(NamedTuple):
    """A gateway, one that knows its senders, and what is behind both."""

    gateway: Service
    guarded: Service
    stack: Stack
    topics: Topics


class Outcome(NamedTuple):
    """What came of one case: what was heard, and the answer of a harmless request sent after it on the connection."""

    heard: Heard
    after: Answer | None


class Sent(NamedTuple):
    """What came of all cases: each one's outcome, and every record of the topic afterwards."""

    outcomes: dict[Case, Outcome]
    records: list[bytes]


@pytest.fixture(scope="module")
async def place(stack: Stack, migrated_template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    """One of each for the whole module; whatever is sent to them has a key of its own."""
    topics = await real.make_topics(stack, 3)
    async with real.new_database(stack, template=migrated_template) as name:
        folder, other = tmp_path_factory.mktemp("gateway"), tmp_path_factory.mktemp("guarded")
        (other / "keys.toml").write_text(bad_input.KEYS)
        (other / "hooks.toml").write_text(bad_input.HOOKS)
        guard: dict[str, Any] = {
            "GATEWAY_API_KEYS_FILE": str(other / "keys.toml"),
            "GATEWAY_WEBHOOKS_FILE": str(other / "hooks.toml"),
            bad_input.SECRET_NAME: bad_input.SECRET,
        }
        async with (
            gateway_process(stack, stack.dsn_of(name), topics, folder, **SHORT) as gateway,
            gateway_process(stack, stack.dsn_of(name), topics, other, **SHORT, **guard) as guarded,
        ):
            yield Place(gateway, guarded, stack, topics)


@pytest.fixture(scope="module")
async def sent(place: Place) -> Sent:
    """Send every case."""
    room = asyncio.Semaphore(AT_ONCE)

    async def send(case: Case, gateway: Service) -> Outcome:
        async with room, Line.to(gateway) as line:
            heard = await line.exchange(case.sent_at(int(time.time())), half_close=case.half_close)
            if heard.ended:
                return Outcome(heard, None)
            after = await line.exchange(request(b"", method="GET", target="/healthz"))
            return Outcome(heard, after.answers[0] if after.answers else None)

    at = [*((case, place.gateway) for case in CASES), *((case, place.guarded) for case in GUARDED)]
    outcomes = await asyncio.gather(*(send(case, gateway) for case, gateway in at))
    records = [record.value or b"" for record in await consume(place.stack, place.topics.events)]
    return Sent({case: outcome for (case, _), outcome in zip(at, outcomes, strict=True)}, records)


@pytest.mark.parametrize("case", [*CASES, *GUARDED], ids=str)
async def test_row(sent: Sent, place: Place, case: Case) -> None:
    heard, after = sent.outcomes[case]
    published = [one for one in sent.records if case.mark in one]
    assert published == ([] if case.record is None else [one_line(case.own(case.record))])
    if case.status is None:
        assert (heard.answers, heard.rest, heard.ended) == ([], b"", True)
        return
    (answer,) = heard.answers
    assert answer.status == case.status, answer
    assert case.mark not in answer.body
    assert not {"server", "x-powered-by"} & answer.headers.keys()
    if case.record is not None:
        event = parse_envelope(case.own(case.record))
        assert json.loads(answer.body) == {"event_id": str(event.id), "status": "accepted"}
    else:
        check_problem(case, answer)
    if case.closes is not None:
        assert (answer.closed, heard.ended) == (case.closes, case.closes)
    if not heard.ended:
        # What stands on the connection after it is what was sent after it, not a part of it.
        assert after is not None
        assert (after.status, after.body) == (200, b'{"status":"alive"}')


def check_problem(case: Case, answer: Answer) -> None:
    """A problem document of a known type, with nothing of the input and nothing of the inside."""
    document = json.loads(answer.body)
    assert answer.headers["content-type"] == "application/problem+json"
    assert (document["status"], document["code"]) == (case.status, case.code)
    assert document["type"] in TYPES
    assert document["title"]
    assert document["detail"]
    assert "Traceback" not in answer.body.decode()
    assert case.headers.items() <= answer.headers.items()


def test_every_row_of_the_catalogue_has_its_test() -> None:
    assert {case.row for case in (*CASES, *GUARDED)} | ELSEWHERE.keys() == set(ROWS)
    defined = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name in ELSEWHERE.values() if f"def {name}(" not in defined] == []


async def test_nothing_of_it_is_logged(sent: Sent, place: Place) -> None:
    for gateway, cases in ((place.gateway, CASES), (place.guarded, GUARDED)):
        text = gateway.log.read_text()
        assert [str(case) for case in cases if case.mark.decode() in text] == []
        assert not any(secret in text for secret in (bad_input.KEY, bad_input.SECRET))
        assert all(line.startswith("{") for line in text.splitlines()), "one line an event, no traceback"
        assert gateway.alive


async def test_the_forged_move_no_counter_of_duplicates(sent: Sent, place: Place) -> None:
    counts = await place.guarded.metrics()
    assert (counts["raw_events_created_total"], counts["raw_events_duplicate_total"]) == (0, 0)
    told = {case.code for case in GUARDED} - {"headers_too_large", "malformed_json"}
    for code in told:
        refused = sum(case.code == code for case in GUARDED)
        assert counts[f"gateway_rejected_total{{reason={code}}}"] == refused, code


async def test_five_pipelined_events_are_answered_in_their_order(place: Place) -> None:
    bodies = [envelope("shop", f"pipe-{number}", 1) for number in range(5)]
    async with Line.to(place.gateway) as line:
        await line.send(b"".join(request(body) for body in bodies))
        answers = (await line.hear(5)).answers
    assert [answer.status for answer in answers] == [202] * 5
    assert [json.loads(answer.body)["event_id"] for answer in answers] == [
        str(parse_envelope(one).id) for one in bodies
    ]


@pytest.mark.parametrize(
    ("bad", "status"),
    [
        (b"\x00garbage\r\n\r\n", 400),
        (request(envelope("shop", "pipe-bad", 1), "Content-Length: 1"), 400),
        (request(b"", "X: " + "y" * 140_000), 431),
        (request(envelope("shop", "pipe-bad", 1))[:-5], 408),
    ],
)
async def test_what_is_refused_is_answered_after_what_came_before_it(place: Place, bad: bytes, status: int) -> None:
    """Else the client would take the refusal for the answer to its first event, and that one is in Kafka."""
    async with Line.to(place.gateway) as line:
        await line.send(b"".join(request(envelope("shop", f"before-{status}-{n}", 1)) for n in range(3)) + bad)
        heard = await line.hear(5)
    assert [answer.status for answer in heard.answers][:1] in ([202], [200])
    assert [answer.status // 100 for answer in heard.answers] == [2, 2, 2, 4]
    assert heard.answers[-1].status == status
    assert heard.ended


async def test_a_client_that_leaves_after_its_body_has_sent_its_event(place: Place) -> None:
    body = envelope("shop", "left", 1)
    async with Line.to(place.gateway) as line:
        await line.send(request(body))

    async def known() -> bool:
        return (await place.gateway.http.get(f"/api/v1/events/{parse_envelope(body).id}")).status_code == 200

    await eventually(known)
    assert (await post(place.gateway, "left")).status_code == 200


async def test_new_sources_cost_no_series(place: Place) -> None:
    async def many(first: int) -> set[int]:
        async with room, Line.to(place.gateway) as line:
            bodies = [envelope(f"source-{number}", "k", 1) for number in range(first, first + 10)]
            await line.send(b"".join(request(body) for body in bodies))
            return {answer.status for answer in (await line.hear(10)).answers}

    before = await place.gateway.metrics()
    room = asyncio.Semaphore(AT_ONCE)
    assert await asyncio.gather(*(many(first) for first in range(0, SOURCES, 10))) == [{202}] * (SOURCES // 10)
    assert (await place.gateway.metrics()).keys() == before.keys()
