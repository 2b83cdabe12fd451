"""A client that asked for metadata in vain waits before it asks again."""

from __future__ import annotations

import asyncio

from infra.runtime.kafka import pace_metadata


class Client:
    """aiokafka's, as far as it goes here: what it is told, one after the other."""

    def __init__(self, *told: bool | Exception | None) -> None:
        self.told, self.asked = list(told), 0

    def force_metadata_update(self) -> asyncio.Future[bool]:
        self.asked += 1
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        match self.told.pop(0):
            case None:
                answer.cancel()
            case Exception() as error:
                answer.set_exception(error)
            case known:
                answer.set_result(known)
        return answer


async def test_after_a_refusal_it_waits() -> None:
    client = Client(False, True)
    pace_metadata(client, 3600.0)
    assert await client.force_metadata_update() is False
    waiting = [client.force_metadata_update() for _ in range(10)]
    _, pending = await asyncio.wait(waiting, timeout=0)
    assert (client.asked, len(pending)) == (1, 10)


async def test_after_the_wait_it_asks_once_for_all_that_wait() -> None:
    client = Client(False, True, True)
    pace_metadata(client, 0.001)
    assert await client.force_metadata_update() is False
    assert await asyncio.gather(*(client.force_metadata_update() for _ in range(10))) == [True] * 10
    assert client.asked == 2
    assert await client.force_metadata_update() is True


async def test_who_is_answered_may_ask_at_once_and_errors_come_through() -> None:
    client = Client(True, ValueError(), None, True)
    pace_metadata(client, 3600.0)
    found = [
        (await asyncio.gather(client.force_metadata_update(), return_exceptions=True))[0]
        for _ in range(len(client.told))
    ]
    assert [type(each) for each in found] == [bool, ValueError, asyncio.CancelledError, bool]


async def test_who_gives_up_leaves_the_others_waiting() -> None:
    client = Client(False, True)
    pace_metadata(client, 0.01)
    await client.force_metadata_update()
    one, other = client.force_metadata_update(), client.force_metadata_update()
    one.cancel()
    assert await other is True
