"""Ports are taken once, and a busy one is named with the way out."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.local.errors import LocalError
from infra.local.ports import Ports, is_free


@pytest.fixture
def busy() -> Iterator[socket.socket]:
    """A socket that listens."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", Ports().take(0, "X")))
        server.listen()
        yield server


def test_any_free_port_lies_below_those_of_outgoing_connections() -> None:
    ports = Ports()
    first_outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    taken = [ports.take(0, "X") for _ in range(50)]
    assert len(set(taken)) == 50
    assert all(is_free(port) for port in taken)
    if first_outgoing > 21_000:
        assert max(taken) < first_outgoing


def test_a_busy_port_is_refused_by_name(busy: socket.socket) -> None:
    port = busy.getsockname()[1]
    with pytest.raises(LocalError, match=rf"^Port {port} is in use\. .*GATEWAY_PORT"):
        Ports().take(port, "GATEWAY_PORT")


def test_patience_outlives_a_port_that_is_let_go(busy: socket.socket) -> None:
    port = busy.getsockname()[1]
    threading.Timer(0.2, busy.close).start()
    assert Ports(patience=10.0).take(port, "X") == port


def test_a_promised_port_is_not_given_to_another() -> None:
    even = set(range(20_000, 65_536, 2))
    ports = Ports(even)
    assert not even & {ports.take(0, "X") for _ in range(40)}


def test_there_is_no_port_beyond_the_last() -> None:
    with pytest.raises(LocalError, match="WORKER_METRICS_PORT"):
        Ports().take(65_536, "WORKER_METRICS_PORT")
