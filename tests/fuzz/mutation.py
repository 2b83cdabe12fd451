"""Inputs for the fuzz target: pieces of the corpus, cut, joined, repeated and sprinkled with what parsers stumble over.

Guided by behaviour: an input that makes the target do something new joins the pool that later inputs are made from.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

from tests.fuzz.target import examine

CORPUS = Path(__file__).parent / "corpus"
_LONGEST = 20_000
_PIECES = (
    b"{", b"}", b"[", b"]", b":", b",", b'"', b"\\", b"\\u", b"\\u0000", b"\\ud800", b"\\udc00", b"\\\\u0000", b"null",
    b"true", b"-", b"-0", b"0", b"1.0", b"1e1", b"1e400", b"1E-400", b"e", b"E+", b".", b"0.1", b"9007199254740993",
    b"18446744073709551616", b"NaN", b"Infinity", b"\x00", b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xef\xbb\xbf",
    b"\xf0\x9f\x98\x80", b"\n", b"\r\n", b"\t", b" ", b"\x0c", b"\xc2\xa0", b"/**/", b"//", b"'", b'"payload":',
    b'"source":"s"', b'"type":null', b'"ordering_key":"o"', b'"occurred_at":"2026-11-23T10:00:60Z"', b"[" * 70, b"]" * 70,
)  # fmt: skip


def corpus() -> dict[str, bytes]:
    """The kept inputs by name. What is no UTF-8 stands there in hexadecimal."""
    return {
        path.name: bytes.fromhex(path.read_text()) if path.suffix == ".hex" else path.read_bytes()
        for path in sorted(CORPUS.iterdir())
    }


def mutated(pool: list[bytes], random: Random) -> bytes:
    """A new input."""
    data = random.choice(pool)
    for _ in range(random.choice((1, 1, 2, 3, 5))):
        at, end = sorted(random.randrange(len(data) + 1) for _ in range(2))
        other = random.choice(pool)
        data = random.choice(
            (
                data[:at] + data[end:],
                data[:at] + random.choice(_PIECES) + data[at:],
                data[:at] + random.choice(_PIECES) + data[end:],
                data[:at] + bytes([random.randrange(256)]) + data[at + 1 :],
                data[:at] + data[at:end] * random.choice((2, 3, 50)) + data[end:],
                data[:at] + other[random.randrange(len(other) + 1) :],
                data[:end] + random.choice(_PIECES) * random.choice((1, 2, 300)) + data[end:],
            )
        )[:_LONGEST]
    return data


def search(random: Random) -> Iterator[tuple[bytes, bool]]:
    """Examine one input after the other, for ever: each with whether it made the target do something new.

    Raises:
        AssertionError: a promise is broken; the input is in its notes.
    """
    pool = list(corpus().values())
    known = {examine(data) for data in pool}
    while True:
        data = mutated(pool, random)
        try:
            did = examine(data)
        except Exception as error:
            error.add_note(f"input: {data!r}")
            raise
        new = did not in known
        if new:
            known.add(did)
            pool.append(data)
        yield data, new
