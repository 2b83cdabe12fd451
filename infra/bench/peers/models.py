"""What the two FastAPI peers take and answer, as most people would write it."""

from __future__ import annotations

import uuid
from typing import Any

from pydantic import BaseModel


class Envelope(BaseModel):
    """An event."""

    source: str
    schema_version: str
    idempotency_key: str
    payload: dict[str, Any]

    @property
    def event_id(self) -> uuid.UUID:
        """The same for every copy."""
        return uuid.uuid5(uuid.NAMESPACE_OID, f"{self.source}\n{self.idempotency_key}")


class Accepted(BaseModel):
    """The answer."""

    event_id: uuid.UUID
