"""A container's health check: exit 0 when the URL answers 200, else 1. A script for images that hold no curl."""

from __future__ import annotations

import sys
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit

_SECONDS = 3.0


def answers(url: str) -> bool:
    """Does a GET of this http URL give 200 in time?"""
    parts = urlsplit(url)
    connection = HTTPConnection(parts.netloc, timeout=_SECONDS)
    try:
        connection.request("GET", parts.path)
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(not answers(sys.argv[1]))
