"""Files that are read again when they change."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from infra.runtime.declared import Mistakes
from ingest_gateway.reload import Reloaded
from tests.harness import eventually


class Reads:
    """Reads files as text, and counts; a file may name another one, whose text goes before its own."""

    def __init__(self) -> None:
        self.count = 0
        self.during: tuple[Path, str] | None = None

    def __call__(self, path: Path) -> tuple[str, tuple[Path, ...]]:
        self.count += 1
        text = path.read_text()
        if self.during is not None:
            self.during[0].write_text(self.during[1])
            self.during = None
        if text.startswith("broken"):
            raise Mistakes(["line: rule"])
        if not text.startswith("@"):
            return text, ()
        named = Path(text[1:])
        if not named.exists():
            raise Mistakes(["named: is not there"], (named,))
        return named.read_text(), (named,)


def test_it_is_read_again_only_when_it_changed(tmp_path: Path) -> None:
    file, reads = tmp_path / "f", Reads()
    file.write_text("one")
    reloaded = Reloaded(file, reads, "A_FILE")
    assert (reloaded.value, reloaded.stale, reads.count) == ("one", False, 1)
    reloaded.look()
    assert reads.count == 1
    file.write_text("three")
    reloaded.look()
    assert (reloaded.value, reads.count) == ("three", 2)


def test_a_file_replaced_by_one_of_the_same_size_and_time_is_another_one(tmp_path: Path) -> None:
    file, new = tmp_path / "f", tmp_path / "new"
    file.write_text("one")
    new.write_text("two")
    for path in (file, new):
        os.utime(path, ns=(5, 5))
    reloaded = Reloaded(file, Reads(), "A_FILE")
    new.rename(file)
    reloaded.look()
    assert reloaded.value == "two"


def test_a_broken_one_leaves_the_old_one_in_force_until_it_is_mended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, reads = tmp_path / "f", Reads()
    file.write_text("one")
    reloaded = Reloaded(file, reads, "A_FILE")
    file.write_text("broken!")
    reloaded.look()
    reloaded.look()
    assert (reloaded.value, reloaded.stale, reads.count) == ("one", True, 2)
    file.write_text("mended")
    reloaded.look()
    assert (reloaded.value, reloaded.stale) == ("mended", False)
    file.unlink()
    with pytest.raises(FileNotFoundError):  # a real `load` makes a Mistakes of it
        reloaded.look()


def test_files_that_it_names_are_looked_at_too(tmp_path: Path) -> None:
    file, secret = tmp_path / "f", tmp_path / "secret"
    secret.write_text("old")
    file.write_text(f"@{secret}")
    reloaded = Reloaded(file, Reads(), "A_FILE")
    assert reloaded.value == "old"
    secret.write_text("newer")
    reloaded.look()
    assert reloaded.value == "newer"
    secret.unlink()
    reloaded.look()
    assert (reloaded.value, reloaded.stale) == ("newer", True)
    secret.write_text("back")
    reloaded.look()
    assert (reloaded.value, reloaded.stale) == ("back", False)


def test_what_changes_while_it_is_read_is_seen_the_next_time(tmp_path: Path) -> None:
    file, secret, reads = tmp_path / "f", tmp_path / "secret", Reads()
    file.write_text("one")
    reads.during = (file, "second")
    reloaded = Reloaded(file, reads, "A_FILE")
    assert reloaded.value == "one"
    reloaded.look()
    assert reloaded.value == "second"
    secret.write_text("s")
    reads.during = (secret, "changed")
    file.write_text(f"@{secret}")
    reloaded.look()
    assert reloaded.value == "changed"


def test_at_the_start_there_is_nothing_to_keep(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("broken")
    with pytest.raises(Mistakes, match="rule"):
        Reloaded(tmp_path / "f", Reads(), "A_FILE")


async def test_it_looks_by_itself(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_text("one")
    reloaded = Reloaded(file, Reads(), "A_FILE")
    looking = asyncio.create_task(reloaded.run())
    file.write_text("second")
    await eventually(lambda: reloaded.value == "second")
    looking.cancel()
