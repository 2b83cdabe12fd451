"""The FastAPI application behind the shell: everything that is not a hot path. Every error is a problem document."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException

from ingest_gateway import docs_page, openapi
from ingest_gateway.control import ScrapeFailed
from ingest_gateway.events import EventStatus, StatusUnavailable
from ingest_gateway.head import Head
from ingest_gateway.health import Check, examine
from ingest_gateway.metrics import version
from ingest_gateway.problems import Answer, Kind, encoded, problem, rejected
from ingest_gateway.senders import Identify
from ingest_gateway.sums import CONTENT_TYPE
from schemas.errors import Rejected
from schemas.limits import Limits

_RETRY = 2


def web(
    status: EventStatus,
    checks: list[Check],
    scrape: Callable[[], Awaitable[bytes]],
    limits: Limits,
    identify: Identify | None = None,
) -> FastAPI:
    """The application.

    Args:
        status: reads events. checks: what readiness needs. scrape: the metrics page. limits: shown in the description.
        identify: who asks for an event, which is shown to those who may write its source; None: to everybody.
    """
    app = FastAPI(
        title="Plutus",
        version=version(),
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        default_response_class=Response,
    )

    @app.get(
        "/api/v1/events/{event_id}",
        summary="What became of an event: RECEIVED, RETRYING, PROCESSED or FAILED.",
        responses={
            200: {"content": {"application/json": {"schema": _STATUS}}},
            401: openapi.problem_response(Kind.UNAUTHENTICATED),
            404: openapi.problem_response(Kind.NOT_FOUND),
            503: openapi.problem_response(Kind.DATABASE_UNAVAILABLE, retry=True),
        },
    )
    async def event(event_id: str, request: Request) -> Response:
        found = None
        try:
            grant = None if identify is None else identify(Head(request.scope["path"], request.scope["headers"]))
            one = UUID(event_id)
            found = (await status.find([one])).get(one)
        except ValueError:
            pass
        except Rejected as error:
            return _response(rejected(error))
        except StatusUnavailable:
            return _response(
                problem(Kind.DATABASE_UNAVAILABLE, "The status cannot be read now. Ask again.", retry_after=_RETRY)
            )
        # Until a worker has stored it, its source is not known, and no more is told of it than that it is there.
        hidden = found is not None and found.source is not None and grant is not None and not grant.covers(found.source)
        if found is None or hidden:
            return _response(problem(Kind.NOT_FOUND, "No event with this id has been remembered."))
        return _json(200, found.status)

    @app.get("/docs", include_in_schema=False)
    async def documentation() -> Response:
        return Response(docs_page.page(app.openapi()), media_type="text/html")

    @app.get("/healthz", summary="Is the process alive.")
    async def healthz() -> Response:
        return _json(200, {"status": "alive"})

    @app.get("/readyz", summary="Would an event sent now be accepted.", responses={503: {"description": "Not now."}})
    async def readyz() -> Response:
        found = await examine(checks)
        ready = all(one.ok for one in found)
        return _json(
            200 if ready else 503,
            {"status": "ready" if ready else "not_ready", "checks": [one._asdict() for one in found]},
        )

    @app.get("/metrics", summary="Prometheus metrics of the whole gateway.")
    async def metrics() -> Response:
        try:
            return Response(await scrape(), media_type=CONTENT_TYPE)
        except ScrapeFailed:
            return _response(problem(Kind.INTERNAL_ERROR, "The metrics could not be added up in time."))

    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _crashed)
    # Made once: it takes milliseconds, and anybody may ask for it as often as they like.
    app.openapi = functools.cache(  # type: ignore[method-assign]
        lambda: openapi.describe(get_openapi(title=app.title, version=app.version, routes=app.routes), limits)
    )
    return app


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    headers = [(name.lower().encode(), value.encode()) for name, value in (error.headers or {}).items()]
    if error.status_code == 405:
        return _response(problem(Kind.METHOD_NOT_ALLOWED, "This path does not take this method.", headers=headers))
    if error.status_code == 404:
        return _response(problem(Kind.NOT_FOUND, "There is nothing at this path.", headers=headers))
    return _response(problem(Kind.MALFORMED, "The request cannot be served.", headers=headers))


async def _invalid(_: Request, __: Exception) -> Response:
    return _response(problem(Kind.MALFORMED, "A parameter of the request breaks its rule."))


async def _crashed(_: Request, __: Exception) -> Response:
    return _response(problem(Kind.INTERNAL_ERROR, "The gateway failed."))


def _response(answer: Answer) -> Response:
    headers = {name.decode(): value.decode() for name, value in answer.headers}
    return Response(answer.body, answer.status, headers)


def _json(status: int, members: dict[str, Any]) -> Response:
    return _response(encoded(status, orjson.dumps(members), media_type=b"application/json"))


_STATUS: dict[str, Any] = {
    "type": "object",
    "required": ["event_id", "status", "received_at"],
    "properties": {
        "event_id": {"type": "string", "format": "uuid"},
        "status": {"enum": ["RECEIVED", "RETRYING", "PROCESSED", "FAILED"]},
        "received_at": {"type": "string", "format": "date-time"},
        "partition": {"type": "integer", "description": "Of the record that created the event, in the events topic."},
        "offset": {"type": "integer", "description": "Of the same record."},
        "processed_at": {"type": ["string", "null"], "format": "date-time"},
        "attempts": {"type": "integer"},
        "handled_by": {"type": ["string", "null"]},
        "reason": {"type": ["string", "null"], "description": "Why it failed."},
        "step": {"type": ["string", "null"], "description": "Where it failed."},
    },
}
