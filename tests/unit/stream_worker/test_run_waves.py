"""Events of one handler are brought together, and the order within an ordering key is never touched."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import asyncpg
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import Reason
from schemas.event import Event
from stream_worker.handlers import Handler
from stream_worker.outcomes import Dead
from stream_worker.run import Task, in_waves
from tests.worker_kit import Log, envelope


async def nothing(event: Event, tx: asyncpg.Connection) -> None:
    """Any function will do."""


HANDLERS = {name: Handler(name, nothing) for name in "ABCD"}
ANY = Log().append(envelope("any")).event


def tasks(log: list[tuple[str, str]]) -> list[Task]:
    """Tasks of a log of (ordering key, handler); "-" has none, "x" must not run."""
    assert ANY is not None
    dead = Dead(Reason.SCHEMA_INVALID, "schema")
    return [
        Task(n, ANY, key, HANDLERS.get(what), dead if what == "x" else None, 0) for n, (key, what) in enumerate(log)
    ]


def stretches(of: Any) -> int:
    return sum(1 for _ in groupby(of, key=lambda task: (task.handler, task.settled)))


@given(st.lists(st.tuples(st.sampled_from("klm"), st.sampled_from("ABCD-x")), max_size=40))
def test_order_within_a_key_is_kept_and_there_are_never_more_chunks(log: list[tuple[str, str]]) -> None:
    given_ = tasks(log)
    ordered = in_waves(given_)
    assert sorted(task.position for task in ordered) == list(range(len(log)))
    for key in "klm":
        of_key = [task.position for task in ordered if task.order_key == key]
        assert of_key == sorted(of_key)
    assert stretches(ordered) <= stretches(given_)


def test_mixed_topics_of_many_keys_run_handler_by_handler() -> None:
    log = [(f"k{n}", "ABC"[n % 3]) for n in range(300)]
    assert stretches(in_waves(tasks(log))) == 3


def test_one_key_keeps_its_log_whatever_that_costs() -> None:
    log = [("k", "AB"[n % 2]) for n in range(100)]
    assert [task.position for task in in_waves(tasks(log))] == list(range(100))
