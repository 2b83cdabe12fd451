"""TLS of the gateway's ports: 1.2 or newer, HTTP/1.1, with a certificate that can be renewed under a running process.

One context serves all connections; a new certificate is put into it, and connections made from then on are shown it. A pair
that does not belong together never reaches the context that is in use.
"""

from __future__ import annotations

import ssl
from pathlib import Path

from infra.runtime.declared import Mistakes


class Certificate:
    """A certificate chain and its key, in the context that shows them.

    Args:
        keyfile: the key, PEM, without a password.
    """

    def __init__(self, keyfile: Path) -> None:
        self._keyfile = keyfile
        self._context = _context()

    def load(self, certfile: Path) -> tuple[ssl.SSLContext, tuple[Path, ...]]:
        """Put this chain into the context; the context, and the key's file.

        Raises:
            Mistakes: there is no such pair; the context stays as it was.
        """
        for context in (_context(), self._context):
            try:
                # Without a password of ours, OpenSSL would ask the terminal for one.
                context.load_cert_chain(certfile, self._keyfile, password="")
            except (OSError, ValueError) as error:
                why = error.strerror if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) else None
                why = why or "they are no PEM, do not belong together, or the key has a password"
                raise Mistakes(
                    [f"the certificate cannot be used with the key of GATEWAY_TLS_KEYFILE: {why}"], (self._keyfile,)
                ) from None
        return self._context, (self._keyfile,)


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context
