"""Who gets in when not everybody can."""

from __future__ import annotations

from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from ingest_gateway.admission import Admission

SIZE = 1_000_000


def fill(admission: Admission, source: str, most: int = 10_000) -> int:
    """Let events of this source in until one is refused; how many got in."""
    count = 0
    while count < most and admission.enter(source, 1):
        count += 1
    return count


def test_one_source_alone_may_use_the_whole_bound() -> None:
    admission = Admission(1024, SIZE)
    assert fill(admission, "noisy") == 1024
    assert admission.crowded
    assert not admission.full


def test_beside_a_noisy_source_others_get_in_up_to_the_reserve() -> None:
    admission = Admission(100, SIZE)
    assert fill(admission, "noisy") == 100
    assert fill(admission, "quiet", 25) == 25
    assert not admission.enter("quiet", 1), "the reserve is full"
    assert admission.full


def test_places_that_the_noisy_source_gives_back_go_to_the_others_until_all_hold_their_share() -> None:
    admission = Admission(100, SIZE)
    fill(admission, "noisy")
    fill(admission, "quiet")
    refused = Counter[str]()
    for _ in range(100):
        admission.leave("noisy", 1)
        for source in ("noisy", "quiet"):
            refused[source] += not admission.enter(source, 1)
        if refused["quiet"]:
            break
    assert admission._held == {"noisy": 74, "quiet": 50}


def test_many_sources_with_one_event_each_fill_it_to_the_end_of_the_reserve() -> None:
    admission = Admission(100, SIZE)
    assert sum(admission.enter(f"source-{number}", 1) for number in range(10_000)) == 125
    for number in range(125):
        admission.leave(f"source-{number}", 1)
    assert (admission.in_flight, admission._held) == (0, {})


def test_bytes_are_bounded_too() -> None:
    admission = Admission(100, 1_000)
    assert admission.enter("a", 999)
    assert admission.enter("a", 999), "the one that passes the bound is let in, or a large one never would be"
    assert admission.full
    assert not admission.enter("b", 1)
    admission.leave("a", 999)
    assert admission.enter("b", 1)


@given(st.integers(1, 50), st.integers(1, 20), st.integers())
def test_whatever_comes_and_goes_the_bounds_hold_and_nobody_below_the_share_waits(
    bound: int, sources: int, seed: int
) -> None:
    random = Random(seed)
    admission = Admission(bound, SIZE)
    inside: list[str] = []
    for _ in range(100):
        source = f"s{random.randrange(sources)}"
        if inside and random.random() < 0.4:
            gone = inside.pop(random.randrange(len(inside)))
            admission.leave(gone, 1)
            continue
        full, crowded, held = admission.full, admission.crowded, inside.count(source)
        assert admission.roomy == (not full and not crowded)
        share = max(bound // len({*inside, source}), 1)
        let_in = admission.enter(source, 1)
        assert let_in == (not full and (not crowded or held < share))
        if let_in:
            inside.append(source)
        assert admission.in_flight == len(inside) <= bound + bound // 4
        assert admission._held == dict(Counter(inside))
