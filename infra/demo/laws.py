"""What must be true of the counts at the end of a demo. Pure: facts in, what is off out.

Each quake is sent as two POSTs and one record of a plain producer, and the three race. Whichever copy is first in the
key table creates the event; the others are duplicates, wherever they meet it. So the laws are:

    every POST is answered 202 or 200, at most one of the two with a sure 202
    events created over HTTP        from the sure 202s up to those and the deferred ones
    copies in the log               one a quake from the producer, at most one a POST from the gateway
    stored, processed, handled      each quake once, exactly
    worker's duplicates             the copies in the log beyond the first
    refused, dead letters           the ten bad records, each once, for its own reason

A send that got no answer was repeated, and the copy before it may have arrived as well: each repetition widens the
bounds on copies by one, and nothing else. What took effect stays exact whatever dies meanwhile.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

POSTS_PER_QUAKE = 2
_UNDERSTOOD = (200, 202, 429, 503)  # the last two are tried again


@dataclass
class SourceFacts:
    """Counts of one source; `Facts.total` adds them up.

    quakes: events that were to be sent. accepted: POSTs answered 202, deferred: those of them while dedup was deferred.
    duplicates: POSTs answered 200. from_gateway, from_producer: copies in the log. created_by_http,
    created_by_producer: events whose row in the key table names such a copy. stored, processed: rows and distinct ids in `events`.
    with_handler: events that name a handler. effects: rows the handler wrote, handled: events among them.
    """

    quakes: int = 0
    accepted: int = 0
    deferred: int = 0
    duplicates: int = 0
    from_gateway: int = 0
    from_producer: int = 0
    created_by_http: int = 0
    created_by_producer: int = 0
    stored: int = 0
    stored_ids: int = 0
    processed: int = 0
    with_handler: int = 0
    effects: int = 0
    handled: int = 0

    @property
    def posts(self) -> int:
        """POSTs that were to be sent."""
        return POSTS_PER_QUAKE * self.quakes

    @property
    def worker_duplicates(self) -> int:
        """Copies in the log beyond the one that was stored."""
        return self.from_gateway + self.from_producer - self.stored

    def __add__(self, other: SourceFacts) -> SourceFacts:
        return SourceFacts(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))


@dataclass
class PoisonFacts:
    """One poison record: copies in the log, failures rows, rows whose dead letter is acknowledged, and the failures that
    records in the dead-letter topic name."""

    name: str
    wanted_reason: str
    copies: int = 0
    failures: int = 0
    acknowledged: int = 0
    dead_letters: int = 0
    reasons: frozenset[str] = frozenset()


@dataclass
class Metrics:
    """The processes' own counters, where nobody else uses the system and nothing died."""

    ingest_requests: int
    created: int
    duplicates: int
    processed: int
    failed: int
    worker_duplicates: int
    rebalances: int

    def since(self, before: Metrics) -> Metrics:
        """What was counted after `before`."""
        return Metrics(*(getattr(self, name) - getattr(before, name) for name in self.__dataclass_fields__))


@dataclass
class Facts:
    """Everything the laws are about.

    answers: HTTP answers by status, those that were tried again included. refusals: final statuses of the bad POSTs.
    accepted_twice: quakes with two sure 202s. quake_failures: failures rows of quakes.
    repeated_posts, repeated_records: sends that were repeated because the one before got no answer.
    needs_handler: whether the system was started with the handler; else processing is all that can be asked for.
    """

    sources: dict[str, SourceFacts] = field(default_factory=dict)
    answers: Counter[int] = field(default_factory=Counter)
    refusals: list[int] = field(default_factory=list)
    accepted_twice: int = 0
    poison: list[PoisonFacts] = field(default_factory=list)
    quake_failures: int = 0
    repeated_posts: int = 0
    repeated_records: int = 0
    needs_handler: bool = False
    metrics: Metrics | None = None

    @property
    def total(self) -> SourceFacts:
        """All sources together."""
        return sum(self.sources.values(), SourceFacts())


def broken(facts: Facts) -> list[str]:
    """Every law that does not hold, as a sentence; empty: every count is exact."""
    laws = [*_effects(facts), *_answers(facts), *_copies(facts), *_bad_records(facts)]
    if facts.metrics is not None:
        laws += _metrics(facts, facts.metrics)
    return [sentence for sentence in laws if sentence]


def _is(name: str, found: int, wanted: int) -> str:
    return "" if found == wanted else f"{name}: {found:,}, {wanted:,} wanted"


def _between(name: str, found: int, least: int, most: int) -> str:
    if least == most:
        return _is(name, found, least)
    return "" if least <= found <= most else f"{name}: {found:,}, {least:,} to {most:,} wanted"


def _effects(facts: Facts) -> Iterator[str]:
    for source, count in sorted(facts.sources.items()):
        yield _is(f"stored events of {source}", count.stored_ids, count.quakes)
        yield _is(f"rows in events of {source}", count.stored, count.quakes)
        yield _is(f"processed events of {source}", count.processed, count.quakes)
        yield _is(f"events of {source} whose handler took effect", count.handled, count.with_handler)
        yield _is(f"effects of {source}", count.effects, count.with_handler)
    if facts.needs_handler or facts.total.with_handler:
        yield _is("events that a handler took", facts.total.with_handler, facts.total.quakes)
    yield _is("earthquakes that failed", facts.quake_failures, 0)


def _answers(facts: Facts) -> Iterator[str]:
    total = facts.total
    sure = total.accepted - total.deferred
    yield _is("POSTs answered 202 or 200", total.accepted + total.duplicates, total.posts)
    of_quakes = facts.answers - Counter(facts.refusals)
    odd = {status: count for status, count in of_quakes.items() if status not in _UNDERSTOOD}
    yield f"POSTs of earthquakes answered in a way that has no meaning here: {_listed(odd)}" if odd else ""
    yield _is("earthquakes accepted twice", facts.accepted_twice, 0)
    most = sure + total.deferred + facts.repeated_posts
    yield _between("events created over HTTP", total.created_by_http, sure, most)
    by_either = total.created_by_http + total.created_by_producer
    yield _is("events created by a copy in the log", by_either, total.quakes)


def _copies(facts: Facts) -> Iterator[str]:
    total = facts.total
    most = total.posts + facts.repeated_posts
    yield _between("copies in the log from the gateway", total.from_gateway, total.created_by_http, most)
    most = total.quakes + facts.repeated_records
    yield _between("copies in the log from the producer", total.from_producer, total.quakes, most)


def _bad_records(facts: Facts) -> Iterator[str]:
    wrong = Counter(status for status in facts.refusals if not 400 <= status < 500)
    yield f"bad POSTs answered otherwise than with 4xx: {_listed(wrong)}" if wrong else ""
    for poison in facts.poison:
        name = f"poison record ({poison.name})"
        yield _between(f"copies of the {name}", poison.copies, 1, 1 + facts.repeated_records)
        yield _is(f"failures of the {name}", poison.failures, poison.copies)
        yield _is(f"acknowledged dead letters of the {name}", poison.acknowledged, poison.copies)
        yield _is(f"dead letters in the topic of the {name}", poison.dead_letters, poison.copies)
        if poison.reasons - {poison.wanted_reason}:
            reasons = ", ".join(sorted(poison.reasons))
            yield f"reason of the {name}: {reasons}, {poison.wanted_reason} wanted"


def _metrics(facts: Facts, metrics: Metrics) -> Iterator[str]:
    total, poison = facts.total, sum(each.copies for each in facts.poison)
    unanswered = facts.repeated_posts
    yield _is("processing_success_total", metrics.processed, total.quakes)
    yield _is("processing_failure_total", metrics.failed, poison)
    # A rebalance may bring records back whose effects are committed: these are duplicates too.
    again = total.from_gateway + total.from_producer if metrics.rebalances else 0
    copies = total.worker_duplicates
    yield _between("plutus_worker_duplicates_total", metrics.worker_duplicates, copies, copies + again)
    answered = sum(facts.answers.values())
    yield _between("ingest_requests_total", metrics.ingest_requests, answered, answered + unanswered)
    yield _between("raw_events_created_total", metrics.created, total.accepted, total.accepted + unanswered)
    yield _between("raw_events_duplicate_total", metrics.duplicates, total.duplicates, total.duplicates + unanswered)


def _listed(counts: Mapping[int, int]) -> str:
    return ", ".join(f"{status} ({count})" for status, count in sorted(counts.items()))


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` (0 to 1) of all values do not exceed (nearest rank); 0 of nothing."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[max(1, math.ceil(share * len(ordered))) - 1]
