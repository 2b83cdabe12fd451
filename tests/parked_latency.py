"""What a key that waits costs the others: `python -m tests.parked_latency [seconds of one run]`.

A hundred ordering keys on one partition, at a steady rate. In every second run the first event of one key asks for later, again
and again; the latency of all other keys, from the broker's append to the effect, is compared. Then the key is mended, and its
events must take effect in their order. JSON lines come out, one a run, and the ratio of the medians last.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from pathlib import Path
from statistics import median, quantiles

from aiokafka import AIOKafkaProducer

from tests import stack as real
from tests.harness import connected, envelope, eventually, worker_process
from tests.stack import Stack

KEYS, RATE, ROUNDS = 100, 300, 5


async def one_run(stack: Stack, database: str, topic: str, run: str, seconds: float, *, failing: bool) -> float:
    """The 99th percentile of the others' latency, in milliseconds."""
    appended: dict[tuple[str, int], int] = {}
    acks = []
    clock = asyncio.get_running_loop().time
    async with AIOKafkaProducer(bootstrap_servers=stack.bootstrap, acks="all") as producer:
        began = clock()
        for n in range(round(RATE * seconds)):
            source = f"{run}-{n % KEYS}"
            payload = {"n": n, "until_mended": run if failing and n == 0 else None}
            value = envelope(source, str(n), payload, type="timed")
            acks.append(((source, n), await producer.send(topic, value, key=b"one", partition=0)))
            await asyncio.sleep(max(0.0, began + n / RATE - clock()))
        for name, ack in acks:
            appended[name] = (await ack).timestamp
    parked = {name for name in appended if failing and name[0] == f"{run}-0"}
    async with connected(database) as db:

        async def count() -> int:
            return int(await db.fetchval("SELECT count(*) FROM timed WHERE source LIKE $1", f"{run}-%"))

        async def others() -> bool:
            return await count() == len(appended) - len(parked)

        await eventually(others, within=120, what="all others took effect")
        rows = await db.fetch("SELECT source, number, at FROM timed WHERE source LIKE $1", f"{run}-%")
        waits = [row["at"].timestamp() * 1000 - appended[row["source"], row["number"]] for row in rows]
        if failing:
            await db.execute("INSERT INTO mended_runs VALUES ($1); ", run)
            await db.execute("UPDATE parked_keys SET next_at = now()")

            async def drained() -> bool:
                return await count() == len(appended)

            await eventually(drained, within=120, what="the parked key is drained")
            order = await db.fetch("SELECT number FROM timed WHERE source = $1 ORDER BY n", f"{run}-0")
            assert [row[0] for row in order] == sorted(row[0] for row in order), "in their original order"
    return float(quantiles(waits, n=100)[98])


async def main(seconds: float) -> None:
    """Alternate, and tell."""
    with tempfile.TemporaryDirectory() as folder, real.services(Path(folder), lambda line: None) as stack:
        async with real.new_database(stack) as name:
            database = stack.dsn_of(name)
            await real.migrate(database)
            topics = await real.make_topics(stack, 1)
            settings = {
                "WORKER_HANDLERS": "tests.parked_handlers",
                "WORKER_SESSION_TIMEOUT": "30",
                "WORKER_RETRY_ATTEMPTS": "1000",
            }
            async with worker_process(stack, database, topics, Path(folder), start=True, **settings):
                await one_run(stack, database, topics.events, "warm", 2.0, failing=False)
                found: dict[bool, list[float]] = {False: [], True: []}
                for n in range(2 * ROUNDS):
                    failing = n % 2 == 1
                    p99 = await one_run(stack, database, topics.events, f"r{n}", seconds, failing=failing)
                    found[failing].append(p99)
                    print(json.dumps({"run": n, "one_key_waits": failing, "p99_ms": round(p99, 1)}), flush=True)
                clean, waiting = (median(found[failing]) for failing in (False, True))
                pairs = [beside / alone for alone, beside in zip(found[False], found[True], strict=True)]
                print(
                    json.dumps(
                        {
                            "p99_ms": round(clean, 1),
                            "beside_a_parked_key": round(waiting, 1),
                            "ratio": round(waiting / clean, 2),
                            "median_of_the_runs_ratios": round(median(pairs), 2),
                        }
                    )
                )


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]) if len(sys.argv) > 1 else 8.0))
