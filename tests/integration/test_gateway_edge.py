"""The gateway at the edge of a network: TLS, operators on a port of their own, webhooks, API keys and answers that wait, of two
processes on real services. What is refused and why is shown in tests/unit/ingest_gateway/test_webhooks.py."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from infra.runtime import api_keys
from schemas.event import parse_envelope
from schemas.ids import event_id
from tests import stack as real
from tests.certificates import Authority, Pair
from tests.harness import (
    Service,
    connected,
    consume,
    envelope,
    eventually,
    free_port,
    gateway_process,
    worker_process,
)
from tests.stack import Stack, Topics

INGEST, GITHUB = "/api/v1/ingest", "/api/v1/webhooks/github"
OPERATORS = ("/metrics", "/healthz", "/readyz", "/docs", "/openapi.json", f"/api/v1/events/{event_id('shop', 'k')}")
KEY, NEW_KEY = api_keys.new_key(), api_keys.new_key()
HOOKS = '[sources.github]\nscheme = "github"\nsecrets = [{{ file = "{secret}" }}]\n'
PROCESSES = 2


class Edge(NamedTuple):
    """A gateway, its files, and clients of its two ports."""

    gateway: Service
    stack: Stack
    topics: Topics
    database: str
    folder: Path
    authority: Authority
    pair: Pair
    senders: httpx.AsyncClient
    operators: httpx.AsyncClient

    def client(self) -> httpx.AsyncClient:
        """Another sender, on connections of its own."""
        return httpx.AsyncClient(verify=trusting(self.authority), base_url=self.senders.base_url, trust_env=False)

    async def metrics(self) -> dict[str, float]:
        """The samples of /metrics, which is on the operators' port."""
        return await Service(**{**vars(self.gateway), "http": self.operators, "_child": None}).metrics()


def trusting(authority: Authority) -> ssl.SSLContext:
    """What a client checks the gateway's certificate by."""
    return ssl.create_default_context(cafile=str(authority.file))


@pytest.fixture(scope="module")
async def edge(stack: Stack, migrated_template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Edge]:
    """One gateway for the whole module, and a worker behind it; whatever is sent to it has a key of its own."""
    folder = tmp_path_factory.mktemp("edge")
    authority = Authority(folder)
    pair = authority.sign("first")
    (folder / "secret").write_text("old-secret\n")
    (folder / "hooks.toml").write_text(HOOKS.format(secret=folder / "secret"))
    (folder / "keys.toml").write_text(api_keys.line("shop", KEY, ["shop"]))
    settings: dict[str, Any] = {
        "GATEWAY_PROCESSES": PROCESSES,
        "GATEWAY_LAME_DUCK": 0,
        "GATEWAY_LOOK_TIMEOUT": 5,
        "GATEWAY_REMEMBER_TIMEOUT": 5,
        "GATEWAY_TLS_CERTFILE": str(pair.certificate),
        "GATEWAY_TLS_KEYFILE": str(pair.key),
        "GATEWAY_WEBHOOKS_FILE": str(folder / "hooks.toml"),
        "GATEWAY_API_KEYS_FILE": str(folder / "keys.toml"),
        "GATEWAY_OPERATOR_PORT": free_port(),
    }
    topics = await real.make_topics(stack, 3)
    async with real.new_database(stack, template=migrated_template) as name:
        database = stack.dsn_of(name)
        context = trusting(authority)
        async with (
            gateway_process(stack, database, topics, folder, start=False, **settings) as gateway,
            worker_process(stack, database, topics, folder),
            httpx.AsyncClient(
                verify=context, base_url=gateway.url.replace("http:", "https:"), timeout=30, trust_env=False
            ) as senders,
            httpx.AsyncClient(
                verify=context, base_url=f"https://127.0.0.1:{settings['GATEWAY_OPERATOR_PORT']}", trust_env=False
            ) as operators,
        ):
            await gateway.start(ready=False)

            async def ready() -> bool:
                try:
                    return (await operators.get("/readyz")).status_code == 200
                except httpx.TransportError:
                    return False

            await eventually(ready, what=f"the gateway is ready, log: {gateway.log}")
            yield Edge(gateway, stack, topics, database, folder, authority, pair, senders, operators)
            assert await gateway.stop() == "exited with code 0"


async def ingest(http: httpx.AsyncClient, key: str, api_key: str = KEY, **headers: str) -> httpx.Response:
    """POST one event of the source shop."""
    own = {"content-type": "application/json", "authorization": f"Bearer {api_key}", **headers}
    return await http.post(INGEST, content=envelope("shop", key, {"n": 1}), headers=own)


async def deliver(http: httpx.AsyncClient, delivery: str, body: bytes, secret: bytes = b"old-secret") -> httpx.Response:
    """POST a delivery of GitHub's."""
    digest = hmac.new(secret, body, hashlib.sha256).hexdigest()
    headers = {
        "content-type": "application/json",
        "x-github-delivery": delivery,
        "x-github-event": "push",
        "x-hub-signature-256": f"sha256={digest}",
    }
    return await http.post(GITHUB, content=body, headers=headers)


async def test_events_come_in_over_tls_alone(edge: Edge) -> None:
    assert (await ingest(edge.senders, "tls")).status_code == 202
    async with httpx.AsyncClient(base_url=edge.gateway.url, trust_env=False) as plain:
        with pytest.raises(httpx.TransportError):
            await ingest(plain, "plain")
    port = edge.senders.base_url.port
    _, writer = await asyncio.open_connection("localhost", port, ssl=trusting(edge.authority))
    tls: ssl.SSLObject = writer.get_extra_info("ssl_object")
    assert tls.version() == "TLSv1.3"
    assert tls.selected_alpn_protocol() is None  # nobody asked for one
    writer.close()
    strangers = ssl.create_default_context()
    with pytest.raises(ssl.SSLCertVerificationError):
        await asyncio.open_connection("localhost", port, ssl=strangers)


async def test_what_is_the_operators_is_on_their_port_alone(edge: Edge) -> None:
    assert (await ingest(edge.senders, "k", prefer="wait=30")).json()["outcome"]["status"] == "PROCESSED"
    for path in OPERATORS:
        # Operators need no key; whoever reaches their port may read it.
        assert (await edge.operators.get(path)).status_code == 200, path
        refused = await edge.senders.get(path, headers={"authorization": f"Bearer {KEY}"})
        assert (refused.status_code, refused.json()["code"]) == (404, "not_found"), path
    for path in (INGEST, GITHUB):
        assert (await edge.operators.post(path, content=b"{}")).status_code == 404
    assert (await edge.metrics())["gateway_processes"] == PROCESSES


async def test_a_webhook_takes_effect_once_and_a_forged_one_moves_nothing(edge: Edge) -> None:
    body = b'{"ref": "refs/heads/main",\n "n": 12345678901234567890.10}'
    before = await edge.metrics()
    answers = [(await deliver(edge.senders, "d-1", body)).status_code for _ in range(3)]
    assert answers == [202, 200, 200]
    forged = [await deliver(edge.senders, name, body, b"guessed") for name in ("d-1", "d-2")]
    assert [(answer.status_code, answer.json()["code"]) for answer in forged] == [(401, "bad_signature")] * 2
    after = await edge.metrics()
    counts = ("raw_events_created_total", "raw_events_duplicate_total", "gateway_rejected_total{reason=bad_signature}")
    assert [after[name] - before[name] for name in counts] == [1, 2, 2]
    one = event_id("github", "d-1")
    assert [event.id for event in await logged(edge) if event.source == "github"] == [one]

    async def stored() -> Any:
        async with connected(edge.database) as database:
            return await database.fetchrow(
                "SELECT source, type, payload::text, payload_encoding FROM events WHERE event_id = $1", one
            )

    assert tuple(await eventually(stored)) == ("github", "push", body.replace(b"\n", b" ").decode(), "json")


async def logged(edge: Edge) -> list[Any]:
    """The events in the topic."""
    return [parse_envelope(record.value or b"") for record in await consume(edge.stack, edge.topics.events)]


async def test_a_body_that_is_no_json_says_so_in_the_table(edge: Edge) -> None:
    body = "payload=Zoë&x=1".encode()
    digest = hmac.new(b"old-secret", body, hashlib.sha256).hexdigest()
    headers = {
        "content-type": "application/x-www-form-urlencoded",
        "x-github-delivery": "form",
        "x-hub-signature-256": f"sha256={digest}",
        "prefer": "wait=30",
    }
    answer = await edge.senders.post(GITHUB, content=body, headers=headers)
    assert (answer.status_code, answer.headers["preference-applied"]) == (202, "wait=30")
    assert answer.json()["outcome"]["status"] == "PROCESSED"
    async with connected(edge.database) as database:
        row = await database.fetchrow(
            "SELECT payload::jsonb #>> '{}' AS body, payload_encoding FROM events WHERE event_id = $1",
            event_id("github", "form"),
        )
    assert row is not None
    assert (row["body"].encode(), row["payload_encoding"]) == (body, "text")


async def test_an_answer_waits_for_the_outcome(edge: Edge) -> None:
    async with asyncio.timeout(30):
        answers = await asyncio.gather(*(ingest(edge.senders, f"w-{n % 10}", prefer="wait=25") for n in range(30)))
    for answer in answers:
        assert answer.status_code in (200, 202)
        assert answer.headers["preference-applied"] == "wait=25"
        outcome = answer.json()["outcome"]
        assert (outcome["event_id"], outcome["status"]) == (answer.json()["event_id"], "PROCESSED")
    assert (await edge.metrics())["gateway_waiting"] == 0


async def test_forwarded_headers_are_nothing_here(edge: Edge) -> None:
    forged = {
        "x-forwarded-for": "203.0.113.66",
        "x-forwarded-proto": "http",
        "x-forwarded-host": "forged.example",
        "x-forwarded-prefix": "/forged",
        "forwarded": 'for="203.0.113.66";host=forged.example;proto=http',
    }
    answer = await ingest(edge.senders, "forwarded", **forged)
    plain = await ingest(edge.senders, "plain-forwarded")
    assert answer.headers.keys() == plain.headers.keys()
    assert answer.headers["location"] == f"/api/v1/events/{answer.json()['event_id']}"
    records = await consume(edge.stack, edge.topics.events)
    assert not any(b"forged" in (value or b"") for record in records for _, value in record.headers)
    assert "forged" not in edge.gateway.log.read_text()
    assert "203.0.113.66" not in edge.gateway.log.read_text()


async def test_keys_secrets_and_certificate_are_renewed_without_a_restart(edge: Edge) -> None:
    refused = await ingest(edge.senders, "rotated", NEW_KEY)
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, 'Bearer realm="plutus"')
    other = envelope("till", "k", 1)
    headers = {"content-type": "application/json", "authorization": f"Bearer {KEY}"}
    assert (await edge.senders.post(INGEST, content=other, headers=headers)).status_code == 403

    # All at once, as a deploy does: the secret, a broken declaration, the keys, the certificate and its key.
    replace(edge.folder / "secret", "new-secret")
    replace(edge.folder / "hooks.toml", '[sources.github]\nscheme = "gitlab"\n')
    replace(edge.folder / "keys.toml", api_keys.line("shop-2", NEW_KEY, ["shop"]))
    renewed = edge.authority.sign("renewed")
    renewed.key.rename(edge.pair.key)
    renewed.certificate.rename(edge.pair.certificate)
    await eventually(lambda: processes(edge, "reload_refused", "GATEWAY_WEBHOOKS_FILE") == PROCESSES)
    await eventually(lambda: processes(edge, "reloaded", "GATEWAY_API_KEYS_FILE") == PROCESSES)
    await eventually(lambda: processes(edge, "reloaded", "GATEWAY_TLS_CERTFILE") == PROCESSES)
    assert (await edge.metrics())["gateway_declaration_stale{setting=GATEWAY_WEBHOOKS_FILE}"] == PROCESSES
    for _ in range(6):  # on connections of their own, so that both processes are asked
        async with edge.client() as http:
            assert (await ingest(http, "rotated", NEW_KEY)).status_code in (202, 200)
            assert (await ingest(http, "rotated", KEY)).status_code == 401
            # What was declared before is in force, with the secret of before.
            assert (await deliver(http, "broken", b"{}")).status_code in (202, 200)
    assert await shown(edge) == "renewed"

    replace(edge.folder / "hooks.toml", HOOKS.format(secret=edge.folder / "secret"))
    await eventually(lambda: processes(edge, "reloaded", "GATEWAY_WEBHOOKS_FILE") == PROCESSES)
    for _ in range(6):
        async with edge.client() as http:
            assert (await deliver(http, "mended", b"{}", b"new-secret")).status_code in (202, 200)
            assert (await deliver(http, "mended", b"{}")).status_code == 401
    assert (await edge.metrics())["gateway_declaration_stale{setting=GATEWAY_WEBHOOKS_FILE}"] == 0
    written = edge.gateway.log.read_text()
    assert not any(word in written for word in (KEY, NEW_KEY, "old-secret", "new-secret"))


def replace(file: Path, text: str) -> None:
    """By renaming, so that nobody reads half of it."""
    draft = file.with_suffix(".new")
    draft.write_text(text)
    draft.rename(file)


def processes(edge: Edge, action: str, setting: str) -> int:
    """How many processes have logged this of that file."""
    lines = [line for line in edge.gateway.log_lines() if line["action"] == action and line["setting"] == setting]
    return len({line["process"] for line in lines})


async def shown(edge: Edge) -> str:
    """The name in the certificate that a new connection is shown."""
    _, writer = await asyncio.open_connection("localhost", edge.senders.base_url.port, ssl=trusting(edge.authority))
    certificate = writer.get_extra_info("peercert")
    writer.close()
    return str(dict(part[0] for part in certificate["subject"])["commonName"])


def test_a_file_that_cannot_be_used_ends_the_start_with_every_mistake(tmp_path: Path) -> None:
    from tests.integration.test_gateway_process import DEAD, run

    (tmp_path / "hooks").write_text('[sources.x]\nscheme = "none"\n[sources.y]\nscheme = "SECRET"\n')
    (tmp_path / "keys").write_text("x = 1\n")
    done = run(**DEAD, GATEWAY_WEBHOOKS_FILE=str(tmp_path / "hooks"), GATEWAY_API_KEYS_FILE=str(tmp_path / "keys"))
    assert done.returncode == 2
    for told in (
        "GATEWAY_WEBHOOKS_FILE: sources.x: ",
        "GATEWAY_WEBHOOKS_FILE: sources.y.scheme: ",
        "GATEWAY_API_KEYS_FILE: x: ",
    ):
        assert told in done.stderr
    assert "SECRET" not in done.stderr
    assert "Traceback" not in done.stderr
