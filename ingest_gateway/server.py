"""The HTTP server: uvicorn with uvloop and httptools on a socket of ours, under signals of ours."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import math
import socket
import ssl
from collections.abc import Generator
from typing import Any, NamedTuple

import uvicorn

from ingest_gateway.accept import Acceptor, Handshake
from ingest_gateway.http_protocol import ConnectionLimits, LimitedHttpProtocol, Room, ShortCut
from ingest_gateway.known_heads import KnownHeads
from ingest_gateway.routes import App
from ingest_gateway.settings import GatewaySettings


class Server(uvicorn.Server):
    """uvicorn's server, which leaves signals to the process (it would raise them again at the end and exit with 143) and
    accepts connections in our way."""

    def __init__(self, config: uvicorn.Config, handshake_timeout: float) -> None:
        super().__init__(config)
        self._handshake_timeout = handshake_timeout

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve these sockets from now on."""
        await super().startup(sockets=[])
        tls = self.config.ssl
        handshake = None if tls is None else Handshake(tls, self._handshake_timeout)
        self.servers = [Acceptor(each, self._protocol, handshake) for each in sockets or ()]  # type: ignore[misc]

    def _protocol(self) -> asyncio.Protocol:
        make: Any = self.config.http_protocol_class
        protocol: asyncio.Protocol = make(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return protocol


class Listeners(NamedTuple):
    """The listening sockets. operators: None where one port serves all."""

    public: socket.socket
    operators: socket.socket | None = None

    def close(self) -> None:
        """Close them in this process."""
        for listener in self:
            if listener is not None:
                listener.close()


def make_server(app: App, settings: GatewaySettings, short_cut: ShortCut, tls: ssl.SSLContext | None = None) -> Server:
    """A server for this application. `serve(sockets=[...])` runs it until `should_exit` is set.

    No header of a proxy is believed, because none is used: nothing here depends on who a request came from or under which name.

    Args:
        short_cut: is offered small requests first. tls: None: plain HTTP.
    """
    # It logs every malformed request; those are counted and answered, and a stranger must not fill the log.
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
    limits = ConnectionLimits(
        first_byte=settings.gateway_first_byte_timeout,
        head=settings.gateway_head_timeout,
        body=settings.gateway_body_timeout,
        read=settings.gateway_read_timeout,
        head_bytes=settings.gateway_head_bytes,
        headers=settings.gateway_headers,
    )
    room = Room(settings.gateway_max_bytes // 4)
    return Server(
        uvicorn.Config(
            app,
            http=functools.partial(LimitedHttpProtocol, limits, room, short_cut, KnownHeads()),  # type: ignore[arg-type]
            loop="none",
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=settings.gateway_backlog,
            timeout_keep_alive=math.ceil(settings.gateway_keep_alive),
            ssl_context_factory=None if tls is None else lambda _, __: tls,
            timeout_graceful_shutdown=math.ceil(settings.gateway_drain_timeout),
        ),
        settings.gateway_first_byte_timeout,
    )


def listen(host: str, port: int, backlog: int) -> socket.socket:
    """A listening socket.

    Raises:
        OSError: the address is taken, or not of this machine.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(backlog)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener
