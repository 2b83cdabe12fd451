"""Maintainers' tool: resolve the local broker's jars and print the lock.

    python -m infra.local.lock_kafka 4.3.1 2.25.4 > kafka.lock && mv kafka.lock infra/local/

The arguments are Kafka's version and that of log4j-core which Kafka itself resolves. One jar a line: group:artifact:
version, sha256, bytes. No host: where a jar comes from is the user's choice.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
from pathlib import Path

from infra.local.settings import LocalSettings

_BROKER = "org.apache.kafka:kafka_2.13"
_LOG_BINDING = "org.apache.logging.log4j:log4j-slf4j-impl"


def resolve(kafka: str, log4j: str, repository: str | None = None) -> list[str]:
    """The lines of the lock.

    Raises:
        ValueError: the resolver mixed versions of Kafka.
    """
    from jgo.constants import MAVEN_CENTRAL_URL
    from jgo.env import EnvironmentBuilder
    from jgo.maven import MavenContext

    context = MavenContext(remote_repos={"central": repository or MAVEN_CENTRAL_URL})
    with tempfile.TemporaryDirectory() as scratch:
        # "!" keeps jgo from taking the binding's dependencyManagement for a bill of materials: log4j's parent would
        # pull kafka-clients down to an old version, and the broker dies of a missing method.
        builder = EnvironmentBuilder(context=context, cache_dir=Path(scratch))
        lockfile = builder.from_endpoint(f"{_BROKER}:{kafka}+{_LOG_BINDING}:{log4j}!").lockfile
        if lockfile is None:
            raise ValueError("jgo resolved nothing")
        jars = {(jar.groupId, jar.artifactId, jar.version) for jar in lockfile.dependencies}
        # That one jar alone: the command line tools need none of the web server it asks for.
        jars.add(("org.apache.kafka", "kafka-tools", kafka))
        mixed = {jar for jar in jars if jar[0] == "org.apache.kafka" and jar[2] != kafka}
        if mixed:
            raise ValueError(f"not of version {kafka}: {sorted(mixed)}")
        return [
            _line(context.project(group, name).at_version(version).artifact().resolve(), group, name, version)
            for group, name, version in sorted(jars)
        ]


def _line(file: Path, group: str, name: str, version: str) -> str:
    content = file.read_bytes()
    return f"{group}:{name}:{version} {hashlib.sha256(content).hexdigest()} {len(content)}"


if __name__ == "__main__":
    print("\n".join(resolve(sys.argv[1], sys.argv[2], LocalSettings().plutus_maven_repo)))
