"""The event in a Kafka record, whichever way it was put there: our envelope, or a CloudEvent, structured or binary.

The worker reads records with it, and so does whoever looks at the topic: one record is one event, or none, for all.
"""

from __future__ import annotations

import msgspec

from schemas import cloudevents
from schemas.event import Event, parse_envelope
from schemas.headers import CONTENT_TYPE, JSON, PAYLOAD_ENCODING, RecordHeaders
from schemas.limits import SAFETY
from schemas.opaque import BASE64, TEXT

_ENCODINGS: dict[bytes | None, str] = {encoding.encode(): encoding for encoding in (TEXT, BASE64)}


def event_of_record(value: bytes, headers: RecordHeaders) -> Event:
    """The event of a record.

    Args:
        headers: few enough to be looked through.

    Raises:
        Rejected: it is none.
    """
    if not headers:
        return parse_envelope(value, SAFETY)
    said = dict(reversed(headers))  # the first of a name counts
    kind = said.get(CONTENT_TYPE)
    if kind is not None and kind != JSON and cloudevents.is_structured(kind):
        return cloudevents.structured(value, SAFETY).event
    if cloudevents.KAFKA_MARK in said:
        attributes = cloudevents.kafka_attributes(headers)
        return cloudevents.binary(attributes, cloudevents.is_json_type(kind), value, SAFETY).event
    event = parse_envelope(value, SAFETY)
    encoding = said.get(PAYLOAD_ENCODING)
    if encoding in _ENCODINGS and event.payload.startswith(b'"'):
        return msgspec.structs.replace(event, payload_encoding=_ENCODINGS[encoding])
    return event
