"""`python -m ingest_gateway`: the gateway, configured by the environment alone.

The options are for the children that a gateway of several processes starts; nobody else passes them.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import sys
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

import uvloop

from infra.runtime import log
from infra.runtime.process import quiet_collector
from infra.runtime.settings import SettingsError, load_or_exit
from ingest_gateway import declarations
from ingest_gateway.declarations import Declarations
from ingest_gateway.settings import GatewaySettings

if TYPE_CHECKING:
    from ingest_gateway.server import Listeners

_YOUNG_OBJECTS = 20_000


def main() -> None:
    """Serve until told to stop. Exit codes: 0 stopped, 1 the port is taken, 2 settings, or files they name, are wrong."""
    settings = load_or_exit(GatewaySettings)
    declared = _declared(settings)
    options = _options()
    if options.slot is not None:
        from ingest_gateway.process import run_child
        from ingest_gateway.server import Listeners

        log.configure(settings.log_level, settings.log_format, f"gateway-{options.slot}")
        listeners = Listeners(
            socket.socket(fileno=options.listen_fd),
            None if options.operators_fd is None else socket.socket(fileno=options.operators_fd),
        )
        _run(run_child(settings, declared, listeners, socket.socket(fileno=options.control_fd)))
    elif settings.gateway_processes > 1:
        from ingest_gateway.parent import Parent

        asyncio.run(Parent(settings, _listen(settings)).run())
    else:
        from ingest_gateway.process import run_alone

        _run(run_alone(settings, declared, _listen(settings)))
    log.flush()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m ingest_gateway", description="Configured by the environment.")
    for name in ("--slot", "--listen-fd", "--operators-fd", "--control-fd"):
        parser.add_argument(name, type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def _declared(settings: GatewaySettings) -> Declarations:
    """What the operator's files say; where one cannot be used, its mistakes and exit 2."""
    try:
        return declarations.load(settings)
    except SettingsError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def _listen(settings: GatewaySettings) -> Listeners:
    """The listening sockets; without one of them, one clear line and exit 1."""
    from ingest_gateway.server import Listeners

    public = _bound(settings.gateway_host, settings.gateway_port, settings.gateway_backlog, "GATEWAY_PORT")
    operators = None
    if settings.gateway_operator_port:
        host, port = settings.gateway_operator_host, settings.gateway_operator_port
        operators = _bound(host, port, settings.gateway_backlog, "GATEWAY_OPERATOR_PORT")
    log.configure(settings.log_level, settings.log_format, "gateway")
    _say_where("events" if operators else "all", public)
    if operators is not None:
        _say_where("operators", operators)
    return Listeners(public, operators)


def _bound(host: str, port: int, backlog: int, setting: str) -> socket.socket:
    from ingest_gateway.server import listen

    try:
        return listen(host, port, backlog)
    except OSError as error:
        why = error.strerror or str(error)
        print(f"error: cannot listen on {host}:{port} ({why}). Stop what uses it, or set {setting}.", file=sys.stderr)
        raise SystemExit(1) from None


def _say_where(serves: str, listener: socket.socket) -> None:
    host, port = listener.getsockname()[:2]
    log.get(__name__).info("The gateway listens.", action="listening", serves=serves, host=host, port=port)


def _run(process: Coroutine[Any, Any, None]) -> None:
    # What a start leaves behind lives as long as the process; looking at it again and again cost a tenth of the CPU.
    quiet_collector(_YOUNG_OBJECTS)
    uvloop.run(process)


if __name__ == "__main__":
    main()
