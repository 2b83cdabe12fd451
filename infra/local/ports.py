"""Which TCP ports the local processes take.

A chosen port is kept for a whole run, so that a child that is started again comes back at the same address. It is
therefore picked below the range the kernel hands to outgoing connections: in that range any client could take a port
between a child's death and its return.
"""

from __future__ import annotations

import random
import socket
import time
from pathlib import Path

from infra.local.errors import LocalError

_LOWEST = 20_000
_OUTGOING = Path("/proc/sys/net/ipv4/ip_local_port_range")
_DEFAULT_OUTGOING_START = 32_768
_TRIES = 200
_POLL = 0.05


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen there now. Connections in TIME_WAIT do not count, as for the servers themselves."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError):
            return False
        return True


class Ports:
    """Hands out each port once.

    Args:
        taken: ports that are promised already (the fixed ones of the settings).
        patience: seconds to wait for a wanted port that is in use.
    """

    def __init__(self, taken: set[int] | None = None, patience: float = 0.0) -> None:
        self._promised = set(taken or ())
        self.patience = patience

    def take(self, wanted: int, variable: str, host: str = "127.0.0.1") -> int:
        """The wanted port, or any free one where it is 0.

        Raises:
            LocalError: the wanted port is in use; names the variable that chooses another.
        """
        if wanted == 0:
            return self._any(host)
        deadline = time.monotonic() + self.patience
        while not is_free(wanted, host):
            if time.monotonic() < deadline:
                time.sleep(_POLL)
                continue
            raise LocalError(
                f"Port {wanted} is in use. Stop what listens there, or choose another with {variable} "
                f"({variable}=0 takes any free one)."
            )
        self._promised.add(wanted)
        return wanted

    def _any(self, host: str) -> int:
        for _ in range(_TRIES):
            port = random.randrange(_LOWEST, _outgoing_start())  # noqa: S311 - spreads runs apart, guards nothing
            if port not in self._promised and is_free(port, host):
                self._promised.add(port)
                return port
        raise LocalError(f"No free port found from {_LOWEST} on. Set the ports yourself, for example KAFKA_PORT.")


def _outgoing_start() -> int:
    try:
        start = int(_OUTGOING.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return _DEFAULT_OUTGOING_START
    return start if start > _LOWEST + 1000 else 65_536
