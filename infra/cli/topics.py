"""`plutus topics create` and `plutus topics check`: the events topic and the dead-letter topic.

`create` makes what is missing and changes nothing that exists; what differs is told. `check` exits with 1 where
anything differs. Which they are and how they must be says `infra.runtime.topics`.
"""

from __future__ import annotations

import typer

from infra.cli.output import DONE, FAILED, AsJson, run, say, show, show_json


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    group = typer.Typer(no_args_is_help=True, help="The two topics: create them, check their settings.")
    app.add_typer(group, name="topics")

    @group.command("create", epilog="Example: plutus topics create")
    def create(as_json: AsJson = False) -> None:
        """Create the topics that are missing."""
        run(lambda: _create(as_json))

    @group.command("check", epilog="Example: plutus topics check --json")
    def check(as_json: AsJson = False) -> None:
        """Say what is not as it should be; exit code 1 if anything is."""
        run(lambda: _check(as_json))


async def _create(as_json: bool) -> int:
    from infra.cli.connect import operator_settings, reaching_kafka
    from infra.runtime import topics

    settings = operator_settings(kafka=True)
    with reaching_kafka(settings):
        created = await topics.create(settings)
        # What was made a moment ago is as wanted, and may not be listed by every broker yet.
        existing = [topic.name for topic in topics.wanted(settings) if topic.name not in created]
        differences = await topics.differences(settings) if existing else []
    if as_json:
        show_json({"created": created, "existing": existing})
    for name in created:
        say(f"created topic {name}") if as_json else show(f"created topic {name}")
    for name in existing:
        say(f"topic {name} exists already")
    for difference in differences:
        say(f"warning: {difference}")
    return DONE


async def _check(as_json: bool) -> int:
    from infra.cli.connect import operator_settings, reaching_kafka
    from infra.runtime import topics

    settings = operator_settings(kafka=True)
    with reaching_kafka(settings):
        differences = await topics.differences(settings)
    if as_json:
        show_json({"ok": not differences, "differences": differences})
    else:
        for difference in differences:
            show(difference)
    if not differences:
        say(f"topics {settings.kafka_topic} and {settings.kafka_dlq_topic} are as they should be")
    return FAILED if differences else DONE
