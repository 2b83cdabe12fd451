"""`plutus dlq`: `replay [ID]` sends dead letters back to the events topic, as they were; `reconcile`
repairs topic and failures table from each other; `jobs` tells who did what, and when.

Each event takes effect once, however often it is replayed. What fails again becomes a new failure and a new dead letter.
Ctrl-C stops after the batch that is under way, a second one at once; `--resume` goes on where it stopped or died.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from infra.cli.filters import AnyId, ByClass, ByKey, ByReason, BySource, ByType, From, Since, Until, asked
from infra.cli.output import DONE, NOTHING_MATCHED, AsJson, run, say, show_json, show_table

if TYPE_CHECKING:
    from infra.cli.jobs import Job

_DONE = ("replayed", "discarded", "repaired", "handled", "skipped")

Rate = Annotated[float | None, typer.Option("--rate", min=0.1, help="Send at most so many a second.")]
Most = Annotated[int | None, typer.Option("--max", min=1, help="Send at most so many, then stop.")]
Resume = Annotated[UUID | None, typer.Option("--resume", metavar="JOB", help="Go on with a replay that was cut short.")]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    group = typer.Typer(no_args_is_help=True, help="The dead-letter topic.")
    app.add_typer(group, name="dlq")

    @group.command("replay", epilog="Example: plutus dlq replay --reason handler_error --rate 50 --dry-run")
    def command(
        any_id: AnyId = None,
        reason: ByReason = None,
        source: BySource = None,
        of_type: ByType = None,
        key: ByKey = None,
        error_class: ByClass = None,
        since: Since = None,
        until: Until = None,
        origin: Annotated[From, typer.Option("--from", help="Dead-letter topic or failures table.")] = From.TOPIC,
        anyway: Annotated[bool, typer.Option("--all", help="Those replayed or discarded before, too.")] = False,
        dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be sent.")] = False,
        rate: Rate = None,
        most: Most = None,
        resume: Resume = None,
        as_json: AsJson = False,
    ) -> None:
        """Send the dead letters whose failures are open back to the events topic."""

        async def replay() -> int:
            from infra.cli.jobs import Kind
            from infra.cli.replay import Request
            from infra.cli.sending import Order, send_back

            wanted = asked(
                any_id,
                reason=reason,
                source=source,
                of_type=of_type,
                key=key,
                error_class=error_class,
                since=since,
                until=until,
            )
            request = Request(wanted, anyway, dry_run, most, rate)
            return await send_back(Order(Kind.REPLAY, request, origin, resume, as_json))

        run(replay)

    @group.command("reconcile", epilog="Example: plutus dlq reconcile --dry-run")
    def reconcile(
        dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be repaired.")] = False,
        as_json: AsJson = False,
    ) -> None:
        """Compare the failures table with the dead-letter topic, and repair either from the other."""
        run(lambda: _reconcile(dry_run, as_json))

    @group.command("jobs", epilog="Example: plutus dlq jobs --limit 5")
    def jobs_(
        limit: Annotated[int, typer.Option(min=1, max=10_000, help="The latest so many.")] = 20,
        as_json: AsJson = False,
    ) -> None:
        """Who replayed, retried, discarded, reconciled, ran or skipped what, when, and how far it came."""
        run(lambda: _jobs(limit, as_json))


async def _reconcile(dry_run: bool, as_json: bool) -> int:
    from infra.cli.reconciling import reconcile

    return await reconcile(dry_run=dry_run, as_json=as_json)


async def _jobs(limit: int, as_json: bool) -> int:
    from infra.cli import jobs
    from infra.cli.connect import database, operator_settings

    async with database(operator_settings(postgres=True)) as db:
        found = await jobs.latest(db, limit)
    if as_json:
        for job in found:
            show_json(asdict(job))
    elif found:
        columns = ("job", "kind", "status", "began", "last seen", "who", "asked for", "read", "done")
        show_table(columns, [_line(job) for job in found])
    else:
        say("nothing was replayed, retried, discarded, reconciled, run or skipped yet")
    return DONE if found else NOTHING_MATCHED


def _line(job: Job) -> list[object]:
    wanted = ", ".join(f"{name} {value}" for name, value in job.request.get("filter", {}).items()) or "all"
    counts = job.counts
    done = next((counts[name] for name in _DONE if name in counts), None)
    times = (job.started_at, job.updated_at)
    return [job.job_id, job.kind.value, job.status.value, *times, job.who, wanted, counts.get("read"), done]
