"""`plutus demo` as a person runs it. What it promises when processes are killed meanwhile is tested with the faults."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from infra.local.endpoints import FILE, Endpoints
from tests.cli_kit import environment, plutus
from tests.harness import eventually, gateway_process, worker_process
from tests.stack import ROOT, Stack, Topics

pytestmark = pytest.mark.slow

SECONDS = 200.0
QUAKES = 1707


@asynccontextmanager
async def demo(folder: Path, *arguments: str) -> AsyncIterator[Process]:
    """`plutus demo` alone, its fresh folder somewhere below `folder`."""
    env = environment(Stack("", ""), "", Topics("plutus.events", "plutus.events.dlq", 12))
    for name in ("KAFKA_BOOTSTRAP_SERVERS", "DATABASE_URL"):
        del env[name]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "infra.cli.main", "demo", *arguments),
        env={**env, "TMPDIR": str(folder)},
        cwd=ROOT,
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def files_in(folder: Path) -> list[str]:
    """What is left there."""
    return [path.name for path in folder.iterdir()]


def processes_of(folder: Path) -> list[int]:
    """Processes whose command, working folder or open files lie below `folder`."""
    return [int(entry.name) for entry in Path("/proc").glob("[0-9]*") if _uses(entry, str(folder))]


def _uses(process: Path, folder: str) -> bool:
    try:
        links = [process / "cwd", *(process / "fd").iterdir()]
        opened = [str(link.readlink()) for link in links if link.is_symlink()]
        return any(path.startswith(folder) for path in opened) or folder in (process / "cmdline").read_text()
    except OSError:
        return False


@pytest.mark.timeout(SECONDS)
async def test_alone_every_count_is_exact_and_nothing_is_left(tmp_path: Path) -> None:
    async with demo(tmp_path, "--json") as process, asyncio.timeout(SECONDS):
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    (told,) = (json.loads(line) for line in out.decode().splitlines())
    total = told["sources"][-1]
    assert (told["exact"], told["off"]) == (True, [])
    assert (total["stored"], total["processed"], total["handled"]) == (QUAKES, QUAKES, QUAKES)
    assert (total["sent_post"], total["sent_kafka"]) == (2 * QUAKES + 5, QUAKES + 5)
    assert (total["refused"], total["dead_letters"]) == (5, 5)
    assert total["accepted"] + total["duplicate_http"] == 2 * QUAKES
    assert 0 < told["created_by_http"] < QUAKES
    assert len(told["sources"]) == 12 + 3
    for line in ("starting Kafka and Postgres", "sent 5,", "every count is exact"):
        assert line in err.decode()
    assert files_in(tmp_path) == []
    assert processes_of(tmp_path) == []


@pytest.mark.timeout(SECONDS)
@pytest.mark.parametrize(
    ("number", "moment"), [(signal.SIGTERM, b"starting the gateway"), (signal.SIGINT, b"gateway http")]
)
async def test_interrupted_it_leaves_nothing(tmp_path: Path, number: signal.Signals, moment: bytes) -> None:
    async with demo(tmp_path) as process, asyncio.timeout(SECONDS):
        assert process.stderr is not None
        told = b""
        while moment not in told:
            told += (line := await process.stderr.readline())
            assert line, f"it ended before it was interrupted: {told.decode()}"
        assert len(processes_of(tmp_path)) > 2
        process.send_signal(number)
        out, _ = await process.communicate()
    assert (process.returncode, out) == (130, b"")
    await eventually(lambda: processes_of(tmp_path) == [], within=10)
    assert files_in(tmp_path) == []


@pytest.mark.timeout(SECONDS)
async def test_against_a_running_system_it_says_which_count_is_off(
    stack: Stack, database: str, topics: Topics, tmp_path: Path
) -> None:
    env = environment(stack, database, topics)
    group = env["KAFKA_GROUP"]
    async with (
        gateway_process(stack, database, topics, tmp_path, GATEWAY_BODY_BYTES=1024) as gateway,
        worker_process(stack, database, topics, tmp_path, KAFKA_GROUP=group) as worker,
    ):
        Endpoints(gateway.url, gateway.url, (worker.url,), stack.bootstrap, database).write(tmp_path)
        ran = await plutus("demo", "--against", str(tmp_path / FILE), "--json", env=env, seconds=SECONDS)
    assert ran.code == 1
    (told,) = ran.rows
    total = told["sources"][-1]
    # The long spellings are refused; what took effect is exact all the same.
    answered = total["accepted"] + total["duplicate_http"]
    assert told["off"] == [
        f"POSTs answered 202 or 200: {answered:,}, {2 * QUAKES:,} wanted",
        f"POSTs of earthquakes answered in a way that has no meaning here: 413 ({2 * QUAKES - answered})",
    ]
    for sentence in told["off"]:
        assert f"off: {sentence}" in ran.err
    assert (total["stored"], total["processed"], total["dead_letters"]) == (QUAKES, QUAKES, 5)
    assert "no handler" not in ran.out


async def test_a_file_that_is_not_there_names_plutus_up(tmp_path: Path) -> None:
    ran = await plutus("demo", "--against", str(tmp_path / "nowhere.json"), env={})
    assert ran.code == 1
    assert "plutus up" in ran.err
