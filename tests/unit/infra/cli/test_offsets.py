"""Where a worker would begin, what skipping leaves out, and that a place to go on must be named."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from infra.cli.main import app
from infra.cli.skipping import Place


@pytest.mark.parametrize(
    ("committed", "known", "start"),
    [(7, 7, 7), (9, 7, 7), (7, 9, 7), (1, 9, 3), (None, 9, 3), (7, None, 7), (None, None, 3)],
)
def test_a_worker_begins_at_the_smaller_offset_that_is_still_there(
    committed: int | None, known: int | None, start: int
) -> None:
    assert Place(0, 3, 20, committed, known).start == start


@pytest.mark.parametrize(("to", "skipped"), [(None, 0), (5, 0), (7, 0), (20, 13)])
def test_only_forwards_is_skipped(to: int | None, skipped: int) -> None:
    assert Place(0, 3, 20, 7, 8, to).skipped == skipped


@pytest.mark.parametrize("options", [[], ["--to-end", "--to-offset", "7"]])
def test_one_place_to_go_on_must_be_named(options: list[str]) -> None:
    assert CliRunner().invoke(app, ["offsets", "skip", *options]).exit_code == 2
