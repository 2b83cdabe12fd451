"""Keys that wait in memory for Postgres."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress

from ingest_gateway.breaker import Breaker
from ingest_gateway.decide import Known, Remembered
from ingest_gateway.deferred import Deferred
from tests.fakes.gateway import MemoryKeys, event


def key(name: str, offset: int = 0) -> Remembered:
    """A key of that name."""
    one = event(name)
    return Remembered(one.id_bytes, one.fingerprint, 0, offset)


class Rig:
    """A memory over a store in memory; its pauses last no time and are written down."""

    def __init__(self, bound: int = 10_000) -> None:
        self.keys = MemoryKeys()
        self.pauses: list[float] = []
        self.breaker = Breaker(1000, 1.0, lambda: 0.0)
        self.deferred = Deferred(self.keys, self.breaker, bound, self.sleep)

    async def sleep(self, seconds: float) -> None:
        """Note the pause, and let others run."""
        self.pauses.append(seconds)
        await asyncio.sleep(0)

    async def run_until_empty(self, turns: int = 200) -> None:
        """Run it until nothing waits, or so many turns of the loop."""
        running = asyncio.create_task(self.deferred.run())
        for _ in range(turns):
            await asyncio.sleep(0)
            if not self.deferred.waiting:
                break
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


async def test_keys_are_remembered_in_chunks() -> None:
    rig = Rig()
    rig.deferred.add([key(f"k{number}") for number in range(1200)])
    await rig.run_until_empty()
    assert [len(chunk) for chunk in rig.keys.remembers] == [500, 500, 200]
    assert len(rig.keys.rows) == rig.deferred.remembered == 1200


async def test_it_tries_again_with_growing_pauses_until_the_store_is_back() -> None:
    rig = Rig()
    rig.keys.down = True
    rig.deferred.add([key("a")])
    await rig.run_until_empty(turns=60)
    assert rig.deferred.waiting == 1
    assert rig.pauses[:4] == [0.05, 0.1, 0.2, 0.4]
    assert max(rig.pauses) == 2.0
    rig.keys.down = False
    await rig.run_until_empty()
    assert rig.keys.rows.keys() == {event("a").id_bytes}


async def test_beyond_the_bound_keys_are_dropped_and_counted() -> None:
    rig = Rig(bound=3)
    rig.deferred.add([key(f"k{number}") for number in range(2)])
    rig.deferred.add([key(f"l{number}") for number in range(4)])
    assert (rig.deferred.waiting, rig.deferred.dropped) == (3, 3)


async def test_the_first_record_of_an_id_is_the_one_remembered() -> None:
    rig = Rig()
    rig.deferred.add([key("a", 1), key("b", 2), key("a", 3)])
    await rig.run_until_empty()
    assert rig.keys.rows[event("a").id_bytes].offset == 1
    assert rig.deferred.waiting == 0


class OneBusyRow(MemoryKeys):
    """A store in which one id is locked."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.busy_id = event(name).id_bytes

    async def remember(self, keys: Sequence[Remembered]) -> Mapping[bytes, Known]:
        self.busy = any(one.event_id == self.busy_id for one in keys)
        return await super().remember(keys)


async def test_a_busy_row_holds_up_nobody_else() -> None:
    rig = Rig()
    store = OneBusyRow("b")
    deferred = Deferred(store, rig.breaker, 100, rig.sleep)
    deferred.add([key(name) for name in "bac"])
    running = asyncio.create_task(deferred.run())
    for _ in range(100):
        await asyncio.sleep(0)
    assert store.rows.keys() == {event("a").id_bytes, event("c").id_bytes}
    assert deferred.waiting == 1
    store.busy_id = event("nobody").id_bytes
    for _ in range(100):
        await asyncio.sleep(0)
    running.cancel()
    assert deferred.waiting == 0


async def test_flush_writes_what_it_can() -> None:
    rig = Rig()
    rig.deferred.add([key(f"k{number}") for number in range(700)])
    await rig.deferred.flush()
    assert rig.deferred.waiting == 0
    rig.keys.down = True
    rig.deferred.add([key("a")])
    await rig.deferred.flush()
    assert (rig.deferred.waiting, len(rig.pauses)) == (1, 3)


async def test_flush_does_not_believe_the_first_failure() -> None:
    """The connection may be one from before an outage, which is over."""
    rig = Rig()

    async def mend(_: float) -> None:
        rig.keys.down = False

    rig.keys.down = True
    deferred = Deferred(rig.keys, rig.breaker, 10, mend)
    deferred.add([key("a")])
    await deferred.flush()
    assert deferred.waiting == 0
