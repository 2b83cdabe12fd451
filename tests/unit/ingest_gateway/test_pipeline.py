"""Look, publish, remember: the answers of one gateway, step by step, on ports in memory."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence

import pytest

from infra.runtime.producer import Result
from ingest_gateway.breaker import Breaker, State
from ingest_gateway.decide import Known, against
from ingest_gateway.deferred import Deferred
from ingest_gateway.outcomes import CONFLICT, DUPLICATE, Accepted, NotAccepted, Outcome, Overloaded, Unknown
from ingest_gateway.pipeline import Flight, Pipeline, Policy
from schemas.event import Event
from tests.fakes.gateway import MemoryKeys, MemoryLog, Steps, event
from tests.harness import eventually

POLICY = Policy(batch_size=100, batches=3, max_in_flight=1000, queue_timeout=5.0, reject_in_outage=False)


class Rig:
    """A pipeline on ports in memory."""

    def __init__(
        self, policy: Policy = POLICY, *, held: bool = False, keys: MemoryKeys | None = None, failures: int = 3
    ) -> None:
        self.now = 0.0
        self.steps = Steps(held=held)
        self.keys = keys or MemoryKeys(self.steps)
        self.log = MemoryLog(self.steps)
        self.breaker = Breaker(failures, 1.0, lambda: self.now)
        self.deferred = Deferred(self.keys, self.breaker, 10)
        self.pipeline = Pipeline(self.keys, self.log, self.deferred, self.breaker, policy, lambda: self.now)

    def state(self) -> State:
        """The breaker's state now."""
        return self.breaker.state

    async def submit(self, one: Event) -> Outcome:
        """Submit, with the key as the record's value."""
        return await self.pipeline.submit(one, one.idempotency_key.encode())

    def start(self, *events: Event) -> list[asyncio.Task[Outcome]]:
        """Submit in this order, without waiting."""
        return [asyncio.create_task(self.submit(one)) for one in events]


async def until_quiet() -> None:
    """Let everything run that can."""
    for _ in range(20):
        await asyncio.sleep(0)


async def release_all(steps: Steps, tasks: Sequence[asyncio.Task[Outcome]]) -> list[Outcome]:
    """Release one step after the other until all have their answer."""
    while not all(task.done() for task in tasks):
        await until_quiet()
        if steps.waiting:
            steps.release()
    return [task.result() for task in tasks]


async def test_new_then_duplicate_then_conflict() -> None:
    rig = Rig()
    first = await rig.submit(event("a", {"n": 1, "m": 2}))
    assert isinstance(first, Accepted)
    assert not first.deferred
    assert await rig.submit(event("a", {"m": 2.0, "n": 1})) is DUPLICATE
    assert await rig.submit(event("a", {"n": 2})) is CONFLICT
    assert len(rig.log) == 1
    assert rig.keys.rows[event("a").id_bytes][1:3] == (first.partition, first.offset)


async def test_8b_equal_ids_in_flight_share_one_publication_and_are_answered_after_it() -> None:
    rig = Rig(held=True)
    tasks = rig.start(event("a", 1), event("a", 1), event("a", 2), event("a", 1))
    await until_quiet()
    rig.steps.release()  # look
    await until_quiet()
    assert not any(task.done() for task in tasks), "nobody is answered before Kafka is"
    leader, *others = await release_all(rig.steps, tasks)
    assert isinstance(leader, Accepted)
    assert others == [DUPLICATE, CONFLICT, DUPLICATE]
    assert len(rig.log) == 1


async def test_followers_share_their_leaders_failure() -> None:
    rig = Rig()
    rig.log.refusing = True
    outcomes = await asyncio.gather(*rig.start(event("a", 1), event("a", 1), event("a", 2)))
    assert outcomes == [NotAccepted("kafka_down")] * 3
    rig.log.refusing = False
    assert isinstance(await rig.submit(event("a", 2)), Accepted), "a failed flight leaves nothing behind"


async def test_behind_a_conflict_another_payload_is_submitted_anew() -> None:
    rig = Rig()
    await rig.submit(event("a", 1))
    wrong, right, wrong_too, other = await asyncio.gather(
        *rig.start(event("a", 2), event("a", 1), event("a", 2), event("a", 3))
    )
    assert (wrong, right, wrong_too, other) == (CONFLICT, DUPLICATE, CONFLICT, CONFLICT)
    assert len(rig.log) == 1


async def test_the_row_decides_by_the_record_it_names() -> None:
    """Interleaving 7: the worker inserted the row from my own record before I could remember it."""
    rig = Rig(held=True)
    mine, other = event("a", 1), event("b", 1)
    tasks = rig.start(mine, other)
    await until_quiet()
    rig.steps.release()  # look
    await until_quiet()
    rig.steps.release()  # publish
    rows = {f.event.id_bytes: (p, o) for p, part in enumerate(rig.log.partitions) for o, f in enumerate(part)}
    rig.keys.rows[mine.id_bytes] = Known(mine.fingerprint, *rows[mine.id_bytes])
    rig.keys.rows[other.id_bytes] = Known(other.fingerprint, 0, 99)
    outcomes = await release_all(rig.steps, tasks)
    assert outcomes == [Accepted(*rows[mine.id_bytes]), DUPLICATE]


async def test_losing_the_race_to_another_payload_is_a_conflict() -> None:
    rig = Rig(held=True)
    tasks = rig.start(event("a", 1))
    await until_quiet()
    rig.steps.release()
    rig.keys.rows[event("a").id_bytes] = Known(event("a", 2).fingerprint, 2, 77)
    assert await release_all(rig.steps, tasks) == [CONFLICT]


async def test_a_key_that_is_overdue_is_published_again_and_told_duplicate() -> None:
    rig = Rig()
    await rig.submit(event("a", 1))
    rig.keys.overdue.add(event("a").id_bytes)
    assert await rig.submit(event("a", 1)) is DUPLICATE
    assert len(rig.log) == 2
    assert await rig.submit(event("a", 2)) is CONFLICT
    assert len(rig.log) == 2
    rig.log.refusing = True
    assert await rig.submit(event("a", 1)) == NotAccepted("kafka_down")
    assert len(rig.keys.remembers) == 1, "what has a row is not remembered again"


async def test_an_ack_is_never_turned_into_a_refusal() -> None:
    rig = Rig(held=True)
    tasks = rig.start(event("a", 1))
    await until_quiet()
    rig.steps.release()
    await until_quiet()
    rig.keys.down = True
    (outcome,) = await release_all(rig.steps, tasks)
    assert isinstance(outcome, Accepted)
    assert outcome.deferred
    assert rig.deferred.waiting == 1


async def test_without_a_store_events_are_accepted_and_the_breaker_spares_the_attempts() -> None:
    rig = Rig()
    rig.keys.down = True
    for number in range(6):
        outcome = await rig.submit(event(f"k{number}", 1))
        assert isinstance(outcome, Accepted)
        assert outcome.deferred
    assert rig.state() is State.OPEN
    assert (len(rig.keys.looks), len(rig.keys.remembers)) == (3, 0)
    rig.keys.down, rig.now = False, 1.5
    assert isinstance(await rig.submit(event("k9", 1)), Accepted)
    assert rig.state() is State.CLOSED


async def test_reject_refuses_before_anything_is_published() -> None:
    rig = Rig(POLICY._replace(reject_in_outage=True))
    rig.keys.down = True
    assert await rig.submit(event("a", 1)) == NotAccepted("dedup_unavailable")
    assert len(rig.log) == 0


@pytest.mark.parametrize("what", ["busy", "locked"])
async def test_a_busy_row_or_table_defers_and_says_nothing_of_the_store(what: str) -> None:
    rig = Rig(failures=1)
    setattr(rig.keys, what, True)
    for number in range(5):
        outcome = await rig.submit(event(f"k{number}", 1))
        assert isinstance(outcome, Accepted)
        assert outcome.deferred
    assert rig.state() is State.CLOSED
    assert rig.deferred.waiting == 5


async def test_an_unacknowledged_event_is_unknown_and_not_remembered() -> None:
    rig = Rig()
    for silent in ("kept", "lost"):
        rig.log.silent = silent
        assert await rig.submit(event("a", 1)) == Unknown("ack_timeout")
    assert not rig.keys.rows
    rig.log.silent = None
    assert isinstance(await rig.submit(event("a", 1)), Accepted)


async def test_load_makes_batches_larger_and_never_more() -> None:
    rig = Rig(POLICY._replace(batch_size=40), held=True)
    tasks = rig.start(*(event(f"k{number}") for number in range(7)))
    await until_quiet()
    tasks += rig.start(*(event(f"l{number}") for number in range(1)))
    await until_quiet()
    tasks += rig.start(*(event(f"m{number}") for number in range(2)))
    await until_quiet()
    tasks += rig.start(*(event(f"n{number}") for number in range(60)))
    await until_quiet()
    assert rig.keys.looks == [7, 1, 2], "three batches at most"
    outcomes = await release_all(rig.steps, tasks)
    assert all(isinstance(outcome, Accepted) for outcome in outcomes)
    assert rig.keys.looks == [7, 1, 2, 40, 20]


async def test_events_are_published_in_the_order_of_submission_whatever_the_order_of_look_ups() -> None:
    rig = Rig(POLICY._replace(batch_size=1), held=True)
    tasks = rig.start(*(event(f"k{number}") for number in range(3)))
    await until_quiet()
    for which in (2, 1):  # the look-ups of the later batches come back first
        rig.steps.release(which)
        await until_quiet()
    assert not rig.log.order
    await release_all(rig.steps, tasks)
    assert [flight.event.idempotency_key for flight in rig.log.order] == ["k0", "k1", "k2"]


async def test_beyond_the_bound_events_are_refused_with_a_time_and_room_comes_back() -> None:
    rig = Rig(POLICY._replace(max_in_flight=2), held=True)
    tasks = rig.start(event("a"), event("a"))
    await until_quiet()
    assert await rig.submit(event("b")) == Overloaded(30)
    await release_all(rig.steps, tasks)
    assert rig.pipeline.overloaded is None
    assert rig.pipeline.in_flight == 0


async def test_at_twice_the_capacity_all_of_it_is_used_and_only_the_noisy_source_is_refused() -> None:
    """A batch of 10 a turn, and 18 events of one source and 2 of others come in each."""
    rig = Rig(POLICY._replace(max_in_flight=40, batch_size=10, batches=1), held=True)
    outcomes: dict[str, list[Outcome]] = {"noisy": [], "quiet": []}
    waited: list[int] = []

    async def send(turn: int, number: int, source: str) -> None:
        outcome = await rig.submit(event(f"{turn}-{number}", 1, source))
        outcomes["noisy" if source == "noisy" else "quiet"].append(outcome)
        if isinstance(outcome, Accepted):
            waited.append(turns - turn)

    turns, tasks = 0, []
    for turns in range(60):
        sources = ["noisy"] * 18 + ["quiet-a", "quiet-b"]
        tasks += [asyncio.create_task(send(turns, number, source)) for number, source in enumerate(sources)]
        for _ in range(3):  # look, publish, remember: one batch lands in each turn
            await until_quiet()
            rig.steps.release()
    accepted = sum(isinstance(one, Accepted) for one in (*outcomes["noisy"], *outcomes["quiet"]))
    assert accepted >= 0.9 * 10 * turns
    assert max(waited) <= 50 // 10 + 1, "nobody waits longer than the reserve takes to drain"
    assert all(isinstance(one, Accepted) for one in outcomes["quiet"])
    assert {type(one) for one in outcomes["noisy"]} == {Accepted, Overloaded}
    await release_all(rig.steps, tasks)  # type: ignore[arg-type]


async def test_what_waits_too_long_for_a_batch_is_refused_and_was_not_published() -> None:
    rig = Rig(POLICY._replace(batches=1, queue_timeout=0.0), held=True)
    stuck = rig.start(event("a"))
    await until_quiet()
    late = rig.start(event("b"))
    await until_quiet()
    rig.now = 1.0
    async with asyncio.timeout(5):
        assert await late[0] == NotAccepted("queue_timeout")
    await release_all(rig.steps, stuck)
    assert [flight.event.idempotency_key for flight in rig.log.order] == ["a"]


async def test_events_gather_behind_a_batch_until_it_lands_or_the_next_is_full() -> None:
    rig = Rig(POLICY._replace(batch_size=4, linger=60.0), held=True)
    first = rig.start(event("a"))
    await until_quiet()
    behind = rig.start(*(event(f"b{number}") for number in range(3)))
    await until_quiet()
    assert rig.keys.looks == [1], "three events wait for the one in flight"
    full = rig.start(event("b3"), event("c"))
    await until_quiet()
    assert rig.keys.looks == [1, 4], "a full batch does not wait, what is left over does"
    await release_all(rig.steps, [*first, *behind])
    await release_all(rig.steps, full)
    assert rig.keys.looks == [1, 4, 1]


async def test_events_gather_for_as_long_as_the_first_may_linger() -> None:
    rig = Rig(POLICY._replace(linger=0.05), held=True)
    slow = rig.start(event("a"))
    await until_quiet()
    late = rig.start(event("b"), event("c"))
    await until_quiet()
    assert rig.keys.looks == [1]
    rig.now = 0.06
    await eventually(lambda: rig.keys.looks == [1, 2])
    await release_all(rig.steps, [*slow, *late])


class BrokenLog(MemoryLog):
    """A publisher with a bug."""

    async def publish(self, flights: Sequence[Flight]) -> Sequence[Result]:
        raise RuntimeError("a bug")


async def test_a_bug_in_a_batch_is_answered_unknown_for_leader_and_followers_alike() -> None:
    rig = Rig()
    pipeline = Pipeline(rig.keys, BrokenLog(), rig.deferred, rig.breaker, POLICY, lambda: 0.0)
    outcomes = await asyncio.gather(*(pipeline.submit(event("a"), b"") for _ in range(3)))
    assert outcomes == [Unknown("internal_error")] * 3
    await pipeline.drain()
    assert pipeline.in_flight == 0


async def test_a_waiting_request_that_is_cancelled_leaves_the_others_alone() -> None:
    rig = Rig(held=True)
    leader, follower = rig.start(event("a"), event("a"))
    await until_quiet()
    leader.cancel()
    assert await release_all(rig.steps, [follower]) == [DUPLICATE]
    assert leader.cancelled()
    assert rig.pipeline.in_flight == 0


async def test_drain_ends_when_everything_is_answered() -> None:
    rig = Rig(POLICY._replace(batch_size=1, batches=1))
    tasks = rig.start(*(event(f"k{number}") for number in range(5)))
    await asyncio.sleep(0)
    await rig.pipeline.drain()
    await until_quiet()
    assert all(task.done() for task in tasks)


def test_a_fingerprint_of_a_newer_release_is_neither_duplicate_nor_conflict() -> None:
    """Interleaving 5: it is compared in the row's version, and an unknown version is left to who knows it."""
    one = event("a", 1)
    newer = bytes((255,)) + one.fingerprint[1:]
    assert against(one, Known(newer, 0, 0)) == NotAccepted("fingerprint_version")
    assert against(one, Known(one.fingerprint, 0, 0)) is DUPLICATE


def test_every_pair_of_equal_and_unequal_payloads_is_told_apart() -> None:
    payloads = [1, 2, "1", {"a": 1}, {"a": [1]}]
    for left, right in itertools.product(payloads, repeat=2):
        outcome = against(event("a", left), Known(event("a", right).fingerprint, 0, 0))
        assert outcome is (DUPLICATE if left == right else CONFLICT)


def as_batch(*events: Event) -> list[tuple[Event, bytes, bytes | None]]:
    """What `submit_many` takes, with the key as the record's value."""
    return [(one, one.idempotency_key.encode(), None) for one in events]


async def test_a_batch_keeps_its_order_and_finds_its_own_copies() -> None:
    rig = Rig(Policy(2, 3, 1000, 5.0, False))
    events = [event("c"), event("a"), event("a"), event("b"), event("a", 2), event("d")]
    outcomes = await rig.pipeline.submit_many(as_batch(*events))
    assert [type(each) for each in outcomes] == [
        Accepted,
        Accepted,
        type(DUPLICATE),
        Accepted,
        type(CONFLICT),
        Accepted,
    ]
    assert [flight.wire for flight in rig.log.order] == [b"c", b"a", b"b", b"d"]
    assert rig.pipeline.in_flight == 0
    assert await rig.pipeline.submit_many([]) == []


async def test_batches_and_single_events_share_flights() -> None:
    rig = Rig(held=True)
    single = rig.start(event("a"))
    await until_quiet()
    batch = asyncio.create_task(rig.pipeline.submit_many(as_batch(event("a"), event("a", 2), event("b"))))
    await until_quiet()
    late = rig.start(event("b"))
    await until_quiet()
    assert rig.pipeline.in_flight == 5
    first, *_ = await release_all(rig.steps, [*single, *late])
    assert isinstance(first, Accepted)
    assert late[0].result() is DUPLICATE
    outcomes = await batch
    assert (outcomes[0], outcomes[1], type(outcomes[2])) == (DUPLICATE, CONFLICT, Accepted)
    assert len(rig.log) == 2


async def test_in_a_batch_too_what_follows_a_conflict_is_submitted_on_its_own() -> None:
    rig = Rig()
    await rig.submit(event("a", "stored"))
    outcomes = await rig.pipeline.submit_many(
        as_batch(event("a", 1), event("a", "stored"), event("a", 1), event("a", 2), event("a", "stored"))
    )
    assert outcomes == [CONFLICT, DUPLICATE, CONFLICT, CONFLICT, DUPLICATE]


async def test_a_batch_that_is_cut_off_knows_what_it_does_not_know() -> None:
    rig = Rig(held=True)
    await_known = rig.start(event("known"))
    await release_all(rig.steps, await_known)
    batch = asyncio.create_task(rig.pipeline.submit_many(as_batch(event("known"), event("new"))))
    await until_quiet()
    rig.steps.release()  # the look-up answers one of them
    await until_quiet()
    batch.cancel()
    assert await batch == [DUPLICATE, Unknown("stopping")]
    assert rig.pipeline.in_flight == 0
    while rig.steps.waiting:
        rig.steps.release()
        await until_quiet()
    await rig.pipeline.drain()
    assert len(rig.log) == 2


async def test_events_of_batches_are_no_requests() -> None:
    rig = Rig(Policy(100, 3, 2, 5.0, False), held=True)
    batch = asyncio.create_task(rig.pipeline.submit_many(as_batch(*[event(f"k{n}") for n in range(50)])))
    await until_quiet()
    tasks = rig.start(event("a"), event("b"), event("c"))
    await until_quiet()
    assert isinstance(tasks[2].result(), Overloaded)
    assert [type(each) for each in await release_all(rig.steps, tasks[:2])] == [Accepted, Accepted]
    assert len(await batch) == 50


# --- waiting by a call


async def test_who_waits_by_a_call_is_told_what_who_waits_by_a_task_is() -> None:
    rig = Rig(held=True)
    told: list[Outcome] = []
    for one in (event("a", 1), event("a", 1), event("a", 2), event("b")):
        rig.pipeline.submit_to(one, b"wire", None, told.append)
    task = rig.start(event("a", 1))
    assert rig.pipeline.in_flight == 4
    await release_all(rig.steps, task)
    await until_quiet()
    assert [type(outcome) for outcome in told[:1]] == [Accepted]
    assert sorted(map(str, told[1:])) == sorted(map(str, [DUPLICATE, CONFLICT, Accepted(*coordinates(told[-1]))]))
    assert task[0].result() is DUPLICATE
    assert rig.pipeline.in_flight == 0
    assert len(rig.log) == 2


def coordinates(outcome: Outcome) -> tuple[int, int]:
    """Where an accepted event is."""
    assert isinstance(outcome, Accepted)
    return outcome.partition, outcome.offset


async def test_one_too_many_is_told_at_once_and_leaves_nothing_behind() -> None:
    rig = Rig(POLICY._replace(max_in_flight=4), held=True)
    told: list[Outcome] = []
    for number in range(6):
        rig.pipeline.submit_to(event(f"k{number}"), b"wire", None, told.append)
    assert [type(outcome) for outcome in told] == [Overloaded] * 2
    assert rig.pipeline.in_flight == 4


async def test_abandoned_events_are_unknown_and_told_once() -> None:
    rig = Rig(held=True)
    told: list[Outcome] = []
    for one in (event("a"), event("a"), event("b")):
        rig.pipeline.submit_to(one, b"wire", None, told.append)
    await until_quiet()
    rig.pipeline.abandon()
    assert told == [Unknown("stopping")] * 3
    assert rig.pipeline.in_flight == 0
    while rig.steps.waiting:
        rig.steps.release()
        await until_quiet()
    assert len(told) == 3, "what comes of it later is told to nobody"
