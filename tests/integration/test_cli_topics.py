"""`plutus topics` against a real broker."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from infra.local.endpoints import Endpoints
from infra.local.home import Home
from tests.cli_kit import environment, plutus
from tests.stack import Stack, Topics

UNUSED_DATABASE = "postgresql://nobody:nothing@127.0.0.1:1/none"


@pytest.fixture
def env(stack: Stack) -> dict[str, str]:
    """Settings that name a pair of topics which do not exist."""
    token = uuid.uuid4().hex[:12]
    return environment(stack, UNUSED_DATABASE, Topics(f"test.{token}", f"test.{token}.dlq", 2))


async def test_topics_are_created_once_and_as_wanted(env: dict[str, str]) -> None:
    missing = await plutus("topics", "check", env=env)
    assert missing.code == 1
    assert missing.out.count("does not exist: run `plutus topics create`") == 2

    made = await plutus("topics", "create", "--json", env=env)
    assert (made.code, made.rows) == (0, [{"created": [env["KAFKA_TOPIC"], env["KAFKA_DLQ_TOPIC"]], "existing": []}])

    again = await plutus("topics", "create", env=env)
    assert (again.code, again.out) == (0, "")
    assert again.err.count("exists already") == 2
    assert "warning" not in again.err

    checked = await plutus("topics", "check", "--json", env=env)
    assert (checked.code, checked.rows) == (0, [{"ok": True, "differences": []}])


async def test_what_differs_is_told_and_left_as_it_is(env: dict[str, str]) -> None:
    await plutus("topics", "create", env=env)
    other = {**env, "KAFKA_PARTITIONS": "3", "KAFKA_RETENTION_DAYS": "7"}

    created = await plutus("topics", "create", env=other)
    assert created.code == 0
    assert "retention.ms is 2592000000, 604800000 wanted" in created.err

    checked = await plutus("topics", "check", env=other)
    assert checked.code == 1
    assert checked.out.splitlines() == [
        f"topic {env['KAFKA_TOPIC']} has 2 partitions, 3 wanted",
        f"topic {env['KAFKA_TOPIC']}: retention.ms is 2592000000, 604800000 wanted",
        f"topic {env['KAFKA_DLQ_TOPIC']} has 2 partitions, 3 wanted",
    ]


async def test_looking_creates_nothing(env: dict[str, str], stack: Stack) -> None:
    await plutus("topics", "check", env=env)
    admin = AIOKafkaAdminClient(bootstrap_servers=stack.bootstrap)
    await admin.start()
    try:
        assert not {env["KAFKA_TOPIC"], env["KAFKA_DLQ_TOPIC"]} & set(await admin.list_topics())
    finally:
        await admin.close()


async def test_a_refusal_says_why(env: dict[str, str]) -> None:
    refused = await plutus("topics", "create", env={**env, "KAFKA_REPLICATION_FACTOR": "3"})
    assert refused.code == 1
    assert "Unable to replicate the partition 3 time(s)" in refused.err


async def test_no_broker_is_69_with_what_to_do(env: dict[str, str]) -> None:
    ran = await plutus("topics", "check", env={**env, "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"})
    assert (ran.code, ran.out) == (69, "")
    assert "Kafka at 127.0.0.1:1 did not answer" in ran.err
    assert "try: " in ran.err
    assert "Traceback" not in ran.err


async def test_nothing_to_talk_to_names_plutus_up(env: dict[str, str], tmp_path: Path) -> None:
    bare = {name: value for name, value in env.items() if name not in ("KAFKA_BOOTSTRAP_SERVERS", "DATABASE_URL")}
    ran = await plutus("topics", "check", env={**bare, "PLUTUS_HOME": str(tmp_path)})
    assert ran.code == 69
    assert "plutus up" in ran.err


async def test_wrong_settings_are_told_together(env: dict[str, str]) -> None:
    ran = await plutus("topics", "check", env={**env, "KAFKA_PARTITIONS": "many", "KAFKA_RETENTION_DAYS": "-1"})
    assert ran.code == 2
    assert "KAFKA_PARTITIONS" in ran.err
    assert "KAFKA_RETENTION_DAYS" in ran.err
    assert "many" not in ran.err


async def test_the_system_of_plutus_up_is_found_and_spoken_to_plainly(
    env: dict[str, str], stack: Stack, tmp_path: Path
) -> None:
    bare = {name: value for name, value in env.items() if name not in ("KAFKA_BOOTSTRAP_SERVERS", "DATABASE_URL")}
    foreign = {**bare, "PLUTUS_HOME": str(tmp_path), "KAFKA_SECURITY_PROTOCOL": "SSL"}
    Endpoints("http://g", "http://g", (), stack.bootstrap, UNUSED_DATABASE).write(tmp_path)
    assert (await plutus("topics", "create", env=foreign)).code == 69
    with Home(tmp_path, lambda line: None):
        created = await plutus("topics", "create", env=foreign)
    assert created.code == 0, created.err
