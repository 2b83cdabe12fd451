"""Where each vehicle is: the latest position by the vehicle's own clock; one that arrives late changes nothing.

The comparison is part of the one statement, so it holds whoever else writes the row. A position without `occurred_at`
cannot be placed in time and never will be: `Permanent`.
"""

from __future__ import annotations

from schemas.payloads.vehicle import GpsLocationUpdate
from stream_worker import Event, Permanent, Transaction, handler, on_start

_TABLES = """
CREATE TABLE IF NOT EXISTS example_vehicles (
    vehicle_id text PRIMARY KEY,
    lat double precision NOT NULL,
    lon double precision NOT NULL,
    seen_at timestamptz NOT NULL,
    event_id uuid NOT NULL
)
"""

_MOVE = """
INSERT INTO example_vehicles AS known (vehicle_id, lat, lon, seen_at, event_id)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (vehicle_id) DO UPDATE
SET lat = EXCLUDED.lat, lon = EXCLUDED.lon, seen_at = EXCLUDED.seen_at, event_id = EXCLUDED.event_id
WHERE EXCLUDED.seen_at > known.seen_at
"""


@on_start
async def create_vehicles(tx: Transaction) -> None:
    """The latest position of each vehicle, and the event that told it."""
    await tx.execute(_TABLES)


@handler(type="gps_location_update")
async def track_vehicle(event: Event, tx: Transaction, position: GpsLocationUpdate) -> None:
    """Keep this position if it is the latest."""
    if event.occurred_at is None:
        raise Permanent("A position needs occurred_at: without it nobody can tell whether it is the latest.")
    await tx.execute(_MOVE, position.vehicle_id, position.lat, position.lon, event.occurred_at, event.id)
