"""`python -m ingest_gateway`: the gateway, configured by the environment alone."""

from __future__ import annotations

import asyncio
import gc
import sys

import uvloop

from infra.runtime import log
from infra.runtime.settings import load_or_exit
from ingest_gateway.metrics import Metrics
from ingest_gateway.process import serve
from ingest_gateway.server import listen
from ingest_gateway.settings import GatewaySettings
from ingest_gateway.sums import render, snapshot


def main() -> None:
    """Serve until told to stop. Exit codes: 0 stopped, 1 the port is taken, 2 settings are wrong."""
    settings = load_or_exit(GatewaySettings)
    try:
        listener = listen(settings.gateway_host, settings.gateway_port, settings.gateway_backlog)
    except OSError as error:
        address = f"{settings.gateway_host}:{settings.gateway_port}"
        print(
            f"error: cannot listen on {address} ({error.strerror}). Stop what uses it, or set GATEWAY_PORT.",
            file=sys.stderr,
        )
        raise SystemExit(1) from None
    log.configure(settings.log_level, settings.log_format, "gateway")
    metrics = Metrics()

    async def scrape() -> bytes:
        return render(snapshot(metrics.registry))

    async def run() -> None:
        await serve(settings, listener, metrics, scrape, asyncio.Event())

    # What a start leaves behind lives as long as the process; looking at it again and again cost a tenth of the CPU.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    uvloop.run(run())
    log.flush()


if __name__ == "__main__":
    main()
