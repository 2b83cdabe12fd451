"""One Kafka broker (KRaft, controller in the same process) on this machine, data kept in one folder.

The folder is formatted beside its final place and moved there when done, so a killed first start leaves no half-made
data. The broker runs inside its folder and names it by relative paths: Kafka's property files know neither commas in a
path nor anything beyond Latin-1.
"""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import uuid
from collections.abc import Callable
from contextlib import suppress

from infra.local import coordinator, process
from infra.local.home import Home
from infra.local.jars import Jars
from infra.local.java import Java
from infra.local.process import Command

_FORMAT_SECONDS = 60.0
_AOT_SINCE = 25  # JEP 514: one run writes the cache at its end, every later start reads it

# broker.session.timeout.ms: a broker killed with -9 waits on its return until its old session has run out, 9 s by
# default. group.min.session.timeout.ms lets tests of dead workers be short. dedupe.buffer: 128 MB by default.
_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={data}
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms={delay}
group.min.session.timeout.ms=1000
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=2000
log.cleaner.dedupe.buffer.size=8388608
num.network.threads=2
num.io.threads=4
"""

LOG4J = """\
Configuration:
  Appenders:
    Console: {name: C, target: SYSTEM_ERR, PatternLayout: {pattern: "%d %p %c: %m%n"}}
  Loggers:
    Root: {level: WARN, AppenderRef: {ref: C}}
    Logger: {name: kafka.server.KafkaRaftServer, level: INFO}
"""


class Kafka:
    """The local broker, as a service of the supervisor.

    Args:
        home: the locked folder it lives in.
        jars, java: what it runs on.
        port, controller_port: where it listens, on 127.0.0.1 only.
        say: prints a line for a person.
        more: options of Java after ours, which they override.
        delay_ms: how long a new group waits for more members.
    """

    name = "kafka"

    def __init__(
        self,
        home: Home,
        jars: Jars,
        java: Java,
        ports: tuple[int, int],
        say: Callable[[str], None],
        more: tuple[str, ...] = (),
        delay_ms: int = 0,
    ) -> None:
        self._delay_ms = delay_ms
        self._home, self._jars, self._java, self._say, self._more = home, jars, java, say, more
        self.port, self._controller_port = ports
        self._folder = home.path / "kafka"
        self._class_path = ""
        key = f"{java.path}{java.path.stat().st_mtime_ns}".encode()
        self._aot = jars.folder / f"kafka-{hashlib.sha256(key).hexdigest()[:12]}.aot"
        self._new_aot = self._aot.with_name(f"{self._aot.name}.{os.getpid()}")

    @property
    def bootstrap(self) -> str:
        """The address clients start from, host:port."""
        return f"127.0.0.1:{self.port}"

    def prepare(self) -> None:
        """Everything before the start: jars, configuration, a formatted folder.

        Raises:
            LocalError: see `jars.Jars.class_path`; or the folder cannot be formatted.
        """
        self._class_path = self._jars.class_path(self._say)
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / "log4j2.yaml").write_text(LOG4J)
        self._write_properties("server.properties", "log")
        if not (self._folder / "log").exists():
            self._format()

    def command(self) -> Command:
        """How to start the broker."""
        return self._java_command(self.name, "kafka.Kafka", "server.properties", aot=self._aot_options())

    def ready(self) -> bool:
        """Whether it answers, group coordination included."""
        return coordinator.is_answering(self.port)

    def stopped(self) -> None:
        """After an orderly end: keep the start-up cache that a first run has written."""
        with suppress(FileNotFoundError):
            self._new_aot.replace(self._aot)

    def _write_properties(self, name: str, data: str) -> None:
        text = _PROPERTIES.format(port=self.port, controller=self._controller_port, data=data, delay=self._delay_ms)
        (self._folder / name).write_text(text)

    def _format(self) -> None:
        shutil.rmtree(self._folder / "log.new", ignore_errors=True)
        self._write_properties("format.properties", "log.new")
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        # Not `-t ID`: one id in 64 begins with a dash, and would be taken for an option.
        arguments = ("format", "--standalone", f"--cluster-id={cluster}", "-c", "format.properties")
        aot = (f"-XX:AOTCache={self._aot}",) if self._aot.exists() else ()
        command = self._java_command("kafka format", "kafka.tools.StorageTool", *arguments, aot=aot)
        process.run(command, _FORMAT_SECONDS, lock=self._home.children_lock)
        (self._folder / "log.new").replace(self._folder / "log")

    def _aot_options(self) -> tuple[str, ...]:
        if self._java.major < _AOT_SINCE:
            return ()
        if self._aot.exists():
            return (f"-XX:AOTCache={self._aot}",)
        for stale in self._jars.folder.glob(f"{self._aot.name}.*"):
            stale.unlink(missing_ok=True)
        return (f"-XX:AOTCacheOutput={self._new_aot}",)

    def _java_command(self, name: str, main: str, *arguments: str, aot: tuple[str, ...]) -> Command:
        quiet = ("-Xlog:disable", "-Xlog:all=error:stderr")
        return Command(
            name=name,
            argv=(
                *(str(self._java.path), "-Xms128m", "-Xmx512m", *self._java.options, *aot, *self._more),
                *(*quiet, "-Dlog4j2.configurationFile=log4j2.yaml", "-cp", self._class_path, main, *arguments),
            ),
            log=self._home.logs / "kafka.log",
            cwd=self._folder,
            hint=f"If its data is damaged, move {self._folder} away to start afresh.",
        )
