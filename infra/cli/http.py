"""The few HTTP requests that commands make, each under a deadline: a connection, a request, an answer read to its end."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

import httptools
import orjson

from infra.cli.output import UNREACHABLE, Failure, Problem

SECONDS: Final = 10.0
MISSED: Final = (OSError, TimeoutError, httptools.HttpParserError)
"""What there is instead of an answer."""
_CHUNK = 65_536

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer. seconds: from sending the request to having read it."""

    status: int
    body: bytes
    seconds: float

    @property
    def members(self) -> dict[str, Any]:
        """The body's JSON object; empty where it is none."""
        with suppress(orjson.JSONDecodeError):
            found = orjson.loads(self.body)
            if isinstance(found, dict):
                return found
        return {}


class _Exchange:
    """Reads one answer (httptools' callbacks)."""

    def __init__(self) -> None:
        self.body = b""
        self.done = False

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self.body += body

    def on_message_complete(self) -> None:
        """That was all."""
        self.done = True


async def connect(url: SplitResult) -> Connection:
    """A connection to the host of `url`; over TLS where it says https, with the certificate checked."""
    tls = url.scheme == "https"
    return await asyncio.open_connection(url.hostname, url.port or (443 if tls else 80), ssl=tls or None)


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, bytes, bool]:
    """Status, body, and whether the connection is kept."""
    exchange = _Exchange()
    parser = httptools.HttpResponseParser(exchange)
    while not exchange.done:
        data = await reader.read(_CHUNK)
        if not data:
            raise ConnectionResetError
        parser.feed_data(data)
    return parser.get_status_code(), exchange.body, parser.should_keep_alive()


async def request(method: str, url: str, body: bytes | None = None) -> Answer:
    """One request on a connection of its own. A body is JSON.

    Raises:
        Failure: there was no answer in time.
    """
    parts = urlsplit(url)
    clock = asyncio.get_running_loop().time
    head = f"{method} {parts.path or '/'} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n"
    if body is not None:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    try:
        async with asyncio.timeout(SECONDS):
            reader, writer = await connect(parts)
            began = clock()
            try:
                writer.write(f"{head}\r\n".encode() + (body or b""))
                status, content, _ = await read_answer(reader)
            finally:
                writer.close()
    except MISSED as error:
        raise Failure(
            f"{url} did not answer.",
            cause=_cause(error),
            advice="check that it runs and that this is its address; plutus doctor",
            code=UNREACHABLE,
            problem=Problem.GATEWAY_UNREACHABLE,
        ) from error
    return Answer(status, content, clock() - began)


async def get(url: str) -> str:
    """The body of `url`, as text.

    Raises:
        Failure: no answer, or another than 200.
    """
    answer = await request("GET", url)
    if answer.status != 200:
        raise Failure(f"{url} answered {answer.status}.")
    return answer.body.decode()


def _cause(error: BaseException) -> str:
    """Why, in a few words: the client's own text may hold what it was given."""
    if isinstance(error, TimeoutError):
        return f"no answer in {SECONDS:g} s"
    return (isinstance(error, OSError) and error.strerror) or type(error).__name__
