"""Ctrl-C: once is after this batch, twice is now."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from infra.cli.sending import stopping_on_signals
from tests.harness import eventually


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_the_first_signal_stops_after_the_batch_and_the_second_at_once(number: signal.Signals) -> None:
    stop = asyncio.Event()
    inside = asyncio.Event()

    async def command() -> None:
        with stopping_on_signals(stop):
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(command())
    await inside.wait()
    os.kill(os.getpid(), number)
    await asyncio.wait_for(stop.wait(), 5)
    assert not task.done()
    os.kill(os.getpid(), number)
    await eventually(task.done, within=5)
    assert task.cancelled()
