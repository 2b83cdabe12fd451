"""The recorded schema names what the other modules and the operators rely on, and says what each part is for."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from sqlalchemy import Table

from infra.runtime.tables import metadata

ROOT = Path(__file__).parents[4]
TABLES = list(metadata.tables.values())
COLUMNS = {
    "event_keys": "event_id accepted_at record_offset partition runs fingerprint state",
    "events": "event_id source idempotency_key schema_version type ordering_key occurred_at payload payload_encoding "
    "status handled_by received_at processed_at attempts topic partition offset",
    "failures": "failure_id event_id source reason step error_class topic partition offset appended_at attempts "
    "status first_at last_at next_at key value headers content_hash dlq_partition dlq_offset dlq_at",
    "partition_claims": "group topic partition epoch next_offset open claimed_at released marked marker_offset deaths",
    "parked_keys": "order_key topic partition attempts parked_at next_at",
    "parked_events": "order_key event_id topic partition offset appended_at received_at attempts key value headers",
}


def test_tables_and_columns_are_the_contract() -> None:
    found = {table.name: " ".join(column.name for column in table.columns) for table in TABLES}
    assert {name: found.get(name) for name in COLUMNS} == COLUMNS


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_every_table_and_column_says_what_it_is_for(table: Table) -> None:
    assert table.comment
    assert [column.name for column in table.columns if not column.comment] == []


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_every_constraint_and_index_has_a_name_to_log(table: Table) -> None:
    """Logs carry the name of a violated constraint and never its values (issue 3)."""
    assert all(constraint.name for constraint in table.constraints)
    assert all(index.name for index in table.indexes)


@pytest.mark.parametrize("file", sorted((ROOT / "migrations" / "versions").glob("*.py")), ids=lambda file: file.stem)
def test_migrations_say_whether_they_run_before_or_after_the_deploy(file: Path) -> None:
    doc = ast.get_docstring(ast.parse(file.read_text())) or ""
    first = doc.splitlines()[0]
    assert first.endswith(("(pre-deploy).", "(post-deploy).")), first
    assert file.stem[:5].rstrip("_").isdigit(), "migrations are numbered"
