"""Tiny programs in the places of gateway and worker, to test the supervisor with real processes.

    python -m tests.integration.local_programs up [KIND]       the supervisor, over these programs
    python -m tests.integration.local_programs serve KIND NAME one program

KIND: `good` answers /readyz and stops on SIGTERM; `stubborn` ignores SIGTERM; `mortal` ends by itself half a second after
it was first ready; `broken` never starts. Stops are noted, in order, in PLUTUS_HOME/order.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from infra.cli.up import up
from infra.local.errors import LocalError
from infra.local.settings import LocalSettings
from infra.local.system import Options, Programs

_ME = (sys.executable, "-m", "tests.integration.local_programs", "serve")


def programs(worker: str) -> Programs:
    """The system's programs, with workers of that kind."""
    return Programs(
        setup={"migrate": (sys.executable, "-c", "import os; print(os.environ['DATABASE_URL'] != '')")},
        gateway=(*_ME, "good", "gateway"),
        worker=(*_ME, worker, "worker"),
    )


class Ready(BaseHTTPRequestHandler):
    """Answers everything with its own pid."""

    def do_GET(self) -> None:
        """Any path."""
        self.send_response(200)
        self.end_headers()
        self.wfile.write(str(os.getpid()).encode())

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


def serve(kind: str, name: str) -> None:
    """One program."""
    if kind == "broken":
        raise SystemExit("error: WORKER_HANDLERS names no module")
    port = int(os.environ["GATEWAY_PORT" if name == "gateway" else "WORKER_METRICS_PORT"])

    def stop(number: int, frame: object) -> None:
        with (Path(os.environ["PLUTUS_HOME"]) / "order").open("a") as order:
            order.write(f"{name}\n")
        if kind != "stubborn":
            os._exit(0)

    signal.signal(signal.SIGTERM, stop)
    if kind == "mortal":
        threading.Timer(0.5, os._exit, (3,)).start()
    ThreadingHTTPServer(("127.0.0.1", port), Ready).serve_forever()


def main(arguments: list[str]) -> int:
    """See the module's docstring."""
    if arguments[0] == "serve":
        serve(*arguments[1:])
        return 0
    try:
        return up(LocalSettings(), Options(workers=int(os.environ["WORKERS"])), programs(arguments[1]))
    except LocalError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
