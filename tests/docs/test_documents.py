"""What is made from the code is what is committed, and says what the code does."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from infra.local.settings import LocalSettings
from ingest_gateway.settings import GatewaySettings
from schemas import payloads
from schemas.errors import Reason
from schemas.vectors import published
from stream_worker.settings import WorkerSettings
from tests import compose
from tests.docs import contracts, tables
from tests.docs.documents import DOCUMENTS
from tests.stack import ROOT


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: file.name)
def test_it_is_what_the_code_makes(file: Path) -> None:
    assert file.read_text(encoding="utf-8") == DOCUMENTS[file](), "renew it: python -m tests.docs.documents"


def test_the_readme_holds_every_table() -> None:
    assert tables.names((ROOT / "README.md").read_text()) == set(tables.TABLES)


def test_a_changed_setting_would_be_found() -> None:
    text = (ROOT / "README.md").read_text()
    assert tables.filled(text.replace("`KAFKA_GROUP` | `plutus`", "`KAFKA_GROUP` | `other`")) == text


def test_every_setting_has_a_meaning_and_its_place_in_the_example() -> None:
    for kind in (GatewaySettings, WorkerSettings, LocalSettings):
        for name, field in kind.model_fields.items():
            assert field.description, name
            assert name.upper() in compose.documented(), f"{name.upper()} is not in .example.env"


def test_every_metric_says_what_it_counts() -> None:
    for name in ("metrics-gateway", "metrics-worker"):
        for row in tables.TABLES[name]().splitlines()[2:]:
            assert re.fullmatch(r"\| `[a-z_]+` \| \w+ \|[^|]*\| .+\. \|", row), row


def accepts(schema: dict[str, Any], value: Any, document: dict[str, Any]) -> bool:
    """Does `value` fit this schema of the document?"""
    return bool(Draft202012Validator({**schema, "components": document["components"]}).is_valid(value))


def test_the_asyncapi_document_takes_the_published_envelopes_and_refuses_the_others() -> None:
    document = contracts.asyncapi()
    envelope = document["components"]["schemas"]["Envelope"]
    for vector in published()["accepted"]:
        members = json.loads(vector["envelope"])
        given = {name: value for name, value in members.items() if name == "payload" or value is not None}
        assert accepts(envelope, given, document)
    for vector in published()["refused"]:
        if vector["error"] == "Invalid" and vector.get("pointer") in ("/source", "/type", "/schema_version"):
            assert not accepts(envelope, json.loads(vector["envelope"]), document), vector["envelope"]


@pytest.mark.parametrize("name", payloads.TYPES)
def test_the_asyncapi_message_of_a_payload_takes_its_example(name: str) -> None:
    document = contracts.asyncapi()
    schema = document["components"]["messages"][name]["payload"]
    for payload in document["components"]["schemas"][payloads.TYPES[name].__name__]["examples"]:
        event = {"source": "s", "schema_version": "1.0", "idempotency_key": "k", "type": name, "payload": payload}
        assert accepts(schema, event, document)
        assert not accepts(schema, {**event, "type": "other"}, document)
        assert not accepts(schema, {**event, "payload": None}, document)


def test_every_reason_of_a_dead_letter_has_its_advice() -> None:
    text = (ROOT / "OPERATIONS.md").read_text().partition("## Dead letters")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == {reason.value for reason in Reason}


def test_the_reasons_of_dead_letters_are_the_codes() -> None:
    schema = contracts.asyncapi()["components"]["schemas"]["DeadLetterHeaders"]["properties"]
    assert set(schema["plutus-dlq-reason"]["enum"]) == {reason.value for reason in Reason}


@pytest.mark.parametrize("document", [contracts.openapi, contracts.asyncapi], ids=["openapi", "asyncapi"])
def test_every_reference_leads_somewhere(document: Any) -> None:
    made = document()
    references = re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(made))
    assert references
    for reference in references:
        place = made
        for part in reference.split("/"):
            place = place[part]
