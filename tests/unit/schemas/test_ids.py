"""The event id and the partition key."""

from __future__ import annotations

import copy
import pickle
import uuid

from hypothesis import given
from hypothesis import strategies as st

from schemas.ids import PLUTUS_NAMESPACE, event_id, id_bytes, id_text, partition_key

visible = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=255)


def test_the_namespace_is_fixed() -> None:
    assert str(PLUTUS_NAMESPACE) == "843d5e91-1cfd-5cba-9297-323abc873570"
    assert uuid.uuid5(uuid.NAMESPACE_URL, "tag:plutus,2026:event-id") == PLUTUS_NAMESPACE


@given(visible, visible)
def test_the_id_is_the_uuid5_of_the_standard_library(source: str, key: str) -> None:
    made = event_id(source, key)
    expected = uuid.uuid5(PLUTUS_NAMESPACE, f"{source}\n{key}")
    assert made == expected
    assert (made.version, made.variant, made.is_safe) == (5, uuid.RFC_4122, expected.is_safe)
    assert (hash(made), str(made), made.bytes) == (hash(expected), str(expected), expected.bytes)
    assert (id_bytes(source, key), id_text(expected.bytes)) == (expected.bytes, str(expected))


def test_an_id_is_an_ordinary_uuid() -> None:
    made = event_id("a", "b")
    assert copy.deepcopy(made) == made
    assert pickle.loads(pickle.dumps(made)) == made  # noqa: S301 our own bytes
    assert sorted([made, uuid.UUID(int=0)])[1] is made


@given(visible, visible, visible, visible)
def test_two_names_never_share_an_id(source: str, key: str, other_source: str, other_key: str) -> None:
    same = (source, key) == (other_source, other_key)
    assert (event_id(source, key) == event_id(other_source, other_key)) == same


def test_where_the_source_ends_matters() -> None:
    assert event_id("ab", "c") != event_id("a", "bc")


def test_the_partition_key_is_the_source_and_on_demand_the_ordering_key() -> None:
    assert partition_key("shop") == b"shop"
    assert partition_key("shop", "cart-1") == b"shop:cart-1"
