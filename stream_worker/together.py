"""Small batches of several partitions, settled in one transaction where nothing stands in the way.

Where few events come, a batch costs round trips, not rows, and with a dozen partitions nearly every event is a batch of its own:
five hundred a second keep two cores busy. So partitions whose next batch is small, and whose handlers have not failed lately,
hand it in here. What is handed in while one transaction runs is in the next.

    read what is known of all ids  →  and remember missing rows of gateway records (durable at once, as in `batch.py`)
    BEGIN
      open all claims, claim all ids        one statement
      run the handlers                      without savepoints; every ordering key in log order
      write the rows, close all claims      one statement
    COMMIT

Only what is plain is settled: new events, some of which may have to wait behind a parked one, and copies of known ones. Whatever
else shows (a record that is no event, a conflict, a replay, a handler that raises, an id that somebody else claims, a lost claim, a
database that does not answer) undoes all of it, and each partition goes on alone with the same records: `batch.py` has a place for every case, and its outcome
is that partition's. A partition that was in the way, or a transaction that took long, keeps to itself for a while.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import asyncpg
import orjson

from infra.runtime.copy_format import MANY
from infra.runtime.optimism import Optimism
from infra.runtime.postgres import borrowed
from infra.runtime.sql import bytea_array, integer_array, statements, uuid_array
from schemas.event import Event
from schemas.fingerprint import UnknownVersion
from stream_worker import store
from stream_worker.batch import Processor, Result
from stream_worker.breaker import Breaker
from stream_worker.decide import ACCEPTED, DUPLICATE, NEW, Decision, KeyRow, Known, Run, decide
from stream_worker.emit import counted
from stream_worker.observe import Observer
from stream_worker.outcomes import Outcome, Parked, Stored
from stream_worker.records import Item
from stream_worker.run import BrokenTransaction, Hold, Task, Unprotected
from stream_worker.store import Claim

SQL = statements("stream_worker", "together.sql")
FEW: Final = MANY
"""A batch of fewer records is small."""
_LONG: Final = 0.1
_SLOW: Final = 0.01
"""Seconds of a transaction, and of each of its events, from which waiting for one another costs more than it spares."""
_UNDONE = (
    UnknownVersion,
    Unprotected,
    BrokenTransaction,
    Hold,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,  # a deadline, too
)


class _NotPlain(Exception):
    """Something needs more care than is taken here. partitions: who is in the way."""

    def __init__(self, partitions: Collection[int] = ()) -> None:
        super().__init__("not plain")
        self.partitions = partitions


@dataclass(slots=True, eq=False)
class Share:
    """What one partition hands in, outside any transaction; one at a time, so that its order is kept.

    take: its next records, read, at most so many; called once the transaction is about to begin, so that what arrived meanwhile
    is in it. breaker: as its earlier batches left it. calm: guesses whether the partition may come here; told how it went.
    connection: on which its records are being settled; whoever must not wait for that ends it. told: what became of it.
    """

    claim: Claim
    take: Callable[[int], list[Item]]
    breaker: Breaker
    calm: Optimism
    connection: asyncpg.Connection | None = None
    items: list[Item] = field(default_factory=list)
    told: asyncio.Future[Settled | None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of a share. seconds: the transaction took. emitted: some event of it may have emitted others."""

    items: Sequence[Item]
    result: Result
    seconds: float
    emitted: bool


class Together:
    """Of one worker.

    Args:
        pool, places: as for batches of one partition. most: records in one transaction.
    """

    def __init__(
        self, pool: asyncpg.Pool, places: asyncio.Semaphore, processor: Processor, observer: Observer, most: int
    ) -> None:
        self._pool = pool
        self._places = places
        self._processor = processor
        self._observer = observer
        self._shares = max(1, most // FEW)
        self._waiting: list[Share] = []
        self._working: asyncio.Task[None] | None = None

    async def settle(self, share: Share) -> Settled | None:
        """Settle the next records of a partition with those of others; None: nothing of them is, see to them alone."""
        self._waiting.append(share)
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work(), name="together")
        return await share.told

    async def _work(self) -> None:
        while self._waiting:
            await asyncio.sleep(0)  # whoever was told a moment ago may have more
            shares, self._waiting = self._waiting[: self._shares], self._waiting[self._shares :]
            settled: dict[int, Settled] = {}
            try:
                settled = await self._settle(shares)
            except _UNDONE:  # each one's own try shows what it was, and waits where there is need to
                for share in shares:
                    share.calm.wrong()
            except BaseException as error:
                for share in shares:
                    if not share.told.done():
                        share.told.set_exception(error)
                raise
            finally:
                for share in shares:
                    if not share.told.done():
                        share.told.set_result(settled.get(share.claim.partition))

    async def _settle(self, shares: Sequence[Share]) -> dict[int, Settled]:
        """By partition; raises what is in `_UNDONE` too."""
        loop = asyncio.get_running_loop()
        async with borrowed(self._pool, self._places) as db:
            here = [share for share in shares if not share.told.done()]  # some may have been given up meanwhile
            for share in here:
                share.connection = db
                share.items = share.take(FEW - 1)
            began = loop.time()
            try:
                results, emitted = await self._try(db, [share for share in here if share.items])
            except _NotPlain as error:
                for share in here:
                    if share.claim.partition in error.partitions:
                        share.calm.wrong()
                return {}
            finally:
                for share in here:
                    share.connection = None
            seconds = loop.time() - began
        slow = seconds > max(_LONG, _SLOW * sum(len(result.outcomes) for _, result in results))
        settled = {}
        for share, result in results:
            if slow:
                share.calm.wrong()
            else:
                share.calm.right()
            settled[share.claim.partition] = Settled(share.items, result, seconds, emitted)
        return settled

    async def _try(self, db: asyncpg.Connection, shares: Sequence[Share]) -> tuple[list[tuple[Share, Result]], bool]:
        """The results of those that are settled, and whether something was emitted.

        Raises:
            _NotPlain, and what is in `_UNDONE`.
        """
        if not shares:
            raise _NotPlain
        keys, failed = await _read(db, shares)
        known = Known(keys, frozenset(), {})
        plain = [s for s in shares if s.claim.partition not in failed and self._is_plain(s.items, known)]
        items = [item for share in plain for item in share.items]
        decisions = decide(items, known)
        if not items or not all(map(_is_plain, decisions)):
            raise _NotPlain
        with self._observer.batch(items), counted() as emitted:
            ran = await self._transaction(db, plain, items, decisions, keys)
        return _results(plain, items, decisions, ran), emitted.count > 0

    def _is_plain(self, items: Sequence[Item], known: Known) -> bool:
        processor = self._processor
        for item in items:
            if item.event is None or item.dead is not None:
                return False
            if processor.dead_unhandled and processor.registry.find(item.event) is None:
                return False
            row = known.keys.get(item.id)
            if row is not None and row.state == "failed":
                return False  # a replay, or a copy: that takes the dead letter's time to tell
        return all(map(_is_plain, decide(items, known)))

    async def _transaction(
        self,
        db: asyncpg.Connection,
        shares: Sequence[Share],
        items: Sequence[Item],
        decisions: Sequence[Decision],
        keys: dict[bytes, KeyRow],
    ) -> dict[int, Outcome]:
        """The outcomes of what ran, by position.

        Raises:
            _NotPlain, and what is in `_UNDONE`.
        """
        tasks = self._tasks(items, decisions)
        try:
            async with db.transaction():
                now, parked, since = await _open_and_claim(db, shares, [items[task.position] for task in tasks], keys)
                # In this transaction or before it: only who holds these claims parks keys of these partitions.
                blocked = await store.lock_parked_keys(db, {t.order_key for t in tasks}) if tasks and parked else set()
                ran, _ = await self._processor.runner.run(
                    db, tasks, careful=False, blocked=blocked, breaker=Breaker(), protected=False
                )
                if len(ran) < len(tasks):  # its time was up
                    raise _NotPlain({item.partition for item in items})
                written = [(items[n], since.get(items[n].id, now), outcome) for n, outcome in ran.items()]
                waiting = [(item, at) for item, at, outcome in written if isinstance(outcome, Parked)]
                if waiting:
                    rows = [store.parked_row(_event(item).order_key, item, at, 0) for item, at in waiting]
                    await store.park_events(db, rows)
                await _write_and_close(db, shares, [_row(*each) for each in written])
        except Unprotected as error:
            raise _NotPlain({items[position].partition for position in error.positions}) from error
        return ran

    def _tasks(self, items: Sequence[Item], decisions: Sequence[Decision]) -> list[Task]:
        tasks = []
        for position, (item, decision) in enumerate(zip(items, decisions, strict=True)):
            if isinstance(decision, Run):
                event = _event(item)
                tasks.append(Task(position, event, event.order_key, self._processor.registry.find(event), None, 0))
        return tasks


def _is_plain(decision: Decision) -> bool:
    return decision is NEW or decision is ACCEPTED or decision is DUPLICATE


def _event(item: Item) -> Event:
    assert item.event is not None  # noqa: S101
    return item.event


def _results(
    shares: Sequence[Share], items: Sequence[Item], decisions: Sequence[Decision], ran: dict[int, Outcome]
) -> list[tuple[Share, Result]]:
    results, begin = [], 0
    for share in shares:
        end = begin + len(share.items)
        outcomes: list[tuple[Item, Outcome]] = [
            (items[n], decision if not isinstance(decision, Run) else ran[n])
            for n, decision in enumerate(decisions[begin:end], begin)
        ]
        breaker = share.breaker.copy()
        breaker.well(sum(isinstance(outcome, Stored) and outcome.handled_by is not None for _, outcome in outcomes))
        next_offset = share.items[-1].offset + 1
        results.append((share, Result(outcomes, next_offset, None, False, False, False, breaker)))
        begin = end
    return results


async def _read(db: asyncpg.Connection, shares: Sequence[Share]) -> tuple[dict[bytes, KeyRow], set[int]]:
    """What was known of the ids of all of them, until missing rows of gateway records were remembered just now; and partitions with
    failures rows among these records."""
    items = [item for share in shares for item in share.items if item.event is not None]
    remember = sorted(_first_of_gateway(items), key=store.by_id)
    named = {item.id for item in remember}
    rest = {item.id for item in items} - named
    rows = await db.fetch(
        SQL["read_and_remember"],
        uuid_array([*(item.id for item in remember), *sorted(rest)]),
        bytea_array(_event(item).fingerprint for item in remember),
        integer_array(item.partition for item in remember),
        integer_array(item.offset for item in remember),
        shares[0].claim.topic,
        integer_array(share.claim.partition for share in shares),
        integer_array(share.items[0].offset for share in shares),
        integer_array(share.items[-1].offset for share in shares),
    )
    keys = {row[0].bytes: KeyRow(row[1], row[2]) for row in rows if row[0] is not None}
    return keys, {row[3] for row in rows if row[0] is None}


async def _open_and_claim(
    db: asyncpg.Connection, shares: Sequence[Share], items: Sequence[Item], keys: dict[bytes, KeyRow]
) -> tuple[datetime, bool, dict[bytes, datetime]]:
    """The transaction's time, whether any key is parked, and accepted_at of the ids that had rows.

    Raises:
        _NotPlain: a claim is lost, or an id is somebody else's.
    """
    ordered = sorted(items, key=store.by_id)
    answer = await db.fetchrow(
        SQL["open_and_claim"],
        *_claims(shares),
        uuid_array([item.id for item in ordered]),
        bytea_array(store.fingerprints_to_match(ordered, keys)),
        integer_array([item.partition for item in ordered]),
        integer_array([item.offset for item in ordered]),
    )
    assert answer is not None  # noqa: S101
    now, parked, claimed, older, since = answer
    if claimed < len(items):
        raise _NotPlain
    return now, parked, {each.bytes: at for each, at in zip(older or (), since or (), strict=True)}


async def _write_and_close(db: asyncpg.Connection, shares: Sequence[Share], rows: list[dict[str, object]]) -> None:
    """Raises: _NotPlain: a handler has ended the transaction that opened the claims."""
    closed = await db.fetchval(
        SQL["write_and_close"],
        *_claims(shares),
        integer_array(share.items[-1].offset + 1 for share in shares),
        orjson.dumps(rows).decode(),
    )
    if closed < len(shares):
        raise _NotPlain({share.claim.partition for share in shares})


def _first_of_gateway(items: Sequence[Item]) -> list[Item]:
    """Records that a gateway published and that come first of their id: a gateway must not wait behind our handlers for a row of its
    own record (interleaving 16). Where a copy of the same event came first, past the gateway, that is the one that runs."""
    if not any(item.from_gateway for item in items):
        return []
    first: dict[bytes, Item] = {}
    for item in items:
        first.setdefault(item.id, item)
    return [item for item in first.values() if item.from_gateway]


def _claims(shares: Sequence[Share]) -> tuple[str, str, str, str]:
    claim = shares[0].claim
    return (
        claim.group,
        claim.topic,
        integer_array(share.claim.partition for share in shares),
        integer_array(share.claim.epoch for share in shares),
    )


def _row(item: Item, accepted_at: datetime, outcome: Outcome) -> dict[str, Any]:
    """One row of `events`: what ran, or waits. The payload is text, as which it stays what it is to the byte."""
    event = _event(item)
    return {
        "event_id": item.id.hex(),
        "source": event.source,
        "schema_version": event.schema_version,
        "type": event.type,
        "payload_encoding": event.payload_encoding,
        "idempotency_key": event.idempotency_key,
        "ordering_key": event.ordering_key,
        "occurred_at": event.occurred_at,
        "payload": event.payload.decode(),
        "status": "PROCESSED" if isinstance(outcome, Stored) else "RETRYING",
        "handled_by": outcome.handled_by if isinstance(outcome, Stored) else None,
        "received_at": accepted_at,
        "partition": item.partition,
        "offset": item.offset,
    }
