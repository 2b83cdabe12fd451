"""`plutus keys new`."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from infra.cli.main import app
from infra.runtime.api_keys import Grant, digest, load


def test_the_line_is_data_and_the_key_is_told_beside_it(tmp_path: Path) -> None:
    first = CliRunner().invoke(app, ["keys", "new", "billing", "--source", "shop", "--source", "till"])
    second = CliRunner().invoke(app, ["keys", "new", "all", "--source", "*", "--json"])
    assert (first.exit_code, second.exit_code) == (0, 0)
    told = json.loads(second.stdout)
    file = tmp_path / "keys.toml"
    file.write_text(first.stdout + told["line"] + "\n")
    key = first.stderr.split()[-1]
    assert key not in first.stdout
    assert load(file)[0] == {
        digest(key.encode()): Grant("billing", frozenset({"shop", "till"})),
        digest(told["key"].encode()): Grant("all", frozenset({"*"})),
    }


def test_a_name_that_no_file_takes_is_refused() -> None:
    refused = CliRunner().invoke(app, ["keys", "new", "a b", "--source", "x"])
    assert refused.exit_code == 2
    assert refused.stdout == ""
