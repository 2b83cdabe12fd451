"""What a gateway does with twice what it can: `make overload`. A measurement, not a test; needs nothing but the environment.

Its capacity is set by what is behind it, not by its processor, which the load shares: a proxy adds 20 ms on the way to
Kafka, and one micro-batch of 16 events is in flight at a time. The peak is what 64 connections get that send one event after the
other. Then events come at twice that rate for as long, whatever is answered: nine in ten from one source, the others from ten.
Prints a JSON line each. The aims: goodput of 90 % of the peak, no answer later than the deadlines allow, no 429 for the ten.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from infra.local import kafka
from infra.local.ports import Ports
from tests import stack as real
from tests.gateway_kit import Line, request
from tests.harness import Service, envelope, gateway_process
from tests.stack import Stack
from tests.tcp_proxy import TcpProxy

_CONNECTIONS = 64
_OPEN = 800
_SETTINGS: dict[str, Any] = {
    "GATEWAY_BATCHES": 1,
    "GATEWAY_BATCH_SIZE": 16,
    "GATEWAY_MAX_IN_FLIGHT": 256,
    "GATEWAY_LOOK_TIMEOUT": 2,
    "GATEWAY_REMEMBER_TIMEOUT": 2,
}
_DEADLINE = 2.0 + 2.0 + 5.0 + 2.0
"""Waiting for a batch, looking, publishing and remembering, each at its longest."""


async def peak(gateway: Service, seconds: float) -> float:
    """Events a second that closed loops get."""
    done, ends = 0, time.monotonic() + seconds

    async def loop(name: int) -> None:
        nonlocal done
        async with Line.to(gateway) as line:
            number = 0
            while time.monotonic() < ends:
                number += 1
                heard = await line.exchange(request(envelope(f"peak-{name}", f"{number}", 1)))
                done += heard.answers[0].status == 202

    await asyncio.gather(*(loop(name) for name in range(_CONNECTIONS)))
    return done / seconds


async def flood(gateway: Service, rate: float, seconds: float) -> tuple[Counter[tuple[str, int]], float]:
    """Send at that rate; how many of each (whose, status), and the longest wait for an answer."""
    told: Counter[tuple[str, int]] = Counter()
    longest = 0.0
    began = time.monotonic()
    numbers = iter(range(int(rate * seconds)))

    async def sender() -> None:
        nonlocal longest
        async with Line.to(gateway) as line:
            for number in numbers:
                await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
                whose = "noisy" if number % 10 else f"quiet-{number // 10 % 10}"
                sent = time.monotonic()
                heard = await line.exchange(request(envelope(whose, f"flood-{number}", 1)), within=60)
                longest = max(longest, time.monotonic() - sent)
                told[whose.partition("-")[0], heard.answers[0].status] += 1

    await asyncio.gather(*(sender() for _ in range(_OPEN)))
    return told, longest


async def measure(seconds: float) -> None:
    """Print what is found."""
    port = Ports().take(0, "PROXY")
    # The broker tells its clients the proxy's address, so that none of them goes past it.
    kafka._PROPERTIES = kafka._PROPERTIES.replace(
        "advertised.listeners=PLAINTEXT://127.0.0.1:{port}", f"advertised.listeners=PLAINTEXT://127.0.0.1:{port}"
    )
    with tempfile.TemporaryDirectory() as folder, real.services(Path(folder), lambda line: None) as services:
        async with TcpProxy.before("127.0.0.1", int(services.bootstrap.rpartition(":")[2]), listen=port) as proxy:
            stack = Stack(f"127.0.0.1:{port}", services.dsn)
            topics = await real.make_topics(stack, 3)
            proxy.delay = 0.02
            async with real.new_database(stack) as name:
                await real.migrate(stack.dsn_of(name))
                async with gateway_process(stack, stack.dsn_of(name), topics, Path(folder), **_SETTINGS) as gateway:
                    await peak(gateway, 2)
                    capacity = await peak(gateway, seconds)
                    print(json.dumps({"peak_per_second": round(capacity, 1)}), flush=True)
                    began = time.monotonic()
                    told, longest = await flood(gateway, 2 * capacity, seconds)
                    took = time.monotonic() - began
                    good = sum(count for (_, status), count in told.items() if status == 202) / took
                    figures = {
                        "offered_per_second": round(sum(told.values()) / took, 1),
                        "goodput_of_peak": round(good / capacity, 2),
                        "longest_answer_s": round(longest, 2),
                        "within_deadline": longest <= _DEADLINE,
                        **{f"{whose}_{status}": count for (whose, status), count in sorted(told.items())},
                    }
                    print(json.dumps(figures), flush=True)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="make overload")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each of the two measurements")
    asyncio.run(measure(parser.parse_args().seconds))


if __name__ == "__main__":
    main()
