"""Work in threads: beside the loop, bounded, its context and its errors the caller's."""

from __future__ import annotations

import asyncio
import contextvars
import threading

import pytest

from stream_worker.handlers import in_thread, threads

WAIT = 10.0
WHO: contextvars.ContextVar[str] = contextvars.ContextVar("who")


async def test_it_runs_elsewhere_with_the_callers_context() -> None:
    WHO.set("caller")
    assert await in_thread(lambda: (WHO.get(), threading.current_thread() is threading.main_thread())) == (
        "caller",
        False,
    )


async def test_arguments_and_errors_pass_through() -> None:
    assert await in_thread(int, "11", base=2) == 3
    with pytest.raises(ValueError, match="invalid literal"):
        await in_thread(int, "x")


async def test_the_loop_goes_on_meanwhile() -> None:
    go = threading.Event()
    work = asyncio.create_task(in_thread(go.wait, WAIT))
    await asyncio.sleep(0)
    assert not work.done()
    go.set()
    assert await work


async def test_no_more_run_than_there_are_threads_and_all_get_their_turn() -> None:
    running, most, lock = 0, 0, threading.Lock()
    full, go = threading.Event(), threading.Event()

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
            if running == threads.SIZE:
                full.set()
        go.wait(WAIT)
        with lock:
            running -= 1

    everyone = [asyncio.create_task(in_thread(work)) for _ in range(3 * threads.SIZE)]
    assert await asyncio.to_thread(full.wait, WAIT)
    # What waits, waits here and not in the executor's queue, which has no bound.
    assert threads._pool()._work_queue.qsize() == 0
    go.set()
    async with asyncio.timeout(WAIT):
        await asyncio.gather(*everyone)
    assert most == threads.SIZE


async def test_past_the_deadline_the_thread_keeps_its_place_and_its_error_is_read() -> None:
    started, go = threading.Event(), threading.Event()

    def stuck() -> None:
        started.set()
        go.wait(WAIT)
        raise RuntimeError("too late")

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await in_thread(stuck)
    assert started.wait(WAIT)
    places = threads._PLACES[asyncio.get_running_loop()]
    assert places._value == threads.SIZE - 1
    go.set()
    async with asyncio.timeout(WAIT):
        for _ in range(threads.SIZE):
            await places.acquire()
    for _ in range(threads.SIZE):
        places.release()
    assert await in_thread(int, "7") == 7
