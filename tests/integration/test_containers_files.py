"""The compose file, the Dockerfile and what they mount, without a Docker API: schema, variables, commands, alarms."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from infra.local.ports import Ports
from infra.local.process import Child, Command, spawn
from infra.local.settings import LocalSettings
from ingest_gateway.metrics import Metrics as GatewayMetrics
from ingest_gateway.metrics import ParentMetrics
from ingest_gateway.settings import GatewaySettings
from stream_worker.metrics import Metrics as WorkerMetrics
from stream_worker.settings import WorkerSettings
from tests import compose
from tests.docs.tables import exposed_name, kind, metrics_of
from tests.harness import eventually
from tests.stack import ROOT, Stack, Topics
from tests.unchecked import tool

PROMETHEUS = ROOT / "infra/docker/prometheus"
DASHBOARD = ROOT / "infra/docker/grafana/dashboards/plutus.json"
OWN = {"api", "worker", "migrate", "topics"}
# Read by compose alone: images, ports on the host, passwords of other programs.
OF_COMPOSE = re.compile(r"[A-Z]+_(?:IMAGE|HOST_PORT|PASSWORD)")
_SECONDS = 60.0


def run(*command: str | Path, cwd: Path = ROOT) -> None:
    """Run a checker; what it says is the failure."""
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=_SECONDS, check=False, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_compose_file_follows_the_compose_specification() -> None:
    run(tool("check-jsonschema", "compose file"), "--builtin-schema", "vendor.compose-spec", str(compose.FILE))


def test_a_misspelt_member_would_be_found(tmp_path: Path) -> None:
    wrong = tmp_path / "compose.yml"
    wrong.write_text(compose.FILE.read_text().replace("depends_on:", "depend_on:", 1))
    checker = tool("check-jsonschema", "compose file")
    with pytest.raises(AssertionError, match="depend_on"):
        run(checker, "--builtin-schema", "vendor.compose-spec", str(wrong))


def test_the_dockerfile_passes_its_linter() -> None:
    run(tool("hadolint", "Dockerfile"), "--failure-threshold", "info", str(compose.DOCKERFILE))


def test_prometheus_takes_its_configuration_and_its_rules() -> None:
    promtool = tool("promtool", "Prometheus configuration and alarms")
    run(promtool, "check", "config", "prometheus.yml", cwd=PROMETHEUS)
    run(promtool, "test", "rules", "rules.test.yml", cwd=PROMETHEUS)


def test_every_variable_is_documented_and_read_by_somebody() -> None:
    read = {name.upper() for kind in (GatewaySettings, WorkerSettings, LocalSettings) for name in kind.model_fields}
    for use in compose.uses():
        assert use.name in compose.documented(), f"{use.name} is not in .example.env"
        assert use.name in read or OF_COMPOSE.fullmatch(use.name), f"nobody reads {use.name}"


def test_secrets_are_required_with_a_reason_and_everything_else_has_a_default() -> None:
    for use in compose.uses():
        assert use.how == (":?" if "PASSWORD" in use.name else ":-"), use
        assert use.rest, use


def test_the_example_is_enough_to_start() -> None:
    given = {name: value for name, value in compose.documented().items() if value}
    text = compose.resolved(compose.FILE.read_text(), given)
    assert "${" not in text
    with pytest.raises(KeyError, match="POSTGRES_PASSWORD"):
        compose.resolved(compose.FILE.read_text(), {})


def test_ports_are_opened_on_this_machine_alone() -> None:
    published = [port for service in compose.services().values() for port in service.get("ports", [])]
    assert published
    assert [port for port in published if not port.startswith("127.0.0.1:")] == []


def test_our_containers_can_do_nothing_but_run() -> None:
    for name in OWN:
        service = compose.services()[name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert "no-new-privileges:true" in service["security_opt"]
        assert compose.targets()[service["build"]["target"]].user == "10001:10001"


def test_nothing_starts_before_what_it_needs() -> None:
    services = compose.services()
    for name in ("api", "worker"):
        needs = services[name]["depends_on"]
        assert {each: needs[each]["condition"] for each in needs} == {
            "migrate": "service_completed_successfully",
            "topics": "service_completed_successfully",
        }
    assert services["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert services["topics"]["depends_on"] == {"kafka": {"condition": "service_healthy"}}
    assert {name for name, service in services.items() if "healthcheck" in service} >= {"kafka", "postgres"}


def test_only_postgres_is_out_of_reach_and_its_data_is_where_18_keeps_it() -> None:
    services = compose.services()
    assert services["postgres"]["networks"] == ["inside"]
    assert "ports" not in services["postgres"]
    assert services["postgres"]["volumes"] == ["postgres:/var/lib/postgresql"]
    assert compose.read(compose.FILE)["networks"]["inside"] == {"internal": True}


def test_everything_that_the_images_are_built_from_is_in_the_context() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    text = compose.DOCKERFILE.read_text()
    copied = [word for line in re.findall(r"^COPY (?!--)(.+) \S+$", text, re.MULTILINE) for word in line.split()]
    assert copied
    for path in copied:
        assert (ROOT / path).exists(), path
        assert f"!{path}" in ignored, path


def test_alarms_and_panels_name_metrics_that_exist() -> None:
    known = _exposed()
    rules = [rule for group in compose.read(PROMETHEUS / "rules.yml")["groups"] for rule in group["rules"]]
    panels = json.loads(DASHBOARD.read_text())["panels"]
    expressions = [rule["expr"] for rule in rules] + [each["expr"] for panel in panels for each in panel["targets"]]
    for expression in expressions:
        unknown = set(re.findall(r"\b(?:plutus|gateway|ingest|raw|processing)_[a-z_]+", expression)) - known
        assert not unknown, f"{unknown} in {expression}"


def test_every_alarm_has_its_page() -> None:
    rules = [rule for group in compose.read(PROMETHEUS / "rules.yml")["groups"] for rule in group["rules"]]
    text = (ROOT / "OPERATIONS.md").read_text()
    assert {rule["alert"] for rule in rules} == set(re.findall(r"^### (Plutus\w+)$", text, re.MULTILINE))


def _exposed() -> set[str]:
    found = set()
    for metric in metrics_of(GatewayMetrics().registry, ParentMetrics().registry, WorkerMetrics().registry):
        name = exposed_name(metric)
        found |= {name, f"{name}_bucket", f"{name}_count", f"{name}_sum"} if kind(metric) == "histogram" else {name}
    return found


async def test_the_command_lines_of_the_images_really_start_the_processes(
    stack: Stack, database: str, tmp_path: Path
) -> None:
    """Each target's own command, environment and health check, with the addresses and ports of this test."""
    topics = Topics("images.events", "images.dlq", 3)
    addresses = {
        "KAFKA_BOOTSTRAP_SERVERS": stack.bootstrap,
        "DATABASE_URL": database,
        "KAFKA_TOPIC": topics.events,
        "KAFKA_DLQ_TOPIC": topics.dlq,
        "KAFKA_PARTITIONS": str(topics.partitions),
    }
    services = compose.services()
    for name in ("migrate", "topics"):
        child = start("cli", tmp_path, addresses, *services[name]["command"])
        assert await eventually(child.death, what=name) == "exited with code 0", child.last_words()
    for target, port in (("gateway", "GATEWAY_PORT"), ("worker", "WORKER_METRICS_PORT")):
        stage = compose.targets()[target]
        chosen = str(Ports().take(0, port))
        child = start(target, tmp_path, {**addresses, port: chosen})
        try:
            own = {**stage.environment, port: chosen}
            await eventually(lambda s=stage, own=own: _succeeds(s.health, own), what=f"{target} is healthy")  # type: ignore[misc]
            child.send(child.command.stop)
            assert await eventually(child.death, what=f"{target} stops") == "exited with code 0"
        finally:
            child.kill()


def start(target: str, folder: Path, addresses: dict[str, str], *arguments: str) -> Child:
    """A target's entry point with its environment, from this checkout."""
    stage = compose.targets()[target]
    own = {name: value for name, value in stage.environment.items() if name != "PATH"}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    program, *rest = stage.entrypoint
    argv = (str(Path(sys.executable).parent / program), *rest, *arguments)
    return spawn(Command(target, argv, folder / f"{target}.log", {**own, **addresses, "PATH": path}, ROOT))


def _succeeds(command: list[str], environment: dict[str, str]) -> bool:
    program, *rest = command
    path = str(Path(sys.executable).parent / program)
    return subprocess.run([path, *rest], cwd=ROOT, env=environment, check=False, timeout=10).returncode == 0
