"""Metrics of several processes added up."""

from __future__ import annotations

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from ingest_gateway.metrics import Metrics
from ingest_gateway.outcomes import DUPLICATE, Accepted
from ingest_gateway.sums import Snapshot, Totals, render, snapshot, total


def used(accepted: int, duplicates: int, breaker: int = 0) -> Snapshot:
    """The snapshot of a process that answered so many."""
    metrics = Metrics()
    for _ in range(accepted):
        metrics.count(Accepted(0, 0), 0.004)
    for _ in range(duplicates):
        metrics.count(DUPLICATE, 0.004)
    metrics.breaker_state.set(breaker)
    metrics.in_flight.set(accepted)
    return msgspec.msgpack.decode(msgspec.msgpack.encode(snapshot(metrics.registry)), type=Snapshot)


def samples(page: bytes) -> dict[tuple[str, str], float]:
    """name and outcome label -> value."""
    families = text_string_to_metric_families(page.decode())
    return {(s.name, s.labels.get("outcome", "")): s.value for family in families for s in family.samples}


def test_counters_and_histograms_are_summed_gauges_by_their_policy() -> None:
    page = samples(render(total([used(2, 1, breaker=2), used(3, 0, breaker=1)])))
    assert page["raw_events_created_total", ""] == 5
    assert page["raw_events_duplicate_total", ""] == 1
    assert page["ingest_requests_total", "accepted"] == 5
    assert page["gateway_request_duration_seconds_count", "accepted"] == 5
    assert page["gateway_in_flight", ""] == 5
    assert page["gateway_dedup_breaker_state", ""] == 2
    assert page["plutus_build_info", ""] == 1


def test_one_process_renders_as_its_registry_does() -> None:
    page = samples(render(used(1, 0)))
    assert page["gateway_request_duration_seconds_sum", "accepted"] == 0.004
    assert ("ingest_requests_total", "rejected") in page


def test_of_the_dead_the_counts_stay_and_the_gauges_go() -> None:
    totals = Totals()
    totals.retire(used(2, 0, breaker=2))
    page = samples(render(totals.over([used(1, 0)])))
    assert page["raw_events_created_total", ""] == 3
    assert page["gateway_dedup_breaker_state", ""] == 0
    assert page["gateway_in_flight", ""] == 1


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=4), st.data())
def test_a_death_never_makes_a_counter_smaller(processes: list[tuple[int, int]], data: st.DataObject) -> None:
    living = [used(*counts) for counts in processes]
    totals = Totals()
    before = samples(render(totals.over(living)))
    dead = data.draw(st.integers(0, len(living) - 1))
    totals.retire(living[dead])
    after = samples(render(totals.over([*living[:dead], *living[dead + 1 :]])))
    assert all(
        after[name] >= value for name, value in before.items() if name[0].endswith(("_total", "_count", "_bucket"))
    )
