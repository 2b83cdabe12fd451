"""What the doctor makes of what it has found: each case with its fix."""

from __future__ import annotations

import pytest

from infra.cli import checks
from infra.cli.checks import NEEDS, State
from infra.cli.cluster import Group, Member, lag
from infra.cli.output import UNREACHABLE, Failure

ONE = Member("plutus-worker-aaaabbbb", "plutus-worker", "/10.0.0.7", (0, 1))
TWO = Member("plutus-worker-ccccdddd", "plutus-worker", "/10.0.0.8", (2,))


@pytest.mark.parametrize(
    ("difference", "fix"),
    [
        ("topic plutus.events does not exist: run `plutus topics create`", "plutus topics create"),
        (
            "topic plutus.events has 3 partitions, 12 wanted",
            "plutus kafka topics --alter --topic plutus.events --partitions 12 (order is not kept across the change)",
        ),
        (
            "topic plutus.events: message.timestamp.type is CreateTime, LogAppendTime wanted",
            "plutus kafka configs --alter --entity-type topics --entity-name plutus.events"
            " --add-config message.timestamp.type=LogAppendTime",
        ),
    ],
)
def test_each_difference_of_a_topic_has_its_fix(difference: str, fix: str) -> None:
    [finding] = checks.of_topics([difference], ("plutus.events", "plutus.events.dlq"))
    assert (finding.state, finding.fix) == (State.FAILED, fix)


def test_topics_that_are_right_are_ok() -> None:
    [finding] = checks.of_topics([], ("a", "b"))
    assert (finding.state, finding.fix) == (State.OK, "")


@pytest.mark.parametrize(
    ("group", "lags", "states"),
    [
        (Group("g", "Stable", (ONE, TWO)), {0: 5}, [State.OK]),
        (Group("g", "Empty", ()), {0: 5}, [State.FAILED]),
        (Group("g", "Empty", ()), {0: 0}, [State.WARNING]),
        (Group("g", "PreparingRebalance", (ONE,)), {0: 0}, [State.OK, State.WARNING]),
        (Group("g", "Stable", (ONE,)), {0: 0}, [State.OK, State.FAILED]),
        (Group("g", "Stable", (ONE, TWO, *[Member("m", "c", "/h", ())] * 2)), {}, [State.OK, State.WARNING]),
    ],
)
def test_workers_against_partitions(group: Group, lags: dict[int, int], states: list[State]) -> None:
    found = checks.of_group(group, 3, lags)
    assert [finding.state for finding in found] == states
    assert all(finding.fix for finding in found if finding.state is not State.OK)


def test_the_owner_of_each_partition_is_named() -> None:
    owners = Group("g", "Stable", (ONE, TWO)).owners
    assert {p: member.name for p, member in owners.items()} == {
        0: "aaaabbbb at 10.0.0.7",
        1: "aaaabbbb at 10.0.0.7",
        2: "ccccdddd at 10.0.0.8",
    }


def test_a_lag_counts_what_is_still_there() -> None:
    assert lag({0: 0, 1: 10, 2: 0}, {0: 7, 1: 30, 2: 4}, {0: 5, 1: 3}) == {0: 2, 1: 20, 2: 4}
    assert lag({0: 0}, {0: 3}, {0: 9}) == {0: 0}, "a topic made anew has fewer than were committed"


@pytest.mark.parametrize(
    ("here", "state", "fix"),
    [
        ("0004", State.OK, ""),
        ("0003", State.FAILED, "plutus migrate"),
        (None, State.FAILED, "plutus migrate"),
        ("0009", State.FAILED, "use the release that migrated it"),
    ],
)
def test_the_schema_is_this_releases_an_older_or_a_newer_one(here: str | None, state: State, fix: str) -> None:
    finding = checks.of_schema(here, "0004", ["0004", "0003", "0002", "0001"])
    assert (finding.state, finding.fix) == (state, fix)


def test_grants_say_what_a_role_is_good_for() -> None:
    every = {need for needs in NEEDS.values() for need in needs}
    [finding] = checks.of_grants("r", {need: need in NEEDS["gateway"] for need in every})
    assert (finding.state, finding.what) == (State.OK, "role r may work as gateway")
    [none] = checks.of_grants("r", dict.fromkeys(every, False))
    assert none.state is State.FAILED
    assert "roles.sql" in none.fix


@pytest.mark.parametrize(
    ("ahead", "state"), [(0.5, State.OK), (-1.9, State.OK), (9.0, State.WARNING), (-9.0, State.WARNING)]
)
def test_clocks_that_differ_are_told(ahead: float, state: State) -> None:
    finding = checks.of_clock(ahead, 100.0, 100.2)
    assert finding.state is state
    assert ("ahead" in finding.what) == (ahead > 2)


def test_an_answer_that_took_long_proves_no_skew() -> None:
    assert checks.of_clock(4.0, 100.0, 106.0).state is State.OK


def test_more_replicas_than_brokers_cannot_be() -> None:
    assert [each.state for each in checks.of_brokers(["b:1"], 3)] == [State.OK, State.FAILED]
    assert [each.state for each in checks.of_brokers(["b:1"], 1)] == [State.OK, State.WARNING]
    assert [each.state for each in checks.of_brokers(["b:1", "b:2", "b:3"], 3)] == [State.OK]


def test_settings_that_are_wrong_are_a_line_each() -> None:
    found = checks.of_settings("gateway", "DATABASE_URL: is not set\nGATEWAY_PORT: must be a number", 0)
    assert [(each.state, each.fix) for each in found] == [
        (State.FAILED, "plutus config show DATABASE_URL"),
        (State.FAILED, "plutus config show GATEWAY_PORT"),
    ]
    assert [each.state for each in checks.of_settings("worker", "", 52)] == [State.OK]


def test_what_does_not_answer_is_told_from_what_fails() -> None:
    assert checks.away("kafka", Failure("It did not answer.", code=UNREACHABLE)).state is State.UNREACHABLE
    assert checks.away("kafka", Failure("It refused.")).state is State.FAILED
