"""Several gateway processes behind one port (or two, with the operators' own): the parent binds it, starts the children, replaces those that die, and adds up
their metrics. It takes no request itself.

The sums are made here alone, from what the children reported and from what dead ones had reported last, so no counter ever
goes down. A child that is killed takes at most the figures of its last second with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
import time
from typing import Final

from infra.runtime import log
from ingest_gateway.control import Ask, Channel, Page, Report, Scrape
from ingest_gateway.metrics import ParentMetrics
from ingest_gateway.server import Listeners
from ingest_gateway.settings import GatewaySettings
from ingest_gateway.sums import Snapshot, Totals, render, snapshot

_LOG = log.get(__name__)
_SHORTEST: Final = 0.5
_LONGEST: Final = 10.0
_SETTLED: Final = 30.0
_ASK_SECONDS: Final = 0.5
_GRACE: Final = 3.0


class _Living:
    """A child that is alive: its process, the channel to it, and what it reported last."""

    def __init__(self, process: asyncio.subprocess.Process, channel: Channel) -> None:
        self.process = process
        self.channel = channel
        self.latest: Snapshot = []
        self.reported = asyncio.Event()


class Parent:
    """Runs `settings.gateway_processes` children on the same listening sockets."""

    def __init__(self, settings: GatewaySettings, listeners: Listeners) -> None:
        self._settings = settings
        self._listeners = listeners
        self._living: dict[int, _Living] = {}
        self._totals = Totals()
        self._metrics = ParentMetrics()
        self._metrics.processes.set_function(lambda: len(self._living))
        self._stopping = asyncio.Event()
        self._answers: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Keep the children alive until SIGTERM or SIGINT, then stop them; a second signal kills them at once."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled)
        count = self._settings.gateway_processes
        keepers = [asyncio.create_task(self._keep(slot), name=f"keep-{slot}") for slot in range(count)]
        stopping = asyncio.create_task(self._stopping.wait())
        # A keeper ends only by an error of ours: then all stop, and the error comes out.
        await asyncio.wait([stopping, *keepers], return_when=asyncio.FIRST_COMPLETED)
        _LOG.info("The gateway stops.", action="draining")
        self._stopping.set()
        self._listeners.close()
        self._forward(signal.SIGTERM)
        settings = self._settings
        grace = settings.gateway_lame_duck + settings.gateway_drain_timeout + settings.gateway_flush_timeout + _GRACE
        _, late = await asyncio.wait(keepers, timeout=grace)
        if late:
            _LOG.warning("Processes did not stop in time and are killed.", action="killed", count=len(late))
            self._forward(signal.SIGKILL)
        await asyncio.gather(*keepers)
        _LOG.info("The gateway has stopped.", action="stopped")

    def _signalled(self) -> None:
        if self._stopping.is_set():
            self._forward(signal.SIGKILL)
        self._stopping.set()

    def _forward(self, number: signal.Signals) -> None:
        for child in self._living.values():
            with contextlib.suppress(ProcessLookupError):
                child.process.send_signal(number)

    async def _keep(self, slot: int) -> None:
        """One child after the other in this slot."""
        pause = _SHORTEST
        while not self._stopping.is_set():
            began = time.monotonic()
            code = await self._live(slot)
            if self._stopping.is_set():
                return
            self._metrics.restarts.inc()
            pause = _SHORTEST if time.monotonic() - began > _SETTLED else min(pause * 2, _LONGEST)
            _LOG.error(
                "A gateway process died and is replaced.", action="child_died", slot=slot, code=code, pause_s=pause
            )
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stopping.wait()

    async def _live(self, slot: int) -> int:
        """Start a child and listen to it until it is gone; its exit code."""
        ours, theirs = socket.socketpair()
        options = {"--listen-fd": self._listeners.public, "--control-fd": theirs}
        if self._listeners.operators is not None:
            options["--operators-fd"] = self._listeners.operators
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "ingest_gateway"),
                *("--slot", str(slot)),
                *(word for name, end in options.items() for word in (name, str(end.fileno()))),
                pass_fds=[end.fileno() for end in options.values()],
                # Ctrl-C on a terminal reaches the whole group; the children are told by us alone.
                start_new_session=True,
            )
        child = _Living(process, await Channel.over(ours))
        self._living[slot] = child
        if self._stopping.is_set():
            self._forward(signal.SIGTERM)
        try:
            await self._listen_to(child)
            child.channel.close()
            return await process.wait()
        finally:
            del self._living[slot]
            child.reported.set()
            self._totals.retire(child.latest)

    async def _listen_to(self, child: _Living) -> None:
        while (message := await child.channel.receive()) is not None:
            if isinstance(message, Report):
                child.latest = message.families
                child.reported.set()
            elif isinstance(message, Scrape):
                answer = asyncio.create_task(self._answer(child, message.number), name="scrape")
                self._answers.add(answer)
                answer.add_done_callback(self._answers.discard)

    async def _answer(self, asking: _Living, number: int) -> None:
        """Ask all children, wait a moment for their reports, and send the sums; who is silent counts as last reported."""
        living = list(self._living.values())
        for child in living:
            child.reported.clear()
            child.channel.send(Ask())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ASK_SECONDS):
                for child in living:
                    await child.reported.wait()
        mine = snapshot(self._metrics.registry)
        everything = self._totals.over([mine, *(child.latest for child in self._living.values())])
        asking.channel.send(Page(number, render(everything)))
