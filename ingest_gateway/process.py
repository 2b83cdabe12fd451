"""One serving process: from a listening socket to a clean exit.

SIGTERM or SIGINT: /readyz says no and connections are given back; after a short while nothing new is taken; what is in
flight is answered; everything is flushed; exit 0. A second signal ends the process at once.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Awaitable, Callable

from infra.runtime import log
from ingest_gateway.app import Gateway
from ingest_gateway.metrics import Metrics
from ingest_gateway.server import make_server
from ingest_gateway.settings import GatewaySettings

_LOG = log.get(__name__)


async def serve(
    settings: GatewaySettings,
    listener: socket.socket,
    metrics: Metrics,
    scrape: Callable[[], Awaitable[bytes]],
    orphaned: asyncio.Event,
) -> None:
    """Serve until a signal comes or `orphaned` is set, then stop in order."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _signalled, stopping)
    gateway = Gateway(settings, metrics, scrape)
    server = make_server(gateway.shell, settings)
    gateway.start()
    serving = asyncio.create_task(server.serve(sockets=[listener]), name="http-server")
    host, port = listener.getsockname()[:2]
    _LOG.info("The gateway listens.", action="listening", host=host, port=port)
    waits = [asyncio.create_task(event.wait()) for event in (stopping, orphaned)]
    await asyncio.wait([serving, *waits], return_when=asyncio.FIRST_COMPLETED)
    gateway.draining = True
    _LOG.info("The gateway stops.", action="draining")
    if not serving.done():
        await asyncio.sleep(settings.gateway_lame_duck)
        server.should_exit = True
    await serving
    await gateway.stop()
    for wait in waits:
        wait.cancel()
    _LOG.info("The gateway has stopped.", action="stopped")


def _signalled(stopping: asyncio.Event) -> None:
    if stopping.is_set():
        log.flush()
        os._exit(1)
    stopping.set()
