"""The paths of the gateway, and the shell around every request.

The hot paths are plain ASGI in front of the FastAPI application, which costs a third of a FastAPI route and is documented in
`openapi.py` all the same. A way in is a reader (`intake.py`) entered here by its path.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol

from infra.runtime import log
from ingest_gateway.bulk import is_batch
from ingest_gateway.head import Head, Scope, read_head
from ingest_gateway.intake import Disconnected, Endpoint, Receive, Reply
from ingest_gateway.problems import Answer, Kind, problem, rejected
from schemas.errors import Rejected

INGEST: Final = "/api/v1/ingest"
BATCH: Final = "/api/v1/ingest/batch"
WEBHOOKS: Final = "/api/v1/webhooks/"

Send = Callable[[Any], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_CLOSE: Final = (b"connection", b"close")

_LOG = log.get(__name__)


class ShortCut(Protocol):
    """A quicker way through an endpoint, for requests that are there as a whole."""

    def wants(self, head: Head) -> bool:
        """Whether it takes such a request now."""

    def serve(self, head: Head, body: bytes, reply: Reply) -> bool:
        """Serve what it wanted; `reply` is called once, now or later. False: not any more."""


class Shell:
    """The outermost application: rules for every request, then the endpoints by exact path, then everything else.

    Args:
        endpoints: path -> endpoint; these take POST alone. A path that ends in / stands for all paths one level below it.
        app: serves every other path.
        draining: says whether connections should be given back.
        short_cuts: path -> the short cut of an endpoint.
    """

    def __init__(
        self,
        endpoints: Mapping[str, Endpoint],
        app: App,
        draining: Callable[[], bool],
        short_cuts: Mapping[str, ShortCut] | None = None,
    ) -> None:
        self._endpoints = endpoints
        self._app = app
        self._draining = draining
        self._short_cuts = short_cuts or {}

    def wants(self, head: Head) -> bool:
        """Whether `serve` may take a POST with this head, once its body is there."""
        short_cut = self._short_cuts.get(head.path)
        return short_cut is not None and short_cut.wants(head)

    def serve(self, head: Head, body: bytes, reply: Callable[[Answer, bool], None]) -> bool:
        """Serve a POST that is there as a whole without a task; False: not after all, call the application.

        Args:
            reply: called once with the answer, and whether the connection is to be closed after it.
        """
        try:
            return self._short_cuts[head.path].serve(head, body, lambda answer: self._reply(answer, reply))
        except Exception as error:
            reply(_crashed(error), self._draining())
            return True

    def _reply(self, answer: Answer, reply: Callable[[Answer, bool], None]) -> None:
        reply(answer, answer.status == 413 or self._draining())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            head = read_head(scope)
        except Rejected as error:
            await reply(send, rejected(error), close=True)
            return
        path = scope["path"]
        endpoint = self._endpoints.get(path) or self._endpoints.get(path[: path.rfind("/") + 1])
        if endpoint is None:
            await self._app(scope, receive, send)
        elif scope["method"] != "POST":
            allow = [(b"allow", b"POST")]
            await reply(send, problem(Kind.METHOD_NOT_ALLOWED, "This path takes POST.", headers=allow))
        else:
            try:
                answer = await endpoint(head, receive)
            except Disconnected:
                return
            except Exception as error:
                answer = _crashed(error)
            # What was refused unread is still on its way: closing spares reading it.
            await reply(send, answer, close=answer.status == 413 or self._draining())


def single_or_batch(single: Endpoint, batch: Endpoint) -> Endpoint:
    """CloudEvents clients send all three modes to one path: there a batch of them is a batch."""

    def choose(head: Head, receive: Receive) -> Awaitable[Answer]:
        return (batch if is_batch(head.content_type) else single)(head, receive)

    return choose


def _crashed(error: Exception) -> Answer:
    """The one edge where an unforeseen error becomes an answer: nothing of it reaches the client."""
    _LOG.error("A request failed in a way it must not.", action="request_crashed", exc_info=error)
    return problem(Kind.INTERNAL_ERROR, "The gateway failed. Send the event again with the same key.")


async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
    """The application where there is nothing: the answer to whatever is no way in."""
    await reply(send, problem(Kind.NOT_FOUND, "There is nothing at this path."))


async def reply(send: Send, answer: Answer, *, close: bool = False) -> None:
    """Send a whole answer; `close`: and then close the connection."""
    headers = [*answer.headers, _CLOSE] if close else answer.headers
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
