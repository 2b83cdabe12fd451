"""A TCP proxy that rewrites nothing and may be slow: what is between a process and its server, made worse."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

_CHUNK = 65_536


class TcpProxy:
    """Listens on `port` of this machine; `delay` seconds pass before what a client sends goes on to the server."""

    def __init__(self, host: str, port: int) -> None:
        self._to = (host, port)
        self._tasks: set[asyncio.Task[None]] = set()
        self.delay = 0.0
        self.port = 0

    @classmethod
    @asynccontextmanager
    async def before(cls, host: str, port: int, *, listen: int = 0) -> AsyncIterator[TcpProxy]:
        """A proxy in front of this server, on any free port or on that one."""
        proxy = cls(host, port)
        server = await asyncio.start_server(proxy._serve, "127.0.0.1", listen)
        proxy.port = server.sockets[0].getsockname()[1]
        try:
            yield proxy
        finally:
            server.close()
            for task in proxy._tasks:
                task.cancel()
            await asyncio.gather(*proxy._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with suppress(OSError):
            there, back = await asyncio.open_connection(*self._to)
            try:
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._carry(reader, back, late=True))
                    both.create_task(self._carry(there, writer, late=False))
            finally:
                back.close()
                writer.close()

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, late: bool) -> None:
        """Each piece is on its way for the delay, and the next one may follow it: latency, not a narrow pipe."""
        loop = asyncio.get_running_loop()
        while data := await source.read(_CHUNK):
            if late and self.delay:
                loop.call_later(self.delay, _write, sink, data)
            else:
                sink.write(data)
                await sink.drain()
        if late and self.delay:
            await asyncio.sleep(self.delay)
        with suppress(OSError):
            sink.write_eof()


def _write(sink: asyncio.StreamWriter, data: bytes) -> None:
    if not sink.is_closing():
        sink.write(data)
