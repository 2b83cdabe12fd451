"""What the demo tells at its end: a table by source and a line of latencies. Pure: facts in, rows and lines out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from infra.demo.laws import Facts, SourceFacts, percentile

COLUMNS = {
    "source": "source",
    "sent_post": "POSTs",
    "sent_kafka": "Kafka",
    "accepted": "accepted",
    "duplicate_http": "dup. HTTP",
    "duplicate_worker": "dup. worker",
    "stored": "stored",
    "processed": "processed",
    "handled": "handled",
    "refused": "refused",
    "dead_letters": "dead",
}
"""What a row holds: its name for programs, and the shorter one for people."""
Row = tuple[str | int, ...]


def rows(facts: Facts) -> list[Row]:
    """A row for each source, one for each kind of bad record, and their sum."""
    by_size = sorted(facts.sources.items(), key=lambda item: (-item[1].quakes, item[0]))
    refused = sum(1 for status in facts.refusals if 400 <= status < 500)
    dead = sum(poison.dead_letters for poison in facts.poison)
    nothing = SourceFacts()
    return [
        *(_row(source, count, count.posts, count.quakes, 0, 0) for source, count in by_size),
        _row("(bad POSTs)", nothing, len(facts.refusals), 0, refused, 0),
        _row("(poison)", nothing, 0, len(facts.poison), 0, dead),
        _row(
            "total",
            facts.total,
            facts.total.posts + len(facts.refusals),
            facts.total.quakes + len(facts.poison),
            refused,
            dead,
        ),
    ]


def _row(name: str, count: SourceFacts, posts: int, records: int, refused: int, dead: int) -> Row:
    return (
        name,
        posts,
        records,
        count.accepted,
        count.duplicates,
        count.worker_duplicates,
        count.stored,
        count.processed,
        count.handled if count.with_handler else count.processed,
        refused,
        dead,
    )


def notes(facts: Facts) -> list[str]:
    """What the table cannot say, a sentence each."""
    total = facts.total
    told = [
        f"{total.created_by_http:,} events were created over HTTP, {total.quakes - total.created_by_http:,} by the "
        "plain producer; which copy is first is a race, that one counts is not"
    ]
    if total.deferred:
        told.append(f"{total.deferred:,} of the accepted were accepted without a look-up (dedup deferred)")
    if facts.repeated_posts or facts.repeated_records:
        told.append(
            f"{facts.repeated_posts:,} POSTs and {facts.repeated_records:,} records got no answer and were sent again"
        )
    if not total.with_handler:
        told.append("no handler took these events; handled counts those that were processed")
    return told


def latency(posts: Sequence[float], effects: Sequence[float]) -> str:
    """One line; times in milliseconds.

    Args:
        posts: seconds from sending a POST to having read its answer.
        effects: seconds from an event's key being remembered, which follows Kafka's acknowledgement at once, to the
            transaction that holds its effect; both by Postgres's clock, of events created over HTTP.
    """
    return (
        f"latency: POST to answer p50 {_ms(posts, 0.5)}, p99 {_ms(posts, 0.99)} ({len(posts):,} POSTs); accepted to "
        f"effect p50 {_ms(effects, 0.5)}, p99 {_ms(effects, 0.99)} ({len(effects):,} events, received_at to "
        "processed_at, Postgres's clock)"
    )


def as_object(facts: Facts, off: Sequence[str], posts: Sequence[float], effects: Sequence[float]) -> dict[str, Any]:
    """The same as one JSON object."""
    return {
        "exact": not off,
        "off": list(off),
        "sources": [dict(zip(COLUMNS, row, strict=True)) for row in rows(facts)],
        "created_by_http": facts.total.created_by_http,
        "deferred": facts.total.deferred,
        "repeated_posts": facts.repeated_posts,
        "repeated_records": facts.repeated_records,
        "post_seconds": _quantiles(posts),
        "effect_seconds": _quantiles(effects),
    }


def _quantiles(values: Sequence[float]) -> dict[str, float]:
    return {"p50": round(percentile(values, 0.5), 6), "p99": round(percentile(values, 0.99), 6)}


def _ms(values: Sequence[float], share: float) -> str:
    return f"{percentile(values, share) * 1000:,.1f} ms"
