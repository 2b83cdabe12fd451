"""Typed handlers, SQLAlchemy, threads and emitted events in a worker process on real services."""

from __future__ import annotations

from pathlib import Path

from infra.runtime.producer import Record
from schemas.ids import event_id
from stream_worker.emit import key_of
from tests.harness import connected, consume, envelope, eventually, produce, worker_process
from tests.stack import Stack, Topics

EVENTS = 60


def transfer(number: int) -> Record:
    payload = {
        "transfer_id": f"t{number}",
        "debit_account": "external:bank",
        "credit_account": "acc",
        "amount": number + 1,
        "currency": "KES",
    }
    return Record(b"bank", envelope("bank", f"k{number}", payload, type="transfer_requested"))


async def test_what_is_emitted_comes_back_and_takes_effect_once(
    stack: Stack, database: str, topics: Topics, tmp_path: Path
) -> None:
    sent = [transfer(number) for number in range(EVENTS)]
    handlers = "tests.integration.process_handlers"
    async with (
        worker_process(stack, database, topics, tmp_path, WORKER_HANDLERS=handlers),
        connected(database) as db,
    ):
        await produce(stack, topics.events, [*sent, *sent])

        async def all_told() -> bool:
            return bool(await db.fetchval("SELECT count(*) >= $1 FROM told", EVENTS))

        await eventually(all_told)
        # Once more: nothing further may come of it.
        await produce(stack, topics.events, [*sent, Record(b"bank", envelope("bank", "end", None))])

        async def at_the_end() -> bool:
            return bool(await db.fetchval("SELECT count(*) FROM events WHERE idempotency_key = 'end'"))

        await eventually(at_the_end)

        async def all_published() -> bool:
            return not await db.fetchval("SELECT count(*) FROM emitted_events")

        await eventually(all_published)
        ids = [event_id("bank", f"k{number}") for number in range(EVENTS)]
        assert sorted(row["event_id"] for row in await db.fetch("SELECT event_id FROM posted")) == sorted(ids)
        assert await db.fetchval("SELECT sum(amount) FROM posted") == EVENTS * (EVENTS + 1) // 2
        # In the order in which they were emitted, each once.
        told = [row["parent"] for row in await db.fetch("SELECT parent FROM told ORDER BY ctid")]
        assert told == [key_of(each, 0) for each in ids]
    records = [record for record in await consume(stack, topics.events) if record.key == b"ledger"]
    assert len(records) == EVENTS
