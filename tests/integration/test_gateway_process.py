"""The gateway as processes: starting, stopping under load, and several of them behind one port."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx

from schemas.event import parse_envelope
from tests.gateway_kit import post
from tests.harness import Service, consume, envelope, eventually, gateway_process
from tests.own_stack import tree
from tests.stack import ROOT, Stack, Topics

DEAD = {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1", "DATABASE_URL": "postgresql://u:p@127.0.0.1:1/db"}


def run(**environment: str) -> subprocess.CompletedProcess[str]:
    """`python -m ingest_gateway` to its end."""
    own = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME")}
    return subprocess.run(
        [sys.executable, "-m", "ingest_gateway"],
        env={**own, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_a_busy_port_is_one_clear_line() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        port = other.getsockname()[1]
        done = run(**DEAD, GATEWAY_PORT=str(port))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: cannot listen on 127.0.0.1:{port} (")
    assert "GATEWAY_PORT" in line


def test_wrong_settings_are_named_without_their_values() -> None:
    done = run(GATEWAY_PROCESSES="many-SECRET")
    assert done.returncode == 2
    for name in ("KAFKA_BOOTSTRAP_SERVERS", "DATABASE_URL", "GATEWAY_PROCESSES"):
        assert name in done.stderr
    assert "SECRET" not in done.stderr
    assert "Traceback" not in done.stderr


async def load(gateway: Service, name: str, answered: dict[str, int], stop: asyncio.Event) -> None:
    """POST fresh events one after the other, noting each answer, until told to stop or the gateway is gone."""
    number = 0
    while not stop.is_set():
        number += 1
        key = f"{name}-{number}"
        try:
            answered[key] = (await post(gateway, key)).status_code
        except httpx.TransportError:
            return


async def accepted_are_logged(stack: Stack, topics: Topics, answered: dict[str, int]) -> None:
    """Everything that was accepted is in the topic."""
    logged = {parse_envelope(record.value or b"").idempotency_key for record in await consume(stack, topics.events)}
    assert {key for key, status in answered.items() if status < 300} <= logged


async def stop_under_load(stack: Stack, topics: Topics, gateway: Service) -> None:
    """SIGTERM while senders are at work: nobody gets an error from a server that is going, and nothing is lost."""
    answered: dict[str, int] = {}
    stop = asyncio.Event()
    senders = [asyncio.create_task(load(gateway, f"sender{number}", answered, stop)) for number in range(20)]
    await eventually(lambda: len(answered) > 200)
    gateway.send(signal.SIGTERM)

    async def not_ready() -> bool:
        async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as http:
            return (await http.get("/readyz")).status_code == 503

    await eventually(not_ready, what="/readyz says no while requests are still taken")
    taken = len(answered)
    await eventually(lambda: len(answered) > taken)
    assert await gateway.ended() == "exited with code 0"
    await asyncio.gather(*senders)
    assert set(answered.values()) == {202}
    await accepted_are_logged(stack, topics, answered)


async def test_sigterm_under_load(stack: Stack, database: str, topics: Topics, tmp_path: Path) -> None:
    async with gateway_process(stack, database, topics, tmp_path, GATEWAY_LAME_DUCK=1) as gateway:
        await stop_under_load(stack, topics, gateway)
        assert [line["action"] for line in gateway.log_lines()][-2:] == ["draining", "stopped"]


async def test_sigterm_under_load_with_several_processes(
    stack: Stack, database: str, topics: Topics, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"GATEWAY_LAME_DUCK": 1, "GATEWAY_PROCESSES": 2}
    async with gateway_process(stack, database, topics, tmp_path, **settings) as gateway:
        pids = tree(gateway.pid)
        await stop_under_load(stack, topics, gateway)
        assert not living(pids)


async def test_a_second_sigterm_ends_it_at_once(stack: Stack, database: str, topics: Topics, tmp_path: Path) -> None:
    async with gateway_process(stack, database, topics, tmp_path, GATEWAY_LAME_DUCK=60) as gateway:
        gateway.send(signal.SIGTERM)
        await eventually(lambda: [line for line in gateway.log_lines() if line["action"] == "draining"])
        began = time.monotonic()
        assert await gateway.stop() == "exited with code 1"
        assert time.monotonic() - began < 3


async def test_a_sigterm_during_the_start_ends_it(stack: Stack, database: str, topics: Topics, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1", "GATEWAY_LAME_DUCK": 0}
    async with gateway_process(stack, database, topics, tmp_path, start=False, **settings) as gateway:
        await gateway.start(ready=False)
        await eventually(lambda: [line for line in gateway.log_lines() if line["action"] == "listening"])
        ended = await gateway.stop(within=10)
        assert ended in ("exited with code 0", "was killed by SIGTERM")


COUNTING = ("_total", "_count", "_bucket", "_sum")


async def test_metrics_are_the_whole_gateways_and_never_go_down(
    stack: Stack, database: str, topics: Topics, tmp_path: Path
) -> None:
    async with gateway_process(stack, database, topics, tmp_path, GATEWAY_PROCESSES=3) as gateway:
        await eventually(lambda: processes(gateway, 3))
        answered: dict[str, int] = {}
        stop = asyncio.Event()
        senders = [asyncio.create_task(load(gateway, f"sender{number}", answered, stop)) for number in range(9)]
        shown: dict[str, float] = {}
        killed = 0
        while len(answered) < 700:
            async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as http:
                gateway_once = Service(**{**vars(gateway), "http": http, "_child": gateway.child})
                page = await gateway_once.metrics()
            for name, value in shown.items():
                if name.partition("{")[0].endswith(COUNTING):
                    assert page.get(name, 0.0) >= value, name
            shown = page
            if killed < 2 and len(answered) > 200 * (killed + 1):
                os.kill(tree(gateway.pid)[1], signal.SIGKILL)
                killed += 1
                senders.append(asyncio.create_task(load(gateway, f"again{killed}", answered, stop)))
        stop.set()
        await asyncio.gather(*senders)
        await eventually(lambda: processes(gateway, 3))
        end = await gateway.metrics()
        created = sum(status == 202 for status in answered.values())
        # What a killed process had counted since its last report goes with it: at most a second's worth.
        assert created >= end["raw_events_created_total"] >= created * 0.5
        assert end["gateway_process_restarts_total"] == killed == 2
        assert [line["action"] for line in gateway.log_lines()].count("child_died") == 2
    await accepted_are_logged(stack, topics, answered)


async def processes(gateway: Service, count: int) -> bool:
    """Whether so many processes are alive."""
    return (await gateway.metrics())["gateway_processes"] == count


async def test_children_end_with_their_parent_and_give_the_port_back(
    stack: Stack, database: str, topics: Topics, tmp_path: Path
) -> None:
    async with gateway_process(stack, database, topics, tmp_path, GATEWAY_PROCESSES=2) as gateway:
        children = tree(gateway.pid)[1:]
        assert len(children) == 2
        gateway.kill()
        await eventually(lambda: not living(children), within=15)
        await gateway.start()
        assert (await gateway.http.post("/api/v1/ingest", content=envelope("s", "k", 1))).status_code == 415


def living(pids: list[int]) -> list[int]:
    """Those that still exist."""
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]
