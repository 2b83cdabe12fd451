"""/healthz, /readyz and /metrics of a worker, on a port and a thread of their own.

The thread answers even when the event loop is stuck, which is what liveness must be able to say. Liveness is the age of
the poll loop's last tick and nothing else: a database outage must not restart the fleet. Readiness adds: joined the
group, and not draining.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

Checks = Callable[[], dict[str, bool]]


class HealthServer:
    """Serves until `close`. alive, ready: name of each check and whether it holds; called from the server's thread.

    Raises:
        OSError: the port is taken.
    """

    def __init__(self, host: str, port: int, registry: CollectorRegistry, *, alive: Checks, ready: Checks) -> None:
        class Handler(BaseHTTPRequestHandler):
            server_version = "plutus"
            sys_version = ""
            timeout = 5.0  # a client that never finishes its request does not keep a thread

            def do_GET(self) -> None:  # the name http.server asks for
                match self.path.split("?", 1)[0]:
                    case "/metrics":
                        self._answer(200, generate_latest(registry), CONTENT_TYPE_LATEST)
                    case "/healthz" | "/livez":
                        self._checks(alive())
                    case "/readyz":
                        self._checks(ready())
                    case _:
                        self._answer(404, b'{"title":"Not Found","status":404}', "application/problem+json")

            def _checks(self, checks: dict[str, bool]) -> None:
                good = all(checks.values())
                body = json.dumps({"status": "ok" if good else "unavailable", "checks": checks}).encode()
                self._answer(200 if good else 503, body, "application/json")

            def _answer(self, status: int, body: bytes, content_type: str) -> None:
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # no access log
                pass

        self._server = ThreadingHTTPServer((host, port), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="health", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)
