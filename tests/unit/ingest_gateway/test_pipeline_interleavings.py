"""Two gateways and a worker on one log and one key table, in every order of steps that Hypothesis can think of.

Whatever the order: one payload per id wins, whoever was told 2xx sent that payload and it is in the log, every other payload
was told conflict, and without failures exactly one sender per id was told that it created the event.
"""

from __future__ import annotations

import asyncio
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from ingest_gateway.breaker import Breaker
from ingest_gateway.decide import Known
from ingest_gateway.deferred import Deferred
from ingest_gateway.outcomes import Accepted, Conflict, Duplicate, NotAccepted, Outcome, Unknown
from ingest_gateway.pipeline import Pipeline, Policy
from schemas.event import Event
from tests.fakes.gateway import MemoryKeys, MemoryLog, Steps, event

POLICY = Policy(batch_size=2, batches=2, max_in_flight=100, queue_timeout=60.0, reject_in_outage=False)
KAFKA = st.sampled_from(["up", "up", "up", "refusing", "kept", "lost"])
SENDERS = st.lists(
    st.tuples(st.integers(0, 1), st.sampled_from("ab"), st.integers(1, 2)), min_size=1, max_size=7
)  # gateway, key, payload


class World:
    """What the gateways and the worker share."""

    def __init__(self) -> None:
        self.steps = Steps(held=True)
        self.keys = MemoryKeys(self.steps)
        self.log = MemoryLog(self.steps)
        self.gateways = [self._gateway(), self._gateway()]
        self.worked = [0] * len(self.log.partitions)

    def _gateway(self) -> Pipeline:
        breaker = Breaker(1000, 1.0, lambda: 0.0)
        return Pipeline(self.keys, self.log, Deferred(self.keys, breaker, 100), breaker, POLICY, lambda: 0.0)

    def work(self, partition: int) -> None:
        """The worker takes the partition's next record: it inserts the key's row where there is none."""
        records = self.log.partitions[partition]
        offset = self.worked[partition]
        if offset < len(records):
            self.worked[partition] += 1
            taken = records[offset].event
            self.keys.rows.setdefault(taken.id_bytes, Known(taken.fingerprint, partition, offset))

    def winner(self, one: Event) -> bytes | None:
        """The fingerprint that the id ended with."""
        row = self.keys.rows.get(one.id_bytes)
        return row.fingerprint if row else None


async def play(senders: list[tuple[int, str, int]], data: st.DataObject, *, failures: bool) -> None:
    world = World()
    events = [event(key, payload) for _, key, payload in senders]
    tasks = [
        asyncio.create_task(world.gateways[gateway].submit(one, b""))
        for (gateway, _, _), one in zip(senders, events, strict=True)
    ]
    while not all(task.done() for task in tasks):
        for _ in range(12):
            await asyncio.sleep(0)
        choice = data.draw(st.integers(0, 9), label="step")
        if failures and choice == 9:
            mode = data.draw(KAFKA, label="kafka")
            world.log.refusing = mode == "refusing"
            world.log.silent = mode if mode in ("kept", "lost") else None
        elif choice >= 7:
            world.work(data.draw(st.integers(0, 2), label="partition"))
        elif world.steps.waiting:
            world.steps.release(choice % len(world.steps.waiting))
    check(world, events, [task.result() for task in tasks], failures=failures)


def check(world: World, events: list[Event], outcomes: list[Outcome], *, failures: bool) -> None:
    logged = Counter((flight.event.id_bytes, flight.event.fingerprint) for flight in world.log.order)
    created: Counter[object] = Counter()
    for one, outcome in zip(events, outcomes, strict=True):
        match outcome:
            case Accepted() | Duplicate():
                assert world.winner(one) == one.fingerprint
                assert logged[one.id_bytes, one.fingerprint] >= 1
                created[one.id_bytes] += isinstance(outcome, Accepted)
            case Conflict():
                assert world.winner(one) not in (None, one.fingerprint)
            case NotAccepted() | Unknown():
                assert failures
            case _:
                raise AssertionError(outcome)
    if failures:
        assert all(count <= 1 for count in created.values())
    else:
        assert all(created[one.id_bytes] == 1 for one in events)


@given(senders=SENDERS, data=st.data())
@settings(max_examples=150, deadline=None)
def test_whatever_the_order_one_payload_wins_and_all_answers_agree(
    senders: list[tuple[int, str, int]], data: st.DataObject
) -> None:
    asyncio.run(play(senders, data, failures=False))


@given(senders=SENDERS, data=st.data())
@settings(max_examples=150, deadline=None)
def test_nobody_is_told_2xx_for_what_is_not_in_the_log_however_kafka_fails(
    senders: list[tuple[int, str, int]], data: st.DataObject
) -> None:
    asyncio.run(play(senders, data, failures=True))
