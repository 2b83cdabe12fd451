"""What tests of gateway processes share: posting, raw HTTP, and events as a sender writes them."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

import httpx

from tests.harness import Service, envelope

INGEST = "/api/v1/ingest"
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


class Wire:
    """A TCP connection to the gateway, for requests that no HTTP client would send."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    @asynccontextmanager
    async def to(cls, gateway: Service) -> AsyncIterator[Wire]:
        """Connect, and hang up at the end."""
        url = httpx.URL(gateway.url)
        wire = cls(*await asyncio.open_connection(url.host, url.port))
        try:
            yield wire
        finally:
            wire.writer.close()
            with suppress(ConnectionError):
                await wire.writer.wait_closed()

    async def send(self, data: bytes) -> None:
        """Write; what the server no longer wants to read is lost."""
        try:
            self.writer.write(data)
            await self.writer.drain()
        except ConnectionError:
            pass

    async def answer(self, within: float = 20.0) -> Answer:
        """The next answer, by its Content-Length."""
        async with asyncio.timeout(within):
            status_line, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").splitlines()
            headers = {
                name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)
            }
            body = await self.reader.readexactly(int(headers["content-length"]))
        return Answer(int(status_line.split()[1]), headers, body, headers.get("connection") == "close")

    async def ended(self, within: float = 20.0) -> bytes:
        """Whatever else comes until the server closes."""
        async with asyncio.timeout(within):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""


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
