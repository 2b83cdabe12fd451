"""The SQLSTATE rule, row by row, with asyncpg's own exceptions."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from schemas.errors import Invalid, Permanent, Reason, Retryable
from stream_worker import sqlstate
from stream_worker.outcomes import Dead, Outcome, Retry
from stream_worker.run import Hold, classify
from stream_worker.sqlstate import Verdict


def raised(code: str) -> asyncpg.PostgresError:
    return asyncpg.PostgresError.new({"C": code, "M": "a message with a value in it"})


@pytest.mark.parametrize(
    ("codes", "verdict"),
    [
        ("08000 08006 53100 53200 53300 57P01 57P02 57P03 58030 25006 XX000", Verdict.HOLD),
        ("28P01 42P01 42501 42703 0A000", Verdict.HOLD_AND_ALARM),
        ("22001 22003 22012 22P02 22P05 23502 23505 23514 54000 54001", Verdict.DEAD),
        ("40001 40P01 55P03 57014 23503 25P02 P0001 2D000", Verdict.RETRY),
    ],
)
def test_inside_a_handler(codes: str, verdict: Verdict) -> None:
    for code in codes.split():
        assert sqlstate.in_handler(raised(code)) == verdict, code


def test_what_a_migration_leaves_in_old_connections_is_told_from_what_is_poison() -> None:
    assert [sqlstate.is_stale(raised(code)) for code in ("0A000", "42P10", "42703", "22003", "40P01")] == [
        True,
        True,
        True,
        False,
        False,
    ]
    assert not sqlstate.is_stale(OSError())


def test_what_is_not_the_databases_is_a_retry_only_where_it_is_the_networks() -> None:
    for passing in (ConnectionResetError(), TimeoutError(), OSError(), asyncio.CancelledError(), SystemExit(1)):
        assert sqlstate.in_handler(passing) == Verdict.RETRY, passing
    for bug in (asyncpg.DataError("invalid input for query argument $1: 'secret'"), ValueError("secret"), KeyError(1)):
        assert sqlstate.in_handler(bug) == Verdict.DEAD, bug


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (Permanent("secret"), Dead(Reason.HANDLER_ERROR, "handle", "Permanent")),
        (Retryable("secret", after=2), Retry(Reason.HANDLER_ERROR, "Retryable", 2)),
        (Invalid("no", reason=Reason.SCHEMA_UNKNOWN), Dead(Reason.SCHEMA_UNKNOWN, "handle", "Invalid")),
        (KeyError("secret"), Dead(Reason.HANDLER_ERROR, "handle", "KeyError")),
        (ConnectionError("secret"), Retry(Reason.HANDLER_ERROR, "ConnectionError")),
        (raised("23505"), Dead(Reason.HANDLER_ERROR, "handle", "23505")),
        (raised("40P01"), Retry(Reason.HANDLER_ERROR, "40P01")),
    ],
)
def test_outcomes_carry_a_class_and_never_a_message(error: BaseException, outcome: Outcome) -> None:
    assert classify(error, timed_out=False) == outcome
    assert "secret" not in repr(outcome)


def test_a_time_out_of_ours_is_told_from_one_of_theirs() -> None:
    assert classify(TimeoutError(), timed_out=True) == Retry(Reason.HANDLER_TIMEOUT, "TimeoutError")
    assert classify(TimeoutError(), timed_out=False) == Retry(Reason.HANDLER_ERROR, "TimeoutError")


@pytest.mark.parametrize(("code", "alarm"), [("57P01", False), ("42P01", True)])
def test_what_no_event_is_to_blame_for_holds(code: str, alarm: bool) -> None:
    with pytest.raises(Hold) as held:
        classify(raised(code), timed_out=False)
    assert (held.value.why, held.value.alarm) == (code, alarm)
