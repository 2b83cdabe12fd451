"""Where a running system can be reached: PLUTUS_HOME/endpoints.json.

The file is there exactly while the system is ready: written by rename, removed first thing at a start and at a stop. A
supervisor killed with -9 leaves it, so a reader asks whether one runs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from infra.local.errors import LocalError, NothingRuns
from infra.local.home import is_running

FILE = "endpoints.json"


@dataclass(frozen=True)
class Endpoints:
    """The addresses of one system. URLs have no trailing slash.

    gateway: base URL of the HTTP routes.
    gateway_metrics: base URL with the gateway's /metrics below it.
    worker_metrics: base URL of each worker, with its /metrics below it.
    kafka: host:port.
    postgres: postgresql://user:password@host:port/database, of the role that owns the schema.
    """

    gateway: str
    gateway_metrics: str
    worker_metrics: tuple[str, ...]
    kafka: str
    postgres: str

    def write(self, home: Path) -> None:
        """Publish, all or nothing. The file holds a password and is for its owner alone."""
        draft = home / f"{FILE}.new"
        draft.unlink(missing_ok=True)
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(asdict(self), file, indent=2)
            file.write("\n")
        draft.replace(home / FILE)


def remove(home: Path) -> bool:
    """Take the file away; True when there was one."""
    try:
        (home / FILE).unlink()
    except FileNotFoundError:
        return False
    return True


def read(file: Path) -> Endpoints:
    """The addresses in that file.

    Raises:
        LocalError: there is no such file, or it is not one of ours.
    """
    try:
        content = json.loads(file.read_text())
        return Endpoints(**{**content, "worker_metrics": tuple(content["worker_metrics"])})
    except FileNotFoundError:
        raise LocalError(
            f"{file} is not there: no system is ready in that folder. Start one with `plutus up`."
        ) from None
    except (OSError, ValueError, TypeError, KeyError):
        raise LocalError(
            f"{file} cannot be read as the endpoints of a system. Start it again with `plutus up`."
        ) from None


def of_running(home: Path) -> Endpoints:
    """The addresses of the system that runs in that folder now.

    Raises:
        NothingRuns: none runs there. LocalError: it is not ready yet.
    """
    if not is_running(home):
        raise NothingRuns(f"No system runs in {home}. Start one with `plutus up`, or name its folder with PLUTUS_HOME.")
    return read(home / FILE)


def bootstrap_servers(home: Path, environment: Mapping[str, str]) -> str:
    """Where Kafka is: KAFKA_BOOTSTRAP_SERVERS if it is set, else the system that runs in `home`.

    Raises:
        LocalError: neither.
    """
    return environment.get("KAFKA_BOOTSTRAP_SERVERS") or of_running(home).kafka
