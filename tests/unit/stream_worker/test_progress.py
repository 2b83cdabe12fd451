"""Offset progress: property tests over every order of receiving, finishing and committing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from stream_worker.progress import Progress


def test_nothing_new_is_nothing_to_commit() -> None:
    progress = Progress(7)
    assert progress.to_commit() is None
    assert progress.receive(7)
    assert progress.to_commit() is None
    progress.done(8)
    assert progress.to_commit() == 8
    progress.committed(8)
    assert progress.to_commit() is None


def test_beyond_what_was_received_or_backwards_is_a_bug() -> None:
    progress = Progress(0)
    progress.receive(0)
    with pytest.raises(ValueError, match="outside"):
        progress.done(2)
    progress.done(1)
    with pytest.raises(ValueError, match="outside"):
        progress.done(0)


@given(st.lists(st.integers(0, 30), unique=True))
def test_what_was_received_before_is_dropped_and_gaps_need_no_help(offsets: list[int]) -> None:
    progress = Progress(0)
    taken = [offset for offset in offsets if progress.receive(offset)]
    assert taken == sorted(set(taken))
    if taken:
        progress.done(taken[-1] + 1)
        assert progress.to_commit() == taken[-1] + 1


class Machine(RuleBasedStateMachine):
    """Records arrive with gaps and repeats, are settled in prefixes, and commits may fail or be late."""

    @initialize(start=st.integers(0, 100))
    def begin(self, start: int) -> None:
        self.progress = Progress(start)
        self.start = start
        self.pending: list[int] = []
        self.durable = start
        self.told: list[int] = []

    @rule(gap=st.integers(0, 3))
    def receive(self, gap: int) -> None:
        offset = self.progress.position + gap
        assert self.progress.receive(offset)
        self.pending.append(offset)

    @rule(back=st.integers(1, 5))
    def receive_again(self, back: int) -> None:
        if self.progress.position - back >= 0:
            assert not self.progress.receive(self.progress.position - back)

    @rule(share=st.floats(0, 1))
    def settle(self, share: float) -> None:
        count = round(len(self.pending) * share)
        if count:
            self.durable = self.pending[count - 1] + 1
            del self.pending[:count]
            self.progress.done(self.durable)

    @rule(works=st.booleans())
    def commit(self, works: bool) -> None:
        offset = self.progress.to_commit()
        if offset is not None and works:
            self.told.append(offset)
            self.progress.committed(offset)

    @invariant()
    def never_past_what_is_durable_and_never_back(self) -> None:
        offset = self.progress.to_commit()
        assert offset is None or offset == self.durable
        assert self.told == sorted(self.told)
        assert all(each > offset - 1 for each in self.pending for offset in self.told)


TestProgress = Machine.TestCase
