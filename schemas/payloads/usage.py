"""What a customer's people did in a product, to be counted for a bill.

Every type names the customer who pays. One event is one use: a count per customer and hour is a count of distinct events.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from schemas.payloads.base import Identifier, Payload


class _Use(Payload):
    """One use by one customer."""

    customer_id: Identifier = Field(description="The account that is billed.")
    user_id: Identifier | None = Field(default=None, description="Who of the customer's people; absent for a machine.")


class FeatureUsed(_Use):
    """A feature was used."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"customer_id": "c-1001", "user_id": "u-3", "feature": "bulk_edit"}]}
    )

    feature: Identifier
    plan: Identifier | None = None


class UserInvited(_Use):
    """Someone was invited to the customer's account."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"customer_id": "c-1001", "user_id": "u-3", "invitation_id": "inv-20", "role": "editor"}]
        }
    )

    invitation_id: Identifier = Field(description="Stands for the address, which stays where it was typed in.")
    role: Literal["owner", "admin", "editor", "viewer", "guest"]


class DashboardViewed(_Use):
    """A dashboard was opened."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"customer_id": "c-1001", "user_id": "u-3", "dashboard_id": "sales"}]}
    )

    dashboard_id: Identifier
    load_ms: Annotated[int, Field(ge=0, le=3_600_000)] | None = Field(default=None, description="Until it was drawn.")


class ExportTriggered(_Use):
    """An export of the customer's data was started."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"customer_id": "c-1001", "export_id": "ex-9", "format": "csv", "row_count": 12000}]
        }
    )

    export_id: Identifier
    format: Literal["csv", "json", "ndjson", "parquet", "xlsx", "pdf"]
    row_count: Annotated[int, Field(ge=0, le=1_000_000_000_000)] | None = None


TYPES: dict[str, type[Payload]] = {
    "feature_used": FeatureUsed,
    "user_invited": UserInvited,
    "dashboard_viewed": DashboardViewed,
    "export_triggered": ExportTriggered,
}
