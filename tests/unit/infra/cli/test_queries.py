"""The parts of the operator's queries that need no database."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.cli.queries import Cursor, decode_headers
from stream_worker.store import encode_headers


@given(st.datetimes(timezones=st.just(UTC)), st.uuids())
def test_a_cursor_reads_back(moment: datetime, failure_id: UUID) -> None:
    cursor = Cursor(moment, failure_id)
    assert Cursor.parse(str(cursor)) == cursor


@pytest.mark.parametrize("text", ["", "/", "2026-01-01", "yesterday/00000000-0000-0000-0000-000000000001"])
def test_other_text_is_no_cursor(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Cursor.parse(text)


@given(
    st.lists(
        st.tuples(st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"])), st.none() | st.binary())
    )
)
def test_headers_are_read_as_the_worker_writes_them(headers: list[tuple[str, bytes | None]]) -> None:
    import orjson

    assert decode_headers(orjson.loads(encode_headers(headers))) == headers
