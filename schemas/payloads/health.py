"""At the bedside and at home.

Ranges are what a device can send or a clinician can order, not what is healthy: a reading of 0 or 320 is the one an alert
exists for. Events name a patient and a record by id and carry no more than their use needs (HIPAA 164.502(b)): notes
stay in the record system.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Literal

from pydantic import AwareDatetime, ConfigDict, Field, StringConstraints

from schemas.payloads.base import Identifier, Payload, Sha256, decimal_schema

Dose = Annotated[
    Decimal,
    Field(gt=0, max_digits=18, decimal_places=6),
    decimal_schema(r"^(?!0+(\.0+)?$)(0|[1-9][0-9]{0,11})(\.[0-9]{1,6}0*)?$", exclusiveMinimum=0),
]
"""Above zero; exact, for a dose is ordered and checked in decimal."""


class HeartRateReading(Payload):
    """A device measured a heart rate."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "patient_id": "p-204",
                    "device_id": "watch-9",
                    "bpm": 72,
                    "activity": "resting",
                    "measured_at": "2026-03-01T08:15:30Z",
                }
            ]
        }
    )

    patient_id: Identifier
    bpm: Annotated[int, Field(ge=0, le=500)] = Field(
        description="Beats per minute (LOINC 8867-4); 0 when no beat was found."
    )
    device_id: Identifier | None = None
    activity: Literal["resting", "active", "sleeping", "unknown"] = "unknown"
    measured_at: AwareDatetime | None = Field(default=None, description="By the device's clock.")


class MedicationAdministered(Payload):
    """A dose was given to a patient."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "administration_id": "adm-61",
                    "patient_id": "p-204",
                    "medication_code": "723",
                    "code_system": "rxnorm",
                    "dose": 500,
                    "unit": "mg",
                    "route": "oral",
                    "administered_by": "nurse-12",
                    "administered_at": "2026-03-01T08:20:00Z",
                }
            ]
        }
    )

    administration_id: Identifier
    patient_id: Identifier
    medication_code: Identifier
    code_system: Literal["rxnorm", "atc", "snomed_ct", "ndc", "local"]
    dose: Dose
    unit: Annotated[str, StringConstraints(min_length=1, max_length=32, pattern=r"^[!-~]+$")] = Field(
        description="UCUM, case-sensitive: mg, mL, [iU]."
    )
    route: Literal[
        "oral",
        "sublingual",
        "intravenous",
        "intramuscular",
        "subcutaneous",
        "inhalation",
        "topical",
        "transdermal",
        "rectal",
        "nasal",
        "ophthalmic",
        "otic",
        "other",
    ]
    administered_by: Identifier
    administered_at: AwareDatetime


class DoctorNotesUpdated(Payload):
    """A clinician's note got a new revision in the record system."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "patient_id": "p-204",
                    "note_id": "n-88",
                    "revision": 3,
                    "author_id": "dr-7",
                    "note_type": "progress",
                    "sha256": "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
                }
            ]
        }
    )

    patient_id: Identifier
    note_id: Identifier
    revision: Annotated[int, Field(ge=1, le=1_000_000)]
    author_id: Identifier
    note_type: Literal["progress", "admission", "discharge", "consultation", "procedure", "other"]
    sha256: Sha256 | None = Field(default=None, description="Of the revision's text.")


TYPES: dict[str, type[Payload]] = {
    "heart_rate_reading": HeartRateReading,
    "medication_administered": MedicationAdministered,
    "doctor_notes_updated": DoctorNotesUpdated,
}
