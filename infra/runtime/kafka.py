"""How to reach the brokers: the connection arguments that every aiokafka client takes, made from the settings, and how often a client
asks in vain who leads what.
"""

from __future__ import annotations

import asyncio
import ssl
from functools import partial
from typing import Any, Final

import cramjam
from aiokafka.client import AIOKafkaClient

from infra.runtime.settings import RuntimeSettings

_ASK_AGAIN: Final = 0.5


def pace_metadata(client: AIOKafkaClient, seconds: float = _ASK_AGAIN) -> None:
    """Have a client wait so long after asking for metadata in vain.

    A broker that stops in order says that its partitions have no leader. While there is none, aiokafka's producer (0.14) asks anew
    the moment it was refused, with two log lines each time: 1,500 times a second, 60 % of a core, half a megabyte of log a second.
    """
    update = client.force_metadata_update
    asking: asyncio.Future[bool] | None = None
    not_before = 0.0

    def answered(told: asyncio.Future[bool], answer: asyncio.Future[bool]) -> None:
        nonlocal not_before
        if told.done():
            return
        if answer.cancelled():
            told.cancel()
        elif (error := answer.exception()) is not None:
            told.set_exception(error)
        else:
            if not answer.result():
                not_before = told.get_loop().time() + seconds
            told.set_result(answer.result())

    def ask(told: asyncio.Future[bool]) -> None:
        update().add_done_callback(partial(answered, told))

    def paced() -> asyncio.Future[bool]:
        nonlocal asking
        if asking is None or asking.done():
            loop = asyncio.get_running_loop()
            asking = loop.create_future()
            if loop.time() < not_before:
                loop.call_at(not_before, ask, asking)
            else:
                ask(asking)
        return asyncio.shield(asking)

    client.force_metadata_update = paced


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
