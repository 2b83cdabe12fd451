"""The payloads that Plutus knows out of the box: five domains, nineteen types, each in version 1.0.

`schemas.registry.default` registers them; `recorded.json` is their exported JSON Schema, which a test compares with the
models (regenerate with `python -m schemas.export`).
"""

from __future__ import annotations

from schemas.payloads import health, order, payment, usage, vehicle
from schemas.payloads.base import Payload

VERSION = "1.0"

TYPES: dict[str, type[Payload]] = {**order.TYPES, **payment.TYPES, **health.TYPES, **vehicle.TYPES, **usage.TYPES}
"""Model of each registered event type, in version `VERSION`."""
