"""Heads that were read before: whatever comes, in whatever pieces, is answered as if none were known."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from typing import Any, cast

import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn.server import ServerState

from ingest_gateway.head import Head
from ingest_gateway.http_protocol import ConnectionLimits, LimitedHttpProtocol, Room
from ingest_gateway.known_heads import KnownHeads
from ingest_gateway.problems import Answer

_LIMITS = ConnectionLimits(first_byte=10, head=10, body=10, read=10, head_bytes=4096, headers=12)


def post(target: str, body: bytes, *headers: str, end: str = "\r\n") -> bytes:
    """A request, with its length where nothing else is said of it."""
    length = [] if any(header.lower().startswith(("content-length", "transfer")) for header in headers) else [len(body)]
    lines = [f"POST {target} HTTP/1.1", "Host: here", *headers, *(f"Content-Length: {size}" for size in length)]
    return (end.join(lines) + end * 2).encode() + body


REQUESTS = [
    post("/aside", b"now"),
    post("/aside", b"NOW"),
    post("/aside", b"soon"),
    post("/aside", b"no"),
    post("/aside", b"nay"),
    post("/aside", b""),
    post("/aside", b"\r\n\r\n"),
    post("/aside", b"now", "Connection: close"),
    post("/aside", b"now", "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    post("/aside", b"now", "X-Long: " + "x" * 2048),
    post("/aside", b"now", *(f"X-{number}: 1" for number in range(20))),
    post("/aside", b"now", end="\n"),
    post("/aside", b"now", "Host: there"),
    post("/aside", b"3\r\nnow\r\n0\r\n\r\n", "Transfer-Encoding: chunked"),
    post("/aside", b"no", "Content-Length: 3"),
    post("/aside", b"nowPOST", "Content-Length: 3"),
    post("/aside", b"now", "Content-Length: 3", "Content-Length: 3"),
    post("/aside", b"now", "Expect: 100-continue"),
    post("/aside", b"now").replace(b"HTTP/1.1", b"HTTP/1.0"),
    post("/elsewhere", b"now"),
    b"\r\n" + post("/aside", b"now"),
    post("/aside", b"now") + b"\r\n",
    b"GET /aside HTTP/1.1\r\nHost: here\r\n\r\n",
]


class _Transport:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.written = b""
        self.closing = False

    def write(self, data: bytes) -> None:
        assert not self.closing
        self.written += data

    def close(self) -> None:
        self.closing = True

    abort = close

    def is_closing(self) -> bool:
        return self.closing

    def get_extra_info(self, name: str) -> None:
        return None

    def set_write_buffer_limits(self, high: int) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    resume_reading = pause_reading


class _Site:
    """An application and its short cut, which take notice of what they are shown. Bodies say when they are answered."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str, bytes]] = []

    def wants(self, head: Head) -> bool:
        return head.path == "/aside"

    def serve(self, head: Head, body: bytes, reply: Callable[[Answer, bool], None]) -> bool:
        if body in (b"no", b"nay"):
            return False
        self.heard.append(("POST", head.path, body))
        answer = Answer(202, [(b"content-length", b"%d" % len(body))], body)
        if body == b"soon":
            asyncio.get_running_loop().call_soon(reply, answer, False)
        else:
            reply(answer, False)
        return True

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body, more = body + message["body"], message["more_body"]
        self.heard.append((scope["method"], scope["path"], body))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"3")]})
        await send({"type": "http.response.body", "body": b"app"})


class _Forgetful(KnownHeads):
    """Knows none."""

    def find(self, data: bytes) -> None:
        return None


async def served(
    known: KnownHeads, pieces: Sequence[bytes], turns: int = 10
) -> tuple[bytes, bool, list[tuple[str, str, bytes]]]:
    """What a new connection answers to these pieces, whether it is closed then, and what the site was shown.

    Args:
        turns: of the loop between two pieces; with none, the second comes before the first is answered.
    """
    site, transport = _Site(), _Transport()
    config = uvicorn.Config(site, ws="none", lifespan="off", interface="asgi3", log_config=None, access_log=False)
    protocol = LimitedHttpProtocol(
        _LIMITS, Room(1 << 20), site, known, config=config, server_state=ServerState(), app_state={}
    )
    protocol.connection_made(cast("Any", transport))
    for piece in pieces:
        if not transport.closing:
            protocol.data_received(piece)
        for _ in range(turns):
            await asyncio.sleep(0)
    for _ in range(50):
        await asyncio.sleep(0)
    closed, transport.closing = transport.closing, True
    protocol.connection_lost(None)
    for _ in range(10):
        await asyncio.sleep(0)
    return transport.written, closed, site.heard


def cut(data: bytes, at: Sequence[int]) -> list[bytes]:
    """Pieces of it."""
    places = [0, *sorted({place % (len(data) + 1) for place in at}), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(places) if start < end]


_KNOWN = KnownHeads()
"""Over all examples: what one connection taught is used on another."""

_PIECES = st.one_of(
    st.lists(st.sampled_from(REQUESTS), max_size=8),
    st.builds(
        lambda several, at: cut(b"".join(several), at),
        st.lists(st.sampled_from(REQUESTS), max_size=6),
        st.lists(st.integers(0, 1 << 20), max_size=6),
    ),
)


@settings(max_examples=400)
@given(_PIECES, st.integers(0, 6))
def test_nothing_is_answered_differently(pieces: list[bytes], turns: int) -> None:
    assert asyncio.run(served(_KNOWN, pieces, turns)) == asyncio.run(served(_Forgetful(), pieces, turns))


def learned(known: KnownHeads, data: bytes) -> KnownHeads:
    """After a connection on which this came."""
    asyncio.run(served(known, [data]))
    return known


def found(known: KnownHeads, data: bytes) -> bytes | None:
    """The body of this request, where its head is known."""
    head_and_body = known.find(data)
    return None if head_and_body is None else head_and_body[1]


def test_the_same_head_is_known_again_whatever_its_body() -> None:
    known = learned(KnownHeads(), post("/aside", b"now"))
    assert found(known, post("/aside", b"NOW")) == b"NOW"
    assert found(known, post("/aside", b"later")) is None
    assert found(known, post("/aside", b"now", "X: y")) is None
    assert found(known, post("/aside", b"now") + b"x") is None
    assert found(known, post("/aside", b"now")[:-1]) is None


def test_a_known_head_spares_the_parser() -> None:
    known, request = KnownHeads(), post("/aside", b"now")
    answer, closed, heard = asyncio.run(served(known, [request, request, request]))
    assert (answer.count(b"HTTP/1.1 202"), closed, len(heard)) == (3, False, 3)

    class Broken(KnownHeads):
        def find(self, data: bytes) -> tuple[Head, bytes] | None:
            head_and_body = known.find(data)
            return None if head_and_body is None else (head_and_body[0], b"known")

    assert asyncio.run(served(Broken(), [request]))[2] == [("POST", "/aside", b"known")]


def test_what_will_hardly_come_again_is_not_kept() -> None:
    for request in REQUESTS[7:]:
        kept = found(learned(KnownHeads(), request), request) is not None
        assert kept == request.startswith(b"\r\nPOST"), request  # the parser skips line breaks before a request


def test_what_is_kept_is_bounded() -> None:
    known = KnownHeads()
    for number in range(2_000):
        head = Head("/aside")
        head.content_length = 1
        known.learn(post("/aside", b"x", f"X-Request-Id: {number}"), head)
    assert found(known, post("/aside", b"x", "X-Request-Id: 1999")) == b"x"
    assert found(known, post("/aside", b"x", "X-Request-Id: 1000")) is None
