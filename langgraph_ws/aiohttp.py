"""A graph on a WebSocket route of an aiohttp application: `attach_websocket`."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from aiohttp import web

from langgraph_ws.agui_routes import AGUIRoutes
from langgraph_ws.commands import ANONYMOUS, Identity, MultitaskStrategy, RunInfo, StartRun
from langgraph_ws.connection import Connection, Timing
from langgraph_ws.errors import ConfigurationError
from langgraph_ws.event_stream import EventStream
from langgraph_ws.gate import ForeignOrigin, Gate
from langgraph_ws.graphs import Graphs
from langgraph_ws.handshake import (
    Authorize,
    AuthorizeToken,
    OriginCheck,
    Place,
    choose_session,
    is_upgrade,
    require_upgrade,
)
from langgraph_ws.limits import Limits
from langgraph_ws.log.memory import MemoryThreadLog
from langgraph_ws.mapping import ChatMapper, Mapper
from langgraph_ws.metrics import Metrics, Refusal
from langgraph_ws.playground import Playground
from langgraph_ws.protocols import PROTOCOLS
from langgraph_ws.protocols.agui import AGUISession
from langgraph_ws.protocols.langchain import LangChainSession
from langgraph_ws.rest import LangChainRoutes
from langgraph_ws.routes import Routes
from langgraph_ws.runs import Runs
from langgraph_ws.session import Peer

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig

    from langgraph_ws.graphs import GraphSource
    from langgraph_ws.log import Entry, Position, ThreadLog
    from langgraph_ws.run import OnCancel
    from langgraph_ws.runs import OnDisconnect, ThreadKey
    from langgraph_ws.session import Session

__all__ = ["ATTACHMENTS", "Attachment", "attach_websocket"]

logger = logging.getLogger(__name__)

_RESTART_SPREAD_MS = 5_000
"""Over how long clients are asked to spread their return after a restart."""
_SWEPT_AT_ONCE = 500
_BLOCKED_S = 1.0
"""From which lag on the event loop counts as blocked."""
_ROUTES: Mapping[str, type[Routes]] = {
    LangChainSession.name: LangChainRoutes,
    AGUISession.name: AGUIRoutes,
}
"""The HTTP routes of protocols that have some."""
_TRACE = ("traceparent", "tracestate")
"""The headers of W3C Trace Context."""
_REFUSALS: dict[int, Refusal] = {
    400: "subprotocol",
    401: "unauthorized",
    403: "forbidden",
    429: "too_many",
    503: "overloaded",
}


def attach_websocket(
    app: web.Application,
    graph: GraphSource,
    path: str = "/ws",
    *,
    protocols: Collection[str] = ("chat",),
    mapper: type[Mapper] = ChatMapper,
    log: ThreadLog | None = None,
    authorize: Authorize | None = None,
    authorize_token: AuthorizeToken | None = None,
    allowed_origins: Collection[str] = (),
    forwarded_headers: Collection[str] = (),
    thread_key: ThreadKey | None = None,
    allowed_options: Collection[str] = (),
    config: RunnableConfig | None = None,
    expose_state: bool = False,
    expose_output: bool = False,
    allow_state_updates: bool = False,
    multitask_strategy: MultitaskStrategy = "enqueue",
    on_disconnect: OnDisconnect = "continue",
    disconnect_grace: float = 0.0,
    on_cancel: OnCancel | None = None,
    durability: Literal["sync", "async", "exit"] | None = None,
    limits: Limits | None = None,
    heartbeat: float = 20.0,
    auth_timeout: float = 5.0,
    stall_timeout: float = 10.0,
    close_timeout: float = 2.0,
    drain_timeout: float = 20.0,
    merge_window: float = 0.025,
    compress: bool = False,
    debug: bool = False,
    metrics: Metrics | None = None,
    playground: bool | Sequence[str] = False,
) -> Attachment:
    """Put a graph on a WebSocket route of an application.

    Works on an application that is not running yet: an empty one, one with routes and middlewares,
    a sub-application; several times on one. The runs begin and end with the application.

    Args:
        app: The application.
        graph: A compiled graph, a mapping of names to graphs (the first is the default), or a
            factory that is called with the identity and returns a graph, an awaitable of one, or
            an async context manager of one.
        path: The route.
        protocols: The wire protocols to serve, by name; a client that asks for none gets the first.
        mapper: What makes frames of what the graph streams; each run gets a new one.
        log: Where frames are kept; None: in the memory of this process, for this route alone.
        authorize: Called with each request before it is upgraded. It returns who the client is,
            raises a `web.HTTPException` to refuse, or returns None where the request carries no
            credentials: then the client must send a token, or is refused with 401 if
            `authorize_token` is not set. It may be asynchronous.
        authorize_token: Called with the request and a token that the client sends in its first
            message, or later to renew an identity that expires. It returns whose token it is;
            None or a `web.HTTPException` closes with 4401. It may be asynchronous.
        allowed_origins: Origins whose pages may connect beside the server's own, each as
            `scheme://host[:port]`; `"null"` for pages without one, `"*"` for any page at all.
        forwarded_headers: Which of `X-Forwarded-Host`, `X-Forwarded-Proto` and `X-Forwarded-For`
            the proxy in front sets; only these count. The value nearest to the server is taken.
        thread_key: The key of an identity's thread in log and checkpointer, as a function of
            both; it may raise `PermissionError`. None: threads belong to their identity.
        allowed_options: The options of clients that reach the graph.
        config: What the config of every run starts from.
        expose_state: Whether clients may see the graph's state.
        expose_output: Whether they see the final state with the result.
        allow_state_updates: Whether they may send `update` and `goto` with an answer.
        multitask_strategy: What to do with a new run on a thread that has an active one, unless
            the client says: `enqueue`, `reject`, `interrupt` or `rollback`.
        on_disconnect: Whether a run whose last follower's connection ended goes on (`continue`)
            or is cancelled (`cancel`).
        disconnect_grace: Seconds until it is cancelled.
        on_cancel: Called (and awaited) with a `CancelledRun` before a cancelled run ends.
        durability: LangGraph's, for graphs with a checkpointer; None: `sync` where other processes
            can go on with a run, and LangGraph's default elsewhere.
        limits: How much may be used; None: `Limits()`.
        heartbeat: Seconds of silence after which something is sent: a ping when the client was
            silent, a message when the server was. A ping that half as long stays unanswered ends
            the connection.
        auth_timeout: Seconds in which the first message must bring a token, where one is needed.
        stall_timeout: Seconds after which a client that takes no byte of what waits for it is
            dropped.
        close_timeout: Seconds that closing a connection may take.
        drain_timeout: Seconds that runs get to reach their next superstep when the server stops.
        playground: Whether browsers that open the route see a page to talk to the graph with, or
            the messages that it offers to begin with. Its files lie below `{path}/playground/`;
            `authorize` holds for them too.
        merge_window: Seconds that a piece of text may wait for the next one, to go out with it as
            one message; 0: none waits. The first piece never does.
        compress: Whether messages are compressed for clients that offer it, as browsers do
            (permessage-deflate, RFC 7692). It makes little of `text` in full, and costs CPU and
            some 100 KB for each connection. Where a client can have its own words and somebody's
            secrets in one connection, sizes may tell of the secrets (CRIME).
        debug: Whether the texts of errors reach clients; for development.
        metrics: Who is told what happens, such as `OpenTelemetryMetrics()`; default: nobody.

    Returns:
        A handle to start, follow and cancel runs from the application.

    Raises:
        ConfigurationError: An argument is not what it may be.
    """
    _check_app(app, path)
    _check_numbers(
        heartbeat=heartbeat,
        auth_timeout=auth_timeout,
        stall_timeout=stall_timeout,
        close_timeout=close_timeout,
        drain_timeout=drain_timeout,
    )
    if not _is_number(merge_window) or merge_window < 0:
        raise ConfigurationError(f"merge_window: expected a number from 0, got {merge_window!r}")
    _check_callables(
        authorize=authorize,
        authorize_token=authorize_token,
        thread_key=thread_key,
        on_cancel=on_cancel,
    )
    limits = _check_limits(limits)
    if not _is_number(disconnect_grace) or disconnect_grace < 0:
        raise ConfigurationError(
            f"disconnect_grace: expected seconds, 0 or more, got {disconnect_grace!r}"
        )
    examples = _check_playground(playground)
    sessions = _check_protocols(protocols)
    attachment = Attachment(
        path,
        Runs(
            graph,
            log=MemoryThreadLog() if log is None else log,
            mapper=mapper,
            stream_state=any(session.shows_state for session in sessions.values()),
            limits=limits,
            config=config,
            allowed_options=allowed_options,
            thread_key=thread_key,
            multitask_strategy=multitask_strategy,
            on_disconnect=on_disconnect,
            disconnect_grace=disconnect_grace,
            on_cancel=on_cancel,
            durability=durability,
            expose_state=expose_state,
            expose_output=expose_output,
            allow_state_updates=allow_state_updates,
            merge_window=merge_window,
            debug=debug,
            metrics=metrics,
        ),
        sessions=sessions,
        gate=Gate(
            origins=OriginCheck(allowed_origins, forwarded_headers),
            authorize=authorize,
            authorize_token=authorize_token,
            limits=limits,
        ),
        expose_state=expose_state,
        limits=limits,
        timing=Timing(
            heartbeat=heartbeat, auth=auth_timeout, stall=stall_timeout, close=close_timeout
        ),
        drain_timeout=drain_timeout,
        compress=compress,
        playground=None if examples is None else Playground(Graphs(graph), examples),
    )
    if examples is not None:
        app.router.add_get(f"{path.rstrip('/')}/playground/{{name}}", attachment.handle_playground)
    app.router.add_get(path, attachment.handle)
    for session in sessions.values():
        if session.route:
            at = f"{path.rstrip('/')}{session.route}"
            app.router.add_get(at, partial(attachment.handle_at, session))
    for name, routes in _ROUTES.items():
        if name in sessions:
            attachment.routes(routes).add_to(app.router, path)
    app.cleanup_ctx.append(attachment.lifespan)
    app.on_shutdown.append(attachment.on_shutdown)
    app.setdefault(ATTACHMENTS, {})[path] = attachment
    return attachment


class Attachment:
    """A graph on a route; made by `attach_websocket`.

    Attributes:
        path: The route, within its application.
        runs: The runs of the route.
    """

    def __init__(
        self,
        path: str,
        runs: Runs,
        *,
        sessions: Mapping[str, type[Session]],
        gate: Gate,
        expose_state: bool,
        limits: Limits,
        timing: Timing,
        drain_timeout: float,
        compress: bool,
        playground: Playground | None,
    ) -> None:
        self.path = path
        self.runs = runs
        self._sessions = {name: session for name, session in sessions.items() if not session.route}
        self._gate = gate
        self._expose_state = expose_state
        self._limits = limits
        self._timing = timing
        self._drain_timeout = drain_timeout
        self._compress = compress
        self._playground = playground
        self._connections: set[Connection | EventStream] = set()
        self._draining: asyncio.Task[None] | None = None

    # -- for the application ----------------------------------------------------------------

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._connections)

    async def start(
        self,
        *,
        messages: Sequence[Mapping[str, Any]] | None = None,
        input: Any = None,  # noqa: A002 - the name that it has in LangGraph
        answers: Mapping[str, Any] | None = None,
        thread_id: str | None = None,
        run_id: str | None = None,
        graph: str | None = None,
        checkpoint_id: str | None = None,
        options: Mapping[str, Any] | None = None,
        multitask_strategy: MultitaskStrategy | None = None,
        identity: Identity = ANONYMOUS,
    ) -> RunInfo:
        """Start a run; clients that follow its thread see it like one of their own.

        With none of `messages`, `input` and `answers` the thread goes on from its checkpoint.

        Args:
            messages: The turn, each message as `{role, content, …}`.
            input: The graph's input as it is, instead of messages.
            answers: Answers by interrupt id.
            thread_id: The thread; None: a new one.
            run_id: The run's id; None: a new one. One that exists is not started again.
            graph: Which graph; None: the thread's own, or the first.
            checkpoint_id: The checkpoint to go on from; None: the newest.
            options: What a client would have asked to be passed to the graph, before the allowlist.
            multitask_strategy: None: the route's default.
            identity: Whose thread it is.

        Returns:
            How the run stands.

        Raises:
            ConfigurationError: More than one of `messages`, `input` and `answers` is given.
            RequestError: The run cannot be started.
        """
        if sum(given is not None for given in (messages, input, answers)) > 1:
            raise ConfigurationError("messages, input, answers: expected at most one of them")
        _check_turn(messages, answers, options, identity)
        request = StartRun(
            kind=_kind(messages, input, answers),
            thread_id=thread_id,
            run_id=run_id,
            graph=graph,
            messages=None if messages is None else tuple(dict(message) for message in messages),
            input=input,
            answers=answers,
            checkpoint_id=checkpoint_id,
            multitask_strategy=multitask_strategy,
            options=options or {},
        )
        return await self.runs.start(identity, request)

    def follow(
        self,
        *,
        thread_id: str | None = None,
        run_id: str | None = None,
        after: Position | None = None,
        identity: Identity = ANONYMOUS,
    ) -> AsyncIterator[Entry]:
        """The log entries of a thread without end, or those of one run to its end.

        Args:
            thread_id: The thread; may be left out where `run_id` is given.
            run_id: The run; None: all of the thread.
            after: The position of the last entry already seen; None: from the beginning.
            identity: Whose thread it is.

        Raises:
            ConfigurationError: Neither `thread_id` nor `run_id` is given.
            GapError: The position cannot be resumed from (raised by the iterator).
            RequestError: Nobody knows the run (raised by the iterator).
        """
        _check_ids(thread_id, run_id)
        return self.runs.entries(identity, thread_id=thread_id, run_id=run_id, after=after)

    async def cancel(
        self,
        *,
        thread_id: str | None = None,
        run_id: str | None = None,
        identity: Identity = ANONYMOUS,
    ) -> RunInfo:
        """Tell a run to stop: the one named, or the active one of the thread.

        Args:
            thread_id: The thread; may be left out where `run_id` is given.
            run_id: The run.
            identity: Whose run it is.

        Returns:
            How the run stands; it ends as `cancelled` when its task has really ended.

        Raises:
            ConfigurationError: Neither `thread_id` nor `run_id` is given.
            RequestError: There is no such run, or it has ended.
        """
        _check_ids(thread_id, run_id)
        return await self.runs.cancel(identity, thread_id, run_id)

    async def drain(self, timeout: float | None = None) -> None:
        """Stop serving: refuse newcomers, end runs at their next superstep, close with 1012.

        The application's shutdown does this too. Called before it (from a signal handler, say),
        clients can still be heard meanwhile, which aiohttp ends as soon as its runner shuts down.
        Calls after the first wait for the same end.

        Args:
            timeout: Seconds that runs get; None: the route's `drain_timeout`.
        """
        await self._drain(self._drain_timeout if timeout is None else timeout, deaf=False)

    def routes(self, kind: type[Routes]) -> Routes:
        """The HTTP routes of a protocol."""
        return kind(
            self.runs,
            self._gate,
            limit=self._limits.message_bytes,
            timing=self._timing,
            watch=self.watch,
        )

    # -- for aiohttp ------------------------------------------------------------------------

    async def lifespan(self, _app: web.Application) -> AsyncIterator[None]:
        """Begin and end with the application."""
        if self._gate.open:
            logger.warning(
                "%s is open: anyone who can reach it can start runs, and read and answer every "
                "thread whose id they know; pass authorize=… to attach_websocket",
                self.path,
            )
        await self.runs.begin()
        sweeper = asyncio.create_task(self._sweep())
        try:
            yield
        finally:
            await self._drain(0, deaf=True)
            sweeper.cancel()
            await asyncio.wait({sweeper})
            await self.runs.end()

    async def on_shutdown(self, _app: web.Application) -> None:
        """Drain, if the application has not done so before."""
        await self._drain(self._drain_timeout, deaf=True)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Serve one request on the route.

        Raises:
            web.HTTPException: It is refused; nothing was upgraded.
        """
        # A WebSocket whose upgrade a proxy has dropped is told so.
        plain = not is_upgrade(request) and "Sec-WebSocket-Key" not in request.headers
        if plain and self._playground is not None:
            return await self._page(request, self._playground)
        require_upgrade(request)
        return await self._handle_upgrade(request, self._sessions)

    async def handle_at(self, session: type[Session], request: web.Request) -> web.StreamResponse:
        """Serve one request on the path that a protocol has of its own.

        Raises:
            web.HTTPException: It is refused; nothing was upgraded.
        """
        require_upgrade(request)
        return await self._handle_upgrade(request, {session.name: session})

    @contextmanager
    def watch(self, connection: Connection | EventStream, protocol: str) -> Iterator[None]:
        """Look after a connection, and count it, as long as the block lasts."""
        opened = time.monotonic()
        self._connections.add(connection)
        try:
            yield
        finally:
            self._connections.discard(connection)
            connection.report()
            self.runs.metrics.connection_closed(
                protocol, connection.close_code, time.monotonic() - opened
            )

    def _reason_of(self, refusal: web.HTTPException) -> Refusal:
        if isinstance(refusal, ForeignOrigin):
            return "origin"
        if refusal.status == 503 and self._draining is not None:
            return "draining"
        return _REFUSALS.get(refusal.status, "error")

    async def _handle_upgrade(
        self, request: web.Request, sessions: Mapping[str, type[Session]]
    ) -> web.StreamResponse:
        try:
            return await self._let_in(request, sessions)
        except web.HTTPException as refusal:
            self.runs.metrics.connection_refused(self._reason_of(refusal))
            raise

    async def _let_in(
        self, request: web.Request, sessions: Mapping[str, type[Session]]
    ) -> web.StreamResponse:
        began = time.monotonic()
        self._gate.admit(request)
        session, subprotocol = choose_session(request, sessions)
        with self._gate.take(request) as place:
            # A protocol with a path of its own knows no message that brings a token.
            if session.route:
                identity: Identity | None = await self._gate.identify_at_once(request)
            else:
                identity = await self._gate.identify(request)
            self._gate.claim(place, identity)
            self._gate.refuse_when_draining()
            return await self._serve(request, session, subprotocol, identity, place, began)

    async def handle_playground(self, request: web.Request) -> web.StreamResponse:
        """Serve a file of the playground, or the description of the graphs.

        Raises:
            web.HTTPException: It is refused, or there is no such file.
        """
        name = request.match_info["name"]
        if self._playground is None:
            raise web.HTTPNotFound
        if self._playground.describes(name):
            return await self._description(request, self._playground)
        # Files take no place: a browser asks for all of them at once.
        self._gate.admit(request)
        await self._gate.identify(request)
        return self._playground.asset(request, name)

    async def _page(self, request: web.Request, playground: Playground) -> web.StreamResponse:
        self._gate.admit(request)
        with self._gate.take(request) as place:
            self._gate.claim(place, await self._gate.identify(request))
            own = self._gate.origins.own(request)
            return playground.page(request, "" if own is None else own.authority)

    async def _description(
        self, request: web.Request, playground: Playground
    ) -> web.StreamResponse:
        self._gate.admit(request)
        with self._gate.take(request) as place:
            identity = await self._gate.identify_at_once(request)
            self._gate.claim(place, identity)
            return await playground.description(identity)

    async def _serve(
        self,
        request: web.Request,
        session: type[Session],
        subprotocol: str | None,
        identity: Identity | None,
        place: Place,
        began: float,
    ) -> web.StreamResponse:
        ws = web.WebSocketResponse(
            timeout=self._timing.close,
            autoclose=False,
            autoping=False,
            protocols=() if subprotocol is None else (subprotocol,),
            compress=self._compress,
            # aiohttp refuses a message that is exactly as long as its limit.
            max_msg_size=self._limits.message_bytes + 1,
            writer_limit=0,
        )
        await ws.prepare(request)
        transport = request.transport
        if transport is None:  # the client has left again
            return ws
        connection = Connection(
            ws,
            transport,
            session(
                Peer(dict(request.match_info), request.headers.get("User-Agent", "")),
                expose_state=self._expose_state or session.shows_state,
                takes_tokens=self._gate.takes_tokens,
                authenticated=identity is not None,
            ),
            self.runs,
            limits=self._limits,
            timing=self._timing,
            identity=identity,
            place=place,
            authenticator=self._gate.authenticator(request),
            trace={name: request.headers[name] for name in _TRACE if name in request.headers},
        )
        self.runs.metrics.connection_opened(session.name, time.monotonic() - began)
        with self.watch(connection, session.name):
            if self._draining is not None:
                connection.leave("restart", "resume", 1012, after_ms=_spread())
            await connection.run()
        return ws

    # -- upkeep -----------------------------------------------------------------------------

    async def _sweep(self) -> None:
        """Look after all connections, one timer for all of them."""
        loop = asyncio.get_running_loop()
        patient = True
        while True:
            due = loop.time() + self._timing.sweep
            await asyncio.sleep(self._timing.sweep)
            late = loop.time() - due
            self.runs.metrics.loop_lag(late)
            if late >= _BLOCKED_S and patient:
                logger.warning(
                    "the event loop was blocked for %.1f s, and nobody was served meanwhile: work "
                    "that does not await belongs in a thread (asyncio.to_thread)",
                    late,
                )
                patient = False
                continue  # what clients have sent meanwhile is read before they are judged
            patient = True
            for number, connection in enumerate(tuple(self._connections), 1):
                try:
                    connection.sweep(loop.time(), time.time())
                except Exception:
                    logger.exception("a connection could not be looked after")
                if number % _SWEPT_AT_ONCE == 0:
                    await asyncio.sleep(0)
            self.runs.metrics.cursor_lag(max((c.lag for c in self._connections), default=0))
            self.runs.metrics.log_size(self.runs.log.size())

    async def _drain(self, timeout: float, *, deaf: bool) -> None:
        self._gate.draining = True
        if self._draining is None:
            self._draining = asyncio.create_task(self._drain_once(timeout, deaf=deaf))
        await asyncio.shield(self._draining)

    async def _drain_once(self, timeout: float, *, deaf: bool) -> None:
        for connection in tuple(self._connections):
            connection.bye("restart", "resume", _spread())
        await self.runs.drain(timeout)
        ending = tuple(self._connections)
        for connection in ending:
            connection.close(1012, "the server restarts", finish=True, deaf=deaf)
        # Each bounds itself, also with a client that does not read.
        for connection in ending:
            await asyncio.shield(connection.ended)


ATTACHMENTS: web.AppKey[dict[str, Attachment]] = web.AppKey("langgraph_ws", dict[str, Attachment])
"""Where an application keeps what is attached to it, by path."""


def _spread() -> int:
    """When a client should come back after a restart, in milliseconds: not all at once."""
    return random.randint(0, _RESTART_SPREAD_MS)  # noqa: S311 - it protects no secret


def _kind(
    messages: object, value: object, answers: object
) -> Literal["input", "answer", "continue"]:
    if answers is not None:
        return "answer"
    return "continue" if messages is None and value is None else "input"


def _check_turn(messages: object, answers: object, options: object, identity: object) -> None:
    if messages is not None and (
        isinstance(messages, str | Mapping)
        or not isinstance(messages, Sequence)
        or not all(isinstance(message, Mapping) for message in messages)
    ):
        raise ConfigurationError("messages: expected a list of messages {role, content, …}")
    for name, value in {"answers": answers, "options": options}.items():
        if value is not None and not isinstance(value, Mapping):
            raise ConfigurationError(f"{name}: expected a mapping, got {type(value).__name__}")
    if not isinstance(identity, Identity):
        raise ConfigurationError(f"identity: expected an Identity, got {identity!r}")


def _check_ids(thread_id: str | None, run_id: str | None) -> None:
    if thread_id is None and run_id is None:
        raise ConfigurationError("thread_id, run_id: expected at least one of them")


def _check_app(app: object, path: object) -> None:
    if not isinstance(app, web.Application):
        raise ConfigurationError(f"app: expected an aiohttp Application, got {app!r}")
    if app.frozen:
        raise ConfigurationError("app: expected one that is not running yet")
    if not isinstance(path, str) or not path.startswith("/"):
        raise ConfigurationError(f"path: expected a string that begins with '/', got {path!r}")
    if path in app.get(ATTACHMENTS, {}):
        raise ConfigurationError(f"path: something is attached to {path!r} already")


def _check_protocols(names: Collection[str]) -> dict[str, type[Session]]:
    if isinstance(names, str) or not names or not set(names) <= set(PROTOCOLS):
        raise ConfigurationError(
            f"protocols: expected at least one of {', '.join(PROTOCOLS)}, got {names!r}"
        )
    return {name: PROTOCOLS[name] for name in names}


def _check_playground(playground: object) -> Sequence[str] | None:
    """The messages that the playground offers; None: it is not served."""
    if isinstance(playground, bool):
        return () if playground else None
    if (
        isinstance(playground, str)
        or not isinstance(playground, Sequence)
        or not all(isinstance(text, str) for text in playground)
    ):
        raise ConfigurationError(
            f"playground: expected a bool, or a list of messages, got {playground!r}"
        )
    return playground


def _check_limits(limits: object) -> Limits:
    if limits is None:
        return Limits()
    if not isinstance(limits, Limits):
        raise ConfigurationError(f"limits: expected Limits, got {limits!r}")
    _check_numbers(
        **{f"limits.{field.name}": getattr(limits, field.name) for field in fields(limits)}
    )
    return limits


def _check_numbers(**values: object) -> None:
    for name, value in values.items():
        if not _is_number(value) or value <= 0:  # type: ignore[operator]
            raise ConfigurationError(f"{name}: expected a number above 0, got {value!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_callables(**values: object) -> None:
    for name, value in values.items():
        if value is not None and not callable(value):
            raise ConfigurationError(f"{name}: expected a function, got {value!r}")
