"""After a death a suspect runs while no other marked event does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from hypothesis import given
from hypothesis import strategies as st

from stream_worker.marked_runs import MarkedRuns

Ends = dict[str, asyncio.Event]


async def settle() -> None:
    """Everybody who can go on has."""
    for _ in range(10):
        await asyncio.sleep(0)


def begin(
    name: str, run: Callable[[], AbstractAsyncContextManager[None]], inside: set[str], ends: Ends
) -> asyncio.Task[None]:
    ends[name] = asyncio.Event()

    async def go() -> None:
        async with run():
            inside.add(name)
            await ends[name].wait()
            inside.discard(name)

    return asyncio.create_task(go())


async def test_a_suspect_waits_for_the_others_and_keeps_new_ones_waiting() -> None:
    runs, inside, ends = MarkedRuns(), set[str](), Ends()
    tasks = [begin(name, runs.beside_others, inside, ends) for name in ("a", "b")]
    await settle()
    tasks.append(begin("suspect", runs.alone, inside, ends))
    await settle()
    tasks.append(begin("late", runs.beside_others, inside, ends))
    for name, left in (("a", {"b"}), ("b", {"suspect"}), ("suspect", {"late"}), ("late", set())):
        await settle()
        assert name in inside
        ends[name].set()
        await settle()
        assert inside == left
    await asyncio.gather(*tasks)


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 30)), max_size=30))
def test_a_suspect_is_never_beside_anybody(steps: list[tuple[bool, bool, int]]) -> None:
    """Steps: somebody begins (a suspect, or not), or one that runs ends, well or with an error; in the end all have run."""

    async def check() -> None:
        runs, inside = MarkedRuns(), dict[int, bool]()
        ends: dict[int, asyncio.Future[None]] = {}
        tasks = []

        async def go(n: int, suspect: bool) -> None:
            async with runs.alone() if suspect else runs.beside_others():
                inside[n] = suspect
                assert not any(inside.values()) or len(inside) == 1
                try:
                    await ends[n]
                finally:
                    del inside[n]

        def end(n: int, *, well: bool) -> None:
            if not ends[n].done():
                ends[n].set_result(None) if well else ends[n].set_exception(ValueError())

        for n, (begins, yes, which) in enumerate(steps):
            if begins:
                ends[n] = asyncio.get_running_loop().create_future()
                tasks.append(asyncio.create_task(go(n, yes)))
            elif inside:
                end(list(inside)[which % len(inside)], well=yes)
            await settle()
        while inside:
            for n in list(inside):
                end(n, well=True)
            await settle()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(each, ValueError | None) for each in found)

    asyncio.run(asyncio.wait_for(check(), 10))
