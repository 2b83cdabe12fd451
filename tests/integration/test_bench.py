"""The benchmarks as a person starts them, tiny: what they tell is there and is about what it says, not whether it is fast."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.stack import ROOT, Stack

pytestmark = pytest.mark.slow

SECONDS = 110.0
PEERS = "PLUTUS_BENCH_PEERS"


def bench(stack: Stack, folder: Path, *arguments: str) -> tuple[list[dict[str, Any]], str]:
    """The lines that one round tells, and what it says to a person."""
    servers = ("--kafka", stack.bootstrap, "--postgres", stack.dsn)
    short = ("--rounds", "1", "--seconds", "0.5", "--warmup", "0.2", "--own-load")
    done = subprocess.run(
        [sys.executable, "-m", "infra.bench", *arguments, *servers, *short, "--report", str(folder / "report")],
        cwd=ROOT,
        env={**{name: value for name, value in os.environ.items() if name != PEERS}, "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [path.name for path in folder.iterdir()] == ["report"], "it cleans up after itself"
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def test_the_gateways_benchmark_tells_figures_ratios_and_a_report(stack: Stack, tmp_path: Path) -> None:
    lines, _ = bench(stack, tmp_path, "gateway", "--only", "cpu")
    plutus, bare = lines[:2]
    assert (plutus["who"], bare["who"]) == ("plutus", "bare")
    assert plutus["rate"] > 0
    assert plutus["refused"] == plutus["broken"] == bare["refused"] == bare["broken"] == 0
    # Every answer that is counted was about an event of its own; those in flight at the end were created as well.
    assert plutus["created"] >= 1.0
    assert plutus["duplicates"] == 0
    (ratio,) = lines[2:]
    assert ratio["ratio"] == "plutus cpu_us / bare"
    assert abs(ratio["median"] / (plutus["cpu_us"] / bare["cpu_us"]) - 1) < 0.01
    assert "plutus cpu_us / bare" in (tmp_path / "report" / "gateway.html").read_text()


def test_the_workers_benchmark_tells_figures_and_what_it_did_not_measure(stack: Stack, tmp_path: Path) -> None:
    lines, said = bench(stack, tmp_path, "worker", "--only", "drain-1", "latency", "--events", "3000")
    told = {(line["scenario"], line["who"]): line for line in lines if "who" in line}
    # That all was stored exactly is part of measuring it.
    assert told["drain-1", "plutus"]["rate"] > 0
    assert told["latency", "plutus"]["unseen"] == 0
    assert told["latency", "plutus"]["p50_ms"] > told["latency", "plutus"]["post_p50_ms"] > 0
    assert [line["not_measured"] for line in lines if "not_measured" in line] == ["bento"]
    assert f"NOT MEASURED: drain-1, bento: {PEERS} names no folder of peers" in said
    assert "<svg" in (tmp_path / "report" / "worker.html").read_text()
