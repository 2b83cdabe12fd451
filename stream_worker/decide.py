"""What to do with each record of a batch, before anything is written. Pure.

In log order each record is compared with the row of its id in `event_keys`, or, where there is none, with the first
record of its id in this batch. At most one record per id becomes a candidate: an id twice in one upsert is an error
(21000), and folding copies blindly would lose an acknowledged event (interleaving 3).

    Run("new")        no row yet: this record's upsert makes it
    Run("accepted")   a gateway or an earlier batch made the row and nobody has run it
    Run("replay")     the event failed and this copy was appended after its dead letter: somebody replayed it
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Literal

from schemas.errors import Reason
from schemas.event import Event
from schemas.fingerprint import version_of
from stream_worker.outcomes import Dead, Duplicate, Outcome, Redelivered
from stream_worker.records import Item


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A row of `event_keys`, as far as decisions need it."""

    fingerprint: bytes
    state: Literal["accepted", "parked", "stored", "failed"]


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """A candidate: its id is claimed by the upsert ("new", "accepted") or by the replay claim ("replay").

    There are the three below and no others, so that batches of thousands are counted by identity.
    """

    kind: Literal["new", "accepted", "replay"]


NEW, ACCEPTED, REPLAY = Run("new"), Run("accepted"), Run("replay")
DUPLICATE, REDELIVERED = Duplicate(), Redelivered()
CONFLICT = Dead(Reason.IDEMPOTENCY_CONFLICT, "decide")
EXHAUSTED = Dead(Reason.REPLAY_LIMIT, "decide")
Decision = Run | Outcome


@dataclass(frozen=True, slots=True)
class Known:
    """What the database said about a batch.

    keys: rows of `event_keys` by the id's bytes; read again for ids whose claim is refused.
    failed_at: (offset, append time in ms) of this partition's records that have a failures row.
    dead_letter_ms: for failed ids, the append time (ms) of the last dead letter; absent while it is not acknowledged.
    exhausted: failed ids that have run as often as one may.
    """

    keys: dict[bytes, KeyRow]
    failed_at: AbstractSet[tuple[int, int]]
    dead_letter_ms: dict[bytes, int]
    exhausted: set[bytes] = field(default_factory=set)


def decide(items: Sequence[Item], known: Known) -> list[Decision]:
    """One decision per item, in their order."""
    claimed: dict[bytes, Event] = {}
    decisions: list[Decision] = []
    for item in items:
        event = item.event
        if event is None or item.id in known.keys or item.id in claimed or known.failed_at:
            decisions.append(_decide(item, known, claimed))
        else:  # of most nothing is known
            claimed[item.id] = event
            decisions.append(NEW)
    return decisions


def _decide(item: Item, known: Known, claimed: dict[bytes, Event]) -> Decision:
    if known.failed_at and (item.offset, item.appended_ms) in known.failed_at:
        return REDELIVERED
    event = item.event
    if event is None:
        assert item.dead is not None  # noqa: S101
        return item.dead
    row = known.keys.get(item.id)
    earlier = claimed.get(item.id)
    if row is None:
        if earlier is None:
            claimed[item.id] = event
            return NEW
        return DUPLICATE if earlier.fingerprint == event.fingerprint else CONFLICT
    if not same_payload(event, row.fingerprint):
        return CONFLICT
    if earlier is not None:
        return DUPLICATE
    decision = _of_row(item, row, known)
    if isinstance(decision, Run):
        claimed[item.id] = event
    return decision


def _of_row(item: Item, row: KeyRow, known: Known) -> Decision:
    match row.state:
        case "accepted":
            return ACCEPTED
        case "stored" | "parked":
            return DUPLICATE
        case "failed":
            # A copy that was in the log before the dead letter is no replay (interleaving 2b). Both are broker time.
            buried = known.dead_letter_ms.get(item.id)
            if buried is None or item.appended_ms <= buried:
                return DUPLICATE
            return EXHAUSTED if item.id in known.exhausted else REPLAY


def same_payload(event: Event, stored: bytes) -> bool:
    """Compare in the stored fingerprint's version (interleaving 5).

    Raises:
        UnknownVersion: a newer release wrote it; this one must not judge.
    """
    return event.fingerprint_in(version_of(stored)) == stored
