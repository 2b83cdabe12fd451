"""What the command line prints: safe for a terminal, exact in JSON, aligned for people."""

from __future__ import annotations

import json
from uuid import UUID

import orjson
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from infra.cli import output
from infra.cli.output import Failure, printable, run, show_fields, show_json, show_table, table


@given(st.text())
def test_nothing_printed_acts_on_a_terminal(text: str) -> None:
    assert printable(text).isprintable()


def test_printable_text_is_left_alone() -> None:
    assert printable("Ōsaka 6.1 → ok") == "Ōsaka 6.1 → ok"
    assert printable("a\x1b[31m\u202eb\n") == "a\\x1b[31m\\u202eb\\n"


@given(st.dictionaries(st.text(), st.text() | st.integers(-(2**53), 2**53) | st.none()))
def test_json_reads_back_as_it_was_and_is_one_safe_line(data: dict[str, object]) -> None:
    line = output._escaped(orjson.dumps(data).decode())
    assert line.isprintable()
    assert json.loads(line) == data


def test_a_payload_keeps_its_digits_and_becomes_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    show_json({"id": UUID(int=7), "payload": orjson.Fragment(b'{"n":12345678901234567890.10,\t"t":"\xc2\x9b\x7f"}')})
    out = capsys.readouterr().out
    assert out == (
        '{"id":"00000000-0000-0000-0000-000000000007","payload":{"n":12345678901234567890.10, "t":"\\u009b\\u007f"}}\n'
    )


def test_json_never_guesses_how_to_show_bytes() -> None:
    with pytest.raises(TypeError):
        show_json({"key": b"secret"})


def test_a_table_aligns_numbers_right_and_text_left(capsys: pytest.CaptureFixture[str]) -> None:
    show_table(("source", "sent"), [("us", 7), ("hawaii", 1200), ("none", None)])
    assert capsys.readouterr().out.splitlines() == ["source   sent", "us          7", "hawaii  1,200", "none        -"]
    assert table(("empty",), []) == ["empty"]


def test_fields_without_a_value_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    show_fields([("status", "open"), ("event", None), ("attempts", 0)])
    assert capsys.readouterr().out == "status    open\nattempts  0\n"


async def _answer(code: int) -> int:
    return code


async def _fail() -> int:
    raise Failure("Kafka is away.", cause="it was stopped", advice="plutus up", code=output.UNREACHABLE)


async def _interrupt() -> int:
    raise KeyboardInterrupt


def test_a_command_leaves_with_its_code(capsys: pytest.CaptureFixture[str]) -> None:
    for command, code in ((lambda: _answer(4), 4), (_fail, 69), (_interrupt, 130)):
        with pytest.raises(typer.Exit) as left:
            run(command)
        assert left.value.exit_code == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "error[unreachable]: Kafka is away.\ncause: it was stopped\ntry: plutus up\ninterrupted\n"
