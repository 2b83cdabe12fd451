"""`python -m ingest_gateway`: the gateway, configured by the environment alone.

The options are for the children that a gateway of several processes starts; nobody else passes them.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import sys
from collections.abc import Coroutine
from typing import Any

import uvloop

from infra.runtime import log
from infra.runtime.process import quiet_collector
from infra.runtime.settings import load_or_exit
from ingest_gateway.settings import GatewaySettings

_YOUNG_OBJECTS = 20_000


def main() -> None:
    """Serve until told to stop. Exit codes: 0 stopped, 1 the port is taken, 2 settings are wrong."""
    settings = load_or_exit(GatewaySettings)
    options = _options()
    if options.slot is not None:
        from ingest_gateway.process import run_child

        log.configure(settings.log_level, settings.log_format, f"gateway-{options.slot}")
        listener, control = socket.socket(fileno=options.listen_fd), socket.socket(fileno=options.control_fd)
        _run(run_child(settings, listener, control))
    elif settings.gateway_processes > 1:
        from ingest_gateway.parent import Parent

        asyncio.run(Parent(settings, _listen(settings)).run())
    else:
        from ingest_gateway.process import run_alone

        _run(run_alone(settings, _listen(settings)))
    log.flush()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m ingest_gateway", description="Configured by the environment.")
    for name in ("--slot", "--listen-fd", "--control-fd"):
        parser.add_argument(name, type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def _listen(settings: GatewaySettings) -> socket.socket:
    """The listening socket; without it, one clear line and exit 1."""
    from ingest_gateway.server import listen

    address = f"{settings.gateway_host}:{settings.gateway_port}"
    try:
        listener = listen(settings.gateway_host, settings.gateway_port, settings.gateway_backlog)
    except OSError as error:
        why = error.strerror or str(error)
        print(f"error: cannot listen on {address} ({why}). Stop what uses it, or set GATEWAY_PORT.", file=sys.stderr)
        raise SystemExit(1) from None
    log.configure(settings.log_level, settings.log_format, "gateway")
    host, port = listener.getsockname()[:2]
    log.get(__name__).info("The gateway listens.", action="listening", host=host, port=port)
    return listener


def _run(process: Coroutine[Any, Any, None]) -> None:
    # What a start leaves behind lives as long as the process; looking at it again and again cost a tenth of the CPU.
    quiet_collector(_YOUNG_OBJECTS)
    uvloop.run(process)


if __name__ == "__main__":
    main()
