"""The demo's input is what it says, and both spellings of a quake are one event."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from dataclasses import dataclass
from importlib import resources
from typing import Any

import pytest

from infra.demo import bad, quakes
from schemas.errors import Rejected
from schemas.event import parse_envelope
from stream_worker.records import read


def test_the_file_is_the_one_its_note_describes() -> None:
    data = resources.files("infra").joinpath("data")
    content = data.joinpath("earthquakes.ndjson").read_bytes()
    assert f"`{hashlib.sha256(content).hexdigest()}`" in data.joinpath("SOURCE.md").read_text()
    loaded = quakes.load()
    assert len({(quake.source, quake.key) for quake in loaded}) == len(loaded) == 1707
    assert Counter(quake.source for quake in loaded).most_common(2) == [("ci", 386), ("nc", 370)]


def test_both_spellings_of_a_quake_are_the_same_event() -> None:
    rng = random.Random(7)
    for quake in quakes.load("run:"):
        plain, other = quake.plain(), quake.respelled(rng)
        assert plain != other
        first, second = parse_envelope(plain), parse_envelope(other)
        assert first.id == second.id == quake.id
        assert first.fingerprint == second.fingerprint
        assert first.payload == quake.feature.encode()
        assert (first.type, first.occurred_at) == (second.type, second.occurred_at)


def test_a_prefix_makes_other_events() -> None:
    assert {quake.id for quake in quakes.load("a:")} & {quake.id for quake in quakes.load("b:")} == set()


@pytest.mark.parametrize("post", bad.posts("run:"), ids=lambda post: post.name)
def test_each_bad_post_is_refused(post: bad.BadPost) -> None:
    with pytest.raises(Rejected):
        parse_envelope(post.body)


@dataclass
class Consumed:
    """A record as the consumer hands it over."""

    key: bytes | None
    value: bytes | None
    headers: Any = ()
    topic: str = "events"
    partition: int = 0
    offset: int = 0
    timestamp: int = 0


@pytest.mark.parametrize("poison", bad.poison("run:"), ids=lambda poison: poison.name)
def test_each_poison_record_is_dead_for_its_reason(poison: bad.Poison) -> None:
    item = read(Consumed(poison.key, poison.value), lambda event: None)
    assert item.dead is not None
    assert item.dead.reason is poison.reason


def test_poison_records_are_told_apart_by_their_keys() -> None:
    assert len({poison.key for poison in [*bad.poison("a:"), *bad.poison("b:")]}) == 10
