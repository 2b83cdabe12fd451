"""The examples in the docstrings about handlers are run, on a real Postgres."""

from __future__ import annotations

import hashlib
import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby
from types import ModuleType
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Column, Integer, MetaData, Numeric, Table
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import stream_worker
from schemas.event import Event
from schemas.payloads.order import PaymentCompleted
from schemas.payloads.payment import TransferRequested
from stream_worker import emit, handlers, testing
from stream_worker.handlers import Registry, alchemy, registry, signature, threads
from stream_worker.outcomes import Stored
from stream_worker.testing import event, run
from tests.harness import connected

TRANSFER = {
    "transfer_id": "t-1",
    "debit_account": "acc-1",
    "credit_account": "acc-2",
    "amount": 5,
    "currency": "KES",
}


def blocks(module: ModuleType) -> Iterator[str]:
    """The indented blocks of a module's docstring."""
    lines = (module.__doc__ or "").splitlines()
    for indented, group in groupby(lines, key=lambda line: line.startswith("    ") or not line):
        text = "\n".join(group)
        if indented and text.strip():
            yield textwrap.dedent(text)


@pytest.fixture
def namespace(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Where examples run: what they register goes into a registry of the test's own."""
    made = Registry()
    monkeypatch.setattr(stream_worker, "handler", made.handler)
    monkeypatch.setattr(stream_worker.testing.bench, "REGISTRY", made)
    return {"REGISTRY": made, "handler": made.handler, "Event": Event, "Sequence": Sequence, "__name__": __name__}


def execute(text: str, namespace: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    exec(compile(text, "<docstring>", "exec", dont_inherit=True), namespace)  # noqa: S102 - our own docstrings
    return namespace


class Base(DeclarativeBase):
    metadata = MetaData()


class Posting(Base):
    __tablename__ = "postings"
    event_id: Mapped[UUID] = mapped_column(postgresql.UUID, primary_key=True)
    account: Mapped[str]
    amount: Mapped[Any] = mapped_column(Numeric)


class Customer(Base):
    __tablename__ = "customers"
    name: Mapped[str] = mapped_column(primary_key=True)
    city: Mapped[str]


counts = Table("counts", Base.metadata, Column("event_id", postgresql.UUID), Column("counted", Integer))

TABLES = """
CREATE TABLE greetings (event_id uuid, text text);
CREATE TABLE waves (event_id uuid);
CREATE TABLE postings (event_id uuid PRIMARY KEY, account text, amount numeric);
CREATE TABLE counts (event_id uuid, counted int);
CREATE TABLE customers (name text PRIMARY KEY, city text);
CREATE TABLE thumbnails (event_id uuid, image bytea);
CREATE TABLE paid (order_id text);
INSERT INTO customers VALUES ('ada', 'London');
"""


@pytest.fixture
async def url(database: str) -> str:
    """A database of the test's own with the tables of the examples."""
    async with connected(database) as db:
        await db.execute(TABLES)
    return database


def thumbnail(image: str) -> bytes:
    return hashlib.sha256(image.encode()).digest()


@pytest.mark.parametrize(
    ("module", "more", "sent", "query", "expected"),
    [
        (
            handlers,
            {"AsyncSession": AsyncSession, "TransferRequested": TransferRequested, "Posting": Posting},
            [("greeting", {"text": "hi"}), ("wave", None), ("wave", None), ("transfer_requested", TRANSFER)],
            "SELECT (SELECT text FROM greetings) || (SELECT count(*) FROM waves) || (SELECT amount FROM postings)",
            "hi2-5",
        ),
        (
            alchemy,
            {"counts": counts, "Customer": Customer},
            [("stock_counted", {"counted": 3}), ("customer_moved", {"customer": "ada", "city": "Paris"})],
            "SELECT (SELECT counted FROM counts) || city FROM customers",
            "3Paris",
        ),
        (
            threads,
            {"thumbnail": thumbnail},
            [("photo_uploaded", {"image": "x"})],
            "SELECT image FROM thumbnails",
            thumbnail("x"),
        ),
        (
            emit,
            {},
            [("order_paid", {"order_id": "o-1"})],
            "SELECT order_id || source || payload FROM paid, emitted_events",
            'o-1shop.shipping{"order_id":"o-1"}',
        ),
    ],
    ids=lambda value: value.__name__ if isinstance(value, ModuleType) else "",
)
async def test_the_handlers_of_the_docstrings_work(
    url: str,
    namespace: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    module: ModuleType,
    more: dict[str, Any],
    sent: list[tuple[str, Any]],
    query: str,
    expected: Any,
) -> None:
    namespace.update(more)
    for block in blocks(module):
        execute(block, namespace, monkeypatch)
    made: Registry = namespace["REGISTRY"]
    ran = await run(made, [event(payload, type=type) for type, payload in sent], database_url=url)
    assert [type(each.outcome) for each in ran] == [Stored] * len(sent), [each.error for each in ran]
    async with connected(url) as db:
        assert await db.fetchval(query) == expected


def test_the_precedence_of_the_docstring_holds(namespace: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("take_order", "take_order_2", "take_order_2_1", "take_kiosks"):
        exec(f"async def {name}(event, tx): ...", namespace)  # noqa: S102 - our own names
    (block,) = blocks(registry)
    execute(block, namespace, monkeypatch)
    made: Registry = namespace["REGISTRY"]

    def found(source: str, version: str) -> str:
        handler = made.find(event({}, type="order", source=source, schema_version=version))
        assert handler is not None
        return handler.name

    assert [found("shop", version) for version in ("1.0", "2.0", "2.1", "3")] == [
        "take_order",
        "take_order_2",
        "take_order_2_1",
        "take_order",
    ]
    assert found("kiosk", "2.1") == "take_kiosks"


def test_the_signatures_of_the_docstring_are_taken(namespace: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    namespace.update(AsyncSession=AsyncSession, TransferRequested=TransferRequested, PaymentCompleted=PaymentCompleted)
    (block,) = blocks(signature)
    execute(block, namespace, monkeypatch)
    asked = {name: signature.read(namespace[name], batch=batch) for name, batch in SIGNATURES.items()}
    assert asked["one"] is not asked["several"]
    assert asked["several"].transaction is AsyncSession
    assert asked["typed"].models == (TransferRequested,)
    assert asked["all_typed"].models == (PaymentCompleted,)


SIGNATURES = {"one": False, "several": True, "typed": False, "all_typed": True}


async def test_the_tests_of_the_docstring_pass(
    url: str, namespace: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (ships,) = blocks(emit)
    execute(ships, namespace, monkeypatch)
    tests, fixture = blocks(testing)
    execute(tests, namespace, monkeypatch)
    await namespace["test_whatever_happens_it_is_shipped_once"](url)
    await namespace["test_a_paid_order_is_shipped"](url)
    execute(fixture, namespace, monkeypatch)
    fixed = namespace["chaos"]._get_wrapped_function()(url)
    assert await fixed(namespace["ship"], event({"order_id": "o-9"}, type="order_paid"))
