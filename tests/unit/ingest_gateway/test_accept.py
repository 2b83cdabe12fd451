"""How connections are taken from a socket that several processes listen on."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from ingest_gateway import accept
from ingest_gateway.accept import Acceptor, Handshake
from ingest_gateway.server import listen
from ingest_gateway.tls import Certificate
from tests.certificates import Authority
from tests.harness import eventually

Taken = list[asyncio.BaseTransport]


class _Counted(asyncio.Protocol):
    def __init__(self, taken: Taken) -> None:
        self._taken = taken

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._taken.append(transport)


@asynccontextmanager
async def accepting(
    listener: socket.socket, handshake: Handshake | None = None
) -> AsyncIterator[tuple[Acceptor, Taken]]:
    """An acceptor on a duplicate of this socket, as a process has one, and what it has taken."""
    taken: Taken = []
    own = listener.dup()
    own.setblocking(False)
    acceptor = Acceptor(own, lambda: _Counted(taken), handshake)
    try:
        yield acceptor, taken
    finally:
        acceptor.close()
        await acceptor.wait_closed()
        own.close()
        for transport in taken:
            transport.close()


@asynccontextmanager
async def clients(listener: socket.socket, count: int) -> AsyncIterator[list[socket.socket]]:
    """So many connections, which the kernel has finished and nobody has taken yet."""
    opened = [socket.create_connection(listener.getsockname()) for _ in range(count)]
    try:
        yield opened
    finally:
        for one in opened:
            one.close()


async def test_connections_that_wait_are_shared_out() -> None:
    """Taken at once, all 40 are those of who looks first, for as long as they live."""
    with listen("127.0.0.1", 0, 100) as listener:
        async with clients(listener, 40), accepting(listener) as (_, one), accepting(listener) as (_, other):
            await eventually(lambda: len(one) + len(other) == 40)
            assert min(len(one), len(other)) >= 15


async def test_who_looks_first_leaves_the_most_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """They may take a while to be woken; this moment is made one that does not end."""
    monkeypatch.setattr(accept, "_MOMENT", 60)
    with listen("127.0.0.1", 0, 100) as listener:
        async with clients(listener, 40), accepting(listener) as (_, one):
            await eventually(lambda: len(one) == accept._FEW)
            async with accepting(listener) as (_, other):
                await eventually(lambda: len(other) == accept._FEW)
                assert len(one) == accept._FEW


async def test_who_is_closed_takes_no_more() -> None:
    with listen("127.0.0.1", 0, 100) as listener:
        async with accepting(listener) as (acceptor, early), accepting(listener) as (_, late):
            acceptor.close()
            async with clients(listener, 5):
                await eventually(lambda: len(late) == 5)
                assert not early


async def test_without_a_file_for_it_a_connection_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is taken once there is one again; until then nobody looks all the time."""
    monkeypatch.setattr(accept, "_PAUSE", 0.01)
    refusals = [OSError(errno.EMFILE, "Too many open files"), ConnectionAbortedError(), BlockingIOError()]

    class Exhausted(socket.socket):
        def accept(self) -> Any:
            if refusals:
                raise refusals.pop(0)
            return super().accept()

    with listen("127.0.0.1", 0, 100) as plain, Exhausted(fileno=plain.detach()) as listener, capture_logs() as logs:
        taken: Taken = []
        acceptor = Acceptor(listener, lambda: _Counted(taken))
        async with clients(listener, 1):
            await eventually(lambda: len(taken) == 1)
        acceptor.close()
        taken[0].close()
    assert [(line["action"], line["errno"]) for line in logs] == [("accept_failed", errno.EMFILE)]


async def test_who_is_closed_during_a_pause_does_not_look_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accept, "_PAUSE", 0.01)

    class Exhausted(socket.socket):
        looks = 0

        def accept(self) -> Any:
            self.looks += 1
            raise OSError(errno.EMFILE, "Too many open files")

    with listen("127.0.0.1", 0, 100) as plain, Exhausted(fileno=plain.detach()) as listener:
        acceptor = Acceptor(listener, asyncio.Protocol)
        async with clients(listener, 1):
            await eventually(lambda: listener.looks >= 1)
            acceptor.close()
            looks = listener.looks
            later = asyncio.Event()
            asyncio.get_running_loop().call_later(0.05, later.set)  # behind the timer that must not be there any more
            await later.wait()
            assert listener.looks == looks


async def test_a_client_that_does_not_begin_tls_is_given_up(tmp_path: Path) -> None:
    pair = Authority(tmp_path).sign("localhost")
    context, _ = Certificate(pair.key).load(pair.certificate)
    with listen("127.0.0.1", 0, 100) as listener:
        async with (
            accepting(listener, Handshake(context, 0.1)) as (_, taken),
            clients(listener, 1) as (silent,),
        ):
            silent.setblocking(False)
            async with asyncio.timeout(10):
                assert await asyncio.get_running_loop().sock_recv(silent, 1) == b""
            assert not taken
