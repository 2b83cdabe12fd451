"""Every log line is one fixed sentence and one action, a word to match on; values stand beside them."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence

from tests.house.source import Module, calls, made, product, text

LEVELS = {"debug", "info", "warning", "error", "critical", "exception"}


def log_calls(modules: Sequence[Module]) -> Iterator[tuple[Module, ast.Call]]:
    """Every call of a logger."""
    for module in modules:
        for call, name in calls(module):
            owner = ast.unparse(call.func.value) if isinstance(call.func, ast.Attribute) else ""
            if name in LEVELS and owner in {"_LOG", "log", "LOG", "self._log"}:
                yield module, call


def wrong_log_lines(modules: Sequence[Module]) -> list[str]:
    """Log calls without a fixed sentence and action, and actions that stand for two sentences of one process."""
    found = []
    sentences: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    actions: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for module, call in log_calls(modules):
        place = module.at(call)
        sentence = text(call.args[0]) if len(call.args) == 1 else None
        action = next((text(word.value) for word in call.keywords if word.arg == "action"), None)
        if sentence is None or not sentence.endswith("."):
            found.append(f"{place}: a log line is one fixed sentence, values go beside it")
            continue
        if action is None or not re.fullmatch(r"[a-z]+(_[a-z]+)*", action):
            found.append(f"{place}: a log line needs a fixed word, action=...")
            continue
        process = module.name.partition(".")[0]
        sentences[process, action].setdefault(sentence, place)
        actions[process, sentence].setdefault(action, place)
    for groups in (sentences, actions):
        for (_, shared), different in groups.items():
            if len(different) > 1:
                found.append(f"{', '.join(sorted(different.values()))}: {shared!r} stands for {sorted(different)}")
    return found


def test_each_log_line_has_one_sentence_and_one_action() -> None:
    assert wrong_log_lines(product()) == []
    assert len(list(log_calls(product()))) > 20


def test_the_rules_see_what_they_are_for() -> None:
    good = '_LOG.info("It stops.", action="stopped")\n'
    assert wrong_log_lines([made("stream_worker.a", good), made("stream_worker.b", good)]) == []
    assert "fixed sentence" in wrong_log_lines([made("a", '_LOG.info(f"{x} stops.", action="stopped")')])[0]
    assert "fixed sentence" in wrong_log_lines([made("a", '_LOG.info("%s stops.", x, action="stopped")')])[0]
    assert "fixed word" in wrong_log_lines([made("a", '_LOG.info("It stops.")')])[0]
    other = made("stream_worker.b", good.replace("It stops.", "It ends."))
    assert "'stopped' stands for" in wrong_log_lines([made("stream_worker.a", good), other])[0]
    assert wrong_log_lines([made("ingest_gateway.a", good), other]) == []
