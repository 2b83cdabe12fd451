"""The offsets of one partition: what was received, what is durable, what may be committed. Knows no Kafka and no clock.

Laws (property tests): `committable` never passes a record that is not durable, never goes back within one assignment,
and skips what was never received (compacted records, transaction markers) without help.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Progress:
    """start: the offset this assignment began at, already committed or claimed."""

    start: int
    _committable: int = field(init=False)
    _received: int = field(init=False)
    _reported: int | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._committable = self.start
        self._received = self.start

    @property
    def position(self) -> int:
        """The offset after the last one received."""
        return self._received

    @property
    def durable(self) -> int:
        """The offset below which everything is durable."""
        return self._committable

    def receive(self, offset: int) -> bool:
        """Note a record; False for one already received (a seek went back), which must be dropped."""
        if offset < self._received:
            return False
        self._received = offset + 1
        return True

    def done(self, next_offset: int) -> None:
        """Everything below `next_offset` is durable: in Postgres, and its dead letters acknowledged.

        Raises:
            ValueError: beyond what was received, or backwards: a bug, never to be committed.
        """
        if next_offset > self._received or next_offset < self._committable:
            raise ValueError(f"next offset {next_offset} is outside [{self._committable}, {self._received}]")
        self._committable = next_offset

    def to_commit(self) -> int | None:
        """The offset to commit now, None where there is nothing new."""
        floor = self.start if self._reported is None else self._reported
        return self._committable if self._committable > floor else None

    def committed(self, offset: int) -> None:
        """The broker has it."""
        self._reported = offset if self._reported is None else max(self._reported, offset)
