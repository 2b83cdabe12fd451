"""Schemathesis makes requests from the OpenAPI document, right ones and wrong ones, and holds each answer against it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ingest_gateway.routes import WEBHOOKS
from tests import stack as real
from tests.gateway_kit import INGEST
from tests.harness import Service, gateway_process
from tests.stack import ROOT, Stack

pytestmark = pytest.mark.slow

SECONDS = 240.0
SEED = 20261127
EXAMPLES = 8
# Nothing becomes of an event here, so that nobody need wait for it.
SETTINGS: dict[str, Any] = {"GATEWAY_LOOK_TIMEOUT": 5, "GATEWAY_WAIT_LONGEST": 0}
BATCHES_TELL_BY_ITEM = """\
[[operations]]
include-path = "/api/v1/ingest/batch"
checks.positive_data_acceptance.enabled = false
checks.negative_data_rejection.enabled = false
"""


@pytest.fixture(scope="module")
async def gateway(
    stack: Stack, migrated_template: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Service]:
    """One gateway."""
    topics = await real.make_topics(stack, 3)
    async with real.new_database(stack, template=migrated_template) as name:
        folder = tmp_path_factory.mktemp("gateway")
        async with gateway_process(stack, stack.dsn_of(name), topics, folder, **SETTINGS) as made:
            yield made


@pytest.mark.timeout(300)
async def test_it_finds_nothing(gateway: Service, tmp_path: Path) -> None:
    description = (await gateway.http.get("/openapi.json")).json()
    # Which attributes of a CloudEvent go together is the specification's to say; as items of batches they are sent.
    del description["paths"][INGEST]["post"]["requestBody"]["content"]["application/cloudevents+json"]
    # No keys are declared here, and nobody is asked for one.
    for operation in [each for methods in description["paths"].values() for each in methods.values()]:
        operation.pop("security", None)
    # Which webhooks there are is a file's to say; here none is.
    del description["paths"][f"{WEBHOOKS}{{source}}"]
    document = tmp_path / "openapi.json"
    document.write_text(json.dumps(description))
    (tmp_path / "schemathesis.toml").write_text(BATCHES_TELL_BY_ITEM)
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("schemathesis")),
        "run",
        str(document),
        f"--url={gateway.url}",
        f"--seed={SEED}",
        f"--max-examples={EXAMPLES}",
        "--phases=coverage,fuzzing",
        "--suppress-health-check=all",
        "--no-shrink",
        "--workers=1",
        cwd=tmp_path,
        env={**os.environ, "SCHEMATHESIS_HOOKS": "tests.integration.schemathesis_hooks", "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(SECONDS):
        said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()
    assert gateway.alive
