"""The real services and what a test needs of them. Nothing is started before a test asks for it.

stack        Kafka and Postgres of this session
database     libpq URL of a migrated database of this test's own
topics       a fresh pair of topics (3 partitions); `make_topics(n)` for another number
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
from opentelemetry.instrumentation.aiokafka import AIOKafkaInstrumentor

from tests import stack as real
from tests.stack import Stack, Topics

_PARTITIONS = 3

MakeTopics = Callable[[int], Awaitable[Topics]]


@pytest.fixture(scope="module", autouse=True)
def clients_as_they_are() -> Iterator[None]:
    """Tracing that a module switched on would go on in the Kafka clients of the next one of its process."""
    yield
    if AIOKafkaInstrumentor().is_instrumented_by_opentelemetry:
        AIOKafkaInstrumentor().uninstrument()


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Stack]:
    """Kafka and Postgres of this session."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")

    def say(line: str) -> None:
        with capture.global_and_fixture_disabled():
            print(f"\n{line}", file=sys.stderr, end="", flush=True)

    with real.services(tmp_path_factory.mktemp("stack"), say) as services:
        yield services


@pytest.fixture(scope="session")
async def migrated_template(stack: Stack) -> AsyncIterator[str]:
    """Name of a database that was migrated once and is only ever copied."""
    async with real.new_database(stack) as name:
        await real.migrate(stack.dsn_of(name))
        yield name


@pytest.fixture
async def database(stack: Stack, migrated_template: str) -> AsyncIterator[str]:
    """libpq URL of a migrated database of this test's own."""
    async with real.new_database(stack, template=migrated_template) as name:
        yield stack.dsn_of(name)


@pytest.fixture
def make_topics(stack: Stack) -> MakeTopics:
    """Makes a fresh pair of topics with so many partitions."""

    async def make(partitions: int) -> Topics:
        return await real.make_topics(stack, partitions)

    return make


@pytest.fixture
async def topics(make_topics: MakeTopics) -> Topics:
    """A fresh pair of topics with three partitions."""
    return await make_topics(_PARTITIONS)
