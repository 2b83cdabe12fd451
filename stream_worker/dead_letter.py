"""Dead letters: the failures table is their outbox, the dead-letter topic where they go.

A failures row is committed with the batch that refused its record; only then its dead letter is produced, acknowledged
and marked, and only then the record's offset may be committed. Whatever way a row came about, its dead letter is sent by
the owner of its partition: right after the batch, and on assignment what an earlier owner left. What cannot be sent
holds the partition: backlog rather than loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import asyncpg

from infra.runtime.producer import NotAccepted, Receipt, Record, Result, Unknown
from schemas.dialects import extra_headers
from schemas.headers import dead_letter_headers
from stream_worker import store
from stream_worker.records import instant

_PAGE = 200
_TOO_LARGE = "too_large"
_NO_BYTES = b""


class Sender(Protocol):
    """The port to Kafka: one record, one answer."""

    async def send(self, topic: str, record: Record, timeout: float) -> Result:
        """Publish one record within `timeout` seconds."""
        ...


class DeadLettersHeld(Exception):
    """A dead letter was not acknowledged: the partition must wait. why: a fixed word."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


async def flush(
    db: asyncpg.Connection,
    sender: Sender,
    dlq_topic: str,
    *,
    topic: str,
    partition: int,
    timeout: float,
    dialects: Sequence[str] = (),
) -> int:
    """Send every unsent dead letter of a partition, oldest first; returns how many were acknowledged.

    A crash between the acknowledgement and the mark sends one twice; both copies name the same failure.

    Args:
        db: a connection outside any transaction: each mark stands for itself.
        timeout: seconds for each record. dialects: what headers also speak, see `schemas.dialects`.

    Raises:
        DeadLettersHeld: one was not acknowledged; those after it were not tried.
    """
    sent = 0
    while letters := await store.unsent_dead_letters(db, topic, partition, _PAGE):
        for letter in letters:
            headers = dead_letter_headers(letter.headers, letter.about) + extra_headers(dialects, letter.about)
            record = Record(letter.key, letter.value, headers)
            result = await sender.send(dlq_topic, record, timeout)
            if isinstance(result, NotAccepted) and result.why == _TOO_LARGE:
                # What unpacked to more than any topic takes would hold its partition for ever. The failures row has its
                # bytes; the dead letter says where it came from, and that they are left out.
                facts = {**letter.about, "left-out": "key, value and headers: see the failures table"}
                result = await sender.send(dlq_topic, Record(_NO_BYTES, None, dead_letter_headers((), facts)), timeout)
            match result:
                case Receipt() as receipt:
                    await store.mark_dead_letter(
                        db, letter.failure_id, receipt.partition, receipt.offset, instant(receipt.timestamp)
                    )
                    sent += 1
                case NotAccepted(why) | Unknown(why):
                    raise DeadLettersHeld(why)
    return sent
