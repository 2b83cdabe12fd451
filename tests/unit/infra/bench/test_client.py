"""The load generator of our own, against a server on a socket: what it counts, and that a stall is not overlooked."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from infra.bench import client
from infra.bench.client import Answer, answer_in
from infra.bench.figures import Load, at, parsed_load

OK = b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\n{}"
REFUSED = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"


@contextmanager
def server(answer: Callable[[int], bytes | None]) -> Iterator[tuple[str, list[bytes]]]:
    """A server that gives its n-th request this answer, or closes the connection; its URL, and the bodies it got."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    bodies: list[bytes] = []
    lock = threading.Lock()

    def serve(connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as stream, suppress(OSError):
            while stream.readline():
                length = 0
                while (line := stream.readline().strip()) != b"":
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.partition(b":")[2])
                body = stream.read(length)
                with lock:
                    number = len(bodies)
                    bodies.append(body)
                said = answer(number)
                if said is None:
                    return
                connection.sendall(said)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/api/v1/ingest", bodies
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def run(capsys: pytest.CaptureFixture[str], url: str, *more: str) -> Load:
    client.main(["--url", url, "--prefix", "run", *more])
    return parsed_load(capsys.readouterr().out)


def test_an_answer_is_whole_or_none() -> None:
    for cut in range(len(OK)):
        assert answer_in(OK[:cut]) is None
    assert answer_in(OK) == Answer(202, b"")
    assert answer_in(REFUSED + OK) == Answer(503, OK)
    assert answer_in(b"HTTP/1.1 204 No Content\r\n\r\n") == Answer(204, b"")


def test_on_a_schedule_every_request_is_sent_once(capsys: pytest.CaptureFixture[str]) -> None:
    with server(lambda n: REFUSED if n % 10 == 0 else OK) as (url, bodies):
        load = run(capsys, url, "--connections", "4", "--seconds", "0.5", "--rate", "200")
    assert load.answered == len(bodies) == 100
    assert load.refused == 10
    assert load.broken == 0
    assert {json.loads(body)["idempotency_key"] for body in bodies} == {f"run-{n}" for n in range(100)}


def test_a_stall_is_seen_in_all_that_was_due_meanwhile(capsys: pytest.CaptureFixture[str]) -> None:
    stall = 0.4

    def answer(n: int) -> bytes:
        if n == 0:
            end = time.monotonic() + stall
            while (left := end - time.monotonic()) > 0:
                time.sleep(left)
        return OK

    with server(answer) as (url, _):
        load = run(capsys, url, "--connections", "1", "--seconds", "0.4", "--rate", "100")
    # The n-th was due at n / 100 s and cannot have been answered before the stall was over: half waited 0.2 s at least.
    # Counted from when they were sent, all but the first would look quick.
    assert load.answered == 40
    assert at(load.curve, 50.0) >= stall / 2 * 1000 - 10


def test_in_a_closed_loop_duplicates_begin_anew(capsys: pytest.CaptureFixture[str]) -> None:
    with server(lambda n: OK) as (url, bodies):
        load = run(capsys, url, "--connections", "2", "--seconds", "0.3", "--cycle", "3")
    assert 0 < load.answered <= len(bodies)
    assert {json.loads(body)["idempotency_key"] for body in bodies} == {"run-0", "run-1", "run-2"}


def test_a_broken_connection_is_counted_and_opened_again(capsys: pytest.CaptureFixture[str]) -> None:
    with server(lambda n: None if n == 5 else OK) as (url, _):
        load = run(capsys, url, "--connections", "1", "--seconds", "0.2", "--rate", "100")
    assert load.broken == 1
    assert load.answered == 19
