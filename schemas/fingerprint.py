"""The fingerprint of a payload: equal payloads, however spelled, have equal fingerprints; any other difference shows.

    fingerprint = version byte + digest of the payload's canonical form

The canonical form is JSON in UTF-8 without white space: members sorted by the code points of their names; strings with the
escapes \\" \\\\ \\b \\t \\n \\f \\r, \\u00xx (lower case) for other characters below U+0020, and every other character as
itself; a number as its exact value, zero as 0. With d its digits freed of zeros at both ends and p the position of the
decimal point counted from the first of them, it is written plainly where -40 < p <= 40, or where it has digits on both
sides of the point; else as the first digit, "." and the rest if there is one, "e" and p - 1.

It is computed from the record alone, never from settings or registered schemas, so that a gateway and a worker of
different releases agree. A change of the canonical form needs a new version byte; old versions stay computable, and two
fingerprints are compared in the version of the one that was stored first. The vectors are in `schemas/vectors.json`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from schemas.json_text import Document, canonical

CURRENT = 1
BYTES = 17
"""Length of a fingerprint in the current version."""
_BLAKE2B = hashlib.blake2b(digest_size=16)
"""Copied for each digest: to read the parameters of a fresh one takes a third of its time."""


def digest(canonical_form: bytes) -> bytes:
    """The fingerprint, in the current version, of a payload whose canonical form is known."""
    state = _BLAKE2B.copy()
    state.update(canonical_form)
    return b"\x01" + state.digest()


def _version_1(payload: bytes, document: Document) -> bytes:
    return digest(canonical(payload, document))


_VERSIONS: dict[int, Callable[[bytes, Document], bytes]] = {1: _version_1}


class UnknownVersion(ValueError):
    """A stored fingerprint has a version that this release cannot compute, and so must not judge."""


def fingerprint(payload: bytes, document: Document, version: int = CURRENT) -> bytes:
    """17 bytes: the version byte and a 16-byte BLAKE2b digest (RFC 7693) of the canonical form.

    Args:
        payload: the payload's JSON text.
        document: the same text as `json_text.load` read it.
        version: the version byte to compute.

    Raises:
        UnknownVersion: a newer release wrote the stored one.
    """
    if version == CURRENT:
        return _version_1(payload, document)
    compute = _VERSIONS.get(version)
    if compute is None:
        raise UnknownVersion(f"Fingerprint version {version} is not known to this release; deploy the newer one.")
    return compute(payload, document)


def version_of(stored: bytes) -> int:
    """The version byte of a stored fingerprint."""
    return stored[0]
