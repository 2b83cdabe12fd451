"""A container's health check: exit 0 when /readyz of this container's own process answers 200, else 1.

    ready.py GATEWAY_OPERATOR_PORT GATEWAY_PORT      the port is the first of these variables that is set
                                                     (https where GATEWAY_TLS_CERTFILE is set)

A script for images that hold no curl; nothing of Plutus is imported, so that it costs little every few seconds.
"""

from __future__ import annotations

import os
import ssl
import sys
from collections.abc import Mapping, Sequence
from http.client import HTTPConnection, HTTPException, HTTPSConnection

_SECONDS = 3.0


def answers(port: int, *, tls: bool) -> bool:
    """Does GET /readyz give 200 in time?"""
    connection = HTTPConnection("127.0.0.1", port, timeout=_SECONDS)
    if tls:
        # It speaks to itself: the certificate is made for another name, and nobody stands between.
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        connection = HTTPSConnection("127.0.0.1", port, timeout=_SECONDS, context=context)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def main(names: Sequence[str], environment: Mapping[str, str]) -> int:
    """The exit code."""
    port = next((environment[name] for name in names if environment.get(name)), None)
    if port is None:
        print(f"error: none of {', '.join(names)} is set", file=sys.stderr)
        return 1
    return int(not answers(int(port), tls=bool(environment.get("GATEWAY_TLS_CERTFILE"))))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
