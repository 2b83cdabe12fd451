"""Signatures of webhooks: pure checks over the raw bytes of a body, made before anything reads them.

    scheme              what is signed           where the signature is
    standard_webhooks   id.timestamp.body        webhook-signature: v1,<base64> v1a,<base64> ...
    github              body                     x-hub-signature-256: sha256=<hex>
    stripe              timestamp.body           stripe-signature: t=<seconds>,v1=<hex>,...
    shopify             body                     x-shopify-hmac-sha256: <base64>

Every secret is tried against every signature, so that either side may rotate; versions that are not known are passed over.
Digests are compared in constant time. A timestamp may lie 300 seconds to either side. What is not signed by a known secret
is refused as one and the same (401), whatever was wrong with it; only what no sender that means well writes is malformed (400):
a header twice, more signatures than `MOST_SIGNATURES`, an id or a timestamp with a full stop, which is what separates them.

The reference library of Standard Webhooks is not used: it decodes the body first, knows one secret and no ed25519, raises
ValueError for an entry without a comma, and takes fractions for a timestamp. Tests sign with it.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NoReturn, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from ingest_gateway.access import Denied, Refused
from schemas.errors import Malformed

TOLERANCE: Final = 300
"""Seconds between a signature's timestamp and this machine's clock, to either side."""
MOST_SIGNATURES: Final = 10

_SECONDS: Final = re.compile(rb"[0-9]{1,12}")
_HEX: Final = re.compile(rb"[0-9a-fA-F]{64}")
_DIGEST: Final = 32
_ED25519_SIGNATURE: Final = 64
_ED25519_KEY: Final = 32
_LEAST_SECRET, _MOST_SECRET = 24, 64

Headers = Sequence[tuple[bytes, bytes]]


class Scheme(Protocol):
    """One way of signing, with its secrets."""

    def check(self, headers: Headers, body: bytes, now: float) -> None:
        """Is this body signed.

        Args:
            now: seconds since 1970.

        Raises:
            Refused: not by a secret that is known here. Malformed: the headers are no sender's.
        """


@dataclass(frozen=True, slots=True)
class Unsigned:
    """No signature: whoever may reach the path is believed."""

    def check(self, headers: Headers, body: bytes, now: float) -> None:
        """Always."""


@dataclass(frozen=True, slots=True)
class StandardWebhooks:
    """Standard Webhooks 1.0.0, symmetric (`v1`) and asymmetric (`v1a`).

    secrets: HMAC keys. keys: ed25519 public keys.
    """

    secrets: tuple[bytes, ...] = field(repr=False)
    keys: tuple[Ed25519PublicKey, ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, written: Iterable[str]) -> StandardWebhooks:
        """From secrets as providers write them: `whsec_` or nothing before base64 of an HMAC key, `whpk_` of a public key.

        Raises:
            ValueError: with the rule that one of them breaks.
        """
        secrets, keys = [], []
        for text in written:
            if text.startswith("whsk_"):
                raise ValueError("is a private key; the public one is needed, whpk_...")
            if text.startswith("whpk_"):
                keys.append(_public_key(text.removeprefix("whpk_")))
            else:
                secrets.append(_symmetric(text.removeprefix("whsec_")))
        return cls(tuple(secrets), tuple(keys))

    def check(self, headers: Headers, body: bytes, now: float) -> None:
        """See `Scheme`."""
        name, stamp = only(headers, b"webhook-id"), only(headers, b"webhook-timestamp")
        listed = only(headers, b"webhook-signature")
        if not name or not stamp or not listed:
            _refuse("The headers webhook-id, webhook-timestamp and webhook-signature are needed.")
        if b"." in name or b"." in stamp:
            raise Malformed("webhook-id and webhook-timestamp may not hold a full stop.")
        entries = listed.split()
        _check_count(entries, "webhook-signature")
        _check_time(stamp, now, "webhook-timestamp")
        versions = [entry.partition(b",") for entry in entries]
        if not all(comma for _, comma, _ in versions):
            _refuse("An entry of webhook-signature is not version,signature.")
        signed = b"%b.%b.%b" % (name, stamp, body)
        digests = [_base64(text, _DIGEST) for version, _, text in versions if version == b"v1"]
        signatures = [_base64(text, _ED25519_SIGNATURE) for version, _, text in versions if version == b"v1a"]
        if not (_any_digest(self.secrets, signed, digests) | _any_ed25519(self.keys, signed, signatures)):
            _refuse("No signature in webhook-signature fits the id, the timestamp and the body.")


@dataclass(frozen=True, slots=True)
class GitHub:
    """GitHub: hexadecimal HMAC-SHA256 of the body."""

    secrets: tuple[bytes, ...] = field(repr=False)

    def check(self, headers: Headers, body: bytes, now: float) -> None:
        """See `Scheme`."""
        value = only(headers, b"x-hub-signature-256")
        if value is None or not value.startswith(b"sha256="):
            _refuse("The header X-Hub-Signature-256 is needed: sha256= and 64 hexadecimal digits.")
        if not _any_digest(self.secrets, body, [_hex(value.removeprefix(b"sha256="))]):
            _refuse("X-Hub-Signature-256 does not fit the body.")


@dataclass(frozen=True, slots=True)
class Stripe:
    """Stripe: hexadecimal HMAC-SHA256 of timestamp and body; the secret is used as it is written, `whsec_` included."""

    secrets: tuple[bytes, ...] = field(repr=False)

    def check(self, headers: Headers, body: bytes, now: float) -> None:
        """See `Scheme`."""
        value = only(headers, b"stripe-signature")
        if not value:
            _refuse("The header Stripe-Signature is needed.")
        entries = value.split(b",")
        _check_count(entries, "Stripe-Signature")
        parts = [entry.strip(b" \t").partition(b"=") for entry in entries]
        stamps = [text for name, _, text in parts if name == b"t"]
        if len(stamps) != 1:
            _refuse("Stripe-Signature has not exactly one t.")
        if b"." in stamps[0]:
            raise Malformed("The t of Stripe-Signature may not hold a full stop.")
        _check_time(stamps[0], now, "The t of Stripe-Signature")
        digests = [_hex(text) for name, _, text in parts if name == b"v1"]
        if not _any_digest(self.secrets, b"%b.%b" % (stamps[0], body), digests):
            _refuse("No v1 of Stripe-Signature fits the timestamp and the body.")


@dataclass(frozen=True, slots=True)
class Shopify:
    """Shopify: HMAC-SHA256 of the body in base64, with the app's client secret."""

    secrets: tuple[bytes, ...] = field(repr=False)

    def check(self, headers: Headers, body: bytes, now: float) -> None:
        """See `Scheme`."""
        value = only(headers, b"x-shopify-hmac-sha256")
        if value is None or not _any_digest(self.secrets, body, [_base64(value, _DIGEST)]):
            _refuse("X-Shopify-Hmac-SHA256 is missing or does not fit the body.")


def only(headers: Headers, name: bytes) -> bytes | None:
    """The one value of a header, in lower case, without white space around it; None where it is absent.

    Raises:
        Malformed: it is there more than once, and two readers may believe different ones.
    """
    values = [value for header, value in headers if header == name]
    if len(values) > 1:
        raise Malformed(f"The header {name.decode('latin-1')} is there more than once.")
    return values[0].strip(b" \t") if values else None


def _refuse(message: str) -> NoReturn:
    raise Refused(Denied.BAD_SIGNATURE, message)


def _check_count(entries: Sequence[bytes], where: str) -> None:
    if len(entries) > MOST_SIGNATURES:
        raise Malformed(f"{where} may hold {MOST_SIGNATURES} entries.")


def _check_time(stamp: bytes, now: float, where: str) -> None:
    if not _SECONDS.fullmatch(stamp):
        _refuse(f"{where} must be whole seconds since 1970.")
    if abs(now - int(stamp)) > TOLERANCE:
        _refuse(f"{where} is more than {TOLERANCE} seconds away from this machine's clock.")


def _any_digest(secrets: Iterable[bytes], signed: bytes, digests: Sequence[bytes | None]) -> bool:
    """Does one of these digests come from one of these secrets: all are compared, however early one fits."""
    fits = False
    for secret in secrets:
        own = hmac.digest(secret, signed, "sha256")
        for digest in digests:
            fits |= digest is not None and hmac.compare_digest(own, digest)
    return fits


def _any_ed25519(keys: Iterable[Ed25519PublicKey], signed: bytes, signatures: Sequence[bytes | None]) -> bool:
    fits = False
    for key in keys:
        for signature in signatures:
            fits |= signature is not None and _is_signed(key, signed, signature)
    return fits


def _is_signed(key: Ed25519PublicKey, signed: bytes, signature: bytes) -> bool:
    try:
        key.verify(signature, signed)
    except InvalidSignature:
        return False
    return True


def _base64(text: bytes, length: int) -> bytes | None:
    """What the text encodes, None where it is not canonical base64 of so many bytes."""
    try:
        decoded = base64.b64decode(text, validate=True)
    except binascii.Error:
        return None
    return decoded if len(decoded) == length else None


def _hex(text: bytes) -> bytes | None:
    return bytes.fromhex(text.decode("ascii")) if _HEX.fullmatch(text) else None


def _symmetric(text: str) -> bytes:
    secret = _decoded(text)
    if not _LEAST_SECRET <= len(secret) <= _MOST_SECRET:
        raise ValueError(f"must be base64 of {_LEAST_SECRET} to {_MOST_SECRET} bytes, with whsec_ before it or without")
    return secret


def _public_key(text: str) -> Ed25519PublicKey:
    key = _decoded(text)
    if len(key) != _ED25519_KEY:
        raise ValueError(f"must be whpk_ and base64 of the {_ED25519_KEY} bytes of an ed25519 public key")
    return Ed25519PublicKey.from_public_bytes(key)


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4), validate=True)
    except (binascii.Error, ValueError):
        return b""
