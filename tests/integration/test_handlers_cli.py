"""`plutus handlers list|check` as a person or a script runs it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cli_kit import Ran, plutus
from tests.stack import ROOT

GOOD = """
print("a module may print when it is imported")
from collections.abc import Sequence
from sqlalchemy.ext.asyncio import AsyncSession
from schemas.payloads.payment import TransactionInitiated, TransferRequested
from stream_worker import Event, Transaction, handler, on_start

@on_start
async def tables(tx: Transaction) -> None: ...

@handler(type="transfer_requested", version=">=1.0,<2", timeout=2.5, name="ledger")
async def post(event: Event, tx: AsyncSession, payload: TransferRequested) -> None: ...

@handler(type="transaction_initiated", batch=True)
async def post_all(events: Sequence[Event], tx: Transaction, payloads: list[TransactionInitiated]) -> None: ...

@handler(source="kiosk")
async def kiosk(event: Event, tx: Transaction) -> None: ...
"""

MISFITS = """
from schemas.payloads.payment import TransactionInitiated, TransferRequested
from stream_worker import Event, Transaction, handler, on_start

@on_start
def tables(tx): ...

@handler(type="transfer_requested")
async def other(event: Event, tx: Transaction, payload: TransactionInitiated) -> None: ...

@handler(type="transfer_requested", version=">=2")
async def later(event: Event, tx: Transaction, payload: TransferRequested) -> None: ...

@handler(type="nobody_knows")
async def unknown(event: Event, tx: Transaction, payload: TransferRequested) -> None: ...
"""

BROKEN = {
    "sync": ("@handler(type='a')\ndef f(event, tx): ...", "is no coroutine function"),
    "twice": (
        "@handler(type='a')\nasync def f(e, tx): ...\n@handler(type='a')\nasync def g(e, tx): ...",
        "Two handlers match source=None, type='a', version=None: f and g",
    ),
    "overlap": (
        "@handler(type='a', version='>=1')\nasync def f(e, tx): ...\n"
        "@handler(type='a', version='<2')\nasync def g(e, tx): ...",
        "Two handlers match",
    ),
    "signature": ("@handler(type='a')\nasync def f(event): ...", "two or three positional parameters"),
    "nothing": ("@handler()\nasync def f(e, tx): ...", "needs a type, a source, or both"),
    "gone": ("import no_such_module", "No module named 'no_such_module'"),
    "syntax": ("def f(:", "cannot be imported: "),
    "secret": ("raise RuntimeError('s3cret')", "cannot be imported: RuntimeError (plutus_t_secret.py:2)."),
}


@pytest.fixture
def modules(tmp_path: Path) -> dict[str, str]:
    """An environment that finds the modules of this test."""
    texts = {"good": GOOD, "misfits": MISFITS, **{name: text for name, (text, _) in BROKEN.items()}}
    for name, text in texts.items():
        head = "" if name in {"good", "misfits"} else "from stream_worker import handler\n"
        (tmp_path / f"plutus_t_{name}.py").write_text(head + text)
    own = {name: value for name, value in os.environ.items() if not name.startswith(("KAFKA_", "DATABASE_", "WORKER_"))}
    return {**own, "PYTHONPATH": f"{tmp_path}:{ROOT}"}


async def handlers(*arguments: str, env: dict[str, str]) -> Ran:
    return await plutus("handlers", *arguments, env=env)


async def test_the_examples_are_listed_and_nothing_is_wrong_with_them(modules: dict[str, str]) -> None:
    ran = await handlers("list", "stream_worker.examples", "--json", env=modules)
    assert (ran.code, ran.err) == (0, "")
    by_type = {row["type"]: row for row in ran.rows}
    assert {"transfer_requested", "payment_completed", "heart_rate_reading", "earthquake"} <= by_type.keys()
    assert by_type["transfer_requested"]["batch"]
    assert by_type["transfer_requested"]["function"] == "stream_worker.examples.ledger.post_transfers"
    checked = await handlers("check", "stream_worker.examples", "--json", env=modules)
    assert (checked.code, checked.rows[0]["ok"], checked.rows[0]["problems"]) == (0, True, [])


async def test_what_matches_what(modules: dict[str, str]) -> None:
    ran = await handlers("list", "plutus_t_good", "--json", env=modules)
    assert ran.code == 0
    assert "a module may print" in ran.err
    assert ran.rows == [
        {
            "name": "ledger",
            "type": "transfer_requested",
            "source": None,
            "version": ">=1.0,<2",
            "batch": False,
            "transaction": "AsyncSession",
            "payload": ["TransferRequested"],
            "timeout": 2.5,
            "function": "plutus_t_good.post",
        },
        {
            "name": "post_all",
            "type": "transaction_initiated",
            "source": None,
            "version": None,
            "batch": True,
            "transaction": "asyncpg",
            "payload": ["TransactionInitiated"],
            "timeout": None,
            "function": "plutus_t_good.post_all",
        },
        {
            "name": "kiosk",
            "type": None,
            "source": "kiosk",
            "version": None,
            "batch": False,
            "transaction": "asyncpg",
            "payload": [],
            "timeout": None,
            "function": "plutus_t_good.kiosk",
        },
    ]
    table = await handlers("list", env={**modules, "WORKER_HANDLERS": "plutus_t_good"})
    assert table.code == 0
    head, *lines = table.out.splitlines()
    assert head.split() == [
        "handler",
        "type",
        "source",
        "version",
        "form",
        "transaction",
        "payload",
        "deadline",
        "function",
    ]
    assert "ledger    transfer_requested" in lines[0]
    assert "2.5 s" in lines[0]


async def test_what_no_handler_takes_is_a_notice_and_no_failure(modules: dict[str, str]) -> None:
    ran = await handlers("check", "plutus_t_good", env=modules)
    assert (ran.code, ran.out) == (0, "")
    assert "notice: schema type heart_rate_reading, version 1.0: no handler takes its events." in ran.err
    assert "transfer_requested" not in ran.err
    assert ran.err.endswith("3 handlers, 0 problems\n")


async def test_payloads_that_no_schema_gives(modules: dict[str, str]) -> None:
    ran = await handlers("check", "plutus_t_misfits", "--json", env=modules)
    assert ran.code == 1
    (report,) = ran.rows
    assert not report["ok"]
    told = {problem["where"]: problem["what"] for problem in report["problems"]}
    assert told == {
        "plutus_t_misfits.tables": "on_start needs a coroutine function: write `async def`.",
        "plutus_t_misfits.other": "takes TransactionInitiated, and schema type transfer_requested, version 1.0 gives "
        "TransferRequested.",
        "plutus_t_misfits.later": "asks for the payload of type transfer_requested, version >=2, for which no schema is "
        "registered: every event would be schema_unknown.",
        "plutus_t_misfits.unknown": "asks for the payload of type nobody_knows, for which no schema is registered: every "
        "event would be schema_unknown.",
    }


@pytest.mark.parametrize("name", BROKEN)
async def test_what_a_worker_would_not_start_with(modules: dict[str, str], name: str) -> None:
    ran = await handlers("check", f"plutus_t_good,plutus_t_{name}", env=modules)
    assert ran.code == 1
    assert BROKEN[name][1] in ran.out
    assert ran.out.startswith(f"plutus_t_{name}: ")
    assert "s3cret" not in ran.out + ran.err
    assert "Traceback" not in ran.err
    listed = await handlers("list", "plutus_t_good", f"plutus_t_{name}", "--json", env=modules)
    assert listed.code == 1
    assert {row["name"] for row in listed.rows} >= {"ledger", "post_all", "kiosk"}


async def test_without_a_module_and_with_one_that_exits(modules: dict[str, str], tmp_path: Path) -> None:
    ran = await handlers("check", env=modules)
    assert ran.code == 2
    assert "WORKER_HANDLERS" in ran.err
    (tmp_path / "plutus_t_exits.py").write_text("raise SystemExit(3)")
    gone = await handlers("list", "plutus_t_exits", env=modules)
    assert (gone.code, gone.out) == (1, "")
    assert "ended the process with 3" in gone.err
