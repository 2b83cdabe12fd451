"""Rows that several sources write: no deadlock where a handler locks in one order, and progress where it does not
(interleaving 14)."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import asyncpg
import pytest

import stream_worker.examples  # noqa: F401 - registers the handlers
from infra.runtime.producer import Record
from stream_worker.handlers import REGISTRY
from stream_worker.run import Hold
from tests.conftest import MakeTopics
from tests.example_load import Sent, actual, differences, expected, fill_shelf
from tests.harness import Service, connected, envelope, eventually, is_drained, produce, worker_process
from tests.stack import Stack, Topics
from tests.worker_kit import Log, processor, registry_of, settle, take

PARTITIONS = 4


async def start_two(
    running: AsyncExitStack, stack: Stack, database: str, topics: Topics, folder: Path, **settings: Any
) -> list[Service]:
    """Two workers with small batches. Their statements may take longer than the server waits for a deadlock (1 s)."""
    patient: dict[str, Any] = {
        "WORKER_BATCH_RECORDS": 100,
        "WORKER_SESSION_TIMEOUT": 30,
        "WORKER_HANDLER_TIMEOUT": 15,
    }
    return [
        await running.enter_async_context(
            worker_process(stack, database, topics, folder, PYTHONHASHSEED=seed, **patient, **settings)
        )
        for seed in (1, 2)
    ]


async def settle_side_by_side(database: str, loads: Sequence[list[Sent]], batch: int) -> None:
    """Each load as one partition's log, in batches, all partitions at once; a deadlock raises Hold."""

    async def partition(number: int, load: list[Sent]) -> None:
        rng = random.Random(number)
        async with connected(database) as db:
            log, claim = Log(number), await take(db, number)
            items = [log.append(sent.spelled(rng)) for sent in load]
            for start in range(0, len(items), batch):
                result = await settle(db, items[start : start + batch], processor(REGISTRY), claim)
                assert result.retry is None

    async with connected(database) as db, db.transaction():
        for hook in REGISTRY.hooks:
            await hook(db)
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for number, load in enumerate(loads):
            group.create_task(partition(number, load))


def transfers(rng: random.Random, source: str, count: int) -> list[Sent]:
    """Among fifty accounts that every source uses."""
    made = []
    for n in range(count):
        debit, credit = rng.sample(range(50), 2)
        payload = {"debit_account": f"external:{debit}", "credit_account": f"external:{credit}", "amount": 1}
        made.append(Sent(source, f"t-{n}", "transfer_requested", {**payload, "currency": "KES", "transfer_id": f"{n}"}))
    return made


async def test_14_ledgers_that_share_accounts_never_deadlock(
    stack: Stack, database: str, make_topics: MakeTopics, tmp_path: Path
) -> None:
    """Two processes, whose sets have different orders, so that only the statement's own order can save them."""
    rng = random.Random(14)
    topics = await make_topics(PARTITIONS)
    loads = [transfers(rng, f"bank-{n}", 600) for n in range(PARTITIONS)]
    records = [Record(None, sent.spelled(rng), partition=n) for n, load in enumerate(loads) for sent in load]
    await produce(stack, topics.events, records)
    async with AsyncExitStack() as running, connected(database) as db:
        workers = await start_two(running, stack, database, topics, tmp_path, WORKER_HANDLERS="stream_worker.examples")
        await eventually(lambda: is_drained(stack, topics, workers[0].group), within=60, every=0.2)
        assert differences(await actual(db), expected(sent for load in loads for sent in load)) == []
        assert [(await worker.metrics())["plutus_worker_holds_total"] for worker in workers] == [0, 0]


async def test_partitions_that_share_a_scarce_product_never_sell_it_twice(database: str) -> None:
    rng = random.Random(1)
    loads = [
        [
            Sent(f"shop-{n}", f"o-{i}", "payment_completed", {
                "order_id": f"o-{n}-{i}", "amount": 1, "currency": "EUR",
                "items": [{"sku": sku, "quantity": rng.randint(1, 3)} for sku in rng.sample("abcdefgh", 3)],
            })
            for i in range(100)
        ]
        for n in range(PARTITIONS)
    ]  # fmt: skip
    async with connected(database) as db:
        for hook in REGISTRY.hooks:
            await hook(db)
        await fill_shelf(db, dict.fromkeys("abcdefgh", 250))
    await settle_side_by_side(database, loads, batch=10)
    wanted: Counter[str] = Counter()
    for load in loads:
        for sent in load:
            wanted.update({item["sku"]: item["quantity"] for item in sent.payload["items"]})
    async with connected(database) as db:
        rows = await db.fetch(
            "SELECT sku, on_hand, sum(ordered) AS ordered, sum(reserved) AS reserved"
            " FROM example_stock JOIN example_order_lines USING (sku) GROUP BY sku"
        )
    assert {row["sku"]: (row["on_hand"], row["ordered"], row["reserved"]) for row in rows} == {
        sku: (max(0, 250 - ordered), ordered, min(250, ordered)) for sku, ordered in wanted.items()
    }
    assert any(ordered > 250 for ordered in wanted.values()), "nothing was scarce"


async def test_a_deadlock_in_a_batch_undoes_all_of_it_and_asks_for_small_steps(database: str) -> None:
    """Its victim is not dead-lettered, and not run one by one while it holds what it has locked."""
    waiting: list[asyncio.Event] = [asyncio.Event(), asyncio.Event()]

    async def crosswise(event: object, tx: asyncpg.Connection) -> None:
        step = json.loads(event.payload)  # type: ignore[attr-defined]
        await tx.execute("UPDATE pots SET n = n + 1 WHERE pot = $1", step["pot"])
        waiting[step["side"]].set()
        async with asyncio.timeout(5):
            await waiting[1 - step["side"]].wait()

    async def side(number: int) -> tuple[str, bool]:
        async with connected(database) as db:
            log, claim = Log(number), await take(db, number)
            pots = (0, 1) if number == 0 else (1, 0)
            items = [
                log.append(envelope(f"side-{number}", f"k-{pot}", {"pot": pot, "side": number}, type="x"))
                for pot in pots
            ]
            using = processor(registry_of(crosswise, type="x"))
            try:
                await settle(db, items, using, claim)
            except Hold as hold:
                for item in items:
                    await settle(db, [item], using, claim)
                return hold.why, hold.conflict
            return "", False

    async with connected(database) as db:
        await db.execute("CREATE TABLE pots AS SELECT pot, 0 AS n FROM generate_series(0, 1) AS pot")
        assert sorted(await asyncio.gather(side(0), side(1))) == [("", False), ("40P01", True)]
        assert [row["n"] for row in await db.fetch("SELECT n FROM pots")] == [2, 2]
        assert await db.fetchval("SELECT count(*) FROM events WHERE status = 'PROCESSED'") == 4


UNSORTED = """
from stream_worker import Event, Transaction, handler, on_start

@on_start
async def create(tx: Transaction) -> None:
    await tx.execute("CREATE TABLE IF NOT EXISTS pots (pot int PRIMARY KEY, n bigint NOT NULL)")
    await tx.execute("INSERT INTO pots SELECT pot, 0 FROM generate_series(0, 49) AS pot ON CONFLICT DO NOTHING")

@handler(type="pour")
async def pour(event: Event, tx: Transaction) -> None:
    for pot, change in ((event.data["from"], -1), (event.data["to"], 1)):
        await tx.execute("UPDATE pots SET n = n + $2 WHERE pot = $1", pot, change)
"""


@pytest.mark.timeout(180)
async def test_14_a_handler_that_locks_in_any_order_is_slow_but_exact_and_nothing_dies(
    stack: Stack, database: str, make_topics: MakeTopics, tmp_path: Path
) -> None:
    """Two workers, four partitions, fifty rows that all of them change."""
    events, rng = 1_500, random.Random(14)
    topics = await make_topics(PARTITIONS)
    (tmp_path / "unsorted_handlers.py").write_text(UNSORTED)
    records, wanted = [], Counter(dict.fromkeys(range(50), 0))
    for n in range(events):
        source, (given, taken) = f"s-{n % PARTITIONS}", rng.sample(range(50), 2)
        wanted.update({given: -1, taken: 1})
        value = envelope(source, f"k-{n}", {"from": given, "to": taken}, type="pour")
        records.append(Record(source.encode(), value, partition=n % PARTITIONS))
    await produce(stack, topics.events, records)
    async with AsyncExitStack() as running, connected(database) as db:
        mine: dict[str, Any] = {"WORKER_HANDLERS": "unsorted_handlers", "PYTHONPATH": str(tmp_path)}
        await start_two(running, stack, database, topics, tmp_path, **mine)

        async def stored() -> bool:
            return int(await db.fetchval("SELECT count(*) FROM events WHERE status = 'PROCESSED'")) == events

        await eventually(stored, within=90, every=0.2)
        assert dict(await db.fetch("SELECT pot, n FROM pots")) == wanted  # type: ignore[arg-type]
        assert await db.fetchval("SELECT count(*) FROM failures") == 0
