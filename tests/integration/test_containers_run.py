"""The whole of the compose file on a Docker API, as a new user starts it: `make test-containers`.

The tests share one project and build on each other, in their order.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from tests import containers
from tests.containers import Compose
from tests.harness import envelope, eventually
from tests.stack import ROOT
from tests.unchecked import not_checked

pytestmark = pytest.mark.timeout(1800)
_UP = ("up", "--build", "--detach", "--wait", "--wait-timeout", "300")
_CONTRACT = (
    "ingest_requests_total",
    "raw_events_created_total",
    "raw_events_duplicate_total",
    "processing_success_total",
    "processing_failure_total",
)


@pytest.fixture(scope="module")
def compose(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compose]:
    """The project, not yet up."""
    containers.require_docker("the compose file on a Docker API")
    variables = containers.images(tmp_path_factory.mktemp("standins"))
    with containers.fresh(tmp_path_factory.mktemp("checkout"), **variables) as project:
        yield project


@pytest.fixture
async def api(compose: Compose) -> AsyncIterator[httpx.AsyncClient]:
    """Talks to the gateway."""
    url = f"http://127.0.0.1:{compose.ports['GATEWAY_HOST_PORT']}"
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as client:
        yield client


async def post(api: httpx.AsyncClient, key: str, status: int = 202) -> str:
    """POST an event; its id."""
    body = envelope("compose", key, {"n": key})
    answer = await api.post("/api/v1/ingest", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == status, answer.text
    return str(answer.json()["event_id"])


async def is_processed(api: httpx.AsyncClient, event_id: str) -> bool:
    """What the gateway says of it."""
    answer = await api.get(f"/api/v1/events/{event_id}")
    return answer.status_code == 200 and answer.json()["status"] == "PROCESSED"


async def query(compose: Compose, expression: str) -> list[dict[str, Any]]:
    """A query to Prometheus; its samples."""
    url = f"http://127.0.0.1:{compose.ports['PROMETHEUS_HOST_PORT']}/api/v1/query"
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.get(url, params={"query": expression})
    samples: list[dict[str, Any]] = answer.json()["data"]["result"]
    return samples


async def value(compose: Compose, expression: str) -> float | None:
    """The one value of a query."""
    samples = await query(compose, expression)
    return float(samples[0]["value"][1]) if len(samples) == 1 else None


async def test_the_whole_product_comes_up(compose: Compose, api: httpx.AsyncClient) -> None:
    await asyncio.to_thread(compose, *_UP)
    event_id = await post(api, "first")
    await eventually(lambda: is_processed(api, event_id), what="it comes out as PROCESSED")
    assert await post(api, "first", 200) == event_id


def test_the_one_shot_jobs_ended_well(compose: Compose) -> None:
    for job in ("migrate", "topics"):
        [container] = compose.containers(job, stopped=True)
        assert container["State"]["Status"] == "exited"
        assert container["State"]["ExitCode"] == 0


def test_alembic_runs_inside_the_gateway(compose: Compose) -> None:
    assert compose("exec", "-T", "api", "alembic", "upgrade", "head").returncode == 0
    assert "0001" in compose("exec", "-T", "api", "alembic", "history").stdout


@pytest.mark.parametrize("service", ["api", "worker"])
def test_a_container_can_do_nothing_but_run(compose: Compose, service: str) -> None:
    status = compose("exec", "-T", service, "cat", "/proc/1/status").stdout
    found = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert found["Uid"].split() == ["10001"] * 4
    assert int(found["CapEff"], 16) == int(found["CapBnd"], 16) == 0
    assert found["NoNewPrivs"].strip() == "1"
    wrote = compose("exec", "-T", service, "python", "-c", "open('/srv/plutus/x','w')", check=False)
    assert "Read-only file system" in wrote.stderr
    [container] = compose.containers(service)
    assert container["State"]["Health"]["Status"] == "healthy"
    assert container["Config"]["Labels"]["org.opencontainers.image.licenses"] == "MIT"


def test_postgres_is_out_of_reach_from_outside(compose: Compose) -> None:
    [container] = compose.containers("postgres")
    assert not any(container["NetworkSettings"]["Ports"].values())
    for network in container["NetworkSettings"]["Networks"]:
        assert network.endswith("_inside")


async def test_one_prometheus_sees_all_five(compose: Compose) -> None:
    for name in _CONTRACT:
        await eventually(lambda name=name: query(compose, name), within=60, what=name)  # type: ignore[misc]
    assert compose("exec", "-T", "prometheus", "promtool", "check", "config", "/etc/prometheus/prometheus.yml").stdout
    compose("exec", "-T", "prometheus", "promtool", "test", "rules", "/etc/prometheus/rules.test.yml")


async def test_a_kafka_client_of_this_machine_is_served(compose: Compose, api: httpx.AsyncClient) -> None:
    from infra.runtime.producer import Record
    from schemas.ids import event_id
    from tests.harness import produce
    from tests.stack import Stack

    outside = Stack(f"127.0.0.1:{compose.ports['KAFKA_HOST_PORT']}", "")
    await produce(outside, "plutus.events", [Record(b"compose", envelope("compose", "direct", {}))])
    await eventually(lambda: is_processed(api, str(event_id("compose", "direct"))), what="it comes out as PROCESSED")


async def test_more_workers_share_the_partitions(compose: Compose, api: httpx.AsyncClient) -> None:
    await asyncio.to_thread(compose, *_UP, "--scale", "worker=3", "--no-recreate")
    assert len(compose.containers("worker")) == 3
    await eventually(lambda: _shared(compose), within=90, every=1, what="three workers own twelve partitions")
    ids = [await post(api, f"scaled-{n}") for n in range(30)]
    for event_id in ids:
        await eventually(lambda event_id=event_id: is_processed(api, event_id))  # type: ignore[misc]


async def _shared(compose: Compose) -> bool:
    owning = await value(compose, "count(plutus_worker_partitions_assigned > 0)")
    return owning == 3 and await value(compose, "sum(plutus_worker_partitions_assigned)") == 12


async def test_what_was_taken_in_is_there_after_down_and_up(compose: Compose, api: httpx.AsyncClient) -> None:
    await asyncio.to_thread(compose, "stop")
    for service in ("api", "worker"):
        for container in compose.containers(service, stopped=True):
            assert container["State"]["ExitCode"] == 0, f"{service} was not stopped in order"
    await asyncio.to_thread(compose, "down")
    await asyncio.to_thread(compose, *_UP)
    await post(api, "first", 200)
    event_id = await post(api, "after")
    await eventually(lambda: is_processed(api, event_id), what="it comes out as PROCESSED")


async def test_the_profile_adds_grafana_and_jaeger(compose: Compose) -> None:
    with_it = set(compose("--profile", "observability", "config", "--services").stdout.split())
    assert with_it - set(compose("config", "--services").stdout.split()) == {"grafana", "jaeger"}
    if os.environ.get("PLUTUS_BASE_IMAGE"):
        not_checked("Grafana and Jaeger of the profile observability, running", "no registry to pull them from")
    await asyncio.to_thread(compose, "--profile", "observability", *_UP)
    async with httpx.AsyncClient(trust_env=False) as http:
        for port, path in (("GRAFANA_HOST_PORT", "/api/health"), ("JAEGER_HOST_PORT", "/")):
            url = f"http://127.0.0.1:{compose.ports[port]}{path}"

            async def answers(url: str = url) -> bool:
                try:
                    return (await http.get(url)).status_code == 200
                except httpx.TransportError:
                    return False

            await eventually(answers, within=90, every=1, what=url)


def test_down_leaves_nothing(compose: Compose) -> None:
    compose("--profile", "observability", "down", "--volumes")
    assert compose.left_over() == []


def test_the_suites_own_stack_runs_in_containers(tmp_path_factory: pytest.TempPathFactory) -> None:
    containers.require_docker("the tests' stack of containers")
    made = containers.images(tmp_path_factory.mktemp("standins"))
    own = {name: value for name, value in os.environ.items() if not name.startswith(("KAFKA_", "DATABASE_"))}
    for variable in ("KAFKA", "POSTGRES"):
        if f"{variable}_IMAGE" in made:
            own[f"PLUTUS_TEST_{variable}_IMAGE"] = made[f"{variable}_IMAGE"]
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "tests/integration/test_harness.py", "tests/integration/test_batch.py"],
        cwd=ROOT,
        env={**own, "PLUTUS_TEST_STACK": "containers"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-4000:]}{done.stderr[-2000:]} after {time.monotonic() - began:.0f} s"
