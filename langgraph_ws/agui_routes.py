"""The HTTP route of AG-UI: one POST for each run, answered with its events (`HttpAgent`)."""

from __future__ import annotations

import time
from typing import Any

from aiohttp import web

from langgraph_ws.commands import Identity
from langgraph_ws.errors import RequestError
from langgraph_ws.protocols.agui import AGUISession, error_event
from langgraph_ws.protocols.agui_requests import RunInput
from langgraph_ws.protocols.requests import parse, validated
from langgraph_ws.routes import Routes
from langgraph_ws.session import Peer

__all__ = ["AGUIRoutes"]


class AGUIRoutes(Routes):
    """The route, at the path of the WebSocket; errors are told as the event of a failed run."""

    def add_to(self, router: web.UrlDispatcher, path: str) -> None:
        """Add the route to a router."""
        at = f"{path.rstrip('/')}{AGUISession.route}"
        self._add(router, [("POST", at, self._run)])

    def _refused(self, error: RequestError) -> Any:
        return error_event(error)

    async def _run(self, request: web.Request, identity: Identity) -> web.StreamResponse:
        """Start a run, or come back to it, and tell of it to its end."""
        began = time.monotonic()
        wanted = validated(RunInput, parse(await self._body(request)))
        self._runs.key(identity, wanted.thread_id)  # refused before it begins
        session = AGUISession(
            Peer(user_agent=request.headers.get("User-Agent", "")),
            expose_state=self._runs.expose_state,
            server_sent=True,
        )
        return await self._tell(request, identity, session, session.ask(wanted), began)
