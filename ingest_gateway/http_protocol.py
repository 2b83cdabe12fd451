"""uvicorn's httptools protocol with the limits it lacks: time for a head and a body, bytes and number of headers.

    no first byte in time              closed
    head not complete in time          408, closed
    body not complete in time          408, closed; nothing of it reaches the application
    head over its bytes or headers     431, closed

A timer exists only while a request is incomplete after what was read, so a request that came in one piece costs none. An
answer that is complete at once is one write: uvicorn's two cost a system call and a packet more.
"""

from __future__ import annotations

from asyncio import BaseTransport, Event, TimerHandle
from enum import Enum
from typing import Any, NamedTuple
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from ingest_gateway.problems import Answer, Kind, problem


class ConnectionLimits(NamedTuple):
    """What a connection may take. Times in seconds from the moment the part before was there."""

    first_byte: float
    head: float
    body: float
    head_bytes: int
    headers: int


class _Phase(Enum):
    """What of a request is still to come."""

    NOTHING = 0
    HEAD = 1
    BODY = 2


class _HeadTooLarge(Exception):
    """Raised inside the parser's callbacks to stop it."""


class OneWriteCycle(RequestResponseCycle):
    """One request and its answer. Our applications set content-length and their headers hold nothing from outside."""

    _start: Any = None

    async def send(self, message: Any) -> None:
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
            return
        self.response_started = self.response_complete = True
        self.waiting_for_100_continue = False
        parts = [STATUS_LINE[start["status"]]]
        for name, value in (*self.default_headers, *start["headers"]):
            if name == b"connection" and value == b"close":
                self.keep_alive = False
            else:
                parts += (name, b": ", value, b"\r\n")
        parts.append(b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n")
        parts.append(message.get("body", b""))
        self.transport.write(b"".join(parts))
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()


class LimitedHttpProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, limits: ConnectionLimits, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._limits = limits
        self._phase = _Phase.NOTHING
        self._timed = _Phase.NOTHING
        self._timer: TimerHandle | None = None
        self._head_bytes = 0
        self._too_large = False

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self._timer = self.loop.call_later(self._limits.first_byte, self._expired)

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._timer is not None and self._timed is _Phase.NOTHING:
            self._disarm()
        super().data_received(data)
        if self._phase is _Phase.HEAD:
            # The parser tells of a header only once it is complete; until then what it holds is counted here.
            self._head_bytes += len(data)
            if self._head_bytes > self._limits.head_bytes and not self.transport.is_closing():
                self._too_large = True
                self.send_400_response("")
        if self._phase is not self._timed:
            self._disarm()
            if self._phase is not _Phase.NOTHING and not self.transport.is_closing():
                self._timed = self._phase
                seconds = self._limits.head if self._phase is _Phase.HEAD else self._limits.body
                self._timer = self.loop.call_later(seconds, self._expired)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._phase = _Phase.HEAD
        self._head_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > self._limits.head_bytes or len(self.headers) > self._limits.headers:
            self._too_large = True
            raise _HeadTooLarge

    def on_headers_complete(self) -> None:
        """As uvicorn's, with our cycle, and without what is switched off here (WebSocket, limit_concurrency)."""
        self._phase = _Phase.BODY
        parser, scope = self.parser, self.scope
        version = parser.get_http_version()
        scope["method"] = parser.get_method().decode("ascii")
        if version != "1.1":
            scope["http_version"] = version
        url = httptools.parse_url(self.url)
        path = url.path.decode("ascii")
        scope["path"] = unquote(path) if "%" in path else path
        scope["raw_path"] = url.path
        scope["query_string"] = url.query or b""
        before = self.cycle
        self.cycle = OneWriteCycle(
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=version != "1.0" and parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        if before is None or before.response_complete:
            self._start_asgi_task(self.cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def on_message_complete(self) -> None:
        self._phase = _Phase.NOTHING
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """What uvicorn calls for a request that its parser refuses: here with a problem document."""
        if self._too_large:
            most = f"A head may have {self._limits.head_bytes} bytes and {self._limits.headers} headers."
            self._refuse(problem(Kind.HEADERS_TOO_LARGE, most))
        else:
            self._refuse(problem(Kind.MALFORMED, "This is not an HTTP/1.1 request."))

    def _expired(self) -> None:
        if self._phase is _Phase.NOTHING:
            self.transport.close()
        else:
            self._refuse(problem(Kind.REQUEST_TIMEOUT, "The request did not arrive in time."))

    def _refuse(self, answer: Answer) -> None:
        self._phase = _Phase.NOTHING
        self._disarm()
        if self.transport.is_closing():
            return
        answering = self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete
        if not answering:
            head = [STATUS_LINE[answer.status]]
            for name, value in (*self.server_state.default_headers, *answer.headers, (b"connection", b"close")):
                head += [name, b": ", value, b"\r\n"]
            self.transport.write(b"".join([*head, b"\r\n", answer.body]))
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()

    def _disarm(self) -> None:
        self._timed = _Phase.NOTHING
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
