"""Few places may do what is dangerous anywhere else: catch everything, look at the wall clock, commit offsets, sleep.

Each place is listed with its reason. A place that is no longer used must leave the list.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence

from tests.house.source import Module, calls, enclosing, imports, made, product, suite
from tests.house.test_imports import DECIDES

CATCHES_ALL = {
    # Ends in `raise`: only to leave nothing behind.
    "infra.runtime.raw_producer:connect": "tears the half-started client down, raises on",
    "infra.runtime.telemetry:Telemetry.span": "marks the span as failed, raises on",
    "infra.local.stack:LocalStack.start": "stops what was started, raises on",
    "ingest_gateway.connections:Connections._run": "drops the connection, whatever became of it, raises on",
    "ingest_gateway.keys:PostgresKeys._connect": "terminates the half-prepared connection, raises on",
    "stream_worker.partition:Partition._loop": "remembers why it ended, raises on",
    # Turns an error of a handler, which is anybody's code, into an outcome.
    "stream_worker.run:Runner._together": "a handler may raise anything",
    "stream_worker.run:Runner._in_turn": "a handler may raise anything",
    "stream_worker.together:Together._work": "told to whoever waits, raised on",
    "stream_worker.run:Runner._single": "a handler may raise anything",
    # Turns whatever the Kafka client makes of a broken record into a second look at its bytes.
    "stream_worker.consumer_loop:ConsumerLoop._poll": "raised on where no record is to blame",
    "stream_worker.inspect_handlers:import_all": "a module of handlers may raise anything when it is imported",
    # The outermost edges.
    "infra.runtime.log:_Sink._line": "a value that breaks when it is looked at costs its own line only",
    "ingest_gateway.routes:Shell.__call__": "an unforeseen error becomes a 500 without its text",
    "ingest_gateway.routes:Shell.serve": "the same edge, for the requests of the short cut",
    "stream_worker.__main__:main": "logged by class and place, exit code 1",
}
WALL_CLOCK = {
    "infra.cli.checks:of_database": "the doctor compares this machine's clock with Postgres's",
    "ingest_gateway.app:Gateway._ways_in": "how old a webhook's signature is, by the sender's clock, whatever our own is",
    "stream_worker.observe:Observer.settled": "the age of an event against the broker's append time, for a metric only",
}
SLEEPS_IN_TESTS = {
    "tests.parked_latency:one_run": "a steady rate is what is wanted; it is no test",
    "tests.faults.overload:flood.sender": "a rate is what is wanted",
    "tests.faults.slow_clients:drip": "slow is what is wanted",
    "tests.faults.test_examples_kill:kill_at_random_moments": "a random moment is what is wanted",
    "tests.tcp_proxy:TcpProxy._carry": "latency is what is wanted",
}
COMMITS = {"commit", "getmany", "getone", "seek", "seek_to_beginning", "seek_to_committed"}
COMMITTER = "stream_worker.consumer_loop"
COMMITS_SAVEPOINTS = "stream_worker.handlers.alchemy"

_CLOCKS = {
    *("time.time", "time.time_ns", "time.gmtime", "time.localtime", "time.ctime", "time.strftime"),
    *("datetime.now", "datetime.utcnow", "datetime.today", "date.today"),
}


def catch_alls(modules: Sequence[Module]) -> dict[str, str]:
    """`module:function` -> place of each handler or `suppress` that takes every exception."""
    found = {}
    for module in modules:
        inside = enclosing(module)
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ExceptHandler) and _is_all(node.type):
                found[f"{module.name}:{inside[node]}"] = module.at(node)
        for call, name in calls(module):
            if name == "suppress" and any(_is_all(argument) for argument in call.args):
                found[f"{module.name}:{inside[call]}"] = module.at(call)
    return found


def _is_all(kind: ast.expr | None) -> bool:
    if isinstance(kind, ast.Tuple):
        return any(_is_all(each) for each in kind.elts)
    return kind is None or ast.unparse(kind).rpartition(".")[2] in {"Exception", "BaseException"}


def wall_clocks(modules: Sequence[Module]) -> dict[str, str]:
    """`module:function` -> place of each look at the wall clock, called or handed on."""
    found = {}
    for module in modules:
        inside = enclosing(module)
        bare = {name.rpartition(".")[2] for _, name in imports(module) if name in _CLOCKS}
        for node in ast.walk(module.tree):
            spelled = ".".join(ast.unparse(node).split(".")[-2:]) if isinstance(node, ast.Attribute) else ""
            if spelled in _CLOCKS or (isinstance(node, ast.Name) and node.id in bare):
                found[f"{module.name}:{inside[node]}"] = module.at(node)
    return found


def own_clocks(modules: Sequence[Module]) -> list[str]:
    """Deciding modules that have a clock or chance of their own instead of taking it as an argument."""
    return [
        f"{module.at(node)}: {module.name} must be given {name}"
        for module in modules
        if module.name in DECIDES
        for node, name in imports(module)
        if name.partition(".")[0] in {"time", "random", "secrets"}
    ]


def committers(modules: Sequence[Module]) -> list[str]:
    """Places of the worker beside its one loop that fetch records or commit offsets."""
    return [
        f"{module.at(call)}: {name} belongs into {COMMITTER}"
        for module in modules
        if module.name.startswith("stream_worker") and module.name not in {COMMITTER, COMMITS_SAVEPOINTS}
        for call, name in calls(module)
        if name in COMMITS
    ]


def sleeps(modules: Sequence[Module]) -> dict[str, str]:
    """`module:function` -> place of each sleep that is neither a poll of a condition nor a turn for other tasks."""
    found = {}
    for module in modules:
        inside = enclosing(module)
        polls = {
            node
            for loop in ast.walk(module.tree)
            if isinstance(loop, ast.While)
            for node in ast.walk(loop)
            if isinstance(node, ast.Call)
        }
        for call, name in calls(module):
            turn = bool(call.args) and ast.unparse(call.args[0]) == "0"
            if name == "sleep" and call not in polls and not turn:
                found[f"{module.name}:{inside[call]}"] = module.at(call)
    return found


def _unlisted(found: dict[str, str], listed: dict[str, str]) -> dict[str, list[str]]:
    return {
        "not listed": sorted(f"{at} ({place})" for place, at in found.items() if place not in listed),
        "listed in vain": sorted(place for place in listed if place not in found),
    }


NOTHING: dict[str, list[str]] = {"not listed": [], "listed in vain": []}


def test_everything_is_caught_at_listed_edges_only() -> None:
    assert _unlisted(catch_alls(product()), CATCHES_ALL) == NOTHING


def test_the_wall_clock_is_looked_at_in_listed_places_only() -> None:
    assert _unlisted(wall_clocks(product()), WALL_CLOCK) == NOTHING


def test_what_decides_is_given_its_clock() -> None:
    assert own_clocks(product()) == []


def test_one_loop_fetches_and_commits() -> None:
    assert committers(product()) == []
    loop = next(module for module in product() if module.name == COMMITTER)
    assert {name for _, name in calls(loop)} >= {"commit", "getmany"}


def test_no_test_sleeps_to_be_on_time() -> None:
    assert _unlisted(sleeps(suite()), SLEEPS_IN_TESTS) == NOTHING


def test_the_rules_see_what_they_are_for() -> None:
    attempt = "def f():\n    try: g()\n    except {}: pass\n"
    for kind in ("Exception", "BaseException", "(OSError, Exception)", "builtins.Exception"):
        assert catch_alls([made("a", attempt.format(kind))]) == {"a:f": "a.py:3"}
    assert catch_alls([made("a", attempt.replace(" {}", ""))]) == {"a:f": "a.py:3"}
    assert catch_alls([made("a", attempt.format("OSError"))]) == {}
    assert catch_alls([made("a", "with suppress(Exception): g()")]) == {"a:": "a.py:1"}
    for look in ("time.time()", "f(clock=time.time)", "dt.datetime.now(UTC)", "datetime.utcnow()", "date.today()"):
        assert wall_clocks([made("a", look)]) == {"a:": "a.py:1"}
    assert wall_clocks([made("a", "from time import time\ntime()")]) == {"a:": "a.py:2"}
    assert wall_clocks([made("a", "loop.time()\ntime.monotonic()")]) == {}
    assert own_clocks([made("stream_worker.backoff", "import random")]) != []
    assert committers([made("stream_worker.batch", "consumer.commit()")]) != []
    assert sleeps([made("a", "async def f():\n    await asyncio.sleep(1)")]) == {"a:f": "a.py:2"}
    assert sleeps([made("a", "while not ready():\n    time.sleep(0.1)\nasyncio.sleep(0)")]) == {}
