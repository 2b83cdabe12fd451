"""One run of the demo on a system that is up: send everything, wait until it is drained, read back, judge.

A service that is away is waited for until the deadline: killing any process meanwhile may make copies, never a wrong
count.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, TypeVar

from infra.cli import demo_audit, queries
from infra.cli.connect import database, settings_at
from infra.cli.demo_audit import Run
from infra.cli.demo_send import OutOfTime, Poster, Where, Writer
from infra.cli.http import Answer
from infra.cli.output import DONE, FAILED, UNREACHABLE, Failure, say, show_json, show_table
from infra.cli.progress import Progress
from infra.cli.reader import Offsets, open_reader
from infra.demo import bad, quakes, report
from infra.demo.laws import Facts, Metrics, broken
from infra.demo.quakes import Quake
from infra.runtime.settings import RuntimeSettings

_AT_ONCE = 24
_POLL = 0.25
_TOLD_EVERY = 3.0
_RETRY = 0.5
T = TypeVar("T")


@dataclass(frozen=True)
class Stage:
    """Where the demo plays.

    where: the system's addresses, asked for again whenever something was away.
    prefix: before every key. ours: the system was started for this demo, with the handler, and nobody else uses it.
    seconds: from the first send until everything must be drained.
    """

    where: Where
    prefix: str
    ours: bool
    seconds: float

    def settings(self) -> RuntimeSettings:
        """The settings for what is there now."""
        return settings_at(self.where())


@dataclass
class _Sent:
    """What the clients saw."""

    answers: list[tuple[Quake, Answer]]
    refusals: list[int]
    poster: Poster
    writer: Writer


class Play:
    """The demo on a stage."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._posts = bad.posts(stage.prefix)
        self._deadline = asyncio.get_running_loop().time() + stage.seconds

    async def run(self, as_json: bool) -> int:
        """Play, tell, and return the exit code: 0 if every count is exact.

        Raises:
            Failure: something was away for too long.
        """
        run = await self._patiently(self._begin)
        before = await demo_audit.read_metrics(self._stage.where()) if self._stage.ours else None
        sent = await self._send(run)
        ends = await self._patiently(self._log_ends)
        await self._drain(run, ends)
        facts, effects = await self._patiently(lambda: self._audit(run, sent, ends, before))
        posts = [answer.seconds for _, answer in sent.answers]
        off = broken(facts)
        if as_json:
            show_json(report.as_object(facts, off, posts, effects))
        else:
            show_table(tuple(report.COLUMNS.values()), report.rows(facts))
            say("\n".join(report.notes(facts)))
            say(report.latency(posts, effects))
        for sentence in off:
            say(f"off: {sentence}")
        say("every count is exact" if not off else f"{len(off)} counts are off")
        return FAILED if off else DONE

    async def _begin(self) -> Run:
        settings = self._stage.settings()
        async with (
            database(settings) as db,
            open_reader(settings, settings.kafka_topic) as log,
            open_reader(settings, settings.kafka_dlq_topic) as dlq,
        ):
            return Run(
                quakes.load(self._stage.prefix),
                bad.poison(self._stage.prefix),
                await queries.now(db),
                await log.ends(),
                await dlq.ends(),
            )

    async def _send(self, run: Run) -> _Sent:
        poster = Poster(self._stage.where, self._deadline)
        writer = Writer(self._stage.settings(), self._stage.where, self._deadline)
        sent = _Sent([], [], poster, writer)
        jobs = _jobs(run, self._posts, sent)
        try:
            with Progress("sending", len(jobs), every=_TOLD_EVERY) as progress:
                pending = enumerate(jobs, 1)

                async def client() -> None:
                    for number, job in pending:
                        await job()
                        progress.at(number)

                async with asyncio.TaskGroup() as clients:
                    for _ in range(_AT_ONCE):
                        clients.create_task(client())
        except* Failure as group:
            raise _first(group) from None
        finally:
            await poster.close()
            await writer.close()
        say(f"sent {3 * len(run.quakes):,} events and {len(self._posts) + len(run.poison)} bad records")
        return sent

    async def _log_ends(self) -> dict[int, int]:
        settings = self._stage.settings()
        async with open_reader(settings, settings.kafka_topic) as reader:
            return await reader.ends()

    async def _drain(self, run: Run, ends: Offsets) -> None:
        with Progress("draining", len(run.quakes), every=_TOLD_EVERY) as progress:

            async def once() -> bool:
                settings = self._stage.settings()
                async with database(settings) as db:
                    progress.at(await demo_audit.stored(db, run))
                    return await demo_audit.is_drained(db, settings, run, ends)

            while not await self._patiently(once):
                if self._late():
                    # Not an error of its own: the counts will say what is missing.
                    say("not drained within the deadline")
                    return
                await asyncio.sleep(_POLL)

    async def _audit(self, run: Run, sent: _Sent, ends: Offsets, before: Metrics | None) -> tuple[Facts, list[float]]:
        settings = self._stage.settings()
        async with AsyncExitStack() as stack:
            reader = await stack.enter_async_context(open_reader(settings, settings.kafka_topic))
            dlq = await stack.enter_async_context(open_reader(settings, settings.kafka_dlq_topic))
            db = await stack.enter_async_context(database(settings))
            log = await demo_audit.read_log(reader, run, ends)
            facts = demo_audit.new_facts(run, log)
            demo_audit.add_answers(facts, sent.answers)
            effects = await demo_audit.read_events(db, run, log, facts)
            await demo_audit.read_failures(db, dlq, run, log, facts)
        facts.answers, facts.refusals = sent.poster.answers, sent.refusals
        facts.repeated_posts, facts.repeated_records = sent.poster.repeated, sent.writer.repeated
        facts.needs_handler = self._stage.ours
        if before is not None:
            facts.metrics = (await demo_audit.read_metrics(self._stage.where())).since(before)
        return facts, effects

    async def _patiently(self, step: Callable[[], Awaitable[T]]) -> T:
        """Do it, again and again while something is away and there is time."""
        while True:
            try:
                return await step()
            except Failure as failure:
                if failure.code != UNREACHABLE or self._late():
                    raise
            await asyncio.sleep(_RETRY)

    def _late(self) -> bool:
        return asyncio.get_running_loop().time() > self._deadline


Job = Callable[[], Coroutine[Any, Any, None]]


def _jobs(run: Run, posts: list[bad.BadPost], sent: _Sent) -> list[Job]:
    """What is to be sent: each quake thrice, the bad records spread among them. The copies of every other quake race,
    those of the rest follow each other in any order: so there are events of every origin and duplicates of every kind."""
    rng = random.Random(len(run.quakes))  # noqa: S311 - the same order every time, so that a failure can be repeated

    def quake_job(quake: Quake) -> Job:
        copies = [_post(quake, quake.plain(), sent), _post(quake, quake.respelled(rng), sent), _write(quake, sent)]
        rng.shuffle(copies)
        return _together(copies) if rng.random() < 0.5 else _in_turn(copies)

    def bad_post(body: bytes) -> Job:
        async def once() -> None:
            sent.refusals.append((await sent.poster.post(body)).status)

        return once

    jobs = [quake_job(quake) for quake in run.quakes]
    others = [bad_post(post.body) for post in posts]
    others += [_poison(poison, sent) for poison in run.poison]
    for job in others:
        jobs.insert(rng.randrange(len(jobs)), job)
    return jobs


def _together(copies: list[Job]) -> Job:
    async def race() -> None:
        async with asyncio.TaskGroup() as group:
            for copy in copies:
                group.create_task(copy())

    return race


def _in_turn(copies: list[Job]) -> Job:
    async def one_by_one() -> None:
        for copy in copies:
            await copy()

    return one_by_one


def _post(quake: Quake, body: bytes, sent: _Sent) -> Job:
    async def once() -> None:
        sent.answers.append((quake, await sent.poster.post(body)))

    return once


def _write(quake: Quake, sent: _Sent) -> Job:
    return lambda: sent.writer.send(quake.source.encode(), quake.plain())


def _poison(poison: bad.Poison, sent: _Sent) -> Job:
    return lambda: sent.writer.send(poison.key, poison.value)


def _first(group: BaseExceptionGroup[Failure]) -> Failure:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error if isinstance(error, Failure) else OutOfTime("The demo was not done")


async def beside(main: Coroutine[Any, Any, T], watch: Callable[[], None], every: float) -> T:
    """Run `main` and call `watch` now and then meanwhile; an error of the watch ends both."""
    task = asyncio.create_task(main)
    try:
        while not task.done():
            watch()
            await asyncio.wait([task], timeout=every)
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait([task])
