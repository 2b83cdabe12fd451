"""When a worker guesses that a batch is new."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from infra.runtime.optimism import Optimism


def asked_before_the_next_guess(optimism: Optimism) -> int:
    """How many batches, all new, are asked for until one is guessed."""
    batches = 0
    while not optimism.allowed:
        optimism.asked(0)
        batches += 1
    return batches


def test_the_first_batch_is_asked_for() -> None:
    assert asked_before_the_next_guess(Optimism()) == 1


def test_known_ids_are_followed_by_another_question() -> None:
    optimism = Optimism()
    optimism.asked(3)
    assert asked_before_the_next_guess(optimism) == 1


def test_wrong_guesses_become_rare_and_a_right_one_mends_that() -> None:
    optimism = Optimism()
    optimism.asked(0)
    waits = []
    for _ in range(8):
        optimism.wrong()
        waits.append(asked_before_the_next_guess(optimism))
    assert waits == [8, 16, 32, 64, 128, 256, 256, 256]
    optimism.right()
    optimism.wrong()
    assert asked_before_the_next_guess(optimism) == 8


@given(st.lists(st.booleans(), max_size=2_000))
def test_where_every_guess_is_wrong_hardly_any_is_made(new: list[bool]) -> None:
    """Batches of which some are new, in an order that makes a fool of it: every guess meets one that is not."""
    optimism, guesses = Optimism(), 0
    for is_new in new:
        if optimism.allowed:
            guesses += 1
            optimism.wrong()
        else:
            optimism.asked(0 if is_new else 1)
    assert guesses <= 1 + len(new) // 8
