"""`make fuzz ARGS="--seconds 600"`: look for inputs that break the parser, for as long as you like.

An input that breaks a promise is written to the folder named by --found, and the exit code is 1. Put it into
`tests/fuzz/corpus` with the mend: the tests run whatever is there. --grow writes inputs that did something new as well.
"""

from __future__ import annotations

import argparse
import hashlib
import secrets
import sys
import time
from pathlib import Path
from random import Random

from tests.fuzz.mutation import search


def main() -> int:
    """Run until the time is over or something is found."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to look")
    parser.add_argument("--seed", type=int, default=secrets.randbits(32), help="for the same inputs again")
    parser.add_argument("--found", type=Path, default=Path(".fuzz"), help="folder for inputs that break the parser")
    parser.add_argument("--grow", type=Path, help="folder for inputs that made the parser do something new")
    options = parser.parse_args()
    print(f"seed {options.seed}, {options.seconds:g} s")
    ends, count, fresh = time.monotonic() + options.seconds, 0, 0
    try:
        for data, new in search(Random(options.seed)):
            count, fresh = count + 1, fresh + new
            if new and options.grow:
                keep(data, options.grow)
            if time.monotonic() > ends:
                break
    except Exception as error:
        note = error.__notes__[0] if getattr(error, "__notes__", None) else ""
        print(f"BROKEN: {type(error).__name__}: {error}\n{note[:2000]}", file=sys.stderr)
        if note:
            print(f"kept as {keep(eval_bytes(note), options.found)}", file=sys.stderr)
        return 1
    print(f"{count:,} inputs, {fresh} of them did something new, none broke a promise")
    return 0


def eval_bytes(note: str) -> bytes:
    """The input in an error's note."""
    import ast

    data = ast.literal_eval(note.removeprefix("input: "))
    assert isinstance(data, bytes)
    return data


def keep(data: bytes, folder: Path) -> Path:
    """Write an input, in hexadecimal, under the name of its content."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{hashlib.sha256(data).hexdigest()[:12]}.hex"
    path.write_text(data.hex() + "\n")
    return path


if __name__ == "__main__":
    sys.exit(main())
