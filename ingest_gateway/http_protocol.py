"""uvicorn's httptools protocol with the limits it lacks: time for a head and a body, bytes and number of headers.

    no first byte          10 s   closed
    head not complete       5 s   408, closed
    body not complete      15 s   408, closed; nothing of it reaches the application
    head over 16 KiB, over 64 headers   431, closed

A timer exists only while a request is incomplete after what was read, so a request that came in one piece costs none.
"""

from __future__ import annotations

from asyncio import BaseTransport, TimerHandle
from enum import Enum
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from ingest_gateway.problems import Answer, Kind, problem

HEAD_BYTES: Final = 16 * 1024
HEADERS: Final = 64
FIRST_BYTE_SECONDS: Final = 10.0
HEAD_SECONDS: Final = 5.0
BODY_SECONDS: Final = 15.0


class _Phase(Enum):
    """What of a request is still to come."""

    NOTHING = 0
    HEAD = 1
    BODY = 2


class _HeadTooLarge(Exception):
    """Raised inside the parser's callbacks to stop it."""


class LimitedHttpProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._phase = _Phase.NOTHING
        self._timed = _Phase.NOTHING
        self._timer: TimerHandle | None = None
        self._head_bytes = 0
        self._too_large = False

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self._timer = self.loop.call_later(FIRST_BYTE_SECONDS, self._expired)

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
            if self._head_bytes > HEAD_BYTES and not self.transport.is_closing():
                self._too_large = True
                self.send_400_response("")
        if self._phase is not self._timed:
            self._disarm()
            if self._phase is not _Phase.NOTHING and not self.transport.is_closing():
                self._timed = self._phase
                seconds = HEAD_SECONDS if self._phase is _Phase.HEAD else BODY_SECONDS
                self._timer = self.loop.call_later(seconds, self._expired)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._phase = _Phase.HEAD
        self._head_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > HEAD_BYTES or len(self.headers) > HEADERS:
            self._too_large = True
            raise _HeadTooLarge

    def on_headers_complete(self) -> None:
        self._phase = _Phase.BODY
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._phase = _Phase.NOTHING
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """What uvicorn calls for a request that its parser refuses: here with a problem document."""
        if self._too_large:
            self._refuse(problem(Kind.HEADERS_TOO_LARGE, f"A head may have {HEAD_BYTES} bytes and {HEADERS} headers."))
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
