"""The application behind the shell, without a database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast
from uuid import UUID, uuid4

import httpx

from infra.runtime.api_keys import Grant, digest
from ingest_gateway.events import EventStatus, Found, StatusUnavailable
from ingest_gateway.senders import Identify, bearer
from ingest_gateway.web import web
from schemas.limits import EDGE

OURS, THEIRS, WAITING = uuid4(), uuid4(), uuid4()


class Events:
    """Three events; one is not stored yet."""

    def __init__(self) -> None:
        self.down = False

    async def find(self, ids: Sequence[UUID]) -> dict[UUID, Found]:
        """Those of them that are known."""
        if self.down:
            raise StatusUnavailable
        known = {
            OURS: Found("shop", {"status": "PROCESSED"}),
            THEIRS: Found("till", {"status": "PROCESSED"}),
            WAITING: Found(None, {"status": "RECEIVED"}),
        }
        return {one: known[one] for one in ids if one in known}


@asynccontextmanager
async def client(identify: Identify | None = None, events: Events | None = None) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the application."""

    async def scrape() -> bytes:
        return b""

    app = web(cast(EventStatus, events or Events()), [], scrape, EDGE, identify)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(cast(Any, app)), base_url="http://g") as http:
        yield http


def path(event_id: object) -> str:
    """Of its status."""
    return f"/api/v1/events/{event_id}"


async def test_an_event_is_shown_to_those_who_may_write_its_source() -> None:
    grants = {digest(b"k"): Grant("shop", frozenset({"shop"})), digest(b"a"): Grant("all", frozenset({"*"}))}
    async with client(bearer(lambda: grants)) as http:
        for key, shown in (("k", {OURS: 200, THEIRS: 404, WAITING: 200}), ("a", {OURS: 200, THEIRS: 200})):
            for one, status in shown.items():
                found = await http.get(path(one), headers={"authorization": f"Bearer {key}"})
                assert found.status_code == status, (key, one)
        hidden = await http.get(path(THEIRS), headers={"authorization": "Bearer k"})
        unknown = await http.get(path(uuid4()), headers={"authorization": "Bearer k"})
        assert hidden.json() == unknown.json()
        for headers in ({}, {"authorization": "Bearer guessed"}):
            refused = await http.get(path(OURS), headers=headers)
            assert (refused.status_code, refused.json()["code"]) == (401, "unauthenticated")
            assert refused.headers["www-authenticate"] == 'Bearer realm="plutus"'
        assert (await http.get("/healthz")).status_code == 200


async def test_without_keys_everybody_is_shown_every_event() -> None:
    async with client() as http:
        assert (await http.get(path(THEIRS))).json() == {"status": "PROCESSED"}
        assert (await http.get(path("no-id"))).status_code == 404
        assert (await http.get(path(uuid4()))).status_code == 404


async def test_a_database_that_is_away_is_told() -> None:
    events = Events()
    events.down = True
    async with client(events=events) as http:
        away = await http.get(path(OURS))
    assert (away.status_code, away.json()["code"], away.headers["retry-after"]) == (503, "database_unavailable", "2")
