"""What became of one event that was submitted: the values every way in turns into its own answers.

Accepted       I created the event: Kafka has it, and the key is remembered or (deferred) will be
Duplicate      Kafka already had it, with the same payload
Conflict       the key belongs to another payload; nothing was published, or what was will not take effect
NotAccepted    certainly not in Kafka; retrying is needed and safe
Unknown        possibly in Kafka; retrying is safe
Overloaded     too much in flight; not looked at
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from infra.runtime.producer import NotAccepted, Unknown

__all__ = [
    "CONFLICT",
    "DUPLICATE",
    "Accepted",
    "Conflict",
    "Duplicate",
    "NotAccepted",
    "Outcome",
    "Overloaded",
    "Unknown",
]


class Accepted(msgspec.Struct, frozen=True, gc=False):
    """In Kafka at these coordinates. `deferred`: without a look-up, or not yet remembered (Postgres is away)."""

    partition: int
    offset: int
    deferred: bool = False


@dataclass(frozen=True, slots=True)
class Duplicate:
    """The same event was accepted before, or at the same moment by someone else."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """The same key was accepted before with another payload."""


@dataclass(frozen=True, slots=True)
class Overloaded:
    """Refused before any work. `retry_after`: whole seconds until the work in flight should be done."""

    retry_after: int


Outcome = Accepted | Duplicate | Conflict | NotAccepted | Unknown | Overloaded

DUPLICATE = Duplicate()
CONFLICT = Conflict()


def for_follower(leader: Outcome, *, same_payload: bool) -> Outcome | None:
    """The outcome of an event that waited for another one of its id; None: it has to be submitted on its own.

    A leader that was a Conflict says nothing of another payload than its own. A leader that failed fails its followers:
    they are answered alike and retried alike.
    """
    match leader:
        case Accepted() | Duplicate():
            return DUPLICATE if same_payload else CONFLICT
        case Conflict():
            return CONFLICT if same_payload else None
        case NotAccepted() | Unknown() | Overloaded():
            return leader
