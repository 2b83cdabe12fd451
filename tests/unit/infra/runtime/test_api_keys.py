"""API keys, and the file that grants them sources."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from infra.runtime.api_keys import Grant, digest, line, load, new_key
from infra.runtime.declared import Mistakes


def test_a_key_is_256_random_bits_and_its_line_grants_it_sources(tmp_path: Path) -> None:
    key, other = new_key(), new_key()
    assert key != other
    assert len(key) == len("plutus_") + 43
    written = line("billing", key, ["shop", 'ti"ll']) + "\n" + line("all", other, ["*"]) + "\n"
    assert key not in written
    file = tmp_path / "keys.toml"
    file.write_text("# who may write what\n" + written)
    grants, files = load(file)
    assert grants == {
        hashlib.sha256(key.encode()).digest(): Grant("billing", frozenset({"shop", 'ti"ll'})),
        digest(other.encode()): Grant("all", frozenset({"*"})),
    }
    assert files == ()


def test_a_grant_covers_its_sources_alone() -> None:
    grant = Grant("billing", frozenset({"shop"}))
    assert grant.covers("shop")
    assert not any(map(grant.covers, ("sho", "shop2", "Shop", "", "*")))
    assert Grant("all", frozenset({"*"})).covers("anything")


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    good = f'sha256 = "{"a" * 64}"'
    file.write_text(
        f"""
        "a b" = {{ {good}, sources = ["x"] }}
        twice = {{ {good}, sources = ["x"] }}
        none = {{ sha256 = "{"b" * 64}", sources = [] }}
        short = {{ sha256 = "KEY", sources = ["x"] }}
        plain = "KEY"
        more = {{ sha256 = "{"c" * 64}", sources = ["x"], key = "KEY" }}
        number = {{ sha256 = "{"d" * 64}", sources = [1] }}
        less = {{ }}
        """
    )
    with pytest.raises(Mistakes) as caught:
        load(file)
    assert [told.partition(":")[0] for told in caught.value.mistakes] == [
        "a b",
        "twice.sha256",
        "none.sources",
        "short.sha256",
        "plain",
        "more.key",
        "number.sources[0]",
        "less.sha256",
        "less.sources",
    ]
    assert "KEY" not in str(caught.value)
