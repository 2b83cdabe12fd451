"""What a follower is told from its leader's outcome."""

from __future__ import annotations

import pytest

from ingest_gateway.outcomes import (
    CONFLICT,
    DUPLICATE,
    Accepted,
    NotAccepted,
    Outcome,
    Overloaded,
    Unknown,
    for_follower,
)


@pytest.mark.parametrize(
    ("leader", "same", "other"),
    [
        (Accepted(0, 1), DUPLICATE, CONFLICT),
        (Accepted(0, 1, deferred=True), DUPLICATE, CONFLICT),
        (DUPLICATE, DUPLICATE, CONFLICT),
        (CONFLICT, CONFLICT, None),
        (NotAccepted("kafka_down"), NotAccepted("kafka_down"), NotAccepted("kafka_down")),
        (Unknown("ack_timeout"), Unknown("ack_timeout"), Unknown("ack_timeout")),
        (Overloaded(1), Overloaded(1), Overloaded(1)),
    ],
)
def test_a_follower_is_told_the_truth_its_leader_found(leader: Outcome, same: Outcome, other: Outcome | None) -> None:
    assert for_follower(leader, same_payload=True) == same
    assert for_follower(leader, same_payload=False) == other
