"""HTTP routes behind the gate of an attached route: what those of every protocol share."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, TypeAlias

from aiohttp import web

from langgraph_ws.codec import dumps
from langgraph_ws.commands import Identity
from langgraph_ws.connection import Timing
from langgraph_ws.errors import ErrorCode, LogClosed, LogFailed, RequestError, refused_by
from langgraph_ws.event_stream import EventStream
from langgraph_ws.gate import Gate
from langgraph_ws.runs import Runs
from langgraph_ws.session import Do, Session

__all__ = ["Handler", "Routes", "json_response"]

logger = logging.getLogger(__name__)

Handler: TypeAlias = Callable[[web.Request, Identity], Awaitable[web.StreamResponse]]

_KEPT = {"WWW-Authenticate", "Retry-After"}
"""The headers of a refusal that its answer keeps."""
_EVENTS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
}
_HTTP: dict[ErrorCode, int] = {
    "not_found": 404,
    "unknown_graph": 404,
    "no_checkpoint": 404,
    "forbidden": 403,
    "unauthorized": 401,
    "thread_busy": 409,
    "conflict": 409,
    "stale_interrupt": 409,
    "rate_limited": 429,
    "limit_exceeded": 429,
    "overloaded": 503,
    "draining": 503,
    "internal_error": 500,
}
"""The HTTP status of an error; what is not here is 422."""


class Routes(ABC):
    """HTTP routes that only those reach who may.

    Args:
        runs: What they work on.
        gate: Who may come in.
        limit: The largest body of a request, in bytes.
        timing: How long things may take.
        watch: Counts a stream among the connections of the route as long as the block lasts.
    """

    def __init__(
        self,
        runs: Runs,
        gate: Gate,
        *,
        limit: int,
        timing: Timing,
        watch: Callable[[EventStream, str], AbstractContextManager[None]],
    ) -> None:
        self._runs = runs
        self._gate = gate
        self._limit = limit
        self._timing = timing
        self._watch = watch

    @abstractmethod
    def add_to(self, router: web.UrlDispatcher, path: str) -> None:
        """Add the routes to a router.

        Args:
            router: The router.
            path: The attached path.
        """

    @abstractmethod
    def _refused(self, error: RequestError) -> Any:
        """What the body of an answer says of an error."""

    def _add(self, router: web.UrlDispatcher, routes: Sequence[tuple[str, str, Handler]]) -> None:
        """Add routes, each as method, path and handler, and the preflights of browsers."""
        for method, route, handler in routes:
            router.add_route(method, route, self._guarded(handler))
        for route in sorted({route for _, route, _ in routes}):
            router.add_route("OPTIONS", route, partial(self._answer, self._preflight))

    # -- who may ----------------------------------------------------------------------------

    def _guarded(self, handler: Handler) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """The handler behind the gate; what is refused is told as JSON."""

        async def guarded(request: web.Request) -> web.StreamResponse:
            self._gate.admit(request)
            with self._gate.take(request) as place:
                identity = await self._gate.identify_at_once(request)
                self._gate.claim(place, identity)
                return await handler(request, identity)

        return partial(self._answer, guarded)

    async def _answer(
        self,
        handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
        request: web.Request,
    ) -> web.StreamResponse:
        """What the handler answers, or why it refuses, for pages of other origins to read too."""
        try:
            response = await handler(request)
        except RequestError as error:
            response = json_response(self._refused(error), _HTTP.get(error.code, 422))
        except (LogClosed, LogFailed) as error:
            logger.warning("a request could not be carried out: %s", error)
            response = json_response(self._refused(refused_by(error)), 503)
            response.headers["Retry-After"] = "5"
        except web.HTTPException as refusal:
            response = json_response(
                {"detail": (refusal.text or refusal.reason).strip()}, refusal.status
            )
            for name in _KEPT & refusal.headers.keys():
                response.headers[name] = refusal.headers[name]
        if not response.prepared:
            response.headers.update(self._cors(request))
        return response

    async def _preflight(self, request: web.Request) -> web.Response:
        """Tell a browser whether a page of another origin may ask (Fetch, CORS preflight)."""
        self._gate.admit(request)
        headers = {"Access-Control-Allow-Methods": "GET, POST", "Access-Control-Max-Age": "600"}
        if asked := request.headers.get("Access-Control-Request-Headers"):
            headers["Access-Control-Allow-Headers"] = asked
        return web.Response(status=204, headers=headers)

    def _cors(self, request: web.Request) -> dict[str, str]:
        return self._gate.origins.shared_with(request)

    async def _body(self, request: web.Request) -> str:
        """The body of a request, as long as our own limit allows.

        The application's `client_max_size` holds for what it reads itself, not for this.

        Raises:
            web.HTTPRequestEntityTooLarge: It is longer.
            web.HTTPUnsupportedMediaType: It is compressed: a short one may stand for a long one.
        """
        if request.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
            raise web.HTTPUnsupportedMediaType(text="The body may not be compressed.\n")
        size = 0
        parts: list[bytes] = []
        async for part in request.content.iter_any():
            size += len(part)
            if size > self._limit:
                raise web.HTTPRequestEntityTooLarge(
                    max_size=self._limit,
                    actual_size=size,
                    text=f"The body is larger than {self._limit} bytes.\n",
                )
            parts.append(part)
        try:
            return b"".join(parts).decode()
        except UnicodeDecodeError:
            raise web.HTTPBadRequest(text="The body is not UTF-8.\n") from None

    async def _tell(
        self,
        request: web.Request,
        identity: Identity,
        session: Session,
        action: Do,
        began: float,
    ) -> web.StreamResponse:
        """Carry out what a session asks for, and answer with all that it has to say.

        Args:
            request: The request.
            identity: Who asks.
            session: Says it as server-sent events.
            action: What is to be carried out.
            began: When the request came, on the monotonic clock.
        """
        response = web.StreamResponse(headers=_EVENTS | self._cors(request))
        try:
            await response.prepare(request)
        except ConnectionError:  # the client has left again
            return response
        if request.transport is None:  # the same
            return response
        stream = EventStream(
            request.transport,
            response,
            session,
            self._runs,
            timing=self._timing,
            identity=identity,
        )
        self._runs.metrics.connection_opened(session.name, time.monotonic() - began)
        with self._watch(stream, session.name):
            await stream.run(action)
        return response


def json_response(value: Any, status: int = 200) -> web.Response:
    """A response of JSON, encoded or to be encoded."""
    body = value if isinstance(value, bytes) else dumps(value)
    return web.Response(body=body, status=status, content_type="application/json")
