"""What a handler asks for, read from its signature once, when it is registered.

    async def one(event, tx): ...                                     # one event, the asyncpg connection
    async def several(events: Sequence[Event], tx: AsyncSession): ... # a batch, the transaction as an SQLAlchemy session
    async def typed(event, tx, payload: TransferRequested): ...       # and the payload as the model it must fit
    async def all_typed(events, tx, payloads: Sequence[PaymentCompleted]): ...

Two or three positional parameters; their names are free. What cannot be right is refused here, before any event is read.
"""

from __future__ import annotations

import collections.abc
import functools
import inspect
import sys
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import asyncpg
from pydantic import BaseModel

from schemas.event import Event

_SEVERAL = (list, tuple, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection)
_ANY: tuple[Any, ...] = (None, Any, object)


@dataclass(frozen=True, slots=True)
class Asks:
    """transaction: the SQLAlchemy class that its transaction is handed over as, None: the asyncpg connection.

    models: what its payload may be; empty: it does not ask for the payload.
    """

    transaction: type | None = None
    models: tuple[type[BaseModel], ...] = ()


PLAIN = Asks()
"""The event and the asyncpg connection; the only object that says so."""


def read(function: Callable[..., Any], *, batch: bool) -> Asks:
    """What this handler asks for.

    Raises:
        ValueError: it is no coroutine function, takes other parameters, or is annotated with what it cannot be given.
    """
    named = f"{function.__module__}.{getattr(function, '__qualname__', type(function).__qualname__)}"
    try:
        return _read(function, batch)
    except ValueError as error:
        raise ValueError(f"The handler {named} {error}") from None


def _read(function: Callable[..., Any], batch: bool) -> Asks:
    if not inspect.iscoroutinefunction(function):
        raise ValueError("is no coroutine function: write `async def`; for CPU-bound work `await in_thread(...)`.")
    given = [p for p in inspect.signature(function).parameters.values() if p.kind is not p.VAR_KEYWORD]
    positional = [p for p in given if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = [p for p in given if p.default is p.empty and p.kind is not p.VAR_POSITIONAL]
    taken = [p for p in positional[:2] if p.default is not p.empty] + [p for p in positional if p in needed]
    if len(taken) not in (2, 3) or any(p not in positional for p in needed):
        raise ValueError("must take two or three positional parameters: the event, the transaction, the payload.")
    hints = _hints(function)
    event, tx, *payload = (hints.get(p.name) for p in taken)
    _check_event(event, batch)
    asks = Asks(_transaction(tx), _models(payload[0], batch) if payload else ())
    return PLAIN if asks == PLAIN else asks  # the very object, for the quick way


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    while isinstance(function, functools.partial):
        function = function.func
    try:
        return typing.get_type_hints(inspect.unwrap(function))
    except NameError as error:
        raise ValueError(
            f"is annotated with {error.name}, which is not known when it runs: import it at the top of the module, "
            "outside `if TYPE_CHECKING`."
        ) from None


def _check_event(hint: Any, batch: bool) -> None:
    several = typing.get_origin(hint) in _SEVERAL or hint in _SEVERAL
    if batch and isinstance(hint, type) and issubclass(hint, Event):
        raise ValueError("is registered with batch=True and takes one Event: annotate Sequence[Event].")
    if several and not batch:
        raise ValueError("takes several events: register it with batch=True.")


def _transaction(hint: Any) -> type | None:
    if hint in _ANY or getattr(hint, "_is_protocol", False) or isinstance(hint, typing.TypeVar):
        return None
    if isinstance(hint, type):
        if issubclass(hint, asyncpg.Connection) or issubclass(asyncpg.Connection, hint) or _is_proxy(hint):
            return None
        alchemy: Any = sys.modules.get("sqlalchemy.ext.asyncio")  # whoever annotates with its classes has imported it
        if alchemy is not None and issubclass(hint, alchemy.AsyncConnection | alchemy.AsyncSession):
            return hint
    raise ValueError(
        f"asks for its transaction as {getattr(hint, '__name__', hint)}: it can be an asyncpg connection (Transaction), "
        "or SQLAlchemy's AsyncConnection or AsyncSession."
    )


def _is_proxy(hint: type) -> bool:
    return issubclass(hint, asyncpg.pool.PoolConnectionProxy)


def _models(hint: Any, batch: bool) -> tuple[type[BaseModel], ...]:
    if batch:
        if typing.get_origin(hint) not in _SEVERAL:
            raise ValueError("is registered with batch=True: annotate its payloads as Sequence[Model].")
        hint = typing.get_args(hint)[0]
    members = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    if not all(isinstance(member, type) and issubclass(member, BaseModel) for member in members):
        raise ValueError("must annotate its payload with a pydantic model, or with several joined by |.")
    return tuple(members)
