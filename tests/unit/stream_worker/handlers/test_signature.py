"""What a handler asks for, and what is refused before any event is read."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import asyncpg
import pytest
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session

from schemas.event import Event
from schemas.payloads.payment import TransactionInitiated, TransferRequested
from stream_worker import Transaction
from stream_worker.handlers.signature import PLAIN, Asks, read

if TYPE_CHECKING:
    from tests.effect_handlers import effect as Hidden


class MySession(AsyncSession):
    """A project's own session class."""


class Executes(Protocol):
    """What a handler wants to know of its transaction."""

    async def execute(self, query: str, /) -> str:
        """Run a statement."""
        ...


async def bare(event, tx):  # type: ignore[no-untyped-def]
    """As short as it gets."""


async def plain(event: Event, tx: Transaction) -> None: ...
async def anything(event: Any, tx: Any) -> None: ...
async def protocol(event: Event, tx: Executes) -> None: ...
async def defaulted(event: Event, tx: asyncpg.Connection, limit: int = 3) -> None: ...
async def keywords(event: Event, tx: asyncpg.Connection, *args: int, **more: int) -> None: ...
async def connection(event: Event, tx: AsyncConnection) -> None: ...
async def session(event: Event, tx: AsyncSession) -> None: ...
async def own_session(event: Event, tx: MySession) -> None: ...
async def typed(event: Event, tx: Transaction, payload: TransferRequested) -> None: ...
async def either(event: Event, tx: Transaction, payload: TransferRequested | TransactionInitiated) -> None: ...
async def any_model(event: Event, tx: AsyncSession, payload: BaseModel) -> None: ...
async def many(events: Sequence[Event], tx: Transaction) -> None: ...
async def many_typed(events: list[Event], tx: Transaction, payloads: Sequence[TransferRequested]) -> None: ...


@pytest.mark.parametrize(
    ("function", "batch", "asks"),
    [
        (bare, False, PLAIN),
        (bare, True, PLAIN),
        (plain, False, PLAIN),
        (anything, True, PLAIN),
        (protocol, False, PLAIN),
        (defaulted, False, PLAIN),
        (keywords, False, PLAIN),
        (functools.partial(defaulted, limit=4), False, PLAIN),
        (connection, False, Asks(AsyncConnection)),
        (session, False, Asks(AsyncSession)),
        (own_session, False, Asks(MySession)),
        (typed, False, Asks(None, (TransferRequested,))),
        (either, False, Asks(None, (TransferRequested, TransactionInitiated))),
        (any_model, False, Asks(AsyncSession, (BaseModel,))),
        (many, True, PLAIN),
        (many_typed, True, Asks(None, (TransferRequested,))),
    ],
)
def test_what_is_asked_for(function: Callable[..., Any], batch: bool, asks: Asks) -> None:
    found = read(function, batch=batch)
    assert found == asks
    assert (found is PLAIN) == (asks == PLAIN)


def sync(event: Event, tx: Transaction) -> None: ...
async def one_parameter(event: Event) -> None: ...
async def four(event: Event, tx: Transaction, payload: TransferRequested, more: int) -> None: ...
async def named(event: Event, tx: Transaction, *, limit: int) -> None: ...
async def payload_unknown(event: Event, tx: Transaction, payload: Any) -> None: ...
async def payload_dict(event: Event, tx: Transaction, payload: dict[str, Any]) -> None: ...
async def payload_optional(event: Event, tx: Transaction, payload: TransferRequested | None) -> None: ...
async def sync_session(event: Event, tx: Session) -> None: ...
async def text(event: Event, tx: str) -> None: ...
async def hidden(event: Event, tx: Hidden) -> None: ...  # type: ignore[valid-type]


@pytest.mark.parametrize(
    ("function", "batch", "rule"),
    [
        (sync, False, "is no coroutine function"),
        (one_parameter, False, "two or three positional parameters"),
        (four, False, "two or three positional parameters"),
        (named, False, "two or three positional parameters"),
        (payload_unknown, False, "with a pydantic model"),
        (payload_dict, False, "with a pydantic model"),
        (payload_optional, False, "with a pydantic model"),
        (typed, True, "takes one Event"),
        (many, False, "register it with batch=True"),
        (plain, True, "takes one Event"),
        (sync_session, False, "AsyncConnection or AsyncSession"),
        (text, False, "asks for its transaction as str"),
        (hidden, False, "annotated with Hidden, which is not known when it runs"),
    ],
)
def test_what_cannot_be_a_handler_is_refused_by_name(function: Callable[..., Any], batch: bool, rule: str) -> None:
    with pytest.raises(ValueError, match=rule) as refused:
        read(function, batch=batch)
    assert f"{__name__}.{function.__name__}" in str(refused.value)


async def untyped_payloads(events: Sequence[Event], tx: Transaction, payloads: TransferRequested) -> None: ...


def test_a_batch_takes_its_payloads_as_a_sequence() -> None:
    with pytest.raises(ValueError, match=r"annotate its payloads as Sequence\[Model\]"):
        read(untyped_payloads, batch=True)
