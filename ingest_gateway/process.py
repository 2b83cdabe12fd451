"""One serving process: from a listening socket to a clean exit.

SIGTERM or SIGINT: /readyz says no and connections are given back; after a short while nothing new is taken; what is in
flight is answered; everything is flushed; exit 0. A second signal ends the process at once. A child whose parent died
stops in the same order, but without the wait: whoever starts the gateway again wants the port.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Awaitable, Callable

from infra.runtime import log
from ingest_gateway.app import Gateway
from ingest_gateway.control import Channel, Child
from ingest_gateway.declarations import Declarations
from ingest_gateway.metrics import Metrics
from ingest_gateway.server import Listeners, make_server
from ingest_gateway.settings import GatewaySettings
from ingest_gateway.sums import render, snapshot

_LOG = log.get(__name__)


async def run_alone(settings: GatewaySettings, declared: Declarations, listeners: Listeners) -> None:
    """The gateway's only process: it answers for itself."""
    metrics = Metrics()

    async def scrape() -> bytes:
        return render(snapshot(metrics.registry))

    await _serve(settings, declared, listeners, metrics, scrape, asyncio.Event())


async def run_child(
    settings: GatewaySettings, declared: Declarations, listeners: Listeners, control: socket.socket
) -> None:
    """One of several processes: the parent adds up the metrics, and this one ends when the parent does."""
    metrics, orphaned = Metrics(), asyncio.Event()
    channel = await Channel.over(control)
    child = Child(channel, lambda: snapshot(metrics.registry), orphaned)
    listening = asyncio.create_task(child.run(), name="control")
    await _serve(settings, declared, listeners, metrics, child.scrape, orphaned)
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    channel.close()


async def _serve(
    settings: GatewaySettings,
    declared: Declarations,
    listeners: Listeners,
    metrics: Metrics,
    scrape: Callable[[], Awaitable[bytes]],
    orphaned: asyncio.Event,
) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _signalled, stopping)
    gateway = Gateway(settings, declared, metrics, scrape)
    tls = None if declared.certificate is None else declared.certificate.value
    server = make_server(gateway.shell, settings, gateway.shell, tls)
    operators = make_server(gateway.operators, settings, gateway.operators, tls)
    gateway.start()
    serving = asyncio.create_task(server.serve(sockets=[listeners.public]), name="http-server")
    # Operators are answered to the end: that it stops is what they ask about.
    beside = []
    if listeners.operators is not None:
        beside = [asyncio.create_task(operators.serve(sockets=[listeners.operators]), name="operators-server")]
    waits = [asyncio.create_task(event.wait()) for event in (stopping, orphaned)]
    await asyncio.wait([serving, *beside, *waits], return_when=asyncio.FIRST_COMPLETED)
    gateway.drain()
    _LOG.info("The gateway stops.", action="draining", orphaned=orphaned.is_set())
    if not serving.done() and not orphaned.is_set():
        await asyncio.sleep(settings.gateway_lame_duck)
    server.should_exit = True
    await serving
    await gateway.stop()
    operators.should_exit = True
    await asyncio.gather(*beside)
    for wait in waits:
        wait.cancel()
    _LOG.info("The gateway has stopped.", action="stopped")


def _signalled(stopping: asyncio.Event) -> None:
    if stopping.is_set():
        log.flush()
        os._exit(1)
    stopping.set()
