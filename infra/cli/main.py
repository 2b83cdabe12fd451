"""The `plutus` command. One module per group of commands; each adds its own with `register`.

Data goes to stdout, everything else to stderr. Nouns with verbs for what there is (`events list`, `groups lag`), plain
verbs for what is done every day (`up`, `send`, `tail`, `doctor`). Exit codes are those of `output.EXIT_CODES`.

Nothing here, and nothing that is imported to know the commands, imports a client: `plutus --help` and the completion of
a word must not wait for libraries that they do not use. A command imports what it needs when it runs.
"""

from __future__ import annotations

import typer

from infra.cli import (
    config,
    demo,
    dlq,
    doctor,
    events,
    failures,
    groups,
    handlers,
    kafka,
    keys,
    migrate,
    offsets,
    output,
    send,
    tail,
    topics,
    up,
)
from infra.cli.output import Failure, Problem
from infra.local.errors import LocalError, NothingRuns

app = typer.Typer(
    name="plutus",
    help="Takes in events that will be sent again and makes each take effect exactly once.",
    epilog="Exit codes: "
    + ", ".join(f"{code} {words}" for code, words in output.EXIT_CODES.items())
    + ". Data goes to "
    "stdout, everything else to stderr; --json prints one object a line. Example: plutus up",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for _module in (
    up,
    demo,
    send,
    tail,
    doctor,
    events,
    failures,
    dlq,
    groups,
    offsets,
    handlers,
    topics,
    migrate,
    config,
    keys,
    kafka,
):
    _module.register(app)


def run() -> None:
    """Entry point: an error of this machine is one line, not a traceback."""
    try:
        app(prog_name="plutus")
    except LocalError as error:
        output.tell(Failure(str(error), problem=Problem.LOCAL))
        raise SystemExit(output.UNREACHABLE if isinstance(error, NothingRuns) else output.FAILED) from None


if __name__ == "__main__":
    run()
