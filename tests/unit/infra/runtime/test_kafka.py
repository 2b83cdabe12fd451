"""What every Kafka client is told about its brokers, and the codecs that it may meet."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import cramjam
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from pydantic import SecretStr

from infra.runtime.kafka import check_codecs, connection
from infra.runtime.settings import RuntimeSettings

# Made once; its key was thrown away.
CA = """\
-----BEGIN CERTIFICATE-----
MIIBiTCCAS6gAwIBAgITTC8nN/XyKiebSd+ucxfIIgBl1DAKBggqhkjOPQQDAjAZ
MRcwFQYDVQQDDA5QbHV0dXMgdGVzdCBDQTAgFw0yNjExMjMxOTQzMjdaGA8yMTI2
MTAzMDE5NDMyN1owGTEXMBUGA1UEAwwOUGx1dHVzIHRlc3QgQ0EwWTATBgcqhkjO
PQIBBggqhkjOPQMBBwNCAAQD1xlqSIAbwuQZgLpjMyk/S9gR0nwRaLM1PqQJCk+o
nh9Hpm25hcSDnu5ALIIK0v3HVbr109KdfRfO4o18Gn0Ko1MwUTAdBgNVHQ4EFgQU
10vtdJTDxUVMkLVDuuXYDih5mlQwHwYDVR0jBBgwFoAU10vtdJTDxUVMkLVDuuXY
Dih5mlQwDwYDVR0TAQH/BAUwAwEB/zAKBggqhkjOPQQDAgNJADBGAiEAkSJ5REy6
/XXe1U/oUBS5bY5HmggZwh+rYAVnrzCg7j4CIQDt+fImE/fBbwP1Dw8/nojAHzN1
pQEWK9X57Msg+Jem8A==
-----END CERTIFICATE-----
"""
CODECS = {"gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}


def settings(**given: Any) -> RuntimeSettings:
    """Settings with these beside the addresses."""
    url = SecretStr("postgresql://nobody@localhost/none")
    return RuntimeSettings(kafka_bootstrap_servers="a:9092,b:9093", database_url=url, **given)


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    """A CA certificate of nobody's, in a file."""
    file = tmp_path / "ca.pem"
    file.write_text(CA)
    return file


def accepts(arguments: dict[str, Any]) -> None:
    """Both clients take the arguments, and together with ours."""
    for kind in (AIOKafkaProducer, AIOKafkaConsumer):
        client = kind(**arguments)
        client._closed = True  # nothing was opened


async def test_plain_text_has_no_secret_and_no_context() -> None:
    arguments = connection(settings(kafka_request_timeout=2.5), "plutus-test")
    assert arguments == {
        "bootstrap_servers": "a:9092,b:9093",
        "client_id": "plutus-test",
        "request_timeout_ms": 2500,
        "security_protocol": "PLAINTEXT",
    }
    accepts(arguments)


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
async def test_a_login_without_encryption_is_said_in_full(mechanism: str) -> None:
    login = {"kafka_sasl_username": "plutus", "kafka_sasl_password": SecretStr("s3cret")}
    arguments = connection(
        settings(kafka_security_protocol="SASL_PLAINTEXT", kafka_sasl_mechanism=mechanism, **login), "plutus-test"
    )
    assert {name: value for name, value in arguments.items() if name.startswith("sasl")} == {
        "sasl_mechanism": mechanism,
        "sasl_plain_username": "plutus",
        "sasl_plain_password": "s3cret",
    }
    assert "ssl_context" not in arguments
    accepts(arguments)


@pytest.mark.parametrize("protocol", ["SSL", "SASL_SSL"])
async def test_brokers_must_prove_who_they_are(protocol: str, ca: Path) -> None:
    login = {"kafka_sasl_username": "plutus", "kafka_sasl_password": SecretStr("s3cret")} if "SASL" in protocol else {}
    arguments = connection(settings(kafka_security_protocol=protocol, kafka_ssl_cafile=ca, **login), "plutus-test")
    context = arguments["ssl_context"]
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert [found["subject"] for found in context.get_ca_certs()] == [((("commonName", "Plutus test CA"),),)]
    assert ("sasl_plain_password" in arguments) is bool(login)
    accepts(arguments)


def test_a_host_name_may_go_unchecked_and_the_certificate_never(ca: Path) -> None:
    given = settings(kafka_security_protocol="SSL", kafka_ssl_cafile=ca, kafka_ssl_check_hostname=False)
    context = connection(given, "plutus-test")["ssl_context"]
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, False)


def test_a_client_certificate_is_loaded(ca: Path) -> None:
    with pytest.raises(ssl.SSLError):  # there is no key in it
        connection(settings(kafka_security_protocol="SSL", kafka_ssl_certfile=ca), "plutus-test")


def test_every_codec_works() -> None:
    check_codecs()


@pytest.mark.parametrize("name", CODECS)
def test_a_codec_that_is_missing_or_broken_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(cramjam, name)
    with pytest.raises(RuntimeError, match=f"codec {name} .* cramjam"):
        check_codecs()


@pytest.mark.parametrize("name", CODECS)
def test_the_kafka_client_reads_what_others_compressed(name: str) -> None:
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=CODECS[name],
        is_transactional=0,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=1 << 20,
    )
    values = [b"plutus" * number for number in range(50)]
    for number, value in enumerate(values):
        assert builder.append(number, timestamp=None, key=b"k", value=value, headers=[])
    data = bytes(builder.build())
    assert len(data) < sum(map(len, values)) / 2
    batch = MemoryRecords(data).next_batch()
    assert [record.value for record in batch] == values
