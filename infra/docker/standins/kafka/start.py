"""Starts a broker as the image of Apache Kafka does: KAFKA_A_B=c becomes a.b=c, the data folder is formatted once.

Run in the folder that holds the jars, in libs/.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

PROPERTIES = Path("/tmp/server.properties")  # noqa: S108 - the container's own
CLUSTER = "cGx1dHVzLXN0YW5kLWluLQ"
JAVA = (
    *("/srv/java/bin/java", "-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"),
    *("-cp", "libs/*"),
)
# Variables of the image that are no property of the broker.
_OTHER = {"KAFKA_HEAP_OPTS", "KAFKA_OPTS", "KAFKA_LOG4J_OPTS", "KAFKA_JVM_PERFORMANCE_OPTS"}


def properties(environment: dict[str, str]) -> dict[str, str]:
    """The broker's properties: one underscore is a dot, two are an underscore, three a dash."""
    found = {"log.dirs": "/tmp/kraft-combined-logs"}  # noqa: S108 - the image's default
    for name, value in environment.items():
        if name.startswith("KAFKA_") and name not in _OTHER:
            key = name.removeprefix("KAFKA_").lower()
            found[re.sub("_+", lambda run: {1: ".", 2: "_", 3: "-"}[len(run[0])], key)] = value
    return found


def main() -> None:
    """Format if need be, then become the broker."""
    PROPERTIES.write_text("".join(f"{name}={value}\n" for name, value in properties(dict(os.environ)).items()))
    cluster = os.environ.get("CLUSTER_ID", CLUSTER)
    format_ = ("kafka.tools.StorageTool", "format", "--ignore-formatted", "-t", cluster, "-c", str(PROPERTIES))
    subprocess.run([*JAVA, *format_], check=True)
    os.execv(JAVA[0], [*JAVA, "kafka.Kafka", str(PROPERTIES)])  # noqa: S606 - no shell wanted


if __name__ == "__main__":
    main()
