"""Requests that wait for what becomes of their events."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Mapping, Sequence
from uuid import UUID, uuid4

from ingest_gateway.events import Found, StatusUnavailable
from ingest_gateway.waiting import Waiting
from tests.harness import eventually


class Events:
    """The database's side: who is what, and which questions were asked."""

    def __init__(self) -> None:
        self.known: dict[UUID, str] = {}
        self.asked: list[set[UUID]] = []
        self.down = False

    def were_asked(self, more_than: int) -> bool:
        """Whether there were more questions than this."""
        return len(self.asked) > more_than

    async def find(self, ids: Sequence[UUID]) -> Mapping[UUID, Found]:
        """The known ones of these."""
        self.asked.append(set(ids))
        await asyncio.sleep(0)
        if self.down:
            raise StatusUnavailable
        return {one: Found("shop", {"status": self.known[one]}) for one in ids if one in self.known}


def waiting(events: Events, most: int = 100) -> Waiting:
    """Without a pause between two questions."""
    return Waiting(events.find, most, 60, interval=0, pause=0)


def has_room(ours: Waiting) -> bool:
    """Asked anew each time, which a type checker cannot know of a property."""
    return ours.room


async def test_who_waits_is_told_once_it_is_processed_or_has_failed() -> None:
    events = Events()
    ours = waiting(events)
    for last in ("PROCESSED", "FAILED"):
        one = uuid4()
        told = asyncio.create_task(ours.outcome(one, 30))
        for before in ("RECEIVED", "RETRYING"):
            events.known[one] = before
            asked = len(events.asked)
            await eventually(functools.partial(events.were_asked, asked + 2))
            assert not told.done()
        events.known[one] = last
        assert await told == {"status": last}


async def test_one_poller_asks_for_all_and_stops_when_nobody_waits() -> None:
    events = Events()
    ours = waiting(events)
    ids = [uuid4() for _ in range(20)]
    told = [asyncio.create_task(ours.outcome(one, 30)) for one in [*ids, ids[0]]]
    await eventually(lambda: events.asked and events.asked[-1] == set(ids))
    assert ours.count == 21
    events.known = dict.fromkeys(ids, "PROCESSED")
    assert [status and status["status"] for status in await asyncio.gather(*told)] == ["PROCESSED"] * 21
    asked = len(events.asked)
    for _ in range(50):
        await asyncio.sleep(0)
    assert (ours.count, len(events.asked)) == (0, asked)
    events.known[one := uuid4()] = "PROCESSED"
    assert await ours.outcome(one, 30) == {"status": "PROCESSED"}


async def test_what_takes_longer_is_not_waited_for() -> None:
    events = Events()
    ours = waiting(events)
    one = uuid4()
    patient = asyncio.create_task(ours.outcome(one, 30))
    assert await ours.outcome(one, 0.01) is None
    assert ours.count == 1
    events.known[one] = "PROCESSED"
    assert await patient == {"status": "PROCESSED"}


async def test_no_more_wait_than_there_is_room_for() -> None:
    events = Events()
    ours = waiting(events, most=2)
    assert has_room(ours)
    told = [asyncio.create_task(ours.outcome(uuid4(), 30)) for _ in range(2)]
    await asyncio.sleep(0)
    assert not has_room(ours)
    told[0].cancel()
    await asyncio.gather(told[0], return_exceptions=True)
    assert has_room(ours)
    ours.close()
    assert await told[1] is None


async def test_a_database_that_is_away_is_asked_again() -> None:
    events = Events()
    events.down = True
    ours = waiting(events)
    one = uuid4()
    events.known[one] = "PROCESSED"
    told = asyncio.create_task(ours.outcome(one, 30))
    await eventually(lambda: len(events.asked) > 2)
    events.down = False
    assert await told == {"status": "PROCESSED"}


async def test_when_the_process_stops_nobody_waits_any_longer() -> None:
    ours = waiting(Events())
    told = [asyncio.create_task(ours.outcome(uuid4(), 30)) for _ in range(3)]
    await asyncio.sleep(0)
    ours.close()
    assert await asyncio.gather(*told) == [None] * 3
    assert not ours.room
