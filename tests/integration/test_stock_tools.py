"""infra/docs/stock-tools.md is true: its commands, with the real tools, on a real broker and a real worker."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest

from infra.runtime.producer import Record
from tests.cli_kit import environment, plutus
from tests.harness import (
    Service,
    connected,
    consume,
    end_offsets,
    envelope,
    eventually,
    is_drained,
    produce,
    worker_process,
)
from tests.stack import ROOT, Stack, Topics
from tests.unchecked import tool

pytestmark = pytest.mark.slow

GUIDE = ROOT / "infra/docs/stock-tools.md"
LIMIT = 3
_SECONDS = 60.0
TOOLS = ("kcat", "console")


def commands(section: str, which: str = "") -> list[str]:
    """The commands in a section of the guide that use this tool."""
    _, _, text = GUIDE.read_text().partition(f"\n## {section}\n")
    blocks = re.findall(r"^```sh\n(.*?)^```$", text.partition("\n## ")[0], re.MULTILINE | re.DOTALL)
    return [block.strip() for block in blocks if which in block]


@dataclass
class Place:
    """A worker on topics and a database of its own."""

    stack: Stack
    topics: Topics
    worker: Service
    db: asyncpg.Connection

    async def send(self, *records: Record) -> None:
        """Publish, and wait until the worker is done with it."""
        await produce(self.stack, self.topics.events, records)
        await self.drained()

    async def drained(self) -> None:
        """Wait until the worker has committed all there is."""
        await eventually(lambda: is_drained(self.stack, self.topics, self.worker.group), what="drained")

    async def effects(self) -> dict[str, int]:
        """How often each event took effect."""
        return {row[0]: row[1] for row in await self.db.fetch("SELECT note, count(*) FROM effects GROUP BY note")}

    async def count(self, topic: str) -> int:
        """How many records a topic has been given."""
        return sum((await end_offsets(self.stack, topic)).values())

    @asynccontextmanager
    async def shell(self, command: str) -> AsyncIterator[asyncio.subprocess.Process]:
        """A command of the guide, running, with the addresses of this place; with all its tools it ends here."""
        here = {"plutus.events": self.topics.events, "localhost:9092": self.stack.bootstrap}
        for written, real in {"plutus.events.dlq": self.topics.dlq, **here}.items():
            command = command.replace(written, real)
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        process = await asyncio.create_subprocess_exec(
            *("bash", "-o", "pipefail", "-c", command),
            cwd=ROOT,
            env={**os.environ, "PATH": path, "KAFKA_BOOTSTRAP_SERVERS": self.stack.bootstrap},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                os.killpg(process.pid, 9)
                await process.communicate()

    async def run(self, command: str) -> str:
        """The same, to its end; returns what it printed."""
        async with asyncio.timeout(_SECONDS), self.shell(command) as process:
            out, _ = await process.communicate()
            assert process.returncode == 0, out.decode(errors="replace")
        return out.decode(errors="replace")

    async def replay(self, which: str) -> None:
        """The guide's replay of everything, and wait until the worker is done with it."""
        [command] = [c for c in commands("Replay", which) if "grep" not in c]
        await self.run(command)
        await self.drained()


@pytest.fixture
async def place(stack: Stack, database: str, topics: Topics, tmp_path: Path) -> AsyncIterator[Place]:
    settings: dict[str, str | float] = {"WORKER_HANDLERS": "tests.effect_handlers", "REPLAY_LIMIT": LIMIT}
    async with (
        worker_process(stack, database, topics, tmp_path, start=True, **settings) as worker,
        connected(database) as db,
    ):
        yield Place(stack, topics, worker, db)


def event(key: str, do: str = "") -> Record:
    """An event whose handler leaves a row, or fails as told."""
    return Record(b"shop", envelope("shop", key, {"do": do, "text": "a\tb \u00e9"}, type="effect"))


async def test_an_event_of_either_tool_is_processed_once(place: Place) -> None:
    tool("kcat", "the guide's producers")
    both = [commands("Produce", which) for which in TOOLS]
    assert [len(each) for each in both] == [1, 1]
    for [command] in both * 2:
        await place.run(command)
    await place.drained()
    assert await place.effects() == {"order-1": 1, "order-2": 1}
    records = await consume(place.stack, place.topics.events)
    assert {record.key for record in records} == {b"shop"}
    assert len({record.partition for record in records}) == 1, "both choose the partition by murmur2"


async def test_dead_letters_are_shown_with_where_they_are_from_and_why(place: Place) -> None:
    tool("kcat", "the guide's look at dead letters")
    await place.send(event("k1", "fail"))
    for command in commands("Look at dead letters"):
        shown = await place.run(command)
        assert "plutus-dlq-reason" in shown
        assert "handler_error" in shown
        assert place.topics.events in shown
        assert "idempotency_key" not in shown, "no value was asked for"


@pytest.mark.parametrize("which", TOOLS)
async def test_a_replay_takes_effect_once_however_often_it_is_run(place: Place, which: str) -> None:
    if which == "kcat":
        tool("kcat", "the guide's replay with kcat")
    await place.send(*(event(f"k{n}", "bug") for n in range(3)), event("done"), event("gone", "fail"))
    assert (await place.effects(), await place.count(place.topics.dlq)) == ({"done": 1}, 4)
    await place.db.execute("INSERT INTO mended DEFAULT VALUES")

    once = {"done": 1, **{f"k{n}": 1 for n in range(3)}}
    await place.replay(which)
    assert await place.effects() == once
    # What still fails is dead-lettered again, and may be read again by a consumer that waits for silence.
    assert 5 <= await place.count(place.topics.dlq) <= 4 + LIMIT - 1
    await place.replay(which)
    assert await place.effects() == once
    left = await place.db.fetch(
        "SELECT DISTINCT e.idempotency_key FROM failures f JOIN events e USING (event_id) WHERE f.status = 'open'"
    )
    assert [row[0] for row in left] == ["gone"]


async def test_only_those_with_one_reason(place: Place) -> None:
    tool("kcat", "the guide's replay by reason")
    await place.send(event("k1", "bug"), Record(b"shop", b"no JSON, plutus-dlq-reason=handler_error, it says"))
    await place.db.execute("INSERT INTO mended DEFAULT VALUES")
    [command] = [c for c in commands("Replay", "kcat") if "grep" in c]
    await place.run(command)
    await place.drained()
    assert await place.effects() == {"k1": 1}
    assert await place.count(place.topics.events) == 3, "the other one was not sent"


async def test_19_what_is_not_one_line_with_a_key_is_not_carried_and_plutus_carries_it(
    place: Place, database: str
) -> None:
    """Interleaving 19: kcat tears a value with a line break in two, and what comes of it is refused: no effect, and no
    harm to the original, which `plutus dlq replay` sends back byte for byte."""
    tool("kcat", "a replay of two lines")
    one = event("torn", "bug").value or b""
    torn = one.replace(b", ", b",\n", 1)
    await place.send(Record(b"shop", torn), Record(None, event("keyless", "bug").value))
    await place.db.execute("INSERT INTO mended DEFAULT VALUES")
    await place.replay("kcat")
    reasons = await place.db.fetch("SELECT reason FROM failures WHERE event_id IS NULL")
    assert [row[0] for row in reasons] == ["malformed_json"] * 2, "the two halves"
    assert await place.effects() == {"keyless": 1}, "an empty key is as good as none"
    ran = await plutus("dlq", "replay", "--key", "torn", env=environment(place.stack, database, place.topics))
    assert ran.code == 0, ran.err
    await place.drained()
    assert await place.effects() == {"keyless": 1, "torn": 1}


@pytest.mark.parametrize("which", TOOLS)
async def test_a_bare_loop_ends_by_itself(place: Place, which: str) -> None:
    """Neither -e nor --timeout-ms: the two ends feed each other until the limit is reached."""
    if which == "kcat":
        tool("kcat", "a bare loop of kcat")
    await place.send(Record(b"shop", b"no JSON"), event("k1", "fail"))
    [replay] = [c for c in commands("Replay", which) if "grep" not in c]
    async with place.shell(_bare(replay)) as process:
        await eventually(lambda: _at_the_limit(place), within=_SECONDS, what="both are at the limit")
        await place.drained()
        assert process.returncode is None
    # The last refusals are in no topic: there is nothing left that the loop could have read.
    assert await place.count(place.topics.dlq) == 2 * LIMIT
    assert await place.count(place.topics.events) == 2 * (LIMIT + 1)
    assert await place.effects() == {}


def _bare(command: str) -> str:
    """The replay without what ends it, and without buffers, so that it goes round at once. kcat reads a pipe by the
    kilobyte: it gets a pipe of its own for every line."""
    consumer, _, producer = command.partition(" |\n")
    if "kcat" in producer:
        producer = f"while IFS= read -r line; do printf '%s\\n' \"$line\" | {producer.strip()}; done"
    endless = consumer.replace(" -e -q", " -u -q").replace(" --timeout-ms 8000", "")
    assert endless != consumer
    return f"{endless} | {producer.replace('console-producer', 'console-producer --timeout 50')}"


async def _at_the_limit(place: Place) -> bool:
    limited: int = await place.db.fetchval("SELECT count(*) FROM failures WHERE reason = 'replay_limit'")
    return limited == 2


def test_the_guide_is_run_whole() -> None:
    assert [len(commands(section)) for section in ("Produce", "Look at dead letters", "Replay")] == [2, 2, 3]
    assert GUIDE.read_text().count("```sh\n") == 7
    assert shutil.which("bash")
