"""The files that operators keep for a running gateway, as one process has them: webhooks, API keys, its certificate."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from infra.runtime import api_keys
from infra.runtime.api_keys import Grants
from infra.runtime.declared import Mistakes
from infra.runtime.settings import SettingsError
from ingest_gateway import hooks
from ingest_gateway.hooks import Hooks
from ingest_gateway.reload import Reloaded
from ingest_gateway.settings import GatewaySettings
from ingest_gateway.tls import Certificate

T = TypeVar("T")


class Declarations(NamedTuple):
    """What the files say; None where no file is named."""

    webhooks: Reloaded[Hooks] | None = None
    api_keys: Reloaded[Grants] | None = None
    certificate: Reloaded[ssl.SSLContext] | None = None

    def files(self) -> Iterator[Reloaded[Any]]:
        """Those that there are."""
        return (file for file in self if file is not None)


def load(settings: GatewaySettings) -> Declarations:
    """Read the files that the settings name.

    Raises:
        SettingsError: the mistakes of all of them at once.
    """
    mistakes: list[str] = []
    webhooks = _read(settings.gateway_webhooks_file, hooks.load, "GATEWAY_WEBHOOKS_FILE", mistakes)
    grants = _read(settings.gateway_api_keys_file, api_keys.load, "GATEWAY_API_KEYS_FILE", mistakes)
    certificate = None
    if settings.gateway_tls_keyfile is not None:
        load_chain = Certificate(settings.gateway_tls_keyfile).load
        certificate = _read(settings.gateway_tls_certfile, load_chain, "GATEWAY_TLS_CERTFILE", mistakes)
    if mistakes:
        raise SettingsError("\n  ".join(["a file that the settings name cannot be used:", *mistakes]))
    return Declarations(webhooks, grants, certificate)


def _read(
    path: Path | None, parse: Callable[[Path], tuple[T, tuple[Path, ...]]], setting: str, mistakes: list[str]
) -> Reloaded[T] | None:
    if path is None:
        return None
    try:
        return Reloaded(path, parse, setting)
    except Mistakes as error:
        mistakes += [f"{setting}: {mistake}" for mistake in error.mistakes]
        return None
