"""The health check of the images, against a server that answers as a gateway would, plain and over TLS."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from infra.docker.ready import main
from tests.certificates import Authority

NAMES = ("GATEWAY_OPERATOR_PORT", "GATEWAY_PORT")


@contextmanager
def serving(status: int, folder: Path | None = None) -> Iterator[str]:
    """A server whose /readyz has this status, with a certificate from this folder; its port."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/readyz" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Answers)
    if folder is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        pair = Authority(folder).sign("gateway")
        context.load_cert_chain(pair.certificate, pair.key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield str(server.server_port)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1), (404, 1)])
def test_it_is_as_healthy_as_it_says(status: int, code: int) -> None:
    with serving(status) as port:
        assert main(NAMES, {"GATEWAY_PORT": port}) == code


def test_where_operators_have_a_port_of_their_own_that_one_is_asked() -> None:
    with serving(200) as operators, serving(404) as senders:
        assert main(NAMES, {"GATEWAY_PORT": senders, "GATEWAY_OPERATOR_PORT": operators}) == 0
        assert main(NAMES, {"GATEWAY_PORT": operators, "GATEWAY_OPERATOR_PORT": ""}) == 0


def test_over_tls(tmp_path: Path) -> None:
    with serving(200, tmp_path) as port:
        assert main(NAMES, {"GATEWAY_PORT": port, "GATEWAY_TLS_CERTFILE": "/run/secrets/tls.pem"}) == 0
        assert main(NAMES, {"GATEWAY_PORT": port}) == 1, "a gateway under TLS does not answer in plain text"


def test_without_a_process_or_a_port_it_is_not_healthy(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        assert main(NAMES, {"GATEWAY_PORT": str(silent.getsockname()[1])}) == 1
    assert main(NAMES, {}) == 1
    assert "GATEWAY_OPERATOR_PORT, GATEWAY_PORT" in capsys.readouterr().err
