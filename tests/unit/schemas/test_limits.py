"""The limits."""

from __future__ import annotations

import pytest

from schemas.limits import DEEPEST, EDGE, SAFETY, Limits


def test_the_edge_has_the_published_defaults() -> None:
    assert Limits(256 * 1024, 64, 10_000, 255, 255, 1_000, 4 * 1024 * 1024) == EDGE


def test_the_worker_refuses_nothing_that_the_edge_lets_pass() -> None:
    assert SAFETY.body_bytes > EDGE.body_bytes
    assert (SAFETY.depth, SAFETY.nodes) >= (EDGE.depth, EDGE.nodes)


def test_a_depth_that_the_json_writer_could_not_write_is_refused() -> None:
    Limits(depth=DEEPEST)
    with pytest.raises(ValueError, match="depth must be at most 200"):
        Limits(depth=DEEPEST + 1)


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="nodes must be at least 1"):
        Limits(nodes=0)
