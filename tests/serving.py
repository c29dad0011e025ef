"""A graph on a route, on a free port, and a client that knows nothing but PROTOCOL.md."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson
from aiohttp import web
from aiohttp.test_utils import TestServer

from langgraph_ws import Attachment, attach_websocket

HELLO = [{"role": "user", "content": "hello"}]


class Client:
    """One connection."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        self.ws = ws

    async def send(self, kind: str, **fields: Any) -> None:
        await self.ws.send_str(orjson.dumps({"type": kind, **fields}).decode())

    async def receive(self) -> dict[str, Any]:
        message: dict[str, Any] = orjson.loads(await self.ws.receive_str())
        return message

    async def until(self, kind: str) -> list[dict[str, Any]]:
        """All messages to the next one of this type, which is the last."""
        messages = [await self.receive()]
        while messages[-1]["type"] != kind:
            messages.append(await self.receive())
        return messages

    async def the(self, kind: str) -> dict[str, Any]:
        """The next message of this type, whatever comes before."""
        return (await self.until(kind))[-1]

    async def closed(self) -> int:
        """The code that the server closes with, whatever comes before."""
        async for _ in self.ws:
            pass
        assert self.ws.close_code is not None
        return self.ws.close_code


@dataclass(frozen=True)
class Site:
    """A served route."""

    port: int
    attachment: Attachment
    session: aiohttp.ClientSession
    app: web.Application
    path: str = "/ws"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{self.path}"

    @asynccontextmanager
    async def connect(self, path: str | None = None, **options: Any) -> AsyncIterator[Client]:
        url = self.url if path is None else f"http://127.0.0.1:{self.port}{path}"
        async with self.session.ws_connect(url, **options) as ws:
            yield Client(ws)

    async def refused(self, headers: Mapping[str, str] | None = None, **options: Any) -> int:
        """The HTTP status that an upgrade is refused with; 101 when it is not."""
        try:
            async with self.session.ws_connect(self.url, headers=headers, **options):
                return 101
        except aiohttp.WSServerHandshakeError as error:
            return error.status


@asynccontextmanager
async def running(app: web.Application) -> AsyncIterator[tuple[int, aiohttp.ClientSession]]:
    """The application on a free port, and a session to talk to it."""
    async with (
        TestServer(app, host="127.0.0.1") as server,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
    ):
        assert server.port is not None
        yield server.port, session


@asynccontextmanager
async def serving(graph: Any, **options: Any) -> AsyncIterator[Site]:
    """A graph attached to an application of its own."""
    app = web.Application()
    attachment = attach_websocket(app, graph, **options)
    async with running(app) as (port, session):
        yield Site(port, attachment, session, app, attachment.path)
