"""The laws hold for every race's outcome, and any count that is off by one is named."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.demo import report
from infra.demo.laws import Facts, Metrics, PoisonFacts, SourceFacts, broken, percentile

REASONS = ("null_value", "malformed_json", "not_object", "bad_id", "too_deep")


def exact(*, by_http: int = 6, both_published: int = 2, deferred: int = 0) -> Facts:
    """The facts of a run of ten quakes in which nothing went wrong.

    Args:
        by_http: quakes whose first copy came over HTTP. both_published: quakes both of whose POSTs were published.
    """
    source = SourceFacts(
        quakes=10,
        accepted=by_http + deferred,
        deferred=deferred,
        duplicates=20 - by_http - deferred,
        from_gateway=by_http + both_published,
        from_producer=10,
        created_by_http=by_http,
        created_by_producer=10 - by_http,
        stored=10,
        stored_ids=10,
        processed=10,
        with_handler=10,
        effects=10,
        handled=10,
    )
    return Facts(
        sources={"us": source},
        answers=Counter({202: source.accepted, 200: source.duplicates, 400: 3, 422: 2}),
        refusals=[400, 400, 400, 422, 422],
        poison=[PoisonFacts(reason, reason, 1, 1, 1, 1, frozenset({reason})) for reason in REASONS],
        needs_handler=True,
        metrics=Metrics(
            ingest_requests=25,
            created=source.accepted,
            duplicates=source.duplicates,
            processed=10,
            failed=5,
            worker_duplicates=source.worker_duplicates,
            rebalances=0,
        ),
    )


@given(st.integers(0, 10), st.integers(0, 10), st.integers(0, 4))
def test_whoever_wins_the_races_the_laws_hold(by_http: int, both_published: int, deferred: int) -> None:
    facts = exact(by_http=by_http, both_published=both_published, deferred=min(deferred, 20 - by_http))
    assert broken(facts) == []


Change = Callable[[Facts, SourceFacts], Any]


def put(name: str, change: int) -> Change:
    """Adds to a count of the source."""
    return lambda facts, source: setattr(source, name, getattr(source, name) + change)


def put_metric(name: str, change: int) -> Change:
    """Adds to a counter."""
    return lambda facts, source: setattr(facts.metrics, name, getattr(facts.metrics, name) + change)


def put_poison(name: str, change: Any) -> Change:
    """Sets a fact of the first poison record."""
    return lambda facts, source: setattr(facts.poison[0], name, change)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (put("stored", -1), "rows in events of us: 9, 10 wanted"),
        (put("stored", 1), "rows in events of us: 11, 10 wanted"),
        (put("stored_ids", -1), "stored events of us: 9, 10 wanted"),
        (put("processed", -1), "processed events of us: 9, 10 wanted"),
        (put("effects", 1), "effects of us: 11, 10 wanted"),
        (put("handled", -1), "events of us whose handler took effect: 9, 10 wanted"),
        (put("with_handler", -10), "events that a handler took: 0, 10 wanted"),
        (put("accepted", -1), "POSTs answered 202 or 200: 19, 20 wanted"),
        (put("duplicates", 1), "POSTs answered 202 or 200: 21, 20 wanted"),
        (put("created_by_http", 1), "events created over HTTP: 7, 6 wanted"),
        (put("created_by_producer", -1), "events created by a copy in the log: 9, 10 wanted"),
        (put("from_gateway", 13), "copies in the log from the gateway: 21, 6 to 20 wanted"),
        (put("from_gateway", -3), "copies in the log from the gateway: 5, 6 to 20 wanted"),
        (put("from_producer", 1), "copies in the log from the producer: 11, 10 wanted"),
        (put_metric("worker_duplicates", 1), "plutus_worker_duplicates_total: 9, 8 wanted"),
        (put_metric("worker_duplicates", -1), "plutus_worker_duplicates_total: 7, 8 wanted"),
        (put_metric("processed", 1), "processing_success_total: 11, 10 wanted"),
        (put_metric("failed", -1), "processing_failure_total: 4, 5 wanted"),
        (put_metric("ingest_requests", -1), "ingest_requests_total: 24, 25 wanted"),
        (put_metric("created", 1), "raw_events_created_total: 7, 6 wanted"),
        (put_metric("duplicates", 1), "raw_events_duplicate_total: 15, 14 wanted"),
        (put_poison("copies", 2), "copies of the poison record (null_value): 2, 1 wanted"),
        (put_poison("failures", 0), "failures of the poison record (null_value): 0, 1 wanted"),
        (put_poison("acknowledged", 0), "acknowledged dead letters of the poison record (null_value): 0, 1 wanted"),
        (put_poison("dead_letters", 0), "dead letters in the topic of the poison record (null_value): 0, 1 wanted"),
        (
            put_poison("reasons", frozenset({"not_object"})),
            "reason of the poison record (null_value): not_object, null_value wanted",
        ),
        (lambda facts, source: facts.refusals.append(202), "bad POSTs answered otherwise than with 4xx: 202 (1)"),
        (
            lambda facts, source: facts.answers.update({413: 2, 500: 1, 503: 7}),
            "POSTs of earthquakes answered in a way that has no meaning here: 413 (2), 500 (1)",
        ),
        (lambda facts, source: setattr(facts, "accepted_twice", 1), "earthquakes accepted twice: 1, 0 wanted"),
        (lambda facts, source: setattr(facts, "quake_failures", 2), "earthquakes that failed: 2, 0 wanted"),
    ],
)
def test_a_count_that_is_off_is_named(change: Change, told: str) -> None:
    facts = exact()
    change(facts, facts.sources["us"])
    assert told in broken(facts)


def test_a_repeated_send_may_leave_a_copy_and_nothing_else() -> None:
    facts = exact()
    facts.metrics = None
    facts.repeated_posts, facts.repeated_records = 3, 2
    us = facts.sources["us"]
    us.created_by_http, us.created_by_producer = us.created_by_http + 3, us.created_by_producer - 3
    us.from_producer += 2
    us.from_gateway = 23
    facts.poison[0] = PoisonFacts("p", "p", 3, 3, 3, 3, frozenset({"p"}))
    assert broken(facts) == []
    us.from_gateway, us.from_producer = 24, 13
    us.stored = 11
    assert len(broken(facts)) == 3


def test_without_the_handler_processing_is_judged_alone() -> None:
    facts = exact()
    us = facts.sources["us"]
    us.with_handler = us.effects = us.handled = 0
    facts.needs_handler = False
    assert broken(facts) == []
    us.with_handler = us.effects = us.handled = 9
    assert broken(facts) == ["events that a handler took: 9, 10 wanted"]


def test_a_rebalance_may_bring_records_back() -> None:
    facts = exact()
    assert facts.metrics is not None
    facts.metrics.worker_duplicates += 5
    assert len(broken(facts)) == 1
    facts.metrics.rebalances = 1
    assert broken(facts) == []


def test_the_table_adds_up() -> None:
    facts = exact()
    facts.sources["pr"] = SourceFacts(
        2, accepted=2, duplicates=2, stored=2, processed=2, from_producer=2, with_handler=2, handled=2
    )
    rows = report.rows(facts)
    assert [row[0] for row in rows] == ["us", "pr", "(bad POSTs)", "(poison)", "total"]
    for column in range(1, len(report.COLUMNS)):
        assert rows[-1][column] == sum(int(row[column]) for row in rows[:-1])
    total = dict(zip(report.COLUMNS, rows[-1], strict=True))
    assert (total["sent_post"], total["sent_kafka"], total["refused"], total["dead_letters"]) == (29, 17, 5, 5)


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.01, 1))
def test_a_percentile_is_a_value_that_so_many_do_not_exceed(values: list[float], share: float) -> None:
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-9
    smaller = [value for value in values if value < found]
    assert len(smaller) < share * len(values) + 1e-9


def test_percentiles_of_a_known_series() -> None:
    values = [float(n) for n in range(1, 101)]
    random.Random(1).shuffle(values)
    assert (percentile(values, 0.5), percentile(values, 0.99), percentile([], 0.5)) == (50.0, 99.0, 0.0)
    assert report.latency([0.001, 0.003], [0.02]) == (
        "latency: POST to answer p50 1.0 ms, p99 3.0 ms (2 POSTs); accepted to effect p50 20.0 ms, p99 20.0 ms "
        "(1 events, received_at to processed_at, Postgres's clock)"
    )
