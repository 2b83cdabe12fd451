"""`plutus offsets`: where the workers are in the events topic (`show`), and leaving records out for good (`skip`).

A partition begins at the smaller of what Kafka and Postgres know, so that nothing is ever left out by accident; setting
Kafka's offset back is enough to read again (`plutus kafka consumer-groups --reset-offsets`), and setting it forwards does
nothing. Leaving out is said twice, to both, and audited.
"""

from __future__ import annotations

from typing import Annotated

import typer

from infra.cli.filters import Yes, moment
from infra.cli.output import USAGE, AsJson, Failure, run


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    group = typer.Typer(no_args_is_help=True, help="Offsets: where the workers are, and leaving records out.")
    app.add_typer(group, name="offsets")

    @group.command("show", epilog="Example: plutus offsets show")
    def show(as_json: AsJson = False) -> None:
        """What Kafka and Postgres know of each partition, and where a worker would begin."""

        async def command() -> int:
            from infra.cli.skipping import show_places

            return await show_places(as_json=as_json)

        run(command)

    @group.command("skip", epilog="Example: plutus offsets skip --to-time 2026-05-01T12:00:00+02:00 --dry-run")
    def skip(
        partition: Annotated[
            list[int] | None, typer.Option("--partition", min=0, help="Only this one; may be repeated.")
        ] = None,
        to_offset: Annotated[int | None, typer.Option("--to-offset", min=0, help="Go on there.")] = None,
        to_time: Annotated[
            str | None,
            typer.Option("--to-time", metavar="TIME", help="Go on at the first record from then on; ISO 8601."),
        ] = None,
        to_end: Annotated[bool, typer.Option("--to-end", help="Go on behind the last record.")] = False,
        dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be left out.")] = False,
        yes: Yes = False,
        as_json: AsJson = False,
    ) -> None:
        """Leave records out: they take no effect. No worker may run meanwhile."""

        async def command() -> int:
            from infra.cli.skipping import Order, skip_forwards

            if sum((to_offset is not None, to_time is not None, to_end)) != 1:
                raise Failure("Where to?", advice="give one of --to-offset, --to-time and --to-end", code=USAGE)
            order = Order(
                None if partition is None else frozenset(partition),
                to_offset,
                moment("--to-time", to_time),
                dry_run,
                yes,
                as_json,
            )
            return await skip_forwards(order)

        run(command)
