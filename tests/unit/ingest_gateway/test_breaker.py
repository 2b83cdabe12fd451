"""The breaker in front of Postgres."""

from __future__ import annotations

from ingest_gateway.breaker import Breaker, State


class Clock:
    """A clock that stands until it is moved."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def state(breaker: Breaker) -> State:
    """Its state now."""
    return breaker.state


def test_it_opens_after_failures_in_a_row_and_a_success_resets_the_count() -> None:
    breaker = Breaker(3, 1.0, Clock())
    for _ in range(2):
        breaker.failed()
    breaker.succeeded()
    for _ in range(2):
        breaker.failed()
    assert state(breaker) is State.CLOSED
    breaker.failed()
    assert state(breaker) is State.OPEN
    assert not breaker.allows()


def test_after_the_pause_one_attempt_is_let_through_and_decides() -> None:
    clock = Clock()
    breaker = Breaker(1, 1.0, clock)
    breaker.failed()
    clock.now = 0.99
    assert not breaker.allows()
    clock.now = 1.0
    assert breaker.allows()
    assert state(breaker) is State.HALF_OPEN
    assert not breaker.allows()
    breaker.failed()
    assert state(breaker) is State.OPEN
    assert not breaker.allows()
    clock.now = 2.0
    assert breaker.allows()
    breaker.succeeded()
    assert state(breaker) is State.CLOSED
    assert breaker.allows()


def test_an_attempt_that_never_reports_does_not_keep_it_open_for_ever() -> None:
    clock = Clock()
    breaker = Breaker(1, 1.0, clock)
    breaker.failed()
    clock.now = 1.0
    assert breaker.allows()
    clock.now = 2.0
    assert breaker.allows()
