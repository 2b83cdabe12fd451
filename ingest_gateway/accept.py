"""Takes connections from a listening socket that processes may share: one in each turn of the loop, and few in each millisecond.

asyncio and uvloop take all that wait whenever they look. Of 256 connections that clients open together, the first of two processes
to be woken got 210; those stayed its own for as long as they were kept alive, and the other one idled. The moment without a look
after a few is for those that the kernel has not woken yet. A socket for each process (SO_REUSEPORT) would be shared out by chance,
and what is queued at one that hangs or is being replaced would wait for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from typing import Final, NamedTuple

from infra.runtime import log

_LOG = log.get(__name__)
_FEW: Final = 4
_MOMENT: Final = 0.001
"""Four connections in a millisecond are as many as a process can serve if each brings one request: nobody is slowed by this."""
_PAUSE: Final = 1.0
"""Seconds without a look after the kernel had no file or memory for a connection, as long as asyncio's own; they wait in the
backlog meanwhile."""


class Handshake(NamedTuple):
    """TLS before the first byte of a request. timeout: in seconds."""

    context: ssl.SSLContext
    timeout: float


class Acceptor:
    """In place of an `asyncio.Server`, for uvicorn: accepts from now on until it is closed.

    Args:
        listener: listens, does not block, and is closed by its owner.
        protocol: makes the protocol of a connection.
        handshake: None: no TLS.
    """

    def __init__(
        self, listener: socket.socket, protocol: Callable[[], asyncio.Protocol], handshake: Handshake | None = None
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._protocol = protocol
        self._handshake = handshake
        self._starting: set[asyncio.Task[None]] = set()
        self._paused: asyncio.TimerHandle | None = None
        self._left = 0
        self._look()

    def close(self) -> None:
        """Take no further connection. Those that were taken go on."""
        if self._paused is None:
            self._loop.remove_reader(self._listener)
        else:
            self._paused.cancel()

    async def wait_closed(self) -> None:
        """Until the handshakes that had begun are over; they have their deadline."""
        if self._starting:
            await asyncio.wait(set(self._starting))

    def _look(self) -> None:
        self._paused = None
        self._left = _FEW
        self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # another process was quicker, or the client is gone
        except OSError as error:
            _LOG.error("No connection can be accepted.", action="accept_failed", errno=error.errno, pause_s=_PAUSE)
            self._pause(_PAUSE)
            return
        self._left -= 1
        if not self._left:
            self._pause(_MOMENT)
        starting = self._loop.create_task(self._start(connection), name="connection")
        self._starting.add(starting)
        starting.add_done_callback(self._starting.discard)

    def _pause(self, seconds: float) -> None:
        self._loop.remove_reader(self._listener)
        self._paused = self._loop.call_later(seconds, self._look)

    async def _start(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        # A client that does not get through TLS, or leaves before, is no news; nobody waits for this task.
        with contextlib.suppress(OSError):
            if self._handshake is None:
                await self._loop.connect_accepted_socket(self._protocol, connection)
            else:
                context, timeout = self._handshake
                await self._loop.connect_accepted_socket(
                    self._protocol, connection, ssl=context, ssl_handshake_timeout=timeout
                )
