"""The gateway's ports in memory: keys in a dict, Kafka as lists. `tests/contract/test_gateway_*.py` holds them to the real
services' behaviour.

Every step of both goes through `Steps`, so that a test can choose the order in which concurrent steps happen.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from infra.runtime.producer import NotAccepted, Receipt, Result, Unknown, partition_of
from ingest_gateway.decide import Known, Remembered
from ingest_gateway.pipeline import Flight, StoreBusy, StoreDown
from schemas.event import Event, parse_envelope
from tests.harness import envelope


class Steps:
    """Lets steps happen at once, or one at a time as the test releases them."""

    def __init__(self, *, held: bool = False) -> None:
        self.held = held
        self.waiting: list[asyncio.Future[None]] = []

    async def turn(self) -> None:
        """Wait for this step's turn."""
        if self.held:
            turn = asyncio.get_running_loop().create_future()
            self.waiting.append(turn)
            await turn

    def release(self, which: int = 0) -> None:
        """Let one waiting step happen."""
        self.waiting.pop(which).set_result(None)


class MemoryKeys:
    """`event_keys` in a dict.

    down: no statement works. busy: a row to insert is locked. locked: the whole table is. overdue: ids that a worker should have stored long ago.
    """

    def __init__(self, steps: Steps | None = None) -> None:
        self.steps = steps or Steps()
        self.rows: dict[bytes, Known] = {}
        self.overdue: set[bytes] = set()
        self.down = False
        self.busy = False
        self.locked = False
        self.looks: list[int] = []
        self.remembers: list[list[Remembered]] = []

    async def look(self, ids: Sequence[bytes]) -> Mapping[bytes, Known]:
        """The rows of those ids that have one."""
        self.looks.append(len(ids))
        await self.steps.turn()
        if self.down:
            raise StoreDown
        if self.locked:
            raise StoreBusy
        return {one: self._row(one) for one in ids if one in self.rows}

    async def remember(self, keys: Sequence[Remembered]) -> Mapping[bytes, Known]:
        """Insert what has no row; the rows that were there before."""
        self.remembers.append(list(keys))
        await self.steps.turn()
        if self.down:
            raise StoreDown
        if self.busy or self.locked:
            raise StoreBusy
        standing = {key.event_id: self._row(key.event_id) for key in keys if key.event_id in self.rows}
        for key in keys:
            self.rows.setdefault(key.event_id, Known(key.fingerprint, key.partition, key.record_offset))
        return standing

    def _row(self, one: bytes) -> Known:
        return self.rows[one]._replace(overdue=one in self.overdue)


class MemoryLog:
    """A topic in lists.

    refusing: nothing is enqueued. silent: "kept" enqueues without an ack, "lost" does not even keep it.
    """

    def __init__(self, steps: Steps | None = None, partitions: int = 3) -> None:
        self.steps = steps or Steps()
        self.partitions: list[list[Flight]] = [[] for _ in range(partitions)]
        self.order: list[Flight] = []
        self.batches: list[int] = []
        self.refusing = False
        self.silent: str | None = None

    async def publish(self, flights: Sequence[Flight]) -> Sequence[Result]:
        """Append in order; receipts, NotAccepted or Unknown."""
        self.batches.append(len(flights))
        if self.refusing:
            await self.steps.turn()
            return [NotAccepted("kafka_down")] * len(flights)
        if self.silent == "lost":
            await self.steps.turn()
            return [Unknown("ack_timeout")] * len(flights)
        receipts: list[Result] = []
        for flight in flights:
            number = partition_of(flight.event.partition_key(), len(self.partitions))
            receipts.append(Receipt("events", number, len(self.partitions[number]), 0))
            self.partitions[number].append(flight)
            self.order.append(flight)
        await self.steps.turn()
        return [Unknown("ack_timeout")] * len(flights) if self.silent else receipts

    def __len__(self) -> int:
        return len(self.order)


def event(key: str, payload: object = 1, source: str = "shop", **members: object) -> Event:
    """An event; `members` adds others to its envelope."""
    return parse_envelope(envelope(source, key, payload, **members))
