"""The API documentation page says what the OpenAPI document says, and loads nothing from anywhere."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

from ingest_gateway.docs_page import page
from ingest_gateway.problems import Kind
from tests.docs.contracts import openapi
from tests.harness import gateway_process
from tests.stack import Stack, Topics


def test_every_path_member_and_answer_is_on_it() -> None:
    document = openapi()
    text = unescape(page(document))
    for path, methods in document["paths"].items():
        assert path in text
        for operation in methods.values():
            for status in operation["responses"]:
                assert f"<td>{status}</td>" in text
    for member in document["components"]["schemas"]["Envelope"]["properties"]:
        assert f"<td>{member}</td>" in text
    for kind in (Kind.IDEMPOTENCY_CONFLICT, Kind.OUTCOME_UNKNOWN, Kind.OVERLOADED):
        assert kind.uri in text


def test_what_stands_in_the_document_cannot_become_markup() -> None:
    document = openapi()
    document["info"]["title"] = "<script>alert(1)</script>"
    assert "<script" not in page(document)


async def test_it_is_served_and_works_without_the_internet(
    stack: Stack, database: str, topics: Topics, tmp_path: Path
) -> None:
    async with gateway_process(stack, database, topics, tmp_path) as gateway:
        answer = await gateway.http.get("/docs")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert re.findall(r"(?:src|href|url|@import)[=(\s]+[\"']?((?:https?:)?//[^\"')\s]*)", answer.text) == []
    assert "<script" not in answer.text
    assert re.findall(r'href="([^"]+)"', answer.text) == ["openapi.json"]
