"""A load generator of our own: `python -m infra.bench.client`, one process that POSTs and prints one line of result.

    open     a fixed schedule: the n-th request is due at n / rate. Its latency counts from that moment, whenever it could
             really be sent, so that a stall of the server is seen in all requests that were due meanwhile (no
             coordinated omission).
    closed   as many requests in flight as there are connections, each connection sending when it was answered.
             Where wrk is installed it does this instead, with less CPU.

A request without an answer counts as broken, and its connection is opened again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import selectors
import socket
import threading
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from infra.bench import bodies
from infra.bench.figures import curve_of

_CHUNK: Final = 65_536
_PATIENCE: Final = 10.0
_GLANCE: Final = 0.05
_CONNECT: Final = 5.0


class Answer(NamedTuple):
    """One answer: its status, and what follows it in the bytes."""

    status: int
    rest: bytes


def answer_in(data: bytes) -> Answer | None:
    """The first answer in these bytes, once it is whole. Answers without a Content-Length have no body."""
    head, separator, body = data.partition(b"\r\n\r\n")
    if not separator:
        return None
    length = 0
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    if len(body) < length:
        return None
    return Answer(int(head.split(b" ", 2)[1]), body[length:])


def requests(url: str, kind: str, prefix: str, cycle: int) -> Iterator[bytes]:
    """What is sent, in turn; see `load.lua`. Any other kind is the type of an order."""
    parts = urlsplit(url)
    content = "application/x-ndjson" if kind == "batch" else "application/json"
    head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: {content}\r\nContent-Length: ".encode()
    for number in itertools.count():
        n = number % cycle if cycle else number
        if kind == "batch":
            body = bodies.batch(prefix, n)
        else:
            body = bodies.order(prefix, n, None if kind == "order" else kind)
        yield b"%s%d\r\n\r\n%s" % (head, len(body), body)


@dataclass(eq=False)
class _Connection:
    """One connection, with the request it waits for: when it was due."""

    address: tuple[str, int]
    socket: socket.socket = field(init=False)
    data: bytes = b""
    due: float | None = None

    def __post_init__(self) -> None:
        self.open()

    def open(self) -> None:
        self.socket = socket.create_connection(self.address, _CONNECT)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.data, self.due = b"", None


@dataclass
class _Seen:
    """What came back. `late`: how long after its time a request was sent."""

    seconds: array[float] = field(default_factory=lambda: array("d"))
    late: array[float] = field(default_factory=lambda: array("d"))
    refused: int = 0
    broken: int = 0


class _Client:
    """Connections, and a loop that takes their answers."""

    def __init__(self, url: str, connections: int) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._selector = selectors.DefaultSelector()
        self.all = [_Connection(self._address) for _ in range(connections)]
        for each in self.all:
            self._selector.register(each.socket, selectors.EVENT_READ, each)
        self.seen = _Seen()

    def send(self, connection: _Connection, request: bytes, due: float) -> None:
        connection.due = due
        try:
            connection.socket.sendall(request)
        except OSError:
            self._broke(connection)

    def take(self, wait: float, free: Callable[[_Connection], None]) -> None:
        """Take what was answered within `wait` seconds; `free` is called for each connection that may send again."""
        for key, _ in self._selector.select(wait):
            connection: _Connection = key.data
            try:
                chunk = connection.socket.recv(_CHUNK)
            except OSError:
                chunk = b""
            if not chunk:
                self._broke(connection)
                free(connection)
                continue
            connection.data += chunk
            answer = answer_in(connection.data)
            if answer is None:
                continue
            connection.data = answer.rest
            if connection.due is not None:
                self.seen.seconds.append(time.monotonic() - connection.due)
                connection.due = None
            self.seen.refused += not 200 <= answer.status < 300
            free(connection)

    def waiting(self) -> int:
        return sum(each.due is not None for each in self.all)

    def close(self) -> None:
        for each in self.all:
            each.socket.close()
        self._selector.close()

    def _broke(self, connection: _Connection) -> None:
        self.seen.broken += connection.due is not None
        self._selector.unregister(connection.socket)
        connection.socket.close()
        connection.open()
        self._selector.register(connection.socket, selectors.EVENT_READ, connection)


def closed(client: _Client, source: Iterator[bytes], seconds: float) -> float:
    """As many in flight as there are connections; the monotonic second of the first request."""
    began = time.monotonic()
    end = began + seconds

    def again(connection: _Connection) -> None:
        now = time.monotonic()
        if now < end:
            client.send(connection, next(source), now)

    for connection in client.all:
        again(connection)
    while time.monotonic() < end:
        client.take(_GLANCE, again)
    return began


def on_schedule(client: _Client, source: Iterator[bytes], seconds: float, rate: float) -> float:
    """The n-th request n / rate after the first, on any free connection; the monotonic second of the first request.

    One thread sends: it sleeps until a request is due, more exactly than an event loop would. This one takes answers.
    """
    total = round(seconds * rate)
    idle, overdue = deque(client.all), deque[tuple[bytes, float]]()
    lock = threading.Lock()
    began = time.monotonic() + _GLANCE

    def free(connection: _Connection) -> None:
        with lock:
            if not overdue:
                idle.append(connection)
                return
            request, due = overdue.popleft()
        _send(connection, request, due)

    def _send(connection: _Connection, request: bytes, due: float) -> None:
        client.seen.late.append(time.monotonic() - due)
        client.send(connection, request, due)

    def keep_time() -> None:
        for n in range(total):
            request, due = next(source), began + n / rate
            if (pause := due - time.monotonic()) > 0:
                time.sleep(pause)
            with lock:
                connection = idle.popleft() if idle else None
                if connection is None:
                    overdue.append((request, due))
            if connection is not None:
                _send(connection, request, due)

    sender = threading.Thread(target=keep_time, daemon=True)
    sender.start()
    end = began + seconds + _PATIENCE
    while sender.is_alive() or overdue or client.waiting():
        client.take(_GLANCE, free)
        if time.monotonic() > end:
            client.seen.broken += client.waiting() + len(overdue)
            break
    return began


def main(arguments: list[str] | None = None) -> None:
    """Send as the arguments say; print `RESULT` and one object."""
    parser = argparse.ArgumentParser(description="Send events over HTTP and tell how that went.")
    parser.add_argument("--url", required=True)
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--rate", type=float, default=0.0, help="requests a second on a schedule; 0: closed loop")
    parser.add_argument("--kind", default="order")
    parser.add_argument("--prefix", required=True)
    parser.add_argument("--cycle", type=int, default=0)
    asked = parser.parse_args(arguments)
    client = _Client(asked.url, asked.connections)
    source = requests(asked.url, asked.kind, asked.prefix, asked.cycle)
    if asked.rate:
        began = on_schedule(client, source, asked.seconds, asked.rate)
    else:
        began = closed(client, source, asked.seconds)
    client.close()
    seen = client.seen
    told = {
        "answered": len(seen.seconds),
        "seconds": time.monotonic() - began,
        "refused": seen.refused,
        "broken": seen.broken,
        "curve": curve_of(seen.seconds),
        "began": began,
    }
    print("RESULT", json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
