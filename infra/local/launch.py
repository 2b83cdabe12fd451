"""The last step before a child's own program: tie it to us, then become it. Run as a script, never imported.

    python -I -S launch.py PARENT SIGNAL ROOT COMMAND...

PARENT is the pid that must still be our parent, SIGNAL the one the kernel sends us when the *thread* that started us
ends (prctl(2), PR_SET_PDEATHSIG), ROOT "keep" or "drop". "drop" opens a user namespace in which uid 0 shows as nobody:
PostgreSQL refuses uid 0, and this way no user is added, no file changes its owner and no folder its mode.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_CLONE_NEWUSER = 0x10000000
_NOBODY = 65534
_NO_NAMESPACE = (
    "PostgreSQL does not run as root, and this system lets root open no user namespace. Run Plutus as another user."
)


def _drop_root(libc: ctypes.CDLL) -> None:
    uid, gid = os.geteuid(), os.getegid()
    if libc.unshare(_CLONE_NEWUSER):
        sys.exit(_NO_NAMESPACE)
    try:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{_NOBODY} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{_NOBODY} {gid} 1")
    except OSError:
        sys.exit(_NO_NAMESPACE)


def main(parent: int, signal: int, root: str, command: list[str]) -> None:
    """Replace this process by `command`; returns never."""
    libc = ctypes.CDLL(None)
    if root == "drop" and os.geteuid() == 0:
        _drop_root(libc)
    # After the namespace: a change of credentials clears the death signal.
    libc.prctl(_PR_SET_PDEATHSIG, signal)
    if os.getppid() != parent:  # it died before the tie was made
        sys.exit(1)
    try:
        os.execvp(command[0], command)  # noqa: S606 - no shell wanted
    except OSError as error:
        sys.exit(f"{command[0]} cannot be started: {error.strerror}")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:])
