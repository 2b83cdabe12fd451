"""CPU-bound work beside the event loop, so that heartbeats and the other partitions go on.

    from stream_worker import Event, Transaction, handler, in_thread

    @handler(type="photo_uploaded", timeout=10)
    async def keep_thumbnail(event: Event, tx: Transaction) -> None:
        small = await in_thread(thumbnail, event.data["image"])
        await tx.execute("INSERT INTO thumbnails (event_id, image) VALUES ($1, $2)", event.id, small)

Only the function runs in the thread: it must not touch the transaction, and its arguments and result must not be shared
with anybody. A worker has as many threads as the machine has processors, at most eight; whoever comes when all are busy
waits, and the waiting counts against the handler's deadline.

Past the deadline the event is retried, but a thread cannot be stopped: it runs to its end, keeps its place until then,
and what it returns is dropped. Pure Python code takes turns with the event loop (the interpreter's lock), which keeps
heartbeats alive but is no faster; what gains is code that lets go of the lock: hashing, compression, numpy, images.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import os
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

SIZE: Final = min(8, os.cpu_count() or 1)
"""Threads of a worker."""

_PLACES: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = weakref.WeakKeyDictionary()


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a plain function in a thread and wait for what it returns, or raises.

    Context variables (the current trace, for example) are the caller's.

    Raises:
        whatever the function raises.
    """
    loop = asyncio.get_running_loop()
    places = _PLACES.setdefault(loop, asyncio.Semaphore(SIZE))
    await places.acquire()
    try:
        work = loop.run_in_executor(
            _pool(), functools.partial(contextvars.copy_context().run, function, *args, **kwargs)
        )
    except RuntimeError:  # the process is ending
        places.release()
        raise
    work.add_done_callback(functools.partial(_free, places))
    # Unlike `await work`, this leaves the work alone when the caller gives up: its place is taken until it ends.
    await asyncio.wait([work])
    return work.result()


def _free(places: asyncio.Semaphore, work: asyncio.Future[Any]) -> None:
    places.release()
    if not work.cancelled():
        work.exception()  # read, even where nobody waits any more


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(SIZE, thread_name_prefix="plutus-handler")
