"""The declaration of webhooks, GATEWAY_WEBHOOKS_FILE: which sources may be written by webhook, and how each is read.

    [sources.github]                                      # POST /api/v1/webhooks/github
    scheme = "github"                                     # says where key, type and signature are
    secrets = [{ env = "GITHUB_SECRET" }, { file = "/run/secrets/github-old" }]    # each is tried

    [sources.meters]
    scheme = "none"                                       # nothing is signed, so nothing is known of it either
    key = { pointer = "/reading/id" }                     # JSON Pointer into the body, or { header = "X-Request-Id" }
    type = { header = "X-Kind" }                          # optional
    schema_version = "2.0"                                # "1.0" if it is not given

Where a scheme's own places for key and type do not suit, `key` and `type` replace them. A secret never stands in the file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Self

from pydantic import Field, field_validator, model_validator

from infra.runtime.declared import Declaration, Mistakes, Secret, fitted, read, value_of
from ingest_gateway.signatures import GitHub, Scheme, Shopify, StandardWebhooks, Stripe, Unsigned
from schemas.pointer import parse

SOURCE: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HEADER_NAME: Final = r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}$"
_VERSION: Final = r"^[\x21-\x7e]{1,64}$"
_MOST_SECRETS: Final = 4


class Place(Declaration):
    """Where a value of an event is found in a request: in a header, or in the body by a JSON Pointer."""

    header: str | None = Field(None, pattern=_HEADER_NAME)
    pointer: str | None = None

    @field_validator("pointer")
    @classmethod
    def _is_pointer(cls, value: str | None) -> str | None:
        if value is not None and not parse(value):
            raise ValueError("must lead to a part of the body")
        return value

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.header is None) == (self.pointer is None):
            raise ValueError("has either header or pointer")
        return self

    @property
    def header_name(self) -> bytes | None:
        """The header's name as requests have it, in lower case; None for a place in the body."""
        return None if self.header is None else self.header.lower().encode()

    @property
    def tokens(self) -> tuple[str, ...]:
        """The parsed pointer; empty for a header."""
        return () if self.pointer is None else parse(self.pointer)


class _Source(Declaration):
    """One table of the file."""

    scheme: Literal["standard_webhooks", "github", "stripe", "shopify", "none"]
    secrets: tuple[Secret, ...] = Field((), max_length=_MOST_SECRETS, strict=False)
    key: Place | None = None
    type: Place | None = None
    schema_version: str = Field("1.0", pattern=_VERSION)

    @model_validator(mode="after")
    def _belong_together(self) -> Self:
        if self.scheme == "none":
            if self.secrets:
                raise ValueError("scheme none has no secrets: nothing is signed")
            if self.key is None:
                raise ValueError("scheme none needs key: where each event's idempotency key is")
        elif not self.secrets:
            raise ValueError(f"scheme {self.scheme} needs secrets")
        return self


_PLACES: Final = {
    # Scheme -> where its key and its type are.
    "standard_webhooks": (Place(header="webhook-id"), Place(pointer="/type")),
    "github": (Place(header="X-GitHub-Delivery"), Place(header="X-GitHub-Event")),
    "stripe": (Place(pointer="/id"), Place(pointer="/type")),
    # Its X-Shopify-Event-Id is shared by webhooks of several topics, which are different events here.
    "shopify": (Place(header="X-Shopify-Webhook-Id"), Place(header="X-Shopify-Topic")),
}
_SCHEMES: Final[Mapping[str, Callable[[Sequence[str]], Scheme]]] = {
    "standard_webhooks": StandardWebhooks.of,
    "github": lambda secrets: GitHub(_as_written(secrets)),
    "stripe": lambda secrets: Stripe(_as_written(secrets)),
    "shopify": lambda secrets: Shopify(_as_written(secrets)),
    "none": lambda _: Unsigned(),
}


@dataclass(frozen=True, slots=True)
class Hook:
    """How the webhooks of one source are read. type: None where events have none."""

    scheme: Scheme
    key: Place
    type: Place | None
    schema_version: str

    @property
    def signed(self) -> bool:
        """Whether a signature says who sends."""
        return not isinstance(self.scheme, Unsigned)


Hooks = Mapping[str, Hook]
"""Source -> how its webhooks are read."""


def load(path: Path) -> tuple[Hooks, tuple[Path, ...]]:
    """What the file declares, and the files of its secrets.

    Raises:
        Mistakes: all at once.
    """
    tables = read(path)
    mistakes = [f"{name}: is not known here" for name in tables if name != "sources"]
    sources = tables.get("sources", {})
    if not isinstance(sources, dict):
        raise Mistakes([*mistakes, "sources: must be a table of sources"])
    hooks: dict[str, Hook] = {}
    files: tuple[Path, ...] = ()
    for name, table in sources.items():
        under = f"sources.{name}"
        if not SOURCE.fullmatch(name):
            mistakes.append(f"{under}: a source has 1 to 64 letters, digits, dots, underscores and hyphens")
            continue
        source = fitted(_Source, table, under, mistakes)
        if source is not None:
            files += tuple(secret.file for secret in source.secrets if secret.file is not None)
            hook = _hook(source, under, mistakes)
            if hook is not None:
                hooks[name] = hook
    if mistakes:
        raise Mistakes(mistakes, files)
    return hooks, files


def _hook(source: _Source, under: str, mistakes: list[str]) -> Hook | None:
    make = _SCHEMES[source.scheme]
    values = []
    for number, secret in enumerate(source.secrets):
        path = f"{under}.secrets[{number}]"
        value = value_of(secret, path, mistakes)
        if value is not None:
            try:
                make([value])  # one by one, so that each wrong one is told by its path
            except ValueError as error:
                mistakes.append(f"{path}: {error}")
            values.append(value)
    key, kind = _PLACES.get(source.scheme, (None, None))
    key, kind = source.key or key, source.type or kind
    if mistakes or key is None:
        return None
    return Hook(make(values), key, kind, source.schema_version)


def _as_written(secrets: Sequence[str]) -> tuple[bytes, ...]:
    return tuple(secret.encode() for secret in secrets)
