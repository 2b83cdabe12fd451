"""`plutus kafka TOOL ...`: Kafka's own command line tools, from the local jars, with the bootstrap filled in.

This process becomes the tool: its arguments, its standard streams and its exit code are the tool's own.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Final

import typer

from infra.local.errors import LocalError

if TYPE_CHECKING:
    from infra.local.settings import LocalSettings

_TOOLS: Final = "org.apache.kafka.tools"
MAIN_CLASSES: Final = {
    "broker-api-versions": f"{_TOOLS}.BrokerApiVersionsCommand",
    "cluster": f"{_TOOLS}.ClusterTool",
    "configs": "kafka.admin.ConfigCommand",
    "console-consumer": f"{_TOOLS}.consumer.ConsoleConsumer",
    "console-producer": f"{_TOOLS}.ConsoleProducer",
    "consumer-groups": f"{_TOOLS}.consumer.group.ConsumerGroupCommand",
    "consumer-perf-test": f"{_TOOLS}.ConsumerPerformance",
    "delete-records": f"{_TOOLS}.DeleteRecordsCommand",
    "features": f"{_TOOLS}.FeatureCommand",
    "get-offsets": f"{_TOOLS}.GetOffsetShell",
    "groups": f"{_TOOLS}.GroupsCommand",
    "log-dirs": f"{_TOOLS}.LogDirsCommand",
    "metadata-quorum": f"{_TOOLS}.MetadataQuorumCommand",
    "producer-perf-test": f"{_TOOLS}.ProducerPerformance",
    "reassign-partitions": f"{_TOOLS}.reassign.ReassignPartitionsCommand",
    "topics": f"{_TOOLS}.TopicCommand",
    "transactions": f"{_TOOLS}.TransactionsCommand",
}
_BOOTSTRAP_OPTIONS = ("--bootstrap-server", "--bootstrap-controller")


def arguments_for(tool: str, given: list[str], servers: str) -> list[str]:
    """The tool's arguments: the given ones, and the bootstrap in the place where this tool takes it."""
    own = ["--bootstrap-server", servers]
    return [given[0], *own, *given[1:]] if tool == "cluster" and given else [*own, *given]


def run_tool(tool: str, given: list[str], settings: LocalSettings) -> None:
    """Become the tool; returns never.

    Raises:
        LocalError: no such tool, no jars, no Java, or nothing runs to talk to.
    """
    from infra.local import endpoints, java
    from infra.local.jars import Jars
    from infra.local.kafka import LOG4J
    from infra.local.stack import to_stderr

    main_class = MAIN_CLASSES.get(tool)
    if main_class is None:
        raise LocalError(f"There is no Kafka tool {tool!r}. There are: {', '.join(MAIN_CLASSES)}.")
    named = "--help" in given or any(word.partition("=")[0] in _BOOTSTRAP_OPTIONS for word in given)
    if not named:
        given = arguments_for(tool, given, endpoints.bootstrap_servers(settings.home, os.environ))
    found = java.find(settings.plutus_java)
    jars = Jars(settings.cache, settings.plutus_maven_repo)
    class_path = jars.class_path(to_stderr)
    log4j = jars.folder / "log4j2-tools.yaml"
    if not log4j.exists():
        log4j.write_text(LOG4J)
    path = str(found.path)
    os.execv(  # noqa: S606 - no shell wanted
        path,
        [path, *found.options, f"-Dlog4j2.configurationFile={log4j}", "-cp", class_path, main_class, *given],
    )


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @app.command(
        "kafka",
        epilog="Example: plutus kafka consumer-groups --describe --group plutus",
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    )
    def command(
        context: typer.Context,
        tool: Annotated[str, typer.Argument(metavar="TOOL", help=", ".join(MAIN_CLASSES))],
    ) -> None:
        """Run one of Kafka's own tools, for example `plutus kafka topics --list`."""
        if tool in ("-h", "--help"):
            typer.echo(context.get_help())
            return
        from infra.local.settings import LocalSettings
        from infra.runtime.settings import load_or_exit

        run_tool(tool, context.args, load_or_exit(LocalSettings))
