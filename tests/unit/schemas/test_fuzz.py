"""The fuzz target over its corpus, and over a bounded number of inputs made from it. `make fuzz` looks for longer."""

from __future__ import annotations

import itertools
import json
from random import Random

import pytest

from schemas import event, json_text
from tests.fuzz.mutation import corpus, search
from tests.fuzz.target import examine, readable

INPUTS = 3_000


@pytest.mark.parametrize("name", corpus())
def test_a_kept_input_breaks_no_promise(name: str) -> None:
    examine(corpus()[name])


@pytest.mark.parametrize("seed", [1, 2])
def test_no_input_made_from_them_does(seed: int) -> None:
    found = [new for _, new in itertools.islice(search(Random(seed)), INPUTS)]
    assert sum(found) > 20, "the search reaches more than the corpus"


def test_the_corpus_reaches_events_and_every_kind_of_refusal() -> None:
    did = {examine(data).split()[0] for data in corpus().values()}
    assert did == {"Event", "Malformed", "Invalid"}


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("fingerprint", lambda payload, document, version=1: b"\x01" + b"0" * 16),
        ("one_line", lambda text: text.replace(b"1", b"2")),
    ],
)
def test_the_target_finds_a_parser_that_is_wrong(monkeypatch: pytest.MonkeyPatch, name: str, broken: object) -> None:
    monkeypatch.setattr(event, name, broken)
    with pytest.raises(AssertionError):
        examine_all()


def examine_all() -> None:
    """The whole corpus."""
    for data in corpus().values():
        examine(data)


def test_the_target_finds_a_reader_that_takes_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    lax = json.JSONDecoder(parse_float=json_text._number, parse_int=json_text._integer)
    monkeypatch.setattr(json_text, "_EXACT", lax)
    with pytest.raises(AssertionError):
        examine_all()


@pytest.mark.parametrize("data", [b"{}", b"1e308", b'"\\ud83d\\ude00"', b" [1]\n"])
def test_the_second_reading_takes_json(data: bytes) -> None:
    assert readable(data)


@pytest.mark.parametrize("data", [b"", b"\xff", b"1e309", b'"\\ud800"', b'"\\u0000"', b'{"a":1,"a":1}', b"NaN", b"01"])
def test_the_second_reading_refuses_what_is_none(data: bytes) -> None:
    assert not readable(data)
