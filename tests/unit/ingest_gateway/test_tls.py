"""The certificate of the gateway's ports, and the files that it and others are read from."""

from __future__ import annotations

import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from infra.runtime.settings import SettingsError
from infra.runtime.settings import load as load_settings
from ingest_gateway.declarations import load
from ingest_gateway.reload import Reloaded
from ingest_gateway.routes import Shell
from ingest_gateway.server import make_server
from ingest_gateway.settings import GatewaySettings
from ingest_gateway.tls import Certificate
from tests.certificates import Authority, Pair
from tests.unit.ingest_gateway.test_routes import elsewhere

NEEDED: dict[str, Any] = {"kafka_bootstrap_servers": "unused:1", "database_url": "postgresql://u:p@unused/db"}


def shown(context: ssl.SSLContext, authority: Authority) -> str:
    """The name in the certificate that a client is shown which trusts this authority."""
    (client_in, client_out), (server_in, server_out) = [(ssl.MemoryBIO(), ssl.MemoryBIO()) for _ in range(2)]
    trusting = ssl.create_default_context(cafile=str(authority.file))
    client = trusting.wrap_bio(client_in, client_out, server_hostname="localhost")
    server = context.wrap_bio(server_in, server_out, server_side=True)
    for _ in range(4):
        for end in (client, server):
            with suppress(ssl.SSLWantReadError):
                end.do_handshake()
            server_in.write(client_out.read())
            client_in.write(server_out.read())
    certificate: Any = client.getpeercert()
    return str(dict(part[0] for part in certificate["subject"])["commonName"])


def test_a_certificate_is_shown_and_renewed_in_the_same_context(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair, new = authority.sign("first"), authority.sign("renewed")
    renewed = Reloaded(pair.certificate, Certificate(pair.key).load, "A_FILE")
    context = renewed.value
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert shown(context, authority) == "first"
    # The certificate comes before its key: between the two they do not belong together, and the old pair is shown.
    new.certificate.rename(pair.certificate)
    renewed.look()
    assert (renewed.stale, shown(context, authority)) == (True, "first")
    new.key.rename(pair.key)
    renewed.look()
    assert (renewed.stale, shown(context, authority)) == (False, "renewed")
    assert renewed.value is context


def test_a_pair_that_cannot_be_used_ends_the_start(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair, other = authority.sign("one"), authority.sign("other")
    locked, missing = authority.sign("locked", password=b"secret"), tmp_path / "missing"
    (tmp_path / "text").write_text("no PEM")
    for wrong in (
        Pair(pair.certificate, other.key),
        Pair(pair.certificate, missing),
        Pair(missing, pair.key),
        Pair(tmp_path / "text", pair.key),
        locked,
    ):
        settings = GatewaySettings(**NEEDED, gateway_tls_certfile=wrong.certificate, gateway_tls_keyfile=wrong.key)
        with pytest.raises(SettingsError, match=r"GATEWAY_TLS_CERTFILE: .*GATEWAY_TLS_KEYFILE"):
            load(settings)


def test_certificate_and_key_need_each_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in NEEDED.items():
        monkeypatch.setenv(name.upper(), value)
    for name in ("GATEWAY_TLS_CERTFILE", "GATEWAY_TLS_KEYFILE"):
        with monkeypatch.context() as only:
            only.setenv(name, str(tmp_path))
            with pytest.raises(SettingsError, match="need each other"):
                load_settings(GatewaySettings)


def test_the_mistakes_of_all_files_are_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "hooks").write_text('[sources.x]\nscheme = "none"')
    (tmp_path / "keys").write_text("x = 1")
    settings = GatewaySettings(
        **NEEDED,
        gateway_webhooks_file=tmp_path / "hooks",
        gateway_api_keys_file=tmp_path / "keys",
        gateway_tls_certfile=tmp_path,
        gateway_tls_keyfile=tmp_path,
    )
    with pytest.raises(SettingsError) as caught:
        load(settings)
    for told in ("GATEWAY_WEBHOOKS_FILE: sources.x", "GATEWAY_API_KEYS_FILE: x", "GATEWAY_TLS_CERTFILE: "):
        assert f"\n  {told}" in str(caught.value)


def test_without_files_nothing_is_declared() -> None:
    assert [*load(GatewaySettings(**NEEDED)).files()] == []


def test_no_header_of_a_proxy_is_believed() -> None:
    """Our application is the outermost one: what uvicorn would put around it to read X-Forwarded-For is not there."""
    shell = Shell({}, elsewhere, lambda: False)
    config = make_server(shell, GatewaySettings(**NEEDED), shell).config
    config.load()
    assert config.loaded_app is shell
