"""Runs the `plutus` command as a process of its own, as a person or a script does."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.stack import ROOT, Stack, Topics

_SECONDS = 60.0


@dataclass(frozen=True)
class Ran:
    """What a command left behind: its exit code, its data, and what it told."""

    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[Any]:
        """The data of a command that was given --json."""
        return [json.loads(line) for line in self.out.splitlines()]


def environment(stack: Stack, database: str, topics: Topics) -> dict[str, str]:
    """The settings by which a command finds the services of a test, and nothing of our own that it might read."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("KAFKA_", "DATABASE_", "PLUTUS_"))}
    return {
        **own,
        "KAFKA_BOOTSTRAP_SERVERS": stack.bootstrap,
        "DATABASE_URL": database,
        "KAFKA_TOPIC": topics.events,
        "KAFKA_DLQ_TOPIC": topics.dlq,
        "KAFKA_PARTITIONS": str(topics.partitions),
        "KAFKA_GROUP": f"{topics.events}.group",
    }


async def plutus(*arguments: str, env: Mapping[str, str], seconds: float = _SECONDS) -> Ran:
    """`plutus ARGUMENTS`, to its end, which must come within `seconds`."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "infra.cli.main", *arguments),
        env=env,
        cwd=ROOT,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(seconds):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return Ran(process.returncode, out.decode(), err.decode())
