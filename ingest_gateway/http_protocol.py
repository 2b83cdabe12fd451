"""uvicorn's httptools protocol with the limits it lacks: time for a head, a body and a reader, bytes and number of headers.

    no request begun in time           closed
    head not complete in time          408, closed
    body not complete in time          408, closed; nothing of it reaches the application
    head over its bytes or headers     431, closed; 414 where it is the target
    trailers, padded chunks            400, closed; nothing of it reaches the application
    answers not read in time           closed
    no room for an unfinished request  429, closed; what came in one piece needs none

A request that is refused here is answered after those that were sent before it on the connection: a client would take the
refusal for the answer to the first one. A timer exists only while a request is incomplete after what was read, so a request
that came in one piece costs none; one that watches an idle connection is kept over its requests. An answer that is complete
at once is one write: uvicorn's two cost a system call and a packet more. A small POST that came as a whole is first offered to
the application's short cut, which needs no task; where its head is known already (`known_heads.py`), before anything is parsed.
"""

from __future__ import annotations

from asyncio import BaseTransport, Event, TimerHandle
from collections.abc import Callable
from enum import Enum
from functools import lru_cache
from typing import Any, NamedTuple, Protocol
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from ingest_gateway.cycles import NOBODY, KnownCycle, OneWriteCycle, write_answer
from ingest_gateway.head import Head, read_head
from ingest_gateway.known_heads import KnownHeads
from ingest_gateway.problems import Answer, Kind, problem
from schemas.errors import Rejected


class ConnectionLimits(NamedTuple):
    """What a connection may take. Times in seconds from the moment the part before was there."""

    first_byte: float
    head: float
    body: float
    read: float
    head_bytes: int
    headers: int


class Room:
    """The bytes of unfinished requests, of all connections of a process, and how many there may be."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.used = 0


class ShortCut(Protocol):
    """What a small POST is offered to before the application."""

    def wants(self, head: Head) -> bool:
        """Whether it may take this request, once its body is there."""

    def serve(self, head: Head, body: bytes, reply: Callable[[Answer, bool], None]) -> bool:
        """Serve it, and reply once with the answer and whether to close after it; False: not after all."""


class _Phase(Enum):
    """What of a request is still to come."""

    NOTHING = 0
    HEAD = 1
    BODY = 2


class _HeadTooLarge(Exception):
    """Raised inside the parser's callbacks to stop it."""


class _Trailer(Exception):
    """Raised inside the parser's callbacks to stop it: a header after the body, which the application was never shown."""


_ROOM_AGAIN = 1
"""Seconds after which unfinished requests are worth another try: most take milliseconds."""
_REQUEST_LINE = 24
"""Bytes of a request's first line and last line break beside its target."""
_HEADER_LINE = 4
_CHUNK_LINES = 32
"""Bytes around a chunk's data that need no explanation; beyond them and a head's worth in all, it is padding."""


def _target(url: bytes) -> tuple[str, bytes, bytes]:
    """Path, path as it was sent, and query of a request's target."""
    parsed = httptools.parse_url(url)
    raw = parsed.path
    path = raw.decode("ascii")
    return unquote(path) if "%" in path else path, raw, parsed.query or b""


_SHORT_TARGET = 128
_known_target = lru_cache(256)(_target)
"""Of short ones, which come again and again."""


class LimitedHttpProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(
        self,
        limits: ConnectionLimits,
        room: Room,
        short_cut: ShortCut,
        known_heads: KnownHeads,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._limits = limits
        self._short_cut = short_cut
        self._known_heads = known_heads
        self._whole: bytes | None = None
        self._room = room
        self._body = 0
        self._held = 0
        self._phase = _Phase.NOTHING
        self._timed = _Phase.NOTHING
        self._timer: TimerHandle | None = None
        self._unread: TimerHandle | None = None
        self._idle: TimerHandle | None = None
        self._idle_since: float | None = None
        self._before: RequestResponseCycle | None = None
        self._ended = False
        self._head_bytes = 0
        self._unfinished = 0
        self._untold = 0
        self._padding = 0
        self._too_large = False
        self._refusal: Answer | None = None
        self._refused_after: RequestResponseCycle | None = None

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        # Whatever the kernel does not take at once starts the reader's deadline.
        # Over TLS, 0 means for ever: that layer pauses at the limit, not above it.
        self.transport.set_write_buffer_limits(high=0 if self.transport.get_extra_info("sslcontext") is None else 1)
        self._timer = self.loop.call_later(self._limits.first_byte, self._expired)

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        for timer in (self._unread, self._idle):
            if timer is not None:
                timer.cancel()
        self._hold(0)
        super().connection_lost(exc)
        # A request knows its connection: cut here, both are freed at once and need no (rare) look of the collector.
        self.pipeline.clear()
        self.cycle = self._before = self._refused_after = None  # type: ignore[assignment]

    def pause_writing(self) -> None:
        """What the client does not read now, it must read in time."""
        super().pause_writing()
        self._unread = self.loop.call_later(self._limits.read, self.transport.abort)

    def resume_writing(self) -> None:
        """It has read."""
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def data_received(self, data: bytes) -> None:
        if self._refusal is not None:
            return
        before: Any = self.cycle
        resting = self._phase is _Phase.NOTHING and (before is None or (before.response_complete and before.keep_alive))
        if resting and self._serve_known(data):
            return
        self._whole = data if resting else None
        self._feed(data)
        self._whole = None

    def _serve_known(self, data: bytes) -> bool:
        """Serve this, where it is a whole request under a known head. The parser, which is between two requests, goes on there."""
        known = None if self.flow.write_paused else self._known_heads.find(data)
        if known is None:
            return False
        head, body = known
        self._disarm()
        self._idle_since = None
        before, cycle = self.cycle, KnownCycle(self)
        self.cycle = cycle  # type: ignore[assignment]
        if self._short_cut.serve(head, body, cycle.reply):
            return True
        self.cycle = before
        return False

    def _feed(self, data: bytes) -> None:
        # The callbacks take off what they are told; what is left is framing, or a header that is not complete yet.
        self._untold = len(data)
        self._ended = False
        self._idle_since = None
        super().data_received(data)
        if self._untold > 0:
            self._count_untold()
        if self._phase is _Phase.BODY:
            self._hold(0 if self.cycle.response_complete else self._body)
        elif self._phase is _Phase.HEAD:
            self._hold(self._head_bytes + self._unfinished)
        elif self._held:
            self._hold(0)
        if self._phase is not self._timed:
            self._disarm()
            if self._phase is not _Phase.NOTHING and not self.transport.is_closing():
                self._timed = self._phase
                seconds = self._limits.head if self._phase is _Phase.HEAD else self._limits.body
                self._timer = self.loop.call_later(seconds, self._expired)
        between = self._phase is _Phase.NOTHING and self._timer is None and self._idle_since is None
        if between and self.cycle is not None and self.cycle.response_complete and not self.pipeline:
            self._rest()  # after stray line breaks, or at the end of a body that was answered before

    def _hold(self, count: int) -> None:
        """Of the request that is being read, this process holds so many bytes now."""
        self._room.used += count - self._held
        self._held = count
        if count and self._room.used > self._room.size:
            answer = problem(Kind.OVERLOADED, "Send it again after the time given.", retry_after=_ROOM_AGAIN)
            self._refuse(answer, self.cycle if self._phase is _Phase.BODY else None)

    def _count_untold(self) -> None:
        if self._phase is _Phase.HEAD:
            # In the read that began it, this counts padding of the request before it too: its sender's own doing.
            self._unfinished += self._untold
            if self._head_bytes + self._unfinished > self._limits.head_bytes:
                self._too_large = True
                self.send_400_response("")
        else:
            self._padding += self._untold
            if self._padding > self._limits.head_bytes:
                # A request whose end has just been read was not looked at yet: that is the loop's next turn.
                unseen = self._ended and not (isinstance(self.cycle, OneWriteCycle) and self.cycle.taken)
                own = self.cycle if unseen or self._phase is _Phase.BODY else None
                self._refuse(problem(Kind.MALFORMED, "The request is padded."), own)

    def _rest(self) -> None:
        """The connection is idle from now on. uvicorn makes and cancels a timer for each request; one looks at its end if the
        time has really passed."""
        if not self.transport.is_closing():
            self._idle_since = self.loop.time()
            if self._idle is None:
                self._idle = self.loop.call_later(self.timeout_keep_alive, self._look_idle)

    def _look_idle(self) -> None:
        self._idle = None
        if self._idle_since is not None:
            left = self._idle_since + self.timeout_keep_alive - self.loop.time()
            if left > 0:
                self._idle = self.loop.call_later(left, self._look_idle)
            else:
                self.timeout_keep_alive_handler()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._timer is not None and self._timed is _Phase.NOTHING:
            self._disarm()  # a request has begun in time; where it comes in one piece, nothing else ends that wait
        self._phase = _Phase.HEAD
        self._head_bytes = self._unfinished = self._padding = self._body = 0
        self._untold -= _REQUEST_LINE

    def on_url(self, url: bytes) -> None:
        """A part of the target."""
        super().on_url(url)
        self._told_of_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._phase is _Phase.BODY:
            raise _Trailer
        super().on_header(name, value)
        self._told_of_head(len(name) + len(value) + _HEADER_LINE)

    def _told_of_head(self, count: int) -> None:
        self._untold -= count
        self._unfinished = 0
        self._head_bytes += count
        if self._head_bytes > self._limits.head_bytes or len(self.headers) > self._limits.headers:
            self._too_large = True
            raise _HeadTooLarge

    def on_chunk_header(self) -> None:
        """A chunk of a body begins."""
        self._untold -= _CHUNK_LINES

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._untold -= len(body)
        self._body += len(body)
        super().on_body(body)

    def on_headers_complete(self) -> None:
        """As uvicorn's, with our cycle, and without what is switched off here (WebSocket, limit_concurrency)."""
        self._phase = _Phase.BODY
        parser, scope = self.parser, self.scope
        version = parser.get_http_version()
        scope["method"] = parser.get_method().decode("ascii")
        if version != "1.1":
            scope["http_version"] = version
        target = _known_target if len(self.url) <= _SHORT_TARGET else _target
        scope["path"], scope["raw_path"], scope["query_string"] = target(self.url)
        before = self._before = self.cycle
        cycle = OneWriteCycle(
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=NOBODY,
            expect_100_continue=self.expect_100_continue,
            keep_alive=version != "1.0" and parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        self.cycle = cycle
        cycle.direct = self._small_post()
        if before is not None and not before.response_complete:
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))
        elif cycle.direct is None:
            self._start_asgi_task(cycle, self.app)

    def _small_post(self) -> Head | None:
        """The head of a request that the short cut may take once its body is there."""
        scope: Any = self.scope
        if scope["method"] != "POST" or scope["http_version"] != "1.1" or self.expect_100_continue:
            return None
        try:
            head = read_head(scope)
        except Rejected:
            return None  # the application says why
        # Beyond that many bytes uvicorn reads on only when it is asked to.
        small = head.content_length is not None and head.content_length <= HIGH_WATER_LIMIT
        return head if small and self._short_cut.wants(head) else None

    def on_message_complete(self) -> None:
        self._phase = _Phase.NOTHING
        self._ended = True
        super().on_message_complete()
        cycle = self.cycle
        if (
            isinstance(cycle, OneWriteCycle)
            and cycle.direct is not None
            and not cycle.response_complete
            and not self.pipeline
        ):
            self._serve(cycle)

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        """A request whose turn it is. One that waited behind others and is there as a whole may take the short cut still."""
        if cycle.direct is None:
            cycle.message_event = Event()
            if cycle.body or not cycle.more_body:
                cycle.message_event.set()
            super()._start_asgi_task(cycle, app)
        elif not cycle.more_body:
            # In the loop's next turn: answered in this one, a hundred pipelined requests would be a hundred calls deep.
            self.loop.call_soon(self._serve, cycle)

    def _serve(self, cycle: OneWriteCycle) -> None:
        head, cycle.direct = cycle.direct, None
        if head is None or cycle.disconnected or cycle.response_complete:
            return
        whole = self._whole if cycle.keep_alive else None
        # A client that does not read its answers waits for room to write as everybody did before.
        cycle.taken = not self.flow.write_paused and self._short_cut.serve(head, bytes(cycle.body), cycle.reply)
        if not cycle.taken:
            self._start_asgi_task(cycle, self.app)
        elif whole is not None:
            self._known_heads.learn(whole, head)

    def send_400_response(self, msg: str) -> None:
        """What uvicorn calls for a request that its parser refuses: here with a problem document."""
        own = self.cycle if self._phase is _Phase.BODY else None
        if self._too_large and not self.headers:
            self._refuse(problem(Kind.URI_TOO_LONG, f"A target may have {self._limits.head_bytes} bytes."), own)
        elif self._too_large:
            most = f"A head may have {self._limits.head_bytes} bytes and {self._limits.headers} headers."
            self._refuse(problem(Kind.HEADERS_TOO_LARGE, most), own)
        else:
            self._refuse(problem(Kind.MALFORMED, "This is not an HTTP/1.1 request that the gateway reads."), own)

    def on_response_complete(self) -> None:
        """As uvicorn's, with our timer of idle connections: the next request may be answered, or the refusal that waits."""
        self.server_state.total_requests += 1
        if not self.transport.is_closing():
            self.flow.resume_reading()
            if self.pipeline:
                self._start_asgi_task(*self.pipeline.pop())
            else:
                self._rest()
        after = self._refused_after
        if self._refusal is not None and after is not None and after.response_complete:
            self._write_refusal(self._refusal)

    def _expired(self) -> None:
        if self._phase is _Phase.NOTHING:
            self.transport.close()
        else:
            own = self.cycle if self._phase is _Phase.BODY else None
            self._refuse(problem(Kind.REQUEST_TIMEOUT, "The request did not arrive in time."), own)

    def _refuse(self, answer: Answer, own: RequestResponseCycle | None) -> None:
        """Answer the request that is being read, after those before it, and close. Nothing more is read.

        Args:
            own: what the application sees of that request, once its head was read.
        """
        before = self.cycle if own is None else self._before
        self._phase = _Phase.NOTHING
        self._disarm()
        self._hold(0)
        if self.transport.is_closing():
            return
        self._refusal = answer
        if own is not None:
            if self.pipeline:
                self.pipeline.popleft()  # it waits for its turn, which will not come
            elif own.response_started:
                self.transport.close()  # answered before it was read to its end; there is no second answer
                return
            own.disconnected = True
            own.body = bytearray()
            own.message_event.set()
        if before is None or before.response_complete:
            self._write_refusal(answer)
        else:
            self._refused_after = before

    def _write_refusal(self, answer: Answer) -> None:
        if self.transport.is_closing():
            return
        headers = (*self.server_state.default_headers, *answer.headers)
        write_answer(self.transport, answer.status, headers, answer.body)

    def _disarm(self) -> None:
        self._timed = _Phase.NOTHING
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
