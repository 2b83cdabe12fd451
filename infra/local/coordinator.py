"""Does Kafka answer for consumer groups? Two requests of the Kafka protocol over a plain socket.

An open port is not enough: the first members of a group would be told "coordinator not available" while the broker
still makes or loads the offsets topic. Asked are FindCoordinator and then, of the coordinator, DescribeGroups for an
unused group: it answers without an error only once the offsets partition is loaded. The requests' versions and fields
are those of the protocol guide (https://kafka.apache.org/protocol); nothing is changed on the broker but the offsets
topic being made.
"""

from __future__ import annotations

import socket
import struct

_FIND_COORDINATOR = 10
_DESCRIBE_GROUPS = 15
_CLIENT = "plutus-ready"
_SECONDS = 1.0


def is_answering(port: int, host: str = "127.0.0.1", group: str = "plutus-ready") -> bool:
    """Whether the broker at that address coordinates the group now."""
    try:
        with socket.create_connection((host, port), _SECONDS) as connection:
            found = _ask(connection, _FIND_COORDINATOR, _string(group))
            if struct.unpack_from(">h", found) != (0,):
                return False
            described = _ask(connection, _DESCRIBE_GROUPS, struct.pack(">i", 1) + _string(group))
            return struct.unpack_from(">ih", described) == (1, 0)
    except (OSError, struct.error):
        return False


def _ask(connection: socket.socket, api: int, body: bytes) -> bytes:
    """One request in version 0; the answer's body."""
    request = struct.pack(">hhi", api, 0, 1) + _string(_CLIENT) + body
    connection.sendall(struct.pack(">i", len(request)) + request)
    (size,) = struct.unpack(">i", _read(connection, 4))
    return _read(connection, size)[4:]


def _read(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = connection.recv(size - len(data))
        if not chunk:
            raise ConnectionResetError
        data += chunk
    return data


def _string(text: str) -> bytes:
    return struct.pack(">h", len(text)) + text.encode()
