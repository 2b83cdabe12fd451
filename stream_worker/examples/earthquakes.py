"""Earthquakes as the USGS reports them: one row each. The handler of `plutus demo`.

The table has no key on the event, on purpose: if an event ever took effect twice, there would be two rows. The payload
is GeoJSON without a registered schema, so the handler takes what it needs and says `Permanent` where that is missing.
"""

from __future__ import annotations

from stream_worker import Event, Permanent, Transaction, handler, on_start

_TABLES = """
CREATE TABLE IF NOT EXISTS example_earthquakes (
    event_id uuid NOT NULL,
    source text NOT NULL,
    magnitude double precision,
    place text,
    happened_at timestamptz NOT NULL
)
"""

_INSERT = """
INSERT INTO example_earthquakes (event_id, source, magnitude, place, happened_at)
VALUES ($1, $2, $3, $4, to_timestamp($5 / 1000.0))
"""


@on_start
async def create_earthquakes(tx: Transaction) -> None:
    """One row per earthquake."""
    await tx.execute(_TABLES)


@handler(type="earthquake")
async def record_earthquake(event: Event, tx: Transaction) -> None:
    """Keep magnitude, place and time."""
    try:
        quake = event.data["properties"]
        magnitude, place, milliseconds = quake["mag"], quake["place"], quake["time"]
    except (KeyError, TypeError, IndexError):
        raise Permanent("An earthquake needs properties with mag, place and time.") from None
    await tx.execute(_INSERT, event.id, event.source, magnitude, place, milliseconds)
