"""README.md is true: its commands give what it says, its tests exist, its tables are the code's."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from infra.runtime.producer import Record
from tests.docs import readme
from tests.docs.contracts import asyncapi
from tests.docs.readme import README, Step
from tests.docs.running import Running, system
from tests.harness import connected, consume, envelope, eventually, is_drained, produce, worker_process
from tests.stack import ROOT, Stack, Topics
from tests.unchecked import not_checked, tool

pytestmark = pytest.mark.slow

_PATIENCE = 30.0
# May be asked again until the system has come so far; everything else is done once.
_QUESTIONS = (
    "curl -s localhost:8000/api/v1/events/",
    "plutus events",
    "plutus failures",
    "plutus dlq replay --dry-run",
)
# Every command outside of the sessions, and the test that runs it.
ELSEWHERE = {
    "make demo": "test_alone_every_count_is_exact_and_nothing_is_left",
    "make test": "itself",
    # They take minutes and a machine to themselves; what they would do is tested.
    "make bench-gateway": "test_every_scenario_can_be_asked_for_by_its_name",
    "make bench-worker": "test_every_scenario_can_be_asked_for_by_its_name",
    'make up ARGS="--handlers points"': "test_the_sessions_give_what_the_readme_says",
    "cp .example.env .env": "test_the_whole_product_comes_up",
    "docker compose up --build": "test_the_whole_product_comes_up",
    "docker compose up --build --scale worker=3": "test_more_workers_share_the_partitions",
    "docker compose exec api alembic upgrade head": "test_alembic_runs_inside_the_gateway",
    "docker compose --profile observability up --build": "test_the_profile_adds_grafana_and_jaeger",
}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The system that the tour starts, with the handlers that the README shows."""
    folder = tmp_path_factory.mktemp("readme")
    for name, text in readme.files().items():
        (folder / name).write_text(text)
    # The console pipe reads what comes back until it is over the limit: a low one makes that soon.
    with system(folder / "home", "--handlers", "points", python_path=folder, REPLAY_LIMIT="2") as started:
        yield started


@pytest.mark.timeout(600)
def test_the_sessions_give_what_the_readme_says(running: Running) -> None:
    tool("curl", "the README's sessions")
    left_out = []
    for step in readme.steps():
        if "kcat" in step.command and not _is_there("kcat"):
            left_out.append(step.command)
            continue
        _do(step, running)
    if left_out:
        not_checked(f"{len(left_out)} commands of the README with kcat", "kcat is not installed")


def _do(step: Step, running: Running) -> None:
    deadline = time.monotonic() + (_PATIENCE if step.command.startswith(_QUESTIONS) else 0.0)
    while True:
        ran = readme.run(step.command, running.environment, running.instead)
        right = ran.code == 0 and (not step.prints or readme.same(ran.output, step.prints))
        if right or time.monotonic() >= deadline:
            break
    assert ran.code == 0, f"{step.command}\n{ran.output}"
    assert right, f"$ {step.command}\n--- README\n{step.prints}\n--- printed\n{ran.output}"


def _is_there(program: str) -> bool:
    return shutil.which(program) is not None


def test_every_other_command_has_a_test_that_runs_it() -> None:
    assert set(readme.commands()) == set(ELSEWHERE)
    assert set(ELSEWHERE.values()) - _tests() <= {"itself"}


@pytest.mark.parametrize("target", ["demo", "up"])
def test_make_runs_the_command_that_is_tested(target: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(rf"^{target}: .*\n\t@?\$\(BIN\)/plutus {target} \$\(ARGS\)$", makefile, re.MULTILINE)


@pytest.mark.parametrize(
    "document", ["README.md", "ARCHITECTURE.md", "OPERATIONS.md", "SECURITY.md", "CONTRIBUTING.md"]
)
def test_every_test_that_a_document_names_exists(document: str) -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / document).read_text()))
    assert named <= _tests(), named - _tests()


@pytest.mark.parametrize(
    "document", ["README.md", "ARCHITECTURE.md", "OPERATIONS.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md"]
)
def test_every_link_leads_somewhere(document: str) -> None:
    text = (ROOT / document).read_text()
    headings = {re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in re.findall(r"^#+ (.+)$", text, re.M)}
    for target in re.findall(r"\]\(([^)#]*(?:#[\w-]+)?)\)", text):
        path, _, anchor = target.partition("#")
        if urlsplit(path).scheme:
            continue
        assert not path or (ROOT / path).exists(), target
        assert path or anchor in headings, target


@pytest.mark.parametrize(
    "document", ["README.md", "ARCHITECTURE.md", "OPERATIONS.md", "SECURITY.md", "CONTRIBUTING.md"]
)
def test_every_file_that_a_document_names_exists(document: str) -> None:
    there = {f"/{path.relative_to(ROOT)}" for path in ROOT.rglob("*") if path.suffix in (".py", ".sql", ".sh", ".lock")}
    shown = set(readme.files())
    for named in re.findall(r"`([\w/.]+\.(?:py|sql|sh|lock))`", (ROOT / document).read_text()):
        assert named in shown or any(path.endswith(f"/{named}") for path in there), named


def test_every_interleaving_has_a_test_that_carries_its_number() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text().partition("## Interleavings")[2]
    rows = dict(re.findall(r"^\| (\d+[a-z]?) \| (.+)$", text, re.MULTILINE))
    assert {int(number.rstrip("ab")) for number in rows} == set(range(1, 21))
    assert [number for number, row in rows.items() if f"`test_{number}_" not in row] == []


def test_every_promise_names_its_test() -> None:
    rows = re.findall(
        r"^\| (.+) \| (.+) \|$", README.read_text().partition("## Guarantees")[2].partition("\n## ")[0], re.M
    )
    assert len(rows) > 10
    for promise, proof in rows[2:]:
        assert re.search(r"`test_\w+`", proof), promise


def _tests() -> set[str]:
    files = (ROOT / "tests").rglob("test_*.py")
    return {name for file in files for name in re.findall(r"def (test_\w+)\(", file.read_text())}


@pytest.mark.timeout(180)
@pytest.mark.parametrize("which", ["kcat", "console"])
async def test_the_readme_replays_dead_letters_with_stock_tools(
    stack: Stack, database: str, topics: Topics, tmp_path: Path, which: str
) -> None:
    """The one-liner as it stands, once the cause is mended: each event takes effect once, however often it is run."""
    [command] = [step.command for step in readme.steps() if _is_replay(step.command) and which in step.command]
    if which == "kcat":
        tool("kcat", "the README's replay with kcat")
    handlers: dict[str, str | float] = {"WORKER_HANDLERS": "tests.effect_handlers", "WORKER_RETRY_ATTEMPTS": 1}
    events = [Record(b"s", envelope("s", f"k{n}", {"do": "later", "n": n}, type="effect")) for n in range(5)]
    instead = {
        "plutus.events.dlq": topics.dlq,
        "plutus.events": topics.events,
        "localhost:9092": stack.bootstrap,
        # How many there are is known here: no need to wait until no more come, however busy the machine is.
        "--timeout-ms 8000": f"--timeout-ms 60000 --max-messages {len(events)}",
    }
    environment = _environment(stack)
    async with (
        worker_process(stack, database, topics, tmp_path, start=True, **handlers) as worker,
        connected(database) as db,
    ):
        await produce(stack, topics.events, events)
        await eventually(lambda: is_drained(stack, topics, worker.group), what="all have failed")
        letters = await consume(stack, topics.dlq)
        assert len(letters) == 5
        for letter in letters:
            assert {name for name, _ in letter.headers} == _described_headers()
        assert await db.fetchval("SELECT count(*) FROM effects") == 0
        await db.execute("INSERT INTO mended DEFAULT VALUES")
        for _ in range(2):
            ran = await asyncio.to_thread(readme.run, command, environment, instead)
            assert ran.code == 0, ran.output
            await eventually(lambda: is_drained(stack, topics, worker.group), what="the replay is processed")
        effects = await db.fetch("SELECT note, count(*) FROM effects GROUP BY note ORDER BY note")
        assert [tuple(row) for row in effects] == [(f"k{n}", 1) for n in range(5)]
        assert await db.fetchval("SELECT count(*) FROM events WHERE status = 'PROCESSED'") == 5
        assert await db.fetchval("SELECT count(*) FROM failures WHERE status <> 'replayed'") == 0


def _described_headers() -> set[str]:
    """The headers that the AsyncAPI document gives a dead letter."""
    return set(asyncapi()["components"]["schemas"]["DeadLetterHeaders"]["properties"])


def _is_replay(command: str) -> bool:
    return "plutus.events.dlq" in command and " | " in command


def _environment(stack: Stack) -> dict[str, str]:
    return {**os.environ, "PATH": _path(), "KAFKA_BOOTSTRAP_SERVERS": stack.bootstrap}


def _path() -> str:
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
