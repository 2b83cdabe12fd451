"""Kafka's jars: fetched from a real HTTP server, kept only if they are the ones of the lock."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from infra.local.errors import LocalError
from infra.local.jars import Jars

CONTENT = b"not really a jar, but bytes with a hash"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PLACE = "org/example/thing/1.0/thing-1.0.jar"


class Quiet(SimpleHTTPRequestHandler):
    """Serves files and prints nothing."""

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """A Maven repository over HTTP: its URL, and the one file in it. The user's own repository is empty."""
    monkeypatch.setenv("M2_REPO", str(tmp_path / "m2"))
    file = tmp_path / "remote" / PLACE
    file.parent.mkdir(parents=True)
    file.write_bytes(CONTENT)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "remote"))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", file
        server.shutdown()
        thread.join()


def lock(sha256: str = SHA256, size: int = len(CONTENT)) -> str:
    """A lock of one jar."""
    return f"# comment\norg.example:thing:1.0 {sha256} {size}\n"


def test_a_jar_is_fetched_once(tmp_path: Path, repository: tuple[str, Path]) -> None:
    url, file = repository
    jars = Jars(tmp_path / "cache", url + "/", lock())
    said: list[str] = []
    path = jars.class_path(said.append)
    assert Path(path).read_bytes() == CONTENT
    assert said[0].startswith("fetching Kafka once: 1 jars")
    file.unlink()
    said.clear()
    assert jars.class_path(said.append) == path
    assert said == []
    assert [entry.name for entry in (tmp_path / "cache").iterdir()] == ["jars"]


def test_a_jar_with_another_hash_is_refused(tmp_path: Path, repository: tuple[str, Path]) -> None:
    jars = Jars(tmp_path / "cache", repository[0], lock(sha256="0" * 64))
    with pytest.raises(LocalError, match=r"org\.example:thing:1\.0 .*sha256.*PLUTUS_MAVEN_REPO"):
        jars.class_path(print)
    assert not list(jars.folder.iterdir())


def test_a_truncated_jar_in_the_cache_is_fetched_again(tmp_path: Path, repository: tuple[str, Path]) -> None:
    jars = Jars(tmp_path / "cache", repository[0], lock())
    path = Path(jars.class_path(print))
    path.write_bytes(CONTENT[:5])
    jars.class_path(print)
    assert path.read_bytes() == CONTENT


def test_the_users_maven_repository_is_used_and_a_broken_file_in_it_passed_over(
    tmp_path: Path, repository: tuple[str, Path]
) -> None:
    url, remote = repository
    near = tmp_path / "m2" / PLACE
    near.parent.mkdir(parents=True)
    near.write_bytes(b"broken")
    assert Path(Jars(tmp_path / "one", url, lock()).class_path(print)).read_bytes() == CONTENT
    remote.unlink()
    near.write_bytes(CONTENT)
    assert Path(Jars(tmp_path / "two", url, lock()).class_path(print)).read_bytes() == CONTENT
    assert near.read_bytes() == CONTENT


def test_no_network_is_one_line(tmp_path: Path, repository: tuple[str, Path]) -> None:
    repository[1].unlink()
    with pytest.raises(LocalError, match="could not be fetched"):
        Jars(tmp_path / "cache", repository[0], lock()).class_path(print)
    with pytest.raises(LocalError, match="could not be fetched"):
        Jars(tmp_path / "cache", "http://127.0.0.1:1", lock()).class_path(print)


def test_the_shipped_lock_holds_one_kafka_and_no_host() -> None:
    listed = Jars(Path("unused")).listed
    assert {jar.version for jar in listed if jar.group == "org.apache.kafka"} == {"4.3.1"}
    assert {"kafka_2.13", "kafka-tools", "log4j-slf4j-impl"} <= {jar.artifact for jar in listed}
    assert all(len(jar.sha256) == 64 and jar.size > 0 for jar in listed)
    assert len({jar.file_name for jar in listed}) == len(listed)
