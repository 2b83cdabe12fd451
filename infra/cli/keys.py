"""`plutus keys new`: an API key for a sender, and the line that grants it its sources.

The line goes to stdout, to be appended to the file that GATEWAY_API_KEYS_FILE names; the key goes to stderr, once, to be handed
to the sender. Nothing is stored: who loses a key gets a new one.
"""

from __future__ import annotations

from typing import Annotated

import typer

from infra.cli.output import DONE, USAGE, AsJson, Failure, finish, say, show, show_json

Name = Annotated[
    str, typer.Argument(help="Who it is for: letters, digits, _ and -. A second key needs a name of its own.")
]
Sources = Annotated[
    list[str], typer.Option("--source", help="A source it may write; again for each. '*' is every source.")
]


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    group = typer.Typer(no_args_is_help=True, help="API keys of senders: make one.")
    app.add_typer(group, name="keys")

    @group.command("new", epilog="Example: plutus keys new billing --source shop --source till")
    def new(name: Name, sources: Sources, as_json: AsJson = False) -> None:
        """Make a key: its line for the file on stdout, the key itself on stderr, this once."""
        finish(lambda: _new(name, sources, as_json))


def _new(name: str, sources: list[str], as_json: bool) -> int:
    from infra.runtime.api_keys import NAME, line, new_key

    if not NAME.fullmatch(name):
        raise Failure("a name has 1 to 64 letters, digits, underscores and hyphens", code=USAGE)
    key = new_key()
    written = line(name, key, sources)
    if as_json:
        show_json({"name": name, "key": key, "line": written})
        return DONE
    show(written)
    say(f"The key, shown this once: {key}")
    return DONE
