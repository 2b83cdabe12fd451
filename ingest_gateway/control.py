"""What a parent and its children say to each other, over a socket pair that also tells each of the other's death.

    child -> parent     Report   its metrics: every second, and whenever it is asked
                        Scrape   somebody asked it for the whole gateway's metrics
    parent -> child     Ask      report now
                        Page     the answer to a Scrape, ready to be sent

A frame is a length of four bytes and MessagePack. The end of the stream is the other side's death: a child that reads it
stops, because nobody would restart it or add its figures any more.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Final

import msgspec

from ingest_gateway.sums import Snapshot

_LENGTH: Final = struct.Struct(">I")
_LARGEST: Final = 16 * 1024 * 1024
REPORT_SECONDS: Final = 1.0
_SCRAPE_SECONDS: Final = 2.0


class Report(msgspec.Struct, tag=True):
    """A child's metrics now."""

    families: Snapshot


class Scrape(msgspec.Struct, tag=True):
    """A child wants the whole gateway's metrics page."""

    number: int


class Ask(msgspec.Struct, tag=True):
    """The parent wants a Report now."""


class Page(msgspec.Struct, tag=True):
    """The metrics page that a Scrape asked for."""

    number: int
    text: bytes


Message = Report | Scrape | Ask | Page


class Channel:
    """One end of the socket pair."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._decoder = msgspec.msgpack.Decoder(Message)

    @classmethod
    async def over(cls, end: socket.socket) -> Channel:
        """A channel over a connected socket, which it owns from now on."""
        return cls(*await asyncio.open_connection(sock=end))

    def send(self, message: Message) -> None:
        """Queue a message; one that the other side is too dead to read is lost with it."""
        if not self._writer.is_closing():
            encoded = msgspec.msgpack.encode(message)
            self._writer.write(_LENGTH.pack(len(encoded)) + encoded)

    async def receive(self) -> Message | None:
        """The next message, None once the other side is gone."""
        try:
            (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
            if length > _LARGEST:
                return None
            message: Message = self._decoder.decode(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, OSError):
            return None
        return message

    def close(self) -> None:
        """Close this end."""
        self._writer.close()


class ScrapeFailed(Exception):
    """The parent did not answer in time."""


class Child:
    """The child's side: reports its metrics, asks for the page, and learns of its parent's death.

    Args:
        snapshot: this process's metrics now.
        orphaned: set when the parent is gone.
    """

    def __init__(self, channel: Channel, snapshot: Callable[[], Snapshot], orphaned: asyncio.Event) -> None:
        self._channel = channel
        self._snapshot = snapshot
        self._orphaned = orphaned
        self._scrapes: dict[int, asyncio.Future[bytes]] = {}
        self._number = 0

    async def run(self) -> None:
        """Serve the channel until the parent is gone."""
        reporting = asyncio.create_task(self._report_for_ever(), name="report-metrics")
        try:
            while (message := await self._channel.receive()) is not None:
                if isinstance(message, Ask):
                    self._channel.send(Report(self._snapshot()))
                elif isinstance(message, Page):
                    waiter = self._scrapes.pop(message.number, None)
                    if waiter is not None and not waiter.done():
                        waiter.set_result(message.text)
        finally:
            reporting.cancel()
            self._orphaned.set()

    async def scrape(self) -> bytes:
        """The whole gateway's metrics page.

        Raises:
            ScrapeFailed: the parent did not answer in time; a part shown as the whole would be a counter going down.
        """
        self._number += 1
        number = self._number
        waiter = self._scrapes[number] = asyncio.get_running_loop().create_future()
        self._channel.send(Scrape(number))
        try:
            async with asyncio.timeout(_SCRAPE_SECONDS):
                page: bytes = await waiter
                return page
        except TimeoutError:
            raise ScrapeFailed from None
        finally:
            self._scrapes.pop(number, None)

    async def _report_for_ever(self) -> None:
        while True:
            self._channel.send(Report(self._snapshot()))
            await asyncio.sleep(REPORT_SECONDS)
