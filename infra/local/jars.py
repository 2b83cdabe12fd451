"""Kafka's jars: named and pinned by `kafka.lock`, fetched once, checked by sha256, kept in the cache.

A jar is taken from the user's Maven repository (~/.m2) where it is there already, else from the network: the only
download of the local mode. What is in our folder was checked when it was put there; from then on its size is enough.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from infra.local.errors import LocalError

if TYPE_CHECKING:
    from jgo.maven import MavenContext

_AT_ONCE = 12
_TRIES = 3
_EVERY_MAVEN_REPO = {"*", "central", "external:*"}


@dataclass(frozen=True)
class Jar:
    """One line of the lock."""

    group: str
    artifact: str
    version: str
    sha256: str
    size: int

    @property
    def file_name(self) -> str:
        """Maven's name for the file."""
        return f"{self.artifact}-{self.version}.jar"


class Jars:
    """The jars of one lock in one cache.

    Args:
        cache: folder that outlives runs.
        maven_repo: where to fetch from; None: the mirror of ~/.m2/settings.xml, or Maven Central.
        lock: text of a lock file; None: the one shipped with Plutus.
    """

    def __init__(self, cache: Path, maven_repo: str | None = None, lock: str | None = None) -> None:
        self._lock = lock if lock is not None else resources.files("infra.local").joinpath("kafka.lock").read_text()
        self._maven_repo = maven_repo.rstrip("/") if maven_repo else None
        self._cache = cache
        self.folder = cache / "jars" / self.digest

    @cached_property
    def digest(self) -> str:
        """Short name of the lock's content."""
        return hashlib.sha256(self._lock.encode()).hexdigest()[:16]

    @cached_property
    def listed(self) -> tuple[Jar, ...]:
        """The jars of the lock, in its order, which is the class path's."""
        rows = [line.split() for line in self._lock.splitlines() if line and not line.startswith("#")]
        return tuple(_jar(*row) for row in rows)

    def class_path(self, say: Callable[[str], None]) -> str:
        """The class path of every jar, fetching what is missing; `say` prints progress.

        Raises:
            LocalError: a jar cannot be fetched, or is not the one of the lock.
        """
        missing = [jar for jar in self.listed if not self._has(jar)]
        if missing:
            self._fetch(missing, say)
        return os.pathsep.join(str(self.folder / jar.file_name) for jar in self.listed)

    def _has(self, jar: Jar) -> bool:
        try:
            return (self.folder / jar.file_name).stat().st_size == jar.size
        except OSError:
            return False

    def _fetch(self, missing: list[Jar], say: Callable[[str], None]) -> None:
        total = sum(jar.size for jar in missing)
        say(f"fetching Kafka once: {len(missing)} jars, {total / 1e6:.0f} MB, kept in {self.folder}")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with (
                tempfile.TemporaryDirectory(dir=self._cache, prefix="incoming-") as incoming,
                ThreadPoolExecutor(_AT_ONCE) as pool,
            ):
                sources = self._sources(Path(incoming))
                done = 0
                jobs = {pool.submit(self._put, jar, sources): jar for jar in missing}
                try:
                    for job in as_completed(jobs):
                        job.result()
                        before, done = done, done + jobs[job].size
                        if done * 10 // total > before * 10 // total:
                            say(f"  {done / 1e6:.0f} of {total / 1e6:.0f} MB")
                finally:
                    pool.shutdown(wait=False, cancel_futures=True)
        except OSError as error:
            raise LocalError(
                f"The Kafka jars cannot be kept in {self._cache}: {error.strerror or type(error).__name__}. "
                "Give PLUTUS_CACHE another folder."
            ) from None

    def _sources(self, incoming: Path) -> list[MavenContext]:
        """Where to look for a jar, in order: the user's Maven repository, then the network (more than once)."""
        try:
            from jgo.constants import MAVEN_CENTRAL_URL, default_maven_repo
            from jgo.maven import MavenContext
        except ImportError:
            raise LocalError("The package jgo is missing. Fix: pip install 'plutus[local]'.") from None
        remote = {"central": self._maven_repo or _mirror() or MAVEN_CENTRAL_URL}
        near = MavenContext(
            repo_cache=incoming / "near", local_repos=[default_maven_repo()], remote_repos=remote, offline=True
        )
        far = [MavenContext(repo_cache=incoming / str(n), remote_repos=remote) for n in range(_TRIES)]
        return [near, *far]

    def _put(self, jar: Jar, sources: list[MavenContext]) -> None:
        """Fetch, check and move into place one jar."""
        trouble = "not found"
        for source in sources:
            try:
                file = source.project(jar.group, jar.artifact).at_version(jar.version).artifact().resolve()
            except (RuntimeError, OSError) as error:  # the resolver's and the HTTP client's; the next source may do
                trouble = type(error).__name__
                continue
            if hashlib.sha256(file.read_bytes()).hexdigest() == jar.sha256:
                place = self.folder / jar.file_name
                partial = place.with_suffix(f".{os.getpid()}")
                shutil.copyfile(file, partial)
                partial.replace(place)
                return
            trouble = "its sha256 is not the one of kafka.lock"
        raise LocalError(
            f"{jar.group}:{jar.artifact}:{jar.version} could not be fetched ({trouble}). Check the network, or name a "
            "Maven repository that can be reached with PLUTUS_MAVEN_REPO."
        )


def _jar(name: str, sha256: str, size: str) -> Jar:
    group, artifact, version = name.split(":")
    return Jar(group, artifact, version, sha256, int(size))


def _mirror() -> str | None:
    """The mirror of Maven Central in the user's settings.xml, which jgo does not read. One with a login is not used."""
    file = Path.home() / ".m2" / "settings.xml"
    try:
        tree = ElementTree.parse(file)  # noqa: S314 - the user's own file
    except (OSError, ElementTree.ParseError):
        return None
    for element in tree.iter():
        if element.tag.rpartition("}")[2] == "mirror":
            fields = {child.tag.rpartition("}")[2]: (child.text or "").strip() for child in element}
            if fields.get("url") and _EVERY_MAVEN_REPO & set(fields.get("mirrorOf", "").split(",")):
                return fields["url"].rstrip("/")
    return None
