"""Heart rates out of range: one alert per patient and episode, and an audit row for its begin and its end.

An episode begins with a reading out of range and ends with the next one in range, in the order of the source's log. The
open alert is itself the state: a partial unique index allows one per patient, so a further breach finds it and counts.
Alert and audit row commit together or not at all.
"""

from __future__ import annotations

from schemas.payloads.health import HeartRateReading
from stream_worker import Event, Transaction, handler, on_start

LOWEST_BPM = 40
HIGHEST_BPM = 130

_TABLES = """
CREATE TABLE IF NOT EXISTS example_alerts (
    alert_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    patient_id text NOT NULL,
    opened_by uuid NOT NULL,
    closed_by uuid,
    breaches integer NOT NULL DEFAULT 1
);
CREATE UNIQUE INDEX IF NOT EXISTS example_alerts_open ON example_alerts (patient_id) WHERE closed_by IS NULL;
CREATE TABLE IF NOT EXISTS example_alert_audit (
    alert_id bigint NOT NULL REFERENCES example_alerts,
    event_id uuid NOT NULL,
    action text NOT NULL CHECK (action IN ('opened', 'closed')),
    bpm integer NOT NULL,
    happened_at timestamptz,
    recorded_at timestamptz NOT NULL DEFAULT now()
)
"""

_OPEN_OR_COUNT = """
INSERT INTO example_alerts AS alert (patient_id, opened_by) VALUES ($1, $2)
ON CONFLICT (patient_id) WHERE closed_by IS NULL DO UPDATE SET breaches = alert.breaches + 1
RETURNING CASE WHEN breaches = 1 THEN alert_id END
"""

_CLOSE = "UPDATE example_alerts SET closed_by = $2 WHERE patient_id = $1 AND closed_by IS NULL RETURNING alert_id"

_AUDIT = "INSERT INTO example_alert_audit (alert_id, event_id, action, bpm, happened_at) VALUES ($1, $2, $3, $4, $5)"


@on_start
async def create_alerts(tx: Transaction) -> None:
    """Alerts, and the audit of what opened and closed each."""
    await tx.execute(_TABLES)


@handler(type="heart_rate_reading")
async def watch_heart_rate(event: Event, tx: Transaction, reading: HeartRateReading) -> None:
    """Open, count or close the patient's alert."""
    if LOWEST_BPM <= reading.bpm <= HIGHEST_BPM:
        action, alert_id = "closed", await tx.fetchval(_CLOSE, reading.patient_id, event.id)
    else:
        action, alert_id = "opened", await tx.fetchval(_OPEN_OR_COUNT, reading.patient_id, event.id)
    if alert_id is not None:
        await tx.execute(_AUDIT, alert_id, event.id, action, reading.bpm, event.occurred_at)
