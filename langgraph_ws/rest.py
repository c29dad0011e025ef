"""The HTTP routes that clients of LangGraph Platform call beside their WebSocket.

Threads come into being with their first run, as in every other protocol; nothing is created or
deleted here. What a client may see is decided by the same gate as for the WebSocket.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing, suppress
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, TypeVar
from uuid import uuid4

from aiohttp import web
from pydantic import field_validator
from pydantic_core import PydanticCustomError

from langgraph_ws.commands import (
    Answer,
    Attached,
    Command,
    Identity,
    ReadHistory,
    ReadState,
    ReadTree,
    RunInfo,
    StartRun,
)
from langgraph_ws.errors import InvalidRequest, RequestError
from langgraph_ws.frames import RunFinished
from langgraph_ws.protocols.langchain import LangChainSession
from langgraph_ws.protocols.langchain_commands import RunStart, Subscribe
from langgraph_ws.protocols.requests import MAX_INTEGER, Json, Model, parse, validated
from langgraph_ws.routes import Handler, Routes, json_response
from langgraph_ws.session import Do, Peer, Reply
from langgraph_ws.states import METADATA, describe_graph, read, run_times

__all__ = ["LangChainRoutes"]

_AnyModel = TypeVar("_AnyModel", bound=Model)

_SETTLE_S = 0.05
"""How long after the end of a run its cancellation is answered: clients up to 1.11 start the next
run at once, and would take an end that comes then for that of the next."""
_XRAY_DIGITS = 3
_END_S = 3_600.0
"""How long the end of a run is waited for."""
_STATUS = {
    "queued": "pending",
    "running": "running",
    "completed": "success",
    "interrupted": "interrupted",
    "cancelled": "interrupted",
}
"""LangGraph Platform's words for how a run stands; what is not here is an `error`."""
_THREAD_STATUS = {
    "queued": "busy",
    "running": "busy",
    "interrupted": "interrupted",
    "failed": "error",
}
"""LangGraph Platform's words for how a thread stands; what is not here is `idle`."""


class _History(Model):
    """The body of a request for the history of a thread."""

    limit: int = 10
    before: Any = None
    checkpoint: Json | None = None
    metadata: Json | None = None

    @field_validator("metadata")
    @classmethod
    def _searchable(cls, metadata: Json | None) -> Json | None:
        """Let nobody guess at what is not shown; names become part of an SQL query, besides."""
        for name, value in (metadata or {}).items():
            if name not in METADATA:
                raise PydanticCustomError(
                    "name", "expected only {known}", {"known": ", ".join(METADATA)}
                )
            if isinstance(value, int) and abs(value) > MAX_INTEGER:
                raise PydanticCustomError(
                    "number", "expected numbers up to {most}", {"most": MAX_INTEGER}
                )
        return metadata

    def command(self, thread_id: str) -> ReadHistory:
        if not 1 <= self.limit <= 1_000:
            raise InvalidRequest("limit", "expected a whole number from 1 to 1000")
        namespace = str((self.checkpoint or {}).get("checkpoint_ns") or "")
        return ReadHistory(
            thread_id=thread_id,
            limit=self.limit,
            before=_checkpoint_id(self.before),
            namespace=tuple(namespace.split("|")) if namespace else (),
            metadata=self.metadata,
        )


def _checkpoint_id(value: Any) -> str | None:
    """A checkpoint's id out of any of the forms that the clients know for it."""
    if isinstance(value, dict):
        within = value.get("configurable") or {}
        value = value.get("checkpoint_id") or (
            within.get("checkpoint_id") if isinstance(within, dict) else value
        )
    if value is None or isinstance(value, str):
        return value
    raise InvalidRequest("before", "expected a checkpoint id, or a config that holds one")


class LangChainRoutes(Routes):
    """The routes, below the attached path."""

    def add_to(self, router: web.UrlDispatcher, path: str) -> None:
        """Add the routes to a router."""
        base = path.rstrip("/")
        thread = f"{base}/threads/{{thread_id}}"
        run = f"{thread}/runs/{{run_id}}"
        routes: list[tuple[str, str, Handler]] = [
            ("POST", f"{thread}/commands", self._command),
            ("POST", f"{thread}/stream/events", self._stream),
            ("GET", f"{thread}/state", self._state),
            ("GET", f"{thread}/state/{{checkpoint_id}}", self._state),
            ("POST", f"{thread}/history", self._history),
            ("POST", f"{thread}/runs", self._start),
            ("GET", f"{thread}/runs", self._list_runs),
            ("GET", run, self._run),
            ("GET", f"{run}/join", self._join),
            ("POST", f"{run}/cancel", self._cancel),
            ("POST", f"{base}/threads", self._create_thread),
            ("GET", thread, self._thread),
            ("POST", f"{base}/assistants/search", self._search_assistants),
            ("GET", f"{base}/assistants/{{name}}", self._assistant),
            ("GET", f"{base}/assistants/{{name}}/graph", self._graph),
            ("GET", f"{base}/info", self._info),
            ("GET", f"{base}/ok", self._ok),
        ]
        self._add(router, routes)

    def _refused(self, error: RequestError) -> Json:
        return {"detail": str(error)}

    # -- what is asked for and answered ----------------------------------------------------

    async def _object(self, request: web.Request) -> Json:
        """The JSON object in the body of a request; an empty body is an empty one.

        Raises:
            web.HTTPException: It is too large, or something else.
        """
        text = await self._body(request)
        try:
            return parse(text) if text.strip() else {}
        except RequestError as error:
            raise web.HTTPBadRequest(text=error.message) from None

    # -- commands and streams ---------------------------------------------------------------

    def _session(
        self, request: web.Request, *, streams: bool = False, server_sent: bool = False
    ) -> LangChainSession:
        peer = Peer(dict(request.match_info), request.headers.get("User-Agent", ""))
        return LangChainSession(peer, expose_state=True, streams=streams, server_sent=server_sent)

    async def _command(self, request: web.Request, identity: Identity) -> web.Response:
        """Carry out one command; errors of the protocol are answers like any other."""
        text = await self._body(request)
        try:
            message = parse(text)
        except RequestError as error:
            raise web.HTTPBadRequest(text=error.message) from None
        session = self._session(request)
        [action] = session.receive(text)
        if isinstance(action, Reply):
            return json_response(action.data, 200 if {"id", "method"} <= message.keys() else 400)
        assert isinstance(action, Do), "one message is not too many"
        try:
            outcome: Answer | RequestError = await self._carry_out(identity, action.command)
        except RequestError as error:
            outcome = error
        return json_response(b"".join(session.done(action.token, outcome)))

    async def _carry_out(self, identity: Identity, command: Command) -> Answer:
        match command:
            case StartRun():
                return Attached(info=await self._runs.start(identity, command))
            case ReadState() | ReadHistory() | ReadTree():
                return await read(self._runs, identity, command)
            case _:
                raise AssertionError("the session has refused it")

    async def _stream(self, request: web.Request, identity: Identity) -> web.StreamResponse:
        """Tell of a thread without end, as server-sent events."""
        began = time.monotonic()
        subscribe = await self._checked(request, Subscribe)
        self._runs.key(identity, request.match_info["thread_id"])  # refused before it begins
        session = self._session(request, streams=True, server_sent=True)
        return await self._tell(request, identity, session, session.subscribe(subscribe), began)

    async def _checked(self, request: web.Request, model: type[_AnyModel]) -> _AnyModel:
        try:
            return validated(model, await self._object(request))
        except InvalidRequest as error:
            raise web.HTTPBadRequest(text=f"{error.field}: {error.message}") from None

    # -- state ------------------------------------------------------------------------------

    async def _state(self, request: web.Request, identity: Identity) -> web.Response:
        wanted = ReadState(
            thread_id=request.match_info["thread_id"],
            checkpoint_id=request.match_info.get("checkpoint_id"),
            subgraphs=request.query.get("subgraphs", "").lower() in ("1", "true"),
        )
        return json_response((await read(self._runs, identity, wanted)).value)

    async def _history(self, request: web.Request, identity: Identity) -> web.Response:
        wanted = await self._checked(request, _History)
        command = wanted.command(request.match_info["thread_id"])
        return json_response((await read(self._runs, identity, command)).value)

    # -- runs -------------------------------------------------------------------------------

    async def _start(self, request: web.Request, identity: Identity) -> web.Response:
        start = await self._checked(request, RunStart)
        command = start.command(request.match_info["thread_id"])
        assert isinstance(command, StartRun)
        info = await self._runs.start(identity, command)
        return json_response(await self._run_json(identity, info))

    async def _list_runs(self, request: web.Request, identity: Identity) -> web.Response:
        thread_id = request.match_info["thread_id"]
        infos = await self._runs.of_thread(identity, thread_id)
        return json_response([await self._run_json(identity, info) for info in infos])

    async def _run(self, request: web.Request, identity: Identity) -> web.Response:
        return json_response(await self._run_json(identity, await self._info_of(request, identity)))

    async def _info_of(self, request: web.Request, identity: Identity) -> RunInfo:
        where = request.match_info
        return await self._runs.info(identity, where["thread_id"], where["run_id"])

    async def _run_json(self, identity: Identity, info: RunInfo) -> Json:
        began, ended = await run_times(self._runs, identity, info)
        return {
            "run_id": info.run_id,
            "thread_id": info.thread_id,
            "assistant_id": info.graph,
            "status": _STATUS.get(info.status, "error"),
            "created_at": began,
            "updated_at": ended or began,
            "metadata": {},
            "kwargs": {},
            "multitask_strategy": self._runs.multitask_strategy,
        }

    async def _join(self, request: web.Request, identity: Identity) -> web.Response:
        """Wait for the end of a run, and give the state that it came to."""
        info = await self._info_of(request, identity)
        await self._end_of(identity, info)
        wanted = ReadState(thread_id=info.thread_id)
        return json_response((await read(self._runs, identity, wanted)).value["values"])

    async def _cancel(self, request: web.Request, identity: Identity) -> web.Response:
        """Stop a run, and answer when it has ended."""
        action = request.query.get("action", "interrupt")
        if action != "interrupt":
            raise InvalidRequest("action", f"expected interrupt, got {action!r}")
        info = await self._info_of(request, identity)
        if info.status in ("running", "queued"):
            with suppress(RequestError):  # it has ended by itself meanwhile
                await self._runs.cancel(identity, info.thread_id, info.run_id)
            await self._end_of(identity, info)
            await asyncio.sleep(_SETTLE_S)
        return web.Response(status=202)

    async def _end_of(self, identity: Identity, info: RunInfo) -> None:
        """Wait for the end of a run."""
        if info.status not in ("running", "queued"):
            return
        entries = self._runs.entries(identity, run_id=info.run_id, thread_id=info.thread_id)
        async with aclosing(entries), asyncio.timeout(_END_S):
            async for entry in entries:
                if isinstance(entry.frame, RunFinished):
                    return

    # -- threads and assistants -------------------------------------------------------------

    async def _create_thread(self, request: web.Request, identity: Identity) -> web.Response:
        """Name a thread; it comes into being with its first run."""
        body = await self._object(request)
        thread_id = body.get("thread_id") or str(uuid4())
        self._runs.key(identity, thread_id)
        return json_response(_thread_json(thread_id, "idle", {}))

    async def _thread(self, request: web.Request, identity: Identity) -> web.Response:
        thread_id = request.match_info["thread_id"]
        state = await read(self._runs, identity, ReadState(thread_id=thread_id))
        info = await self._runs.info(identity, thread_id, None)
        status = _THREAD_STATUS.get(info.status, "idle")
        return json_response(_thread_json(thread_id, status, state.value["values"]))

    async def _search_assistants(self, request: web.Request, identity: Identity) -> web.Response:
        del identity
        wanted = (await self._object(request)).get("graph_id")
        names = self._runs.graphs.names
        return json_response([_assistant_json(name) for name in names if wanted in (None, name)])

    async def _assistant(self, request: web.Request, identity: Identity) -> web.Response:
        del identity
        return json_response(_assistant_json(self._runs.graphs.choose(request.match_info["name"])))

    async def _graph(self, request: web.Request, identity: Identity) -> web.Response:
        name, xray = request.match_info["name"], request.query.get("xray", "").lower()
        levels = int(xray[:_XRAY_DIGITS]) if xray.isdecimal() else xray == "true"
        return json_response(await describe_graph(self._runs, identity, name, xray=levels))

    async def _info(self, request: web.Request, identity: Identity) -> web.Response:
        del request, identity
        versions = {name: version(name) for name in ("langgraph-ws", "langgraph")}
        return json_response(
            {
                "version": versions["langgraph-ws"],
                "langgraph_py_version": versions["langgraph"],
                "flags": {"assistants": True, "crons": False},
            }
        )

    async def _ok(self, request: web.Request, identity: Identity) -> web.Response:
        del request, identity
        return json_response({"ok": True})


def _thread_json(thread_id: str, status: str, values: Any) -> Json:
    now = datetime.now(UTC).isoformat()
    return {
        "thread_id": thread_id,
        "status": status,
        "values": values,
        "metadata": {},
        "created_at": now,
        "updated_at": now,
        "interrupts": {},
        "config": {},
    }


def _assistant_json(name: str) -> Json:
    return {
        "assistant_id": name,
        "graph_id": name,
        "name": name,
        "version": 1,
        "config": {},
        "context": {},
        "metadata": {},
        "description": None,
        "created_at": _BEGAN,
        "updated_at": _BEGAN,
    }


_BEGAN = datetime.now(UTC).isoformat()
