"""The payload of an event as the model it is registered with (`schemas.payloads`)."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel

from schemas import registry
from schemas.event import Event
from stream_worker import Permanent

M = TypeVar("M", bound=BaseModel)
N = TypeVar("N", bound=BaseModel)

_SCHEMAS = registry.default()


def typed(event: Event, model: type[M], *others: type[N]) -> M | N:
    """The payload as this model, or as one of the others, checked, its numbers exact.

    Raises:
        Invalid: it fits no registered schema; the event is then dead-lettered with the schema's reason.
        Permanent: it fits one, of another kind than asked for.
    """
    payload = _SCHEMAS.typed(event)
    if isinstance(payload, model) or isinstance(payload, others):  # noqa: SIM101 - so that the type is known
        return payload
    raise Permanent(f"The payload is a {type(payload).__name__}, which this handler does not take.")
