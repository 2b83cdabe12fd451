"""The demo's input: one week of earthquakes, each an event (`infra/data/SOURCE.md` says whence).

The network that reported a quake is the source, the quake's id the idempotency key. A prefix before the key makes the
same week new events, so that the demo can be repeated on one system.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from importlib import resources
from typing import Any
from uuid import UUID

from infra.demo.respell import respelled
from schemas.ids import event_id

EARTHQUAKE = "earthquake"
"""The event type, by which the example handler finds it."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Quake:
    """One earthquake as an event.

    feature: the line of the file, the event's payload as it stands there.
    """

    source: str
    key: str
    happened_at: str
    feature: str

    @property
    def id(self) -> UUID:
        """The event's id."""
        return event_id(self.source, self.key)

    def plain(self) -> bytes:
        """The envelope as any client would write it, the payload digit for digit."""
        members = json.dumps(self._members(), separators=(",", ":"))
        return f'{members[:-1]},"payload":{self.feature}}}'.encode()

    def respelled(self, rng: random.Random) -> bytes:
        """The same event in another spelling: order of members, white space, escapes, numbers."""
        payload = json.loads(self.feature, parse_float=Decimal)
        return respelled({**self._members(), "payload": payload}, rng).encode()

    def _members(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "schema_version": "1.0",
            "idempotency_key": self.key,
            "type": EARTHQUAKE,
            "occurred_at": self.happened_at,
        }


def load(prefix: str = "") -> list[Quake]:
    """Every quake of the file, `prefix` before each key."""
    text = resources.files("infra").joinpath("data", "earthquakes.ndjson").read_text(encoding="utf-8")
    return [_quake(line, prefix) for line in text.splitlines()]


def _quake(line: str, prefix: str) -> Quake:
    feature = json.loads(line)
    happened_at = _EPOCH + timedelta(milliseconds=feature["properties"]["time"])
    return Quake(
        feature["properties"]["net"],
        prefix + feature["id"],
        happened_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        line,
    )
