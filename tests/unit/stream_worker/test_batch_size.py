"""How a worker's batches shrink after a deadlock and grow again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stream_worker.batch_size import BatchSize


def settle(size: BatchSize, records: int) -> int:
    """Commit so many records in batches as large as allowed; returns how many batches it took."""
    batches = 0
    while records > 0:
        taken = min(records, size.now)
        size.settled(taken)
        records -= taken
        batches += 1
    return batches


def test_without_conflicts_every_batch_is_as_large_as_allowed() -> None:
    assert settle(BatchSize(500), 5_000) == 10


def test_after_a_conflict_a_thousand_records_go_alone_and_then_it_grows() -> None:
    size = BatchSize(2_000)
    size.conflict()
    assert settle(size, 1_000) == 1_000
    assert size.now == 2
    settle(size, 4_000)
    assert size.now == 2_000


def test_each_further_conflict_keeps_it_small_for_twice_as_long() -> None:
    size = BatchSize(2_000)
    for calm in (1_000, 2_000, 4_000):
        size.conflict()
        assert settle(size, calm) == calm
        assert size.now == 2


def test_the_conflicts_of_batches_still_under_way_count_once() -> None:
    size = BatchSize(2_000)
    size.conflict()
    size.conflict()
    settle(size, 1_000)
    assert size.now == 2


def test_old_conflicts_are_forgotten_in_the_end() -> None:
    size = BatchSize(2_000)
    for _ in range(3):
        size.conflict()
    settle(size, 100_000)
    size.conflict()
    assert settle(size, 1_000) == 1_000
    assert size.now == 2


@given(limit=st.integers(1, 5_000), steps=st.lists(st.one_of(st.none(), st.integers(1, 5_000))))
def test_it_stays_between_one_and_the_limit(limit: int, steps: list[int | None]) -> None:
    size = BatchSize(limit)
    for step in steps:
        if step is None:
            size.conflict()
            assert size.now == 1
        else:
            size.settled(min(step, size.now))
        assert 1 <= size.now <= limit
