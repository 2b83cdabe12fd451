"""Usage to be billed: per customer and hour, the number of distinct events.

Plutus runs each event once, so counting is adding. A batch is aggregated in one statement, and its counters are locked in
one order, because a customer's events come from several sources.
"""

from __future__ import annotations

from collections.abc import Sequence

from schemas.payloads.usage import DashboardViewed, ExportTriggered, FeatureUsed, UserInvited
from stream_worker import Event, Transaction, handler, on_start

Use = FeatureUsed | UserInvited | DashboardViewed | ExportTriggered

_TABLES = """
CREATE TABLE IF NOT EXISTS example_usage (
    customer_id text,
    hour timestamptz,
    uses bigint NOT NULL,
    PRIMARY KEY (customer_id, hour)
)
"""

_COUNT = """
INSERT INTO example_usage AS counted (customer_id, hour, uses)
SELECT customer_id, date_trunc('hour', coalesce(used_at, now()), 'UTC') AS hour, count(*)
FROM unnest($1::text[], $2::timestamptz[]) AS used (customer_id, used_at)
GROUP BY customer_id, hour
ORDER BY customer_id, hour
ON CONFLICT (customer_id, hour) DO UPDATE SET uses = counted.uses + EXCLUDED.uses
"""


@on_start
async def create_usage(tx: Transaction) -> None:
    """One counter per customer and hour (UTC)."""
    await tx.execute(_TABLES)


@handler(type="feature_used", batch=True)
@handler(type="user_invited", batch=True)
@handler(type="dashboard_viewed", batch=True)
@handler(type="export_triggered", batch=True)
async def count_usage(events: Sequence[Event], tx: Transaction, uses: Sequence[Use]) -> None:
    """Count these events in the hour they happened, or in this one where they do not say."""
    await tx.execute(_COUNT, [use.customer_id for use in uses], [event.occurred_at for event in events])
