"""What became of one record, as values. `batch.py` turns them into effects, in one place, without a wildcard.

Stored       ran (or needed no handler): events row PROCESSED
Duplicate    its event has already taken effect, is waiting, or has failed: nothing is written
Redelivered  these coordinates already have a failures row: only its dead letter is finished
Retry        not now: run again after a while, nothing is written
Dead         never: failures row, dead letter, and, where it is an event that ran, events row FAILED
"""

from __future__ import annotations

from dataclasses import dataclass

from schemas.errors import Reason


@dataclass(frozen=True, slots=True)
class Stored:
    """handled_by: name of the handler that ran, None where none matched."""

    handled_by: str | None


@dataclass(frozen=True, slots=True)
class Duplicate:
    """Absorbed."""


@dataclass(frozen=True, slots=True)
class Redelivered:
    """Already dead-lettered from these coordinates."""


@dataclass(frozen=True, slots=True)
class Retry:
    """after: seconds the handler asked for, None: the backoff decides. reason, error_class: should it be given up."""

    reason: Reason
    error_class: str
    after: float | None = None


@dataclass(frozen=True, slots=True)
class Parked:
    """retry: why it waits; None: it waits behind an earlier event of its ordering key."""

    retry: Retry | None


@dataclass(frozen=True, slots=True)
class Dead:
    """step: where it died (parse, decide, schema, handle). error_class: class name or SQLSTATE, never a message."""

    reason: Reason
    step: str
    error_class: str | None = None


Outcome = Stored | Duplicate | Redelivered | Retry | Parked | Dead
