"""One connection to the server in this process: its deadlines, its room, and the order of its answers."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs

from ingest_gateway.head import Head
from ingest_gateway.problems import Answer
from ingest_gateway.server import listen, make_server
from ingest_gateway.settings import GatewaySettings
from tests.gateway_kit import Line, request
from tests.harness import eventually

SETTINGS: dict[str, Any] = {"kafka_bootstrap_servers": "unused:1", "database_url": "postgresql://u:p@unused/db"}
LONG = b"x" * 400_000


class Application:
    """Answers each POST with the length of its body, a GET with a long body; a POST to /hold waits to be let go."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.heard: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        size, more = 0, scope["path"] != "/early"
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.heard.append("disconnect")
                return
            size += len(message["body"])
            more = message["more_body"]
        self.heard.append((scope["method"], size, [name for name, _ in scope["headers"]]))
        if scope["path"] == "/hold":
            await self.go.wait()
        body = LONG if scope["method"] == "GET" else b"%d" % size
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class Aside:
    """A short cut for the target /aside, which replies with the length of the body: to a body b"now" at once, to others when
    told to; it leaves a body b"no" to the application."""

    def __init__(self) -> None:
        self.waiting: deque[tuple[bytes, Callable[[Answer, bool], None]]] = deque()
        self.served = 0

    def wants(self, head: Head) -> bool:
        return head.path == "/aside"

    def serve(self, head: Head, body: bytes, reply: Callable[[Answer, bool], None]) -> bool:
        if body == b"no":
            return False
        self.served += 1
        self.waiting.append((body, reply))
        if body == b"now":
            self.reply()
        return True

    def reply(self, *, close: bool = False) -> None:
        """Answer the request that has waited longest."""
        body, reply = self.waiting.popleft()
        reply(Answer(202, [(b"content-length", b"2")], b"%2d" % len(body)), close)


class Site:
    """A server and its application."""

    def __init__(self, app: Application, aside: Aside, port: int, server: Any) -> None:
        self.app, self.aside, self.url, self.server = app, aside, f"http://127.0.0.1:{port}", server

    @property
    def connections(self) -> int:
        """Open ones."""
        return len(self.server.server_state.connections)

    @property
    def held(self) -> int:
        """Bytes of unfinished requests."""
        return max((one._room.used for one in self.server.server_state.connections), default=0)


@asynccontextmanager
async def serving(**settings: Any) -> AsyncIterator[Site]:
    """The server with these settings, without anything behind its application."""
    app, aside = Application(), Aside()
    server = make_server(app, GatewaySettings(**{**SETTINGS, **settings}), aside)
    listener = listen("127.0.0.1", 0, 100)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield Site(app, aside, listener.getsockname()[1], server)
    finally:
        app.go.set()
        server.should_exit = True
        async with asyncio.timeout(10):
            await task


@asynccontextmanager
async def line_to(site: Site) -> AsyncIterator[Line]:
    """A bare connection."""
    async with Line.to(site) as line:  # type: ignore[arg-type]
        yield line


async def offer(site: Site, line: Line, data: bytes) -> None:
    """Send this, and wait until the short cut has it."""
    await line.send(data)
    await eventually(lambda: site.aside.waiting)


WAYS = pytest.mark.parametrize("way", ["application", "short cut", "known head"])
SHORT = pytest.mark.parametrize("way", ["short cut", "known head"])
"""By whom a request is answered, and whether after the parser or without it."""


async def target_of(site: Site, way: str) -> str:
    """Where to send requests with bodies of three or four bytes, so that they go this way."""
    if way == "known head":
        async with line_to(site) as line:
            for body in (b"abc", b"abcd"):
                await offer(site, line, request(body, target="/aside"))
                site.aside.reply()
                await line.hear(1)
        site.aside.served = 0
        await eventually(lambda: site.connections == 0)
    return "/hold" if way == "application" else "/aside"


async def test_a_client_that_does_not_read_is_given_up() -> None:
    async with serving(gateway_read_timeout=0.2) as site:
        with socket.socket() as silent:
            silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            silent.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(silent, ("127.0.0.1", int(site.url.rpartition(":")[2])))
            await loop.sock_sendall(silent, request(b"", method="GET") * 50)
            await eventually(lambda: site.connections == 1)
            await eventually(lambda: site.connections == 0)
        assert len(site.app.heard) < 50


@WAYS
async def test_a_connection_is_idle_from_its_last_answer_on(way: str) -> None:
    """One timer watches it over its requests, and is not taken at its word."""
    async with serving(gateway_keep_alive=1) as site:
        site.app.go.set()
        target = await target_of(site, way)
        async with line_to(site) as line:
            loop = asyncio.get_running_loop()
            began = answered = loop.time()
            while answered - began < 1.4:
                assert (await line.exchange(request(b"now", target=target))).answers[0].status in (200, 202)
                answered = loop.time()
            assert (await line.hear(1)).ended
            assert loop.time() - answered > 0.9


@pytest.mark.parametrize("after", [b"\r\n", b"\r\n\r\n\r\n"])
async def test_stray_line_breaks_do_not_keep_a_connection(after: bytes) -> None:
    async with serving(gateway_keep_alive=1, gateway_first_byte_timeout=0.3) as site, line_to(site) as line:
        await line.send(request(b"abc"))
        assert (await line.hear(1)).answers[0].body == b"3"
        await line.send(after)
        assert (await line.hear(1)).ended


async def test_a_body_that_ends_after_its_answer_does_not_keep_a_connection() -> None:
    async with serving(gateway_keep_alive=1) as site, line_to(site) as line:
        await line.send(request(b"", target="/early", length=4))
        assert (await line.hear(1)).answers[0].status == 200
        await line.send(b"late")
        assert (await line.hear(1)).ended


async def test_a_body_given_up_after_its_answer_gets_no_second_answer() -> None:
    async with serving(gateway_body_timeout=0.3) as site, line_to(site) as line:
        await line.send(request(b"", target="/early", length=4))
        heard = await line.hear(2)
        assert [answer.status for answer in heard.answers] == [200]
        assert heard.ended


@WAYS
async def test_the_wait_for_a_first_request_ends_with_it(way: str) -> None:
    """However whole it came: a connection in use is not closed under its next request."""
    async with serving(gateway_first_byte_timeout=0.3, gateway_keep_alive=30) as site:
        site.app.go.set()
        target = await target_of(site, way)
        async with line_to(site) as line:
            began = asyncio.get_running_loop().time()
            count = 0
            while asyncio.get_running_loop().time() - began < 0.7:
                assert (await line.exchange(request(b"now", target=target))).answers[0].status in (200, 202)
                count += 1
            assert count > 1
            assert not line.ended


async def test_line_breaks_alone_are_no_request() -> None:
    async with serving(gateway_first_byte_timeout=0.3, gateway_keep_alive=30) as site, line_to(site) as line:
        await line.send(b"\r\n\r\n")
        assert (await line.hear(1)).ended


async def test_a_head_in_many_packets_is_counted_once() -> None:
    async with serving(gateway_head_bytes=8192) as site, line_to(site) as line:
        head = request(b"", "X: " + "y" * 3_000, "Z: " + "z" * 4_000)
        for at in range(0, len(head), 300):
            await eventually(lambda at=at: at == 0 or site.held > at - 1_000)  # type: ignore[misc]
            await line.send(head[at : at + 300])
        assert (await line.hear(1)).answers[0].status == 200


async def test_trailers_never_become_headers() -> None:
    async with serving() as site, line_to(site) as line:
        head = request(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
        await line.send(head + b"3\r\nabc\r\n0\r\nIdempotency-Key: b\r\n\r\n")
        heard = await line.hear(1)
        assert (heard.answers[0].status, heard.answers[0].closed) == (400, True)
        await eventually(lambda: site.app.heard == ["disconnect"])


async def test_a_refusal_waits_for_the_answers_before_it() -> None:
    async with serving() as site, line_to(site) as line:
        held = request(b"abc", target="/hold")
        await line.send(held + held + b"\x00garbage\r\n\r\n" + held)
        await eventually(lambda: len(site.app.heard) == 1)
        site.app.go.set()
        heard = await line.hear(5)
        assert [answer.status for answer in heard.answers] == [200, 200, 400]
        assert heard.ended
        assert len(site.app.heard) == 2, "what follows a refusal is not read"


async def test_unfinished_bodies_share_a_room_and_whole_ones_need_none() -> None:
    async with serving(gateway_max_bytes=1024 * 1024, gateway_bulk_bytes=1024, gateway_body_timeout=30) as site:
        room = 256 * 1024
        async with line_to(site) as first, line_to(site) as second, line_to(site) as third:
            await first.send(request(b"x" * (room - 50_000), length=room))
            await eventually(lambda: site.connections == 3)
            await second.send(request(b"x" * 60_000, length=room))
            heard = await second.hear(1)
            assert (heard.answers[0].status, heard.answers[0].headers["retry-after"]) == (429, "1")
            assert json.loads(heard.answers[0].body)["code"] == "overloaded"
            await third.send(request(b"x" * 1_000))
            assert (await third.hear(1)).answers[0].body == b"1000"
            await first.send(b"x" * 50_000)
            assert (await first.hear(1)).answers[0].body == b"%d" % room
            await third.send(request(b"x" * (room - 1_000), length=room))
            await third.send(b"x" * 1_000)
            assert (await third.hear(1)).answers[0].status == 200, "the room is given back"


async def test_unfinished_heads_share_that_room() -> None:
    settings = {"gateway_max_bytes": 1024 * 1024, "gateway_bulk_bytes": 1024, "gateway_head_timeout": 30}
    async with (
        serving(**settings, gateway_head_bytes=200 * 1024) as site,
        line_to(site) as first,
        line_to(site) as second,
    ):
        long = request(b"x", "X: " + "y" * 150_000)
        await first.send(long[:140_000])
        await eventually(lambda: site.held > 139_000)
        await second.send(long[:140_000])
        heard = await second.hear(1)
        assert (heard.answers[0].status, heard.answers[0].closed) == (429, True)
        await first.send(long[140_000:])
        assert (await first.hear(1)).answers[0].body == b"1"
        async with line_to(site) as third:
            await third.send(long[:140_000])
            await third.send(long[140_000:])
            assert (await third.hear(1)).answers[0].status == 200, "the room is given back"


@WAYS
async def test_a_connection_that_has_ended_leaves_nothing_to_the_collector(way: str) -> None:
    async with serving() as site:
        site.app.go.set()
        target = await target_of(site, way)
        async with line_to(site) as line:
            assert (await line.exchange(request(b"now", target=target))).answers[0].status in (200, 202)
            (connection,) = site.server.server_state.connections
            gone = weakref.ref(connection)
            del connection
            gc.collect()
            gc.disable()
        try:
            await eventually(lambda: gone() is None, within=5)
        finally:
            gc.enable()


# --- the short cut


async def test_what_the_short_cut_takes_is_answered_when_it_replies_and_the_connection_goes_on() -> None:
    async with serving() as site, line_to(site) as line:
        for _ in range(2):
            await offer(site, line, request(b"abc", target="/aside"))
            site.aside.reply()
            answer = (await line.hear(1)).answers[0]
            assert (answer.status, answer.body, answer.closed) == (202, b" 3", False)
        await line.send(request(b"abc"))
        assert (await line.hear(1)).answers[0].body == b"3"
        assert site.aside.served == 2


async def test_a_body_in_two_packets_is_served_once_it_is_there() -> None:
    async with serving() as site, line_to(site) as line:
        await line.send(request(b"no", target="/aside", length=3))
        await eventually(lambda: site.connections == 1)
        await line.send(b"w")
        assert (await line.hear(1)).answers[0].body == b" 3"


async def test_what_it_leaves_the_application_answers() -> None:
    async with serving() as site, line_to(site) as line:
        await line.send(request(b"no", target="/aside") + request(b"x" * 70_000, target="/aside"))
        heard = await line.hear(2)
        assert [answer.body for answer in heard.answers] == [b"2", b"70000"], "a large body is read as it is asked for"
        await line.send(request(b"now", "Expect: 100-continue", target="/aside"))
        assert site.aside.served == 0


async def test_pipelined_requests_are_answered_in_order_whoever_serves_them() -> None:
    async with serving() as site, line_to(site) as line:
        burst = [
            request(b"now", target="/aside"),
            request(b"wait", target="/aside"),
            request(b"abc"),
            request(b"no", target="/aside"),
        ]
        await offer(site, line, b"".join(burst) + request(b"now", target="/aside") * 300)
        site.aside.reply()
        heard = await line.hear(304)
        assert [answer.body for answer in heard.answers] == [b" 3", b" 4", b"3", b"2", *[b" 3"] * 300]


@SHORT
async def test_a_reply_may_close_and_one_to_nobody_is_lost(way: str) -> None:
    async with serving() as site:
        target = await target_of(site, way)
        async with line_to(site) as line:
            await offer(site, line, request(b"bye", target=target))
            site.aside.reply(close=True)
            heard = await line.hear(1)
            assert (heard.answers[0].status, heard.answers[0].closed) == (202, True)
        async with line_to(site) as line:
            await offer(site, line, request(b"gone", target=target))
        await eventually(lambda: site.connections == 0)
        site.aside.reply()
        async with line_to(site) as line:
            await line.send(request(b"now", target="/aside"))
            assert (await line.hear(1)).answers[0].status == 202


async def test_what_was_served_is_answered_before_a_refusal_of_what_follows() -> None:
    async with serving(gateway_head_bytes=1024) as site, line_to(site) as line:
        await offer(site, line, request(b"first", target="/aside") + b"\r\n" * 2_000)
        site.aside.reply()
        heard = await line.hear(3)
        assert [answer.status for answer in heard.answers] == [202, 400]
        assert heard.ended


@SHORT
async def test_a_stop_waits_for_what_was_served(way: str) -> None:
    async with serving() as site:
        target = await target_of(site, way)
        async with line_to(site) as line:
            await offer(site, line, request(b"last", target=target))
            site.server.should_exit = True
            asyncio.get_running_loop().call_later(0.3, site.aside.reply)
            heard = await line.hear(1)
            assert (heard.answers[0].status, heard.answers[0].closed) == (202, True)


@WAYS
async def test_an_answer_to_nobody_is_told_to_the_log(way: str) -> None:
    """Row 27 of the bad-input catalogue: what was sent is on its way, and its sender does not know."""
    async with serving() as site:
        target = await target_of(site, way)
        async with line_to(site) as line:
            await line.send(request(b"left", target=target))
            await eventually(lambda: site.aside.served + len(site.app.heard) == 1)
        await eventually(lambda: site.connections == 0)
        with capture_logs() as lines:
            if target == "/aside":
                site.aside.reply()
            site.app.go.set()
            await eventually(lambda: [line["action"] for line in lines] == ["client_gone"])
