"""`plutus dlq reconcile`: the topic read once, the table once, what was found told, and one audit row for it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack

from infra.cli import jobs
from infra.cli import reconcile as halves
from infra.cli.connect import database, operator_settings, reaching_kafka
from infra.cli.output import DONE, UNREACHABLE, Failure, plural, say, show_json
from infra.cli.progress import Progress
from infra.cli.reader import open_reader
from infra.cli.reconcile import EXPLAINED, REPAIRED, Reconciliation
from infra.runtime.producer import Producer, Receipt, Record

_START_SECONDS = 15.0
_STOP_SECONDS = 5.0
_PUBLISH_SECONDS = 30.0


async def reconcile(*, dry_run: bool, as_json: bool) -> int:
    """Do it, and tell what was found; returns the exit code."""
    settings = operator_settings(kafka=True, postgres=True)
    async with AsyncExitStack() as stack:
        db = await stack.enter_async_context(database(settings))
        reader = await stack.enter_async_context(open_reader(settings, settings.kafka_dlq_topic))
        starts, ends = await reader.beginnings(), await reader.ends()
        producer = Producer(settings, "plutus-reconcile")
        if not dry_run:
            stack.push_async_callback(producer.stop, _STOP_SECONDS)
            with reaching_kafka(settings):
                await producer.start(_START_SECONDS)

        async def send(records: Sequence[Record]) -> Sequence[Receipt]:
            results = await producer.publish(settings.kafka_dlq_topic, records, _PUBLISH_SECONDS)
            acknowledged = [result for result in results if isinstance(result, Receipt)]
            if len(acknowledged) < len(records):
                raise Failure("A dead letter was not acknowledged by Kafka.", advice="run it again", code=UNREACHABLE)
            return acknowledged

        job = None if dry_run else await jobs.start(db, jobs.Kind.RECONCILE, {})
        found = Reconciliation(db, dry_run, send)
        total = sum(end - starts.get(partition, 0) for partition, end in ends.items())
        progress = stack.enter_context(Progress("dead letters", total))
        await halves.run(found, reader, starts, ends, progress.at)
        if job is not None:
            await jobs.save(db, job, jobs.Status.DONE, found.counts())
    if as_json:
        show_json({"dry_run": dry_run, **found.counts()})
    _tell(found)
    return DONE


def _tell(found: Reconciliation) -> None:
    for finding, words in EXPLAINED.items():
        if found.findings[finding]:
            done = "" if finding not in REPAIRED else ", to be repaired" if found.dry_run else ", repaired"
            say(f"{found.findings[finding]:,} {words}{done}")
    verb = "would be" if found.dry_run else "were"
    say(f"{plural(found.read, 'dead letter')} read, {found.repaired:,} {verb} repaired")
