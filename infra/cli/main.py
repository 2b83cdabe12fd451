"""The `plutus` command. One module per group of commands; each adds its own with `register`.

Data goes to stdout, everything else to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage or settings, 69 a service
cannot be reached, 130 interrupted.
"""

from __future__ import annotations

import sys

import typer

from infra.cli import demo, dlq, events, failures, handlers, kafka, migrate, topics, up
from infra.local.errors import LocalError

app = typer.Typer(
    name="plutus",
    help="Takes in events that will be sent again and makes each take effect exactly once.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for _module in (demo, up, migrate, topics, events, handlers, failures, dlq, kafka):
    _module.register(app)


def run() -> None:
    """Entry point: an error of this machine is one line, not a traceback."""
    try:
        app(prog_name="plutus")
    except LocalError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    run()
