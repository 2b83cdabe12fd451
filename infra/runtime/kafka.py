"""How to reach the brokers: the connection arguments that every aiokafka client takes, made from the settings."""

from __future__ import annotations

import ssl
from typing import Any

import cramjam

from infra.runtime.settings import RuntimeSettings


def connection(settings: RuntimeSettings, client_id: str) -> dict[str, Any]:
    """Keyword arguments for AIOKafkaProducer, AIOKafkaConsumer and AIOKafkaAdminClient."""
    arguments: dict[str, Any] = {
        "bootstrap_servers": settings.kafka_bootstrap_servers,
        "client_id": client_id,
        "request_timeout_ms": round(settings.kafka_request_timeout * 1000),
        "security_protocol": settings.kafka_security_protocol,
    }
    if settings.kafka_security_protocol in ("SSL", "SASL_SSL"):
        arguments["ssl_context"] = _tls(settings)
    if settings.kafka_security_protocol.startswith("SASL") and settings.kafka_sasl_password is not None:
        arguments["sasl_mechanism"] = settings.kafka_sasl_mechanism
        arguments["sasl_plain_username"] = settings.kafka_sasl_username
        arguments["sasl_plain_password"] = settings.kafka_sasl_password.get_secret_value()
    return arguments


def _tls(settings: RuntimeSettings) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(settings.kafka_ssl_cafile) if settings.kafka_ssl_cafile else None)
    context.check_hostname = settings.kafka_ssl_check_hostname
    if settings.kafka_ssl_certfile:
        context.load_cert_chain(settings.kafka_ssl_certfile, settings.kafka_ssl_keyfile)
    return context


def check_codecs() -> None:
    """Prove that every codec a direct producer may use is really there: without one, a single such batch stops its
    partition for good (aiokafka #843).

    Raises:
        RuntimeError: naming the codec.
    """
    sample = b"plutus" * 100
    for name in ("gzip", "snappy", "lz4", "zstd"):
        codec = getattr(cramjam, name, None)
        if codec is None or bytes(codec.decompress(codec.compress(sample))) != sample:
            raise RuntimeError(f"The codec {name} does not work here. Reinstall the package cramjam.")
