"""What 2,000 slow clients cost the others: `make slow-clients`. A measurement, not a test; needs nothing but the environment.

    slow       a third sends its head byte by byte, a third its body, a third reads no answer
    healthy    16 connections that send one event after the other

Three rounds, each without and with the slow ones. Prints a JSON line a round and one for all: the median of the healthy
ones' p99 with them against without, and what the process's memory grew by. The aims: twice the p99 at most, 64 MiB at most.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import statistics
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from tests import stack as real
from tests.gateway_kit import Line, request
from tests.harness import Service, envelope, eventually, gateway_process

_HEALTHY = 16
_keys = itertools.count()


def memory(pid: int) -> int:
    """Resident bytes of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmRSS")


def sockets(pid: int) -> int:
    """Open files of a process."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


async def healthy(gateway: Service, ends: float, seconds: list[float]) -> None:
    """Send until then; how long each answer took."""
    async with Line.to(gateway) as line:
        while time.monotonic() < ends:
            body = envelope("healthy", f"h-{next(_keys)}", {"n": 1})
            began = time.monotonic()
            heard = await line.exchange(request(body))
            seconds.append(time.monotonic() - began)
            assert heard.answers[0].status == 202, heard


async def p99(gateway: Service, for_seconds: float) -> float:
    """The healthy clients' p99 over that time, in milliseconds."""
    seconds: list[float] = []
    ends = time.monotonic() + for_seconds
    await asyncio.gather(*(healthy(gateway, ends, seconds) for _ in range(_HEALTHY)))
    return statistics.quantiles(seconds, n=100)[98] * 1000


class _At(NamedTuple):
    """Where a gateway is, for a process that did not start it."""

    url: str


async def crowd(url: str, clients: int) -> None:
    """So many slow clients, for ever; a process of their own, so that they take nothing from the healthy ones' clock."""
    await asyncio.gather(*(slow(_At(url), number % 3) for number in range(clients)))


async def slow(gateway: _At, kind: int) -> None:
    """One slow client, again and again as it is thrown out."""
    while True:
        with suppress(OSError, TimeoutError):
            async with Line.to(gateway) as line:  # type: ignore[arg-type]
                if kind == 0:
                    await drip(line, request(b"", "X: " + "y" * 10_000))
                elif kind == 1:
                    await line.send(request(b"x" * 100_000, length=200_000))
                    await drip(line, b"x" * 100)
                else:
                    await line.send(request(b"", method="GET", target="/openapi.json"))
                    await asyncio.sleep(30)
        await asyncio.sleep(1)


async def drip(line: Line, data: bytes) -> None:
    """A byte every two seconds."""
    for at in range(len(data)):
        await line.send(data[at : at + 1])
        await asyncio.sleep(2)


async def measure(clients: int, seconds: float) -> None:
    """Print what is found."""
    with tempfile.TemporaryDirectory() as folder, real.services(Path(folder), lambda line: None) as stack:
        topics = await real.make_topics(stack, 12)
        async with real.new_database(stack) as name:
            await real.migrate(stack.dsn_of(name))
            async with gateway_process(stack, stack.dsn_of(name), topics, Path(folder)) as gateway:
                await p99(gateway, seconds)  # a warm one
                ratios, grown = [], []
                for turn in range(3):
                    alone, before = await p99(gateway, seconds), memory(gateway.pid)
                    others = await asyncio.create_subprocess_exec(
                        sys.executable, "-m", __spec__.name, f"--clients={clients}", f"--crowd={gateway.url}"
                    )
                    await eventually(lambda: sockets(gateway.pid) > clients * 0.6, what="most of them are connected")
                    beside, after = await p99(gateway, seconds), memory(gateway.pid)
                    others.kill()
                    await others.wait()
                    ratios.append(beside / alone)
                    grown.append((after - before) / 2**20)
                    figures = {"p99_ms_alone": alone, "p99_ms_beside": beside, "grown_mib": grown[-1]}
                    print(json.dumps({"round": turn + 1, **{k: round(v, 1) for k, v in figures.items()}}), flush=True)
                figures = {"p99_ratio_median": statistics.median(ratios), "grown_mib_most": max(grown)}
                print(json.dumps({"clients": clients, **{k: round(v, 2) for k, v in figures.items()}}), flush=True)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="make slow-clients")
    parser.add_argument("--clients", type=int, default=2_000)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each of the six measurements")
    parser.add_argument("--crowd", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.crowd:
        asyncio.run(crowd(options.crowd, options.clients))
    asyncio.run(measure(options.clients, options.seconds))


if __name__ == "__main__":
    main()
