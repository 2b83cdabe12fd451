"""Fills a topic with the records that workers are to drain, through the one producer, as fast as the broker takes them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Final

from infra.bench import bodies
from infra.bench.ground import Failed, Ground, Topics
from infra.runtime.producer import Producer, Receipt, Record

Make = Callable[[int], bytes]
"""The n-th record's value."""

_CHUNK: Final = 5_000
_START: Final = 30.0
_ACK: Final = 60.0
_STOP: Final = 10.0
_BEHIND: Final = 4_000
_MALFORMED: Final = b'{"source":"till-0","schema_version":"1.0",'


def fill(ground: Ground, topics: Topics, count: int, make: Make) -> None:
    """So many records, each keyed by the source of its number.

    Raises:
        Failed: the broker did not take them.
    """
    asyncio.run(_fill(ground, topics, count, make))


def orders(prefix: str, kind: str | None = None) -> Make:
    """Fresh orders."""
    return lambda n: bodies.order(prefix, n, kind)


def half_duplicates(prefix: str) -> Make:
    """Every second record is a copy of one a good way behind it, of the same source."""

    def make(n: int) -> bytes:
        # Blocks of as many numbers as there are sources, one of each source: a block of fresh ones, then one that repeats an earlier block.
        block, within = divmod(n, bodies.SOURCES)
        fresh = block // 2 if block % 2 == 0 else max(0, block // 2 - _BEHIND // bodies.SOURCES)
        return bodies.order(prefix, fresh * bodies.SOURCES + within)

    return make


def malformed(prefix: str) -> Make:
    """Every hundredth record is no JSON."""
    return one_in_hundred(orders(prefix), lambda n: _MALFORMED)


def distinct_of_half(count: int) -> int:
    """How many events are in so many records of `half_duplicates`."""
    blocks, rest = divmod(count, bodies.SOURCES)
    fresh_blocks = (blocks + 1) // 2
    return fresh_blocks * bodies.SOURCES + (rest if blocks % 2 == 0 else 0)


def one_in_hundred(make: Make, bad: Make) -> Make:
    """Every hundredth record is a bad one."""
    return lambda n: bad(n) if n % 100 == 99 else make(n)


async def _fill(ground: Ground, topics: Topics, count: int, make: Make) -> None:
    producer = Producer(ground.settings(topics), "plutus-bench")
    await producer.start(_START)
    try:
        for records in _chunks(count, make):
            results = await producer.publish(topics.events, records, _ACK)
            if not all(isinstance(result, Receipt) for result in results):
                raise Failed("Kafka did not take the records to be drained")
    finally:
        await producer.stop(_STOP)


def _chunks(count: int, make: Make) -> Iterator[list[Record]]:
    for begin in range(0, count, _CHUNK):
        yield [Record(bodies.source(n).encode(), make(n)) for n in range(begin, min(count, begin + _CHUNK))]
