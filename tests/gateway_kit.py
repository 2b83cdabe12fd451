"""What tests of gateway processes share: posting, raw HTTP, and events as a sender writes them."""

from __future__ import annotations

import asyncio
import json
import socket
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

import httpx

from tests.harness import Service, envelope

INGEST = "/api/v1/ingest"
BATCH = f"{INGEST}/batch"
JSON = {"content-type": "application/json"}


async def post(gateway: Service, key: str, payload: Any = 1, source: str = "shop", **members: Any) -> httpx.Response:
    """POST one event."""
    return await gateway.http.post(INGEST, content=envelope(source, key, payload, **members), headers=JSON)


def code(response: httpx.Response) -> str:
    """The reason in a problem document."""
    assert response.headers["content-type"] == "application/problem+json", response.text
    document = response.json()
    assert document["status"] == response.status_code
    return str(document["code"])


def statuses(responses: Iterable[httpx.Response]) -> dict[int, int]:
    """How many of each."""
    return dict(Counter(response.status_code for response in responses))


class Answer(NamedTuple):
    """An answer read off a socket. `closed`: the server closed the connection after it."""

    status: int
    headers: dict[str, str]
    body: bytes
    closed: bool

    @property
    def code(self) -> str:
        """The reason in a problem document."""
        return str(json.loads(self.body)["code"])


def request(body: bytes, *headers: str, target: str = INGEST, method: str = "POST", length: int | None = None) -> bytes:
    """A request as bytes; `length` in place of the body's own."""
    lines = [
        f"{method} {target} HTTP/1.1",
        "Host: gateway",
        "Content-Type: application/json",
        f"Content-Length: {len(body) if length is None else length}",
        *headers,
    ]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


class Heard(NamedTuple):
    """What came back on a connection: whole answers, what was no answer, and whether the server ended it."""

    answers: list[Answer]
    rest: bytes
    ended: bool


class Line:
    """A bare TCP connection: it sends while it listens, and a reset takes nothing from what had arrived before it."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._loop = asyncio.get_running_loop()
        self._arrived = b""
        self.ended = False

    @classmethod
    @asynccontextmanager
    async def to(cls, gateway: Service) -> AsyncIterator[Line]:
        """Connect, and hang up at the end."""
        url = httpx.URL(gateway.url)
        with socket.socket() as connection:
            connection.setblocking(False)
            async with asyncio.timeout(10):
                await asyncio.get_running_loop().sock_connect(connection, (url.host, url.port))
            yield cls(connection)

    async def send(self, data: bytes, *, half_close: bool = False) -> None:
        """Write; what the server no longer wants to read is lost."""
        with suppress(ConnectionError):
            await self._loop.sock_sendall(self._socket, data)
            if half_close:
                self._socket.shutdown(socket.SHUT_WR)

    async def hear(self, count: int, within: float = 20.0) -> Heard:
        """The next `count` answers, or fewer where the server ends the connection before."""
        answers: list[Answer] = []
        async with asyncio.timeout(within):
            while len(answers) < count:
                answer = self._next()
                if answer is not None:
                    answers.append(answer)
                elif self.ended:
                    break
                else:
                    await self._read()
        return Heard(answers, b"" if answers else self._arrived, self.ended)

    async def exchange(self, data: bytes, *, half_close: bool = False, within: float = 20.0) -> Heard:
        """Send, and meanwhile listen for one answer and, where it says so, for the end after it."""
        sending = asyncio.create_task(self.send(data, half_close=half_close))
        try:
            heard = await self.hear(1, within)
            if heard.answers and heard.answers[0].closed:
                heard = heard._replace(ended=(await self.hear(1, within)).ended)
            return heard
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    async def _read(self) -> None:
        try:
            data = await self._loop.sock_recv(self._socket, 65_536)
        except ConnectionError:
            data = b""
        self._arrived += data
        self.ended = not data

    def _next(self) -> Answer | None:
        head, found, rest = self._arrived.partition(b"\r\n\r\n")
        if not found:
            return None
        status_line, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", 0))
        if len(rest) < length:
            return None
        self._arrived = rest[length:]
        return Answer(int(status_line.split()[1]), headers, rest[:length], headers.get("connection") == "close")
