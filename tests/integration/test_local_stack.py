"""Kafka and Postgres of the local mode: kept data, kill -9 of everything, and errors in one line."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from infra.local import coordinator
from infra.local.errors import LocalError
from infra.local.settings import LocalSettings
from infra.local.stack import LocalStack
from tests import stack as real
from tests.stack import Stack

pytestmark = pytest.mark.slow

SECRET = "a-payload-nobody-may-read"


def quiet(line: str) -> None:
    """Say nothing."""


def local(folder: Path, **settings: object) -> LocalStack:
    """A stack in that folder."""
    return LocalStack(folder, LocalSettings(**settings), quiet)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose servers hold data and were killed with -9, all at once, while at work."""
    folder = tmp_path_factory.mktemp("used")
    stack = local(folder)
    stack.start()
    try:
        services = Stack(stack.bootstrap, stack.dsn)
        asyncio.run(_fill(services))
        for pid in stack.supervisor.pids().values():
            os.kill(pid, signal.SIGKILL)
    finally:
        stack.stop()
    return folder


async def _fill(services: Stack) -> None:
    topics = await real.make_topics(services, 2)
    async with (
        asyncio.timeout(30),
        AIOKafkaProducer(bootstrap_servers=services.bootstrap, acks="all", enable_idempotence=True) as producer,
    ):
        for number in range(100):
            await producer.send_and_wait(topics.events, b"%d" % number, key=b"%d" % number)
    async with asyncio.timeout(30):
        connection = await asyncpg.connect(services.dsn)
        await connection.execute("CREATE TABLE kept (topic text)")
        await connection.execute("INSERT INTO kept VALUES ($1)", topics.events)
        with pytest.raises(asyncpg.InvalidTextRepresentationError):
            await connection.execute(f"SELECT '{SECRET}'::int")
        with pytest.raises(asyncpg.DataError):
            await connection.fetchval("SELECT ($1::text)::json", SECRET)
        await connection.close()


async def _read_back(services: Stack) -> int:
    async with asyncio.timeout(30):
        connection = await asyncpg.connect(services.dsn)
        topic = await connection.fetchval("SELECT topic FROM kept")
        await connection.close()
        seen: set[bytes | None] = set()
        async with AIOKafkaConsumer(
            topic, bootstrap_servers=services.bootstrap, group_id="again", auto_offset_reset="earliest"
        ) as consumer:
            while len(seen) < 100:
                seen.add((await consumer.getone()).value)
    return len(seen)


def test_nothing_is_lost_when_both_are_killed(used: Path) -> None:
    with local(used) as stack:
        assert asyncio.run(_read_back(Stack(stack.bootstrap, stack.dsn))) == 100


def test_no_payload_reaches_the_servers_log(used: Path) -> None:
    for log in (used / "logs").iterdir():
        assert SECRET not in log.read_text(), log
    assert "ready to accept connections" in (used / "logs" / "postgres.log").read_text()


def test_the_servers_listen_on_this_machine_alone(used: Path) -> None:
    with local(used) as stack:
        for name, pid in stack.supervisor.pids().items():
            addresses = _listening(pid)
            assert addresses, name
            assert all(address.endswith("0100007F") for address in addresses), (name, addresses)


def _listening(pid: int) -> list[str]:
    """Addresses (hexadecimal, as the kernel lists them) that a process listens on."""
    own = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            own.add(os.readlink(descriptor))
    rows = [row.split() for table in ("tcp", "tcp6") for row in Path(f"/proc/net/{table}").read_text().splitlines()]
    return [row[1].rpartition(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in own]


def test_a_stale_pid_file_of_somebody_elses_pid_does_not_keep_postgres_down(used: Path) -> None:
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        (used / "postgres" / "postmaster.pid").write_text(f"{stranger.pid}\n/elsewhere\n0\n1\n\n127.0.0.1\n0 0\n")
        with local(used) as stack:
            assert stack.dsn.startswith("postgresql://plutus:")
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.parametrize("variable", ["kafka_port", "postgres_port"])
def test_a_busy_port_is_named(tmp_path: Path, variable: str) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        with pytest.raises(LocalError, match=f"Port {port} is in use.*{variable.upper()}"):
            local(tmp_path, **{variable: port}).start()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("version", "was made by PostgreSQL 12, this is 18"),
        ("no version", "is no PostgreSQL data folder"),
        ("password", r"postgres\.password is missing"),
    ],
)
def test_a_folder_that_is_not_ours_is_refused(used: Path, tmp_path: Path, damage: str, message: str) -> None:
    (tmp_path / "postgres").mkdir()
    if damage != "no version":
        (tmp_path / "postgres" / "PG_VERSION").write_text("12\n" if damage == "version" else "18\n")
    with pytest.raises(LocalError, match=message):
        local(tmp_path).start()
    with pytest.raises(LocalError, match=message):  # and gave the folder back
        local(tmp_path).start()


def test_a_damaged_postgres_is_one_line(used: Path) -> None:
    control = used / "postgres" / "global" / "pg_control"
    kept = control.read_bytes()
    control.write_bytes(b"\0" * len(kept))
    try:
        with pytest.raises(
            LocalError,
            match=r"^postgres exited with code \d+: .*(FATAL|PANIC).*\(log: .*postgres\.log\)\. .*move .*postgres away",
        ) as error:
            local(used).start()
        assert "\n" not in str(error.value)
    finally:
        control.write_bytes(kept)


def test_a_damaged_kafka_is_one_line(used: Path) -> None:
    meta = used / "kafka" / "log" / "meta.properties"
    kept = meta.read_bytes()
    meta.write_text("version=1\ncluster.id=another\nnode.id=7\n")
    try:
        with pytest.raises(
            LocalError, match=r"^kafka exited with code \d+: .*\(log: .*kafka\.log\)\. .*move .*kafka away"
        ) as error:
            local(used).start()
        assert "\n" not in str(error.value)
    finally:
        meta.write_bytes(kept)


def test_a_java_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="PLUTUS_JAVA"):
        local(tmp_path, plutus_java="/bin/true").start()


def test_postgres_executables_that_are_none_are_named(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="PLUTUS_PG_BIN"):
        local(tmp_path, plutus_pg_bin=str(tmp_path)).start()


def test_an_awkward_folder_name_is_fine(tmp_path: Path) -> None:
    with local(tmp_path / "a b,c = ü'%") as stack:
        assert coordinator.is_answering(int(stack.bootstrap.split(":")[1]))


async def test_sizes_are_settings(tmp_path: Path) -> None:
    with local(tmp_path, postgres_shared_buffers="32MB", postgres_max_wal_size="256MB") as stack:
        async with asyncio.timeout(30):
            connection = await asyncpg.connect(stack.dsn)
            assert await connection.fetchval("SHOW shared_buffers") == "32MB"
            assert await connection.fetchval("SHOW max_wal_size") == "256MB"
            await connection.close()
