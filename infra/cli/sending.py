"""Dead letters on their way back, as `plutus dlq replay` and `plutus failures retry` do it: a job with its audit row, a
pace, a progress bar, and an end that tells how to go on.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from infra.cli import jobs, queries, replay
from infra.cli.connect import database, operator_settings, reaching_kafka
from infra.cli.filters import From
from infra.cli.jobs import Job, Kind, Status
from infra.cli.output import (
    DONE,
    INTERRUPTED,
    NOTHING_MATCHED,
    USAGE,
    Failure,
    plural,
    say,
    show_json,
    show_table,
)
from infra.cli.progress import Progress
from infra.cli.queries import Filter
from infra.cli.reader import open_reader
from infra.cli.replay import EXPLAINED, DeadLetter, Pace, Position, Request, Run, Tally
from infra.runtime.producer import Producer, Record
from infra.runtime.settings import RuntimeSettings

_START_SECONDS = 15.0
_STOP_SECONDS = 5.0


@dataclass(frozen=True)
class Order:
    """What a command was told. resume: the job to go on with; its request counts then, but for pace and number."""

    kind: Kind
    request: Request
    origin: From
    resume: UUID | None = None
    as_json: bool = False

    def as_json_object(self) -> dict[str, Any]:
        """For the job's row."""
        asked = self.request
        return {
            "filter": asked.wanted.as_json(),
            "all": asked.anyway,
            "from": self.origin.value,
            "max": asked.most,
            "rate": asked.rate,
        }

    def again(self, job: Job) -> Order:
        """The order of a job, at the pace of this one."""
        wanted = Filter.of_json(job.request["filter"])
        request = replace(self.request, wanted=wanted, anyway=job.request["all"])
        return replace(self, kind=job.kind, request=request, origin=From(job.request["from"]))


async def send_back(order: Order) -> int:
    """Do it, and tell how it went; returns the exit code."""
    settings = operator_settings(kafka=True, postgres=True)
    stop = asyncio.Event()
    with stopping_on_signals(stop):
        async with database(settings) as db:
            job = None if order.resume is None else await _resumable(db, order.resume)
            order = order if job is None else order.again(job)
            done, tally, job_id = await _run(settings, db, order, job, stop)
    _report(tally, order, job_id)
    if not tally.read and order.request.wanted.any_id is not None and order.origin is From.TOPIC:
        say(f"its dead letter is not in {settings.kafka_dlq_topic}: try --from table")
    if not done and job_id is not None:
        say(f"stopped; go on with: plutus dlq replay --resume {job_id}")
    if stop.is_set():
        return INTERRUPTED
    return DONE if tally.replayed else NOTHING_MATCHED


async def _resumable(db: AsyncConnection, job_id: UUID) -> Job:
    job = await jobs.load(db, job_id)
    if job is None or job.kind not in (Kind.REPLAY, Kind.RETRY):
        raise Failure(f"No replay {job_id} is known.", advice="plutus dlq jobs", code=NOTHING_MATCHED)
    if job.status is Status.DONE:
        raise Failure(f"Replay {job_id} came to its end.", advice="start another one without --resume", code=USAGE)
    return job


async def _run(
    settings: RuntimeSettings, db: AsyncConnection, order: Order, job: Job | None, stop: asyncio.Event
) -> tuple[bool, Tally, UUID | None]:
    """Whether it came to the end, what became of what was read, and the job's id; a dry run has none."""
    position = Position() if job is None or job.progress is None else Position.of_json(job.progress)
    tally = Tally() if job is None else Tally.of_counts(job.counts)
    dry = order.request.dry_run
    async with AsyncExitStack() as stack:
        batches, total = await _dead_letters(settings, db, order, position, stack)
        publish = await _publisher(settings, stack, dry=dry)
        job_id = job.job_id if job else None if dry else await jobs.start(db, order.kind, order.as_json_object())
        progress = stack.enter_context(Progress("dead letters", tally.read + total))

        async def saved(status: Status = Status.RUNNING) -> None:
            if job_id is not None:
                await jobs.save(db, job_id, status, tally.counts(), position.as_json())
            progress.at(tally.read, f"{tally.replayed:,} replayed")

        pace = Pace(order.request.rate, stop, asyncio.get_running_loop().time)
        run = Run(order.request, position, tally, publish, saved, stop, pace)
        try:
            done = await run.through(db, batches)
        except Failure:
            await saved(Status.STOPPED)  # Kafka failed us; the database is still there
            if job_id is not None:
                say(f"go on with: plutus dlq replay --resume {job_id}")
            raise
        await saved(Status.DONE if done else Status.STOPPED)
    return done, tally, job_id


async def _publisher(settings: RuntimeSettings, stack: AsyncExitStack, *, dry: bool) -> Any:
    producer = Producer(settings, "plutus-replay")
    if not dry:
        stack.push_async_callback(producer.stop, _STOP_SECONDS)
        with reaching_kafka(settings):
            await producer.start(_START_SECONDS)

    async def publish(records: Sequence[Record]) -> None:
        await replay.publish_all(producer, settings.kafka_topic, records)

    return publish


async def _dead_letters(
    settings: RuntimeSettings, db: AsyncConnection, order: Order, position: Position, stack: AsyncExitStack
) -> tuple[AsyncIterator[list[DeadLetter]], int]:
    """The dead letters to judge, and about how many they are; `position` is told where it begins and ends."""
    wanted = order.request.wanted
    rows = [] if wanted.any_id is None else await queries.letters_of(db, wanted.any_id)
    if wanted.any_id is not None and not rows:
        raise Failure(
            f"No failure and no failed event {wanted.any_id} is known.",
            advice="plutus failures list --status all",
            code=NOTHING_MATCHED,
        )
    if order.origin is From.TABLE:
        position.until = position.until or await queries.now(db)
        total = await queries.count_failures(db, order.request.chosen)
        return replay.from_table(db, order.request, position), total
    reader = await stack.enter_async_context(open_reader(settings, settings.kafka_dlq_topic))
    if wanted.any_id is not None:
        return replay.at_places(reader, rows), len(rows)
    if not position.ends:
        position.starts, position.ends = await reader.beginnings(), await reader.ends()
    total = sum(end - position.starts.get(p, 0) for p, end in position.ends.items())
    return replay.from_topic(reader, dict(position.starts), position.ends), total


def _report(tally: Tally, order: Order, job_id: UUID | None) -> None:
    dry = order.request.dry_run
    if order.as_json:
        samples = {"samples": tally.samples} if dry else {"job": job_id}
        show_json({"dry_run": dry, **tally.counts(), **samples})
    elif tally.reasons:
        show_table(("reason", "would replay" if dry else "replayed"), sorted(tally.reasons.items()))
        if dry:
            show_table(
                ("for example", "reason", "source", "key bytes", "value bytes"),
                [list(sample.values()) for sample in tally.samples],
            )
    sent = "would be sent back" if dry else "sent back"
    say(f"{plural(tally.read, 'dead letter')} read, {tally.replayed:,} {sent}")
    for verdict, words in EXPLAINED.items():
        if tally.verdicts[verdict]:
            say(f"skipped {tally.verdicts[verdict]:,}: {words}")


@contextmanager
def stopping_on_signals(
    stop: asyncio.Event, words: str = "stopping after this batch; once more to stop at once"
) -> Iterator[None]:
    """Inside, the first SIGINT or SIGTERM sets `stop` and says so, a second one cancels what is under way."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()

    def told() -> None:
        if stop.is_set() and task is not None:
            task.cancel()
        stop.set()
        say(words)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, told)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
