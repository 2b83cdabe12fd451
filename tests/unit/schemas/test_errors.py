"""The error tree."""

from __future__ import annotations

import pytest

from schemas.errors import (
    FieldError,
    Invalid,
    Malformed,
    Permanent,
    PlutusError,
    Reason,
    Rejected,
    Retryable,
    TooLarge,
    UnsupportedMedia,
)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Malformed("m"), Reason.MALFORMED_JSON),
        (TooLarge("m"), Reason.TOO_LARGE),
        (UnsupportedMedia("m"), Reason.UNSUPPORTED_MEDIA),
        (Invalid("m"), Reason.SCHEMA_INVALID),
        (Invalid("m", reason=Reason.BAD_ID), Reason.BAD_ID),
    ],
)
def test_a_rejection_has_a_reason(error: Rejected, reason: Reason) -> None:
    assert (error.reason, error.message, error.pointer, error.errors, str(error)) == (reason, "m", "", (), "m")


def test_a_rejection_can_hold_every_broken_rule() -> None:
    broken = (FieldError("/payload/a", "is missing"), FieldError("/payload/b", "must be a string"))
    assert Invalid("m", errors=broken).errors == broken


def test_the_tree() -> None:
    assert issubclass(Rejected, PlutusError)
    assert not issubclass(Retryable, Rejected)
    assert not issubclass(Permanent, Rejected)
    assert Retryable(after=2.5).after == 2.5
    assert Retryable("busy").after is None


def test_reasons_are_words_fit_for_metric_labels() -> None:
    assert all(reason.value == reason.name.lower() for reason in Reason)
