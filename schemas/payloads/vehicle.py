"""What a vehicle reports about itself. Units are in the names: metric, degrees, percent.

When it happened is the envelope's `occurred_at`: positions that arrive late are told apart by it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from schemas.payloads.base import Identifier, Payload


class EngineTemperature(Payload):
    """A temperature in or at the engine."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"vehicle_id": "van-17", "celsius": 92.5, "sensor": "coolant"}]}
    )

    vehicle_id: Identifier
    celsius: Annotated[float, Field(ge=-80, le=1_300)] = Field(
        description="From a cold start in an Arctic winter to the exhaust of a full load."
    )
    sensor: Literal["coolant", "oil", "intake_air", "exhaust_gas", "battery"] = "coolant"


class GpsLocationUpdate(Payload):
    """Where a vehicle is (WGS 84)."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "vehicle_id": "van-17",
                    "lat": -1.292066,
                    "lon": 36.821946,
                    "speed_kmh": 43.2,
                    "heading_deg": 271,
                    "accuracy_m": 4.5,
                }
            ]
        }
    )

    vehicle_id: Identifier
    lat: Annotated[float, Field(ge=-90, le=90)]
    lon: Annotated[float, Field(ge=-180, le=180)]
    altitude_m: Annotated[float, Field(ge=-500, le=20_000)] | None = None
    speed_kmh: Annotated[float, Field(ge=0, le=1_300)] | None = None
    heading_deg: Annotated[float, Field(ge=0, le=360)] | None = Field(
        default=None, description="Clockwise from true north; some receivers say 360 for 0."
    )
    accuracy_m: Annotated[float, Field(ge=0, le=1_000_000)] | None = Field(
        default=None, description="Radius that holds the true position with 68 %."
    )


class FuelLevel(Payload):
    """How full the tank or the traction battery is."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"vehicle_id": "van-17", "percent": 61.5, "litres": 43}]})

    vehicle_id: Identifier
    percent: Annotated[float, Field(ge=0, le=100)]
    litres: Annotated[float, Field(ge=0, le=100_000)] | None = None


TYPES: dict[str, type[Payload]] = {
    "engine_temperature": EngineTemperature,
    "gps_location_update": GpsLocationUpdate,
    "fuel_level": FuelLevel,
}
