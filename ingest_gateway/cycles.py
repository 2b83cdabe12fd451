"""A request and its answer, as a connection sees them: the answer is one write, and who has gone is told to the log."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Protocol

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle
from uvicorn.server import ServerState

from infra.runtime import log
from ingest_gateway.head import Head
from ingest_gateway.problems import Answer

_LOG = log.get(__name__)


class Connection(Protocol):
    """What an answer needs of its connection."""

    transport: asyncio.Transport
    server_state: ServerState

    def on_response_complete(self) -> None:
        """The answer is written."""


class _NobodyWaits:
    """In place of a request's event while no task waits for its body: making one for each costs a microsecond."""

    def set(self) -> None:
        """Nobody waits."""


NOBODY: Any = _NobodyWaits()


class OneWriteCycle(RequestResponseCycle):
    """One request and its answer. Our applications set content-length and their headers hold nothing from outside."""

    _start: Any = None
    direct: Head | None = None
    """Set while the request waits for its body or its turn, to be offered to the short cut."""
    taken = False
    """By the short cut: its event may be on its way."""

    def reply(self, answer: Answer, close: bool) -> None:
        """The whole answer of a short cut, which may come after the client has gone."""
        if self.disconnected:
            _tell_gone(answer.status)
            return
        if close:
            self.keep_alive = False
        self._write(answer.status, answer.headers, answer.body)

    async def send(self, message: Any) -> None:
        """What the application says; a whole answer is written at its last word."""
        if message["type"] == "http.response.start":
            self._start = message
            return
        start, self._start = self._start, None
        if start is None or message.get("more_body") or self.scope["method"] == "HEAD":
            if start is not None:
                await super().send(start)
            await super().send(message)
            return
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            _tell_gone(start["status"])
            return
        self._write(start["status"], start["headers"], message.get("body", b""))

    def _write(self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> None:
        self.response_started = self.response_complete = True
        self.waiting_for_100_continue = False
        told = (*self.default_headers, *headers)
        self.keep_alive = write_answer(self.transport, status, told, body, keep_alive=self.keep_alive)
        self.message_event.set()
        self.on_response()


class KnownCycle:
    """One request under a known head, and its answer: what its connection asks of a cycle, and nothing else."""

    __slots__ = ("_connection", "disconnected", "keep_alive", "response_complete")

    message_event: Any = NOBODY

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.disconnected = False
        self.keep_alive = True
        self.response_complete = False

    def reply(self, answer: Answer, close: bool) -> None:
        """The whole answer, which may come after the client has gone."""
        if self.disconnected:
            _tell_gone(answer.status)
            return
        self.response_complete = True
        connection, wanted = self._connection, self.keep_alive and not close
        told = (*connection.server_state.default_headers, *answer.headers)
        self.keep_alive = write_answer(connection.transport, answer.status, told, answer.body, keep_alive=wanted)
        connection.on_response_complete()


def write_answer(
    transport: asyncio.Transport,
    status: int,
    headers: Iterable[tuple[bytes, bytes]],
    body: bytes,
    *,
    keep_alive: bool = False,
) -> bool:
    """Write a whole answer, and close the connection after it unless it is kept; True: it is.

    Args:
        keep_alive: whether it may be kept; a header `connection: close` says no, too.
    """
    parts = [STATUS_LINE[status]]
    for name, value in headers:
        if name == b"connection" and value == b"close":
            keep_alive = False
        else:
            parts += (name, b": ", value, b"\r\n")
    parts.append(b"\r\n" if keep_alive else b"connection: close\r\n\r\n")
    parts.append(body)
    transport.write(b"".join(parts))
    if not keep_alive:
        transport.close()
    return keep_alive


def _tell_gone(status: int) -> None:
    # Its sender does not know what became of it and will send it again; the line explains that duplicate.
    _LOG.info("A client left before its answer.", action="client_gone", status=status)
