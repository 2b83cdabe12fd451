"""`plutus send`: one event and its life, as its sender sees it.

The event goes to the gateway like anybody's; what becomes of it is asked there too, so neither Kafka nor Postgres need be
within reach. Times are this machine's, from the moment the request was sent; how long the event took between acceptance
and effect is Postgres's. Sent again under the same key, it is a duplicate; with another payload, the gateway refuses it.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from infra.cli.output import (
    DONE,
    FAILED,
    PARTLY,
    UNREACHABLE,
    USAGE,
    AsJson,
    Failure,
    Problem,
    plural,
    run,
    say,
    show,
    show_json,
    table,
)

INGEST: Final = "/api/v1/ingest"
EVENTS: Final = "/api/v1/events"
_TRY_AGAIN: Final = (429, 503)
_SETTLED: Final = ("PROCESSED", "FAILED")
_FIRST_POLL = 0.02
_LONGEST_POLL = 0.5

Gateway = Annotated[str | None, typer.Option("--gateway", metavar="URL", help="The gateway; else PLUTUS_GATEWAY.")]


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @app.command(
        "send",
        epilog="Example: plutus send '{\"amount\": 100}' --source payment_service --key evt_1 --type payment_made",
    )
    def command(
        payload: Annotated[str, typer.Argument(help="The payload, as JSON; @FILE reads a file, - standard input.")],
        source: Annotated[str, typer.Option(help="Who sends.")] = "plutus-cli",
        key: Annotated[str | None, typer.Option(help="The idempotency key; a new one if left out.")] = None,
        of_type: Annotated[str | None, typer.Option("--type", help="What happened.")] = None,
        schema_version: Annotated[str, typer.Option(help="Version of the payload's schema.")] = "1.0",
        ordering_key: Annotated[str | None, typer.Option(help="Sub-key within the source.")] = None,
        wait: Annotated[float, typer.Option(min=0, max=3600, help="Seconds to wait for its effect; 0: do not.")] = 30.0,
        gateway: Gateway = None,
        as_json: AsJson = False,
    ) -> None:
        """Send one event, and see it accepted, stored and handled, with milliseconds.

        The same key again is told as a duplicate; with another payload the gateway refuses it (422). Exit code 0: it took
        effect or had before; 1: it was refused or failed; 3: it is accepted and did not take effect in time.
        """

        async def send() -> int:
            members = {
                "source": source,
                "schema_version": schema_version,
                "idempotency_key": key or _new_key(),
                "type": of_type,
                "ordering_key": ordering_key,
            }
            given = {name: value for name, value in members.items() if value is not None}
            return await _send(_gateway(gateway), given, payload_of(payload), wait, as_json)

        run(send)


@dataclass(frozen=True)
class Life:
    """What is known of the event that was sent. Times are milliseconds since it was sent.

    answer: what the gateway said: accepted or duplicate. known: what its status route says, None: nothing yet.
    settled: when PROCESSED or FAILED was seen.
    """

    event_id: str
    answer: str
    deferred: bool
    answered: float
    known: dict[str, Any] | None = None
    settled: float | None = None

    @property
    def status(self) -> str:
        """Its status now; RECEIVED while the gateway knows of none."""
        return "RECEIVED" if self.known is None else str(self.known["status"])

    @property
    def in_database(self) -> float | None:
        """Milliseconds from acceptance to effect, by Postgres's clock."""
        if self.known is None or self.known["processed_at"] is None:
            return None
        times = [datetime.fromisoformat(self.known[name]) for name in ("received_at", "processed_at")]
        return (times[1] - times[0]).total_seconds() * 1000

    def as_object(self) -> dict[str, Any]:
        """For --json."""
        known = self.known or {}
        names = ("partition", "offset", "received_at", "processed_at", "handled_by", "attempts", "reason", "step")
        return {
            "event_id": self.event_id,
            "answer": self.answer,
            "dedup_deferred": self.deferred,
            "answered_ms": round(self.answered, 1),
            "status": self.status,
            "settled_ms": None if self.settled is None else round(self.settled, 1),
            "accepted_to_effect_ms": None if self.in_database is None else round(self.in_database, 1),
            **{name: known.get(name) for name in names},
        }


def lines(life: Life) -> list[tuple[str, str, str]]:
    """What happened, after how many milliseconds, and the rest, for people."""
    known = life.known
    where = "" if known is None else f"partition {known['partition']}, offset {known['offset']}"
    if life.answer == "duplicate":
        became = f"{life.status}{_by(known)}" if known else "not processed yet"
        accepted = f", accepted {known['received_at']} as {where}" if known else ""
        return [("duplicate", _ms(life.answered), f"of {life.event_id}{accepted}: {became}")]
    deferred = ", dedup deferred" if life.deferred else ""
    told = [("accepted", _ms(life.answered), f"{where or 'in Kafka'}{deferred}; event {life.event_id}")]
    if known is None or life.settled is None:
        return told
    at, attempts = _ms(life.settled), plural(known["attempts"], "attempt")
    took = (
        ""
        if life.in_database is None
        else f", {_ms(life.in_database).strip()} after it was accepted, by Postgres's clock"
    )
    told.append(("stored", at, f"{life.status}{took}"))
    if known["status"] == "FAILED":
        told.append(("failed", at, f"{known['reason']} at step {known['step']}, {attempts}"))
    elif known["handled_by"] is None:
        told.append(("handled", "-".rjust(8), "by nobody: no handler matches it"))
    else:
        told.append(("handled", at, f"by {known['handled_by']} in the same transaction, {attempts}"))
    return told


def _by(known: dict[str, Any] | None) -> str:
    return f" by {known['handled_by']}" if known and known["handled_by"] else ""


def _ms(milliseconds: float) -> str:
    return f"{milliseconds:,.0f} ms".rjust(8)


async def _send(gateway: str, members: dict[str, str], payload: str, wait: float, as_json: bool) -> int:
    from infra.cli import http
    from schemas.ids import event_id

    clock = asyncio.get_running_loop().time
    began = clock()

    def since() -> float:
        return (clock() - began) * 1000

    body = f'{json.dumps(members)[:-1]}, "payload": {payload}}}'.encode()
    answer = await http.request("POST", gateway + INGEST, body)
    said = answer.members
    if answer.status not in (200, 202):
        if as_json:
            show_json({"answer": "refused", "http_status": answer.status, **said})
        mine = event_id(members["source"], members["idempotency_key"])
        raise refusal(answer.status, said, str(mine), members["idempotency_key"])
    deferred = said.get("dedup") == "deferred"
    life = Life(said["event_id"], said["status"], deferred, since())
    life = await _follow(gateway, life, wait if life.answer == "accepted" else 0, since)
    if as_json:
        show_json({**members, **life.as_object()})
    else:
        for line in table(("what", "after", ""), lines(life))[1:]:
            show(line)
    if life.answer == "accepted" and wait and life.settled is None:
        raise Failure(
            f"The event is accepted and did not take effect within {wait:g} s ({life.status}).",
            cause="its handler asked for later" if life.status == "RETRYING" else "no worker has come to it yet",
            advice=f"plutus groups lag; plutus events show {life.event_id}",
            code=PARTLY,
            problem=Problem.NOT_SETTLED,
        )
    if life.answer == "accepted" and life.status == "FAILED":
        say(f"why and what to do: plutus events show {life.event_id}")
        return FAILED
    return DONE


async def _follow(gateway: str, life: Life, wait: float, since: Callable[[], float]) -> Life:
    """What becomes of it: asked once, and then again and again while there is time and it is not settled."""
    from infra.cli import http

    pause, told = _FIRST_POLL, False
    deadline = life.answered + wait * 1000
    while True:
        known = None
        with suppress(Failure):  # it is accepted, whatever becomes of our questions
            answer = await http.request("GET", f"{gateway}{EVENTS}/{life.event_id}")
            known = answer.members if answer.status == 200 else None
        settled = since() if known is not None and known["status"] in _SETTLED else None
        life = Life(life.event_id, life.answer, life.deferred, life.answered, known or life.known, settled)
        if life.status == "RETRYING" and not told:
            told = True
            say("it asked for later: waiting for the next attempt")
        if settled is not None or since() >= deadline:
            return life
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, _LONGEST_POLL)


def refusal(status: int, said: dict[str, Any], event_id: str, key: str) -> Failure:
    """Why the gateway did not take the event, and what to do about it.

    Args:
        said: its problem document.
    """
    code = said.get("code", "")
    fields = [f"{each['pointer']}: {each['detail']}" for each in said.get("errors", [])]
    what = f"The gateway answered {status}{f' {code}' if code else ''}: {said.get('title', 'no problem document')}."
    cause = " ".join(fields or [said.get("detail", "")])
    if status in _TRY_AGAIN:
        again = f"send it again with --key {key}: it takes effect once, whatever became of the first"
        return Failure(what, cause=cause, advice=again, code=UNREACHABLE, problem=Problem.GATEWAY_REFUSED)
    if code == "idempotency_conflict":
        advice = f"another --key for this payload; plutus events show {event_id} --payload shows the one that has it"
    else:
        advice = "mend what the cause names, and send it again"
    return Failure(what, cause=cause, advice=advice, code=FAILED, problem=Problem.GATEWAY_REFUSED)


def payload_of(given: str) -> str:
    """The text of the payload, as it was given: its digits stay as they are.

    Raises:
        Failure: there is no such file, or it is no JSON.
    """
    try:
        if given == "-":
            text = sys.stdin.read()
        else:
            text = Path(given[1:]).read_text(encoding="utf-8") if given.startswith("@") else given
        json.loads(text)
    except OSError as error:
        raise Failure(f"{given[1:]} cannot be read.", cause=error.strerror or "", code=USAGE) from None
    except ValueError:
        raise Failure(
            "The payload is no JSON.", advice="""quote it for the shell: plutus send '{"amount": 100}'""", code=USAGE
        ) from None
    return text


def _new_key() -> str:
    import uuid

    return str(uuid.uuid4())


def _gateway(given: str | None) -> str:
    """The gateway's base URL: the one given, PLUTUS_GATEWAY, or that of the system in PLUTUS_HOME."""
    from infra.cli.connect import gateway_url

    return gateway_url(given)
