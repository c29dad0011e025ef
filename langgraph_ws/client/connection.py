"""The Python client of the chat protocol: it connects, follows, and connects again.

::

    async with connect("ws://127.0.0.1:8765/ws") as client:
        run = await client.new_chat("Hello", on_text=lambda text, message: print(text))
        print((await run.result()).text)

A client keeps one connection. What it follows, and what it asked for and got no answer to, outlives
the connection: after the next one is open each followed thread is attached to at its position, and
each request is repeated under the id that it had. `Feed` is that of one thread; what a program
holds of it are `Run` and `Thread`, each with a position and a view of its own.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from types import TracebackType
from typing import Any, Literal, TypeAlias, Unpack, overload
from urllib.parse import urlsplit

import aiohttp

import langgraph_ws.client.requests as requests
from langgraph_ws.client.errors import (
    ConnectionFailedError,
    ConnectionLostError,
    ProtocolError,
    RequestRefused,
)
from langgraph_ws.client.handles import (
    Callbacks,
    Calls,
    Handle,
    Run,
    Thread,
    arguments,
    call_for,
    check_callbacks,
    closed_error,
)
from langgraph_ws.client.link import Link
from langgraph_ws.client.messages import (
    ENDED,
    Authenticated,
    Bye,
    End,
    Error,
    Gap,
    Heartbeat,
    Message,
    Pong,
    RunInfo,
    Snapshot,
    Text,
    parse,
)
from langgraph_ws.client.pace import Pace
from langgraph_ws.client.reconnect import Advice, Backoff, Lost, Reconnect, closed, refused
from langgraph_ws.client.requests import NOTHING, Messages
from langgraph_ws.codec import dumps
from langgraph_ws.errors import ConfigurationError, InvalidRequest
from langgraph_ws.log import Position

__all__ = ["Client", "ConnectionState", "connect"]

logger = logging.getLogger(__name__)

SUBPROTOCOL = "langgraph-ws.chat.v1"
Json: TypeAlias = dict[str, Any]
Token: TypeAlias = str | Callable[[], str | Awaitable[str]]
Status: TypeAlias = Literal["connecting", "open", "reconnecting", "closed"]

_OPEN_S = 10.0
_CALLBACKS_S = 5.0
_BATCH = 16
"""Messages that are read before the program has its turn."""
_RETRY_S = 1.0
"""Before what was refused for its rate is sent again, where the server does not say."""
_AUTH = "auth"
_TOO_LONG = 1009
_TOO_FAST = 4429


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionState:
    """How the connection stands.

    Attributes:
        status: `connecting`, `open`, `reconnecting` (waiting to try again) or `closed` (for good).
        attempt: Which attempt comes next, from 1, when reconnecting.
        delay: Seconds until then.
        reason: Why, when reconnecting or closed.
    """

    status: Status
    attempt: int = 0
    delay: float = 0.0
    reason: str = ""


def connect(
    url: str,
    *,
    token: Token | None = None,
    headers: Mapping[str, str] | None = None,
    session: aiohttp.ClientSession | None = None,
    reconnect: Reconnect | None = None,
    heartbeat: float = 20.0,
    on_state: Callable[[ConnectionState], object] | None = None,
    **callbacks: Unpack[Callbacks],
) -> Client:
    """A client, to be used as an async context manager.

    Args:
        url: The route (`ws://…`, `wss://…`).
        token: Who the client is, sent in its first message; a function (it may be asynchronous)
            is called anew for each connection.
        headers: Headers of the handshake.
        session: The session to connect with; it stays open. None: one of its own.
        reconnect: How to try again; None: `Reconnect()`.
        heartbeat: Seconds of silence after which the server is pinged; after 2.5 times that the
            connection is given up.
        on_state: Called when the connection changes; a function or a coroutine function.
        callbacks: Called for whatever is followed, see `Callbacks`; a run or a thread may have
            more of its own.

    Raises:
        ConfigurationError: An argument is not what it may be.
    """
    _check_url(url)
    if not isinstance(heartbeat, int | float) or not 0 < heartbeat < float("inf"):
        raise ConfigurationError(f"heartbeat: expected seconds above 0, got {heartbeat!r}")
    if token is not None and not callable(token) and not (isinstance(token, str) and token):
        raise ConfigurationError("token: expected a string that is not empty, or a function")
    if on_state is not None and not callable(on_state):
        raise ConfigurationError(f"on_state: expected a function, got {on_state!r}")
    return Client(
        url,
        token=token,
        headers=dict(headers or {}),
        session=session,
        rules=reconnect or Reconnect(),
        heartbeat=heartbeat,
        on_state=on_state,
        callbacks=check_callbacks(callbacks),
    )


@dataclass(slots=True, eq=False)
class _Request:
    """A message that awaits its answer.

    Attributes:
        message: What is sent, without its id.
        kind: `start` a run, `watch` one that exists, `follow` a thread again, `leave` one,
            `call` anything else.
        answer: What it is answered.
        handle: The run that it is about.
        feed: The thread that it follows.
        hearing: Those who are told what comes after the answer, and were told nothing before.
        once: Whether it means nothing on another connection.
    """

    message: Json
    kind: Literal["start", "watch", "follow", "leave", "call"]
    answer: asyncio.Future[RunInfo]
    handle: Run | None = None
    feed: _Feed | None = None
    hearing: tuple[Handle, ...] = ()
    once: bool = False


@dataclass(slots=True, eq=False)
class _Feed:
    """What the client follows of one thread.

    Attributes:
        handles: Who is told.
        attaching: Those whose `attach` has not been answered yet.
        deaf: Those who are told nothing yet: what comes lies behind what they are to hear first.
        epoch: Of the log, as the server last named it.
        head: The last entry, as the server last named it.
        following: Whether this connection follows the thread.
        scope: The run that the server tells of; None: all of the thread.
        wanted: The same, as it will be when all is answered.
        full: Whether texts are asked for in full: somebody began in the middle of one.
        midway: Whether messages may come of a run that nobody has named.
        doubts: Runs that may have ended unseen, to be asked about one by one.
        doubted: Those, and those asked about already on this connection.
    """

    thread_id: str
    handles: list[Handle] = field(default_factory=list)
    attaching: dict[Thread, asyncio.Future[None]] = field(default_factory=dict)
    deaf: set[Handle] = field(default_factory=set)
    epoch: str = ""
    head: int = 0
    following: bool = False
    scope: str | None = None
    wanted: str | None = None
    full: bool = False
    midway: bool = False
    doubts: deque[Run] = field(default_factory=deque)
    doubted: set[Run] = field(default_factory=set)

    @property
    def mode(self) -> Json:
        """How texts are asked for."""
        return {"text": "full" if self.full else "delta"}

    @property
    def runs(self) -> list[Run]:
        """The runs among those who are told."""
        return [handle for handle in self.handles if isinstance(handle, Run)]

    @property
    def seen(self) -> int:
        """How far anybody has been told."""
        return max((_seq(handle) for handle in self.handles), default=0)

    def learn(self, info: RunInfo) -> None:
        """Take what an answer says of the log."""
        self.epoch, self.head = info.epoch, info.head

    def disconnected(self) -> None:
        """Forget what was true of the last connection alone."""
        self.following, self.scope, self.wanted = False, None, None
        self.deaf = set(self.attaching)
        self.doubts.clear()
        self.doubted.clear()


def _seq(handle: Handle) -> int:
    position = handle.position
    return position.seq if position is not None else 0


class Client:
    """A connection to a server of the chat protocol, and what is followed over it.

    Made by `connect`; it works between `async with` and its end.
    """

    def __init__(
        self,
        url: str,
        *,
        token: Token | None,
        headers: Mapping[str, str],
        session: aiohttp.ClientSession | None,
        rules: Reconnect,
        heartbeat: float,
        on_state: Callable[[ConnectionState], object] | None,
        callbacks: Mapping[str, Callable[..., object]],
    ) -> None:
        self._url = url
        self._token = token
        self._headers = headers
        self._session = session
        self._own_session = session is None
        self._rules = rules
        self._heartbeat = heartbeat
        self._on_state = on_state
        self._callbacks = callbacks
        self._state = ConnectionState(status="connecting")
        self._backoff = Backoff(rules, renewable=callable(token))
        self._calls = Calls(self.resume_reading)
        self._room = asyncio.Event()
        self._link: Link | None = None
        self._main: asyncio.Task[None] | None = None
        self._again: asyncio.Task[None] | None = None
        self._pace = Pace()
        self._paced: asyncio.Task[None] | None = None
        self._opened: asyncio.Future[None] | None = None
        self._failure: ConnectionFailedError | None = None
        self._ids = count(1)
        self._pending: dict[int, _Request] = {}
        self._feeds: dict[str, _Feed] = {}
        self._threads: dict[str, str] = {}
        self._starting: dict[str, Run] = {}
        self._midway: deque[_Feed] = deque()

    async def __aenter__(self) -> Client:
        if self._main is not None:
            raise ConfigurationError("a client is used once; call connect again")
        loop = asyncio.get_running_loop()
        if self._session is None:
            self._session = aiohttp.ClientSession()
        self._opened = loop.create_future()
        self._main = loop.create_task(self._stay_connected(self._session))
        try:
            await self._opened
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def state(self) -> ConnectionState:
        """How the connection stands."""
        return self._state

    async def close(self) -> None:
        """Close the connection, in a bounded time; runs go on without it.

        Callbacks that wait get their turn. What is not over raises `ConnectionFailedError`.
        """
        if self._main is not None:
            self._main.cancel()
            await asyncio.wait({self._main})
        self._fail(closed_error())
        await self._calls.finish(_CALLBACKS_S)
        if self._own_session and self._session is not None:
            await self._session.close()

    # -- what a program asks for ------------------------------------------------------------

    async def new_chat(
        self,
        messages: Messages | None = None,
        *,
        input: object = NOTHING,  # noqa: A002  # the protocol's word
        thread_id: str | None = None,
        run_id: str | None = None,
        assistant_id: str | None = None,
        multitask_strategy: str | None = None,
        options: Mapping[str, Any] | None = None,
        **callbacks: Unpack[Callbacks],
    ) -> Run:
        """Start a run, on a new thread unless one is given.

        Args:
            messages: What the user says, or messages: `{role, content, …}`, or LangChain's.
            input: The graph's input, in place of messages.
            thread_id: The thread; None: a new one.
            run_id: The run's id; None: a new one. Starting again with the same id starts nothing.
            assistant_id: Which graph; None: the server's default.
            multitask_strategy: What to do when the thread has an active run: `enqueue`, `reject`,
                `interrupt` or `rollback`; None: the server's default.
            options: Other options, for servers that allow them.
            callbacks: Called for this run, see `Callbacks`.

        Raises:
            InvalidRequest: A field is wrong; nothing was sent.
            RequestRefused: The server refused it.
            ConnectionFailedError: There is no connection.
        """
        message = requests.new_chat(
            messages,
            input,
            run_id=_new_id(run_id),
            thread_id=thread_id,
            assistant_id=assistant_id,
            multitask_strategy=multitask_strategy,
            options=options,
        )
        return await self._start(message, callbacks)

    async def resume_chat(
        self,
        thread_id: str,
        messages: Messages | None = None,
        *,
        input: object = NOTHING,  # noqa: A002  # the protocol's word
        resume: object = NOTHING,
        checkpoint_id: str | None = None,
        update: object = None,
        goto: str | Sequence[str] | None = None,
        run_id: str | None = None,
        assistant_id: str | None = None,
        multitask_strategy: str | None = None,
        options: Mapping[str, Any] | None = None,
        **callbacks: Unpack[Callbacks],
    ) -> Run:
        """Start a run that goes on with a thread.

        Args:
            thread_id: The thread.
            messages: The next turn: what the user says, or messages.
            input: The next turn as the graph's input.
            resume: The answer to what the thread waits for, or `{interrupt id: answer}`.
            checkpoint_id: The checkpoint to go on from; None: the newest.
            update: A change to the state beside `resume`, where the server allows it.
            goto: Where to go on beside `resume`, where the server allows it.
            run_id: As in `new_chat`.
            assistant_id: As in `new_chat`.
            multitask_strategy: As in `new_chat`.
            options: As in `new_chat`.
            callbacks: As in `new_chat`.

        With none of `messages`, `input` and `resume` the thread continues from its checkpoint.

        Raises:
            InvalidRequest: A field is wrong; nothing was sent.
            RequestRefused: The server refused it.
            ConnectionFailedError: There is no connection.
        """
        message = requests.resume_chat(
            thread_id,
            messages,
            input,
            resume,
            run_id=_new_id(run_id),
            checkpoint_id=checkpoint_id,
            update=update,
            goto=goto,
            assistant_id=assistant_id,
            multitask_strategy=multitask_strategy,
            options=options,
        )
        return await self._start(message, callbacks)

    @overload
    async def attach(
        self,
        thread_id: str,
        *,
        run_id: None = None,
        after: Position | None = None,
        **callbacks: Unpack[Callbacks],
    ) -> Thread: ...

    @overload
    async def attach(
        self,
        thread_id: str | None = None,
        *,
        run_id: str,
        after: Position | None = None,
        **callbacks: Unpack[Callbacks],
    ) -> Run: ...

    async def attach(
        self,
        thread_id: str | None = None,
        *,
        run_id: str | None = None,
        after: Position | None = None,
        **callbacks: Unpack[Callbacks],
    ) -> Thread | Run:
        """Follow a thread with every run on it, or (`run_id`) one run to its end.

        Args:
            thread_id: The thread; with a run id it may be left out.
            run_id: The run.
            after: The position to go on after, as `position` gave it; None: all that is held.
            callbacks: Called for what is followed here, see `Callbacks`.

        Raises:
            InvalidRequest: A field is wrong; nothing was sent.
            RequestRefused: The server refused it.
            ConnectionFailedError: There is no connection.
        """
        message = requests.attach(thread_id, run_id, after)
        self._check_open()
        if run_id is not None:
            return await self._watch(message, run_id, after, callbacks)
        assert thread_id is not None
        return await self._attach(thread_id, after, callbacks)

    async def cancel(self, run_id: str | None = None, *, thread_id: str | None = None) -> None:
        """Stop a run; its `end` comes when it has stopped. Nothing happens if it has ended.

        Args:
            run_id: The run.
            thread_id: The thread whose active run is to stop, where no run is named.

        Raises:
            InvalidRequest: It is no id; nothing was sent.
            RequestRefused: The server refused it.
            ConnectionFailedError: There is no connection.
        """
        try:
            await self._ask(requests.cancel(run_id=run_id, thread_id=thread_id), "call")
        except RequestRefused as error:
            if error.code != "not_found":
                raise

    async def detach(self, thread: Thread) -> None:
        """Follow a thread no longer; its runs go on."""
        feed = self._feeds.get(thread.thread_id)
        thread.finish()
        if feed is not None and thread in feed.handles:
            feed.handles.remove(thread)
            feed.deaf.discard(thread)
            self._tidy(feed)

    def resume_reading(self) -> None:
        """There may be room again for what was not read."""
        self._room.set()

    async def _start(self, message: Json, callbacks: Mapping[str, Any]) -> Run:
        self._check_open()
        run = Run(self, message["run_id"], callbacks)
        feed = self._feeds.get(message.get("thread_id", ""))
        if feed is not None and feed.wanted is not None:
            # The server would go on from where the new run begins, whatever it owes of the other.
            self._follow(feed, wide=True)
        return await self._begin(run, message, "start")

    async def _watch(
        self, message: Json, run_id: str, after: Position | None, callbacks: Mapping[str, Any]
    ) -> Run:
        run = Run(self, run_id, callbacks, after)
        return await self._begin(run, message, "watch")

    async def _begin(self, run: Run, message: Json, kind: Literal["start", "watch"]) -> Run:
        if run.run_id in self._starting or run.run_id in self._followed():
            raise InvalidRequest("run_id", "expected one that this client does not follow yet")
        self._starting[run.run_id] = run
        try:
            await self._ask(message, kind, run)
        finally:
            self._starting.pop(run.run_id, None)
        return run

    async def _attach(
        self, thread_id: str, after: Position | None, callbacks: Mapping[str, Any]
    ) -> Thread:
        thread = Thread(self, thread_id, callbacks, after)
        feed = self._feeds.setdefault(thread_id, _Feed(thread_id))
        if after is not None and after.seq:
            if feed.epoch not in ("", after.epoch):
                self._give(feed, _stale(thread_id, feed, after), [thread])
                thread.view.forget_position(feed.epoch)
            else:
                feed.full = feed.midway = True
        feed.handles.append(thread)
        feed.deaf.add(thread)
        answer = feed.attaching[thread] = asyncio.get_running_loop().create_future()
        self._follow(feed, wide=True)
        self.resume_reading()
        try:
            await answer
        except BaseException:
            feed.attaching.pop(thread, None)
            await self.detach(thread)
            raise
        return thread

    def _followed(self) -> set[str]:
        return {run.run_id for feed in self._feeds.values() for run in feed.runs}

    def _check_open(self) -> None:
        if self._main is None:
            raise ConfigurationError("use the client inside `async with connect(…) as client`")
        if self._failure is not None:
            raise self._failure

    # -- the connection ---------------------------------------------------------------------

    async def _stay_connected(self, session: aiohttp.ClientSession) -> None:
        while True:
            try:
                lost = await self._connection(session)
            except Exception as error:
                logger.exception("the client failed")
                lost = Lost(reason=f"the client failed: {error!r}", advice="never", cause=error)
            delay = self._backoff.next(lost)
            if delay is None:
                break
            if not lost.announced:
                self._report(
                    ConnectionLostError(
                        lost.reason, code=lost.code, http_status=lost.status, cause=lost.cause
                    )
                )
            self._change(
                ConnectionState(
                    status="reconnecting",
                    attempt=self._backoff.attempt,
                    delay=delay,
                    reason=lost.reason,
                )
            )
            await self._rules.sleep(delay)
        failure = ConnectionFailedError(
            lost.reason, code=lost.code, http_status=lost.status, cause=lost.cause
        )
        self._report(failure)
        self._fail(failure)

    async def _connection(self, session: aiohttp.ClientSession) -> Lost:
        """One connection from its handshake to its end; why it ended."""
        self._change(ConnectionState(status="connecting"))
        try:
            token = await self._fresh_token()
        except Exception as error:
            return Lost(reason=f"there is no token: {error!r}", cause=error)
        try:
            async with asyncio.timeout(_OPEN_S):
                ws = await session.ws_connect(
                    self._url,
                    protocols=(SUBPROTOCOL,),
                    headers=self._headers,
                    autoping=False,
                    max_msg_size=0,  # a snapshot is as long as its conversation
                )
        except aiohttp.WSServerHandshakeError as error:
            return refused(error.status, error.headers or {}, error)
        except (aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError
            return Lost(reason=f"no connection: {error or type(error).__name__}", cause=error)
        link = Link(ws, self._heartbeat, dumps({"type": "ping"}))
        try:
            return await self._talk(link, token)
        finally:
            self._disconnected(abused=link.code == _TOO_FAST)
            await link.close()

    async def _fresh_token(self) -> str | None:
        token = self._token() if callable(self._token) else self._token
        if inspect.isawaitable(token):
            token = await token
        if token is not None and not (isinstance(token, str) and token):
            raise ConfigurationError("token: expected a string that is not empty")
        return token

    async def _talk(self, link: Link, token: str | None) -> Lost:
        if token is None:
            self._ready(link)
        else:
            link.put(dumps({"type": "auth", "id": _AUTH, "token": token}))
        read = 0
        while (data := await link.receive()) is not None:
            try:
                self._take(link, data)
            except ProtocolError as error:
                self._report(error)
            read += 1
            if read % _BATCH == 0:
                await self._let_others(link)
        if link.code == _TOO_LONG:
            self._refuse_longest()
        return link.lost or closed(link.code, link.reason, link.bye)

    async def _let_others(self, link: Link) -> None:
        """Let the program have its turn, and wait while it has too much to read.

        Not while it awaits an answer: that has yet to be read.
        """
        await asyncio.sleep(0)
        link.paused = True
        while self._congested() and not self._pending and not self._attaching():
            self._room.clear()
            await self._room.wait()
        link.paused = False

    def _congested(self) -> bool:
        return self._calls.congested or any(
            handle.congested for feed in self._feeds.values() for handle in feed.handles
        )

    def _attaching(self) -> bool:
        return any(feed.attaching for feed in self._feeds.values())

    def _ready(self, link: Link) -> None:
        """The connection may be used: follow again, and ask again what was not answered."""
        link.ready = True
        self._link = link
        self._pace.connected(self._now())
        self._change(ConnectionState(status="open"))
        if self._opened is not None and not self._opened.done():
            self._opened.set_result(None)
        self._follow_all()
        for number, request in list(self._pending.items()):
            if not request.once:
                self._send(number, request)

    def _follow_all(self) -> None:
        for feed in list(self._feeds.values()):
            if feed.handles and not feed.following:
                self._follow(feed)

    def _disconnected(self, *, abused: bool) -> None:
        self._link = None
        self._midway.clear()
        self._pace.disconnected(abused=abused)
        for task in (self._again, self._paced):
            if task is not None:
                task.cancel()
        self._again = self._paced = None
        for number, request in list(self._pending.items()):
            if request.once:
                del self._pending[number]
        for feed in list(self._feeds.values()):
            feed.disconnected()
            if not feed.handles:
                self._tidy(feed)

    def _refuse_longest(self) -> None:
        """The server closed because a message was too long: do not send it again."""
        sizes = {
            number: len(dumps(request.message))
            for number, request in self._pending.items()
            if not request.once
        }
        if sizes:
            number = max(sizes, key=lambda one: sizes[one])
            error = RequestRefused("limit_exceeded", "the message is longer than the server takes")
            _set_exception(self._pending.pop(number).answer, error)

    def _change(self, state: ConnectionState) -> None:
        self._state = state
        if self._on_state is not None:
            self._calls.add([self._on_state], (state,), failed=self._report)

    def _fail(self, failure: ConnectionFailedError) -> None:
        """There is no connection, and there will be none."""
        if self._failure is not None:
            return
        self._failure = failure
        for request in self._pending.values():
            _set_exception(request.answer, failure)
        self._pending.clear()
        closing = failure.cause is None and failure.reason == closed_error().reason
        for feed in self._feeds.values():
            for answer in feed.attaching.values():
                _set_exception(answer, failure)
            for handle in feed.handles:
                quiet = closing and isinstance(handle, Thread)
                handle.finish(None if quiet else failure)
        self._feeds.clear()
        self._change(ConnectionState(status="closed", reason=failure.reason))
        if self._opened is not None:
            _set_exception(self._opened, failure)

    # -- asking -----------------------------------------------------------------------------

    async def _ask(
        self,
        message: Json,
        kind: Literal["start", "watch", "call"],
        handle: Run | None = None,
    ) -> RunInfo:
        self._check_open()
        answer: asyncio.Future[RunInfo] = asyncio.get_running_loop().create_future()
        request = _Request(message, kind, answer, handle)
        number = next(self._ids)
        self._pending[number] = request
        self._send(number, request)
        self.resume_reading()
        try:
            return await answer
        finally:
            self._pending.pop(number, None)

    def _send(self, number: int, request: _Request) -> None:
        """Send it, or have it wait for its turn."""
        if self._link is None:
            return
        if self._pace.limited(self._now()):
            self._send_in_turn(number)
        else:
            self._put(self._link, number, request)

    def _send_in_turn(self, number: int) -> None:
        self._pace.wait(number)
        if self._paced is None:
            self._paced = asyncio.get_running_loop().create_task(self._send_slowly())

    async def _send_slowly(self) -> None:
        while (delay := self._pace.due(self._now())) is not None:
            if delay:
                await asyncio.sleep(delay)
                continue
            number = self._pace.take(self._now())
            request = self._pending.get(number)
            if request is not None and request.kind == "leave" and self._is_followed(request):
                del self._pending[number]
            elif request is not None and self._link is not None:
                self._put(self._link, number, request)
        self._paced = None

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _put(self, link: Link, number: int, request: _Request) -> None:
        message: Json = {**request.message, "id": number}
        if request.kind in ("start", "watch"):
            feed = self._feeds.get(request.message.get("thread_id", "")) or _Feed("")
            feed.full |= bool(message.get("after"))
            message["options"] = request.message.get("options", {}) | feed.mode
        link.put(dumps(message))

    def _follow(self, feed: _Feed, run: Run | None = None, *, wide: bool = False) -> None:
        """Have the server tell (again) of a thread, from where its handles stand.

        Args:
            feed: The thread.
            run: The only run to tell of; None: that of the only handle, or all of them.
            wide: Whether all of the thread is wanted.
        """
        if self._link is None:
            return
        if run is None and not wide and len(feed.handles) == 1:
            run = next(iter(feed.runs), None)
        if feed.midway:
            # Only one at a time may bring messages of a run that nobody has named.
            if feed not in self._midway:
                self._midway.append(feed)
            if self._midway[0] is not feed:
                return
        seq = min(map(_seq, feed.handles)) if run is None else _seq(run)
        message: Json = {"type": "attach", "thread_id": feed.thread_id, "options": feed.mode}
        if run is not None:
            message["run_id"] = run.run_id
        if seq:
            message |= {"after": seq, "epoch": self._epoch_of(feed)}
        answer: asyncio.Future[RunInfo] = asyncio.get_running_loop().create_future()
        hearing = tuple(feed.attaching) if run is None else (run,)
        request = _Request(message, "follow", answer, run, feed, hearing, once=True)
        number = next(self._ids)
        self._pending[number] = request
        feed.following, feed.wanted = True, None if run is None else run.run_id
        self._send(number, request)

    def _leave(self, thread_id: str) -> None:
        """Have the server tell of a thread no longer."""
        if self._link is None:
            return
        message: Json = {"type": "detach", "thread_id": thread_id}
        answer: asyncio.Future[RunInfo] = asyncio.get_running_loop().create_future()
        number = next(self._ids)
        self._pending[number] = _Request(message, "leave", answer, once=True)
        self._send(number, self._pending[number])

    def _is_followed(self, request: _Request) -> bool:
        """Whether the thread of a request is followed again, or about to be."""
        thread_id = request.message["thread_id"]
        return thread_id in self._feeds or self._is_wanted(thread_id)

    def _epoch_of(self, feed: _Feed) -> str:
        return next(
            position.epoch
            for handle in feed.handles
            if (position := handle.position) is not None and position.seq
        )

    def _told_midway(self, feed: _Feed) -> None:
        """The run that the thread was in the middle of is known: let the next thread come."""
        feed.midway = False
        if feed in self._midway:
            first = self._midway[0]
            self._midway.remove(feed)
            if self._midway and first is feed:
                self._follow(self._midway[0])

    def _follow_soon(self) -> None:
        """Follow again, in a while, what the server would not let be followed now."""
        if self._again is None:
            self._again = asyncio.get_running_loop().create_task(self._follow_later())

    async def _follow_later(self) -> None:
        await self._rules.sleep(self._rules.wait(1))
        self._again = None
        self._follow_all()

    # -- listening --------------------------------------------------------------------------

    def _take(self, link: Link, data: str | bytes) -> None:
        message = parse(data)
        if not isinstance(message, Bye):
            self._backoff.succeeded()
        match message:
            case Bye():
                link.bye = message
            case Authenticated():
                self._ready(link)
            case Error() if message.request_id == _AUTH:
                error = _refusal(message)
                advice: Advice = "resume" if message.retryable else "never"
                link.drop(Lost(reason=str(error), advice=advice, cause=error))
            case Pong() | Heartbeat():
                pass
            case Gap() | Snapshot():
                self._recover(message)
            case Error() | RunInfo() if message.seq is None:
                self._answered(message)
            case _:
                self._logged(message)

    def _answered(self, message: Error | RunInfo) -> None:
        number = message.request_id if isinstance(message.request_id, int) else 0
        request = self._pending.get(number)
        leaving = request is not None and request.kind == "leave"
        if isinstance(message, Error) and (
            message.code == "rate_limited" or (leaving and message.retryable)
        ):
            self._slow_down(message, number)
            return
        self._pending.pop(number, None)
        if leaving:
            return
        if isinstance(message, RunInfo):
            if request is not None:
                self._accepted(request, message)
        elif request is not None:
            self._refused(request, _refusal(message))
        else:
            self._report(_refusal(message))

    def _slow_down(self, refused: Error, number: int) -> None:
        """A message came too fast and was not carried out: have it wait, and what comes after."""
        error = _refusal(refused)
        retry_after = _RETRY_S if error.retry_after is None else error.retry_after
        if self._pace.slow_down(retry_after, self._now()):
            self._report(error)
        if number in self._pending:
            self._send_in_turn(number)

    def _accepted(self, request: _Request, info: RunInfo) -> None:
        if info.run_id is not None:
            self._threads[info.run_id] = info.thread_id
        if request.feed is not None:
            self._followed_again(request.feed, request, info)
        elif request.handle is not None:
            self._joined(request, request.handle, info)
        if not request.answer.done():
            request.answer.set_result(info)

    def _joined(self, request: _Request, run: Run, info: RunInfo) -> None:
        """A run was started, or is watched."""
        feed = self._feeds.setdefault(info.thread_id, _Feed(info.thread_id))
        followed = feed.following
        feed.learn(info)
        new = run not in feed.handles and not run.over
        if new:
            begins = request.kind == "start" and info.status not in ENDED
            self._join(feed, run, live=followed and begins)
        feed.following, feed.scope, feed.wanted = True, None, None
        if new:
            run.view.take(info)
            run.hear(info)
        if request.kind == "watch":
            feed.full |= bool(request.message.get("after"))
            feed.scope = feed.wanted = run.run_id
            if len(feed.handles) > 1 and info.status not in ENDED:
                self._follow(feed, wide=True)
        elif new and followed and info.status in ENDED:
            self._doubt(feed, run)
            self._ask_next(feed)

    def _join(self, feed: _Feed, run: Run, *, live: bool) -> None:
        if live:
            run.view.skip(Position(feed.epoch, feed.seen))
        feed.handles.append(run)
        self._threads[run.run_id] = feed.thread_id

    def _followed_again(self, feed: _Feed, request: _Request, info: RunInfo) -> None:
        run = request.handle
        changed = feed.epoch not in ("", info.epoch)
        feed.learn(info)
        after = request.message.get("after", 0)
        feed.scope = None if run is None else run.run_id
        feed.deaf.difference_update(request.hearing)
        for handle in feed.handles if run is None else [run]:
            handle.view.take(info)
        if run is not None:
            if len(feed.handles) > 1 and info.status not in ENDED:
                self._follow(feed, wide=True)
            return
        for handle in request.hearing:
            if isinstance(handle, Thread) and (waiting := feed.attaching.pop(handle, None)):
                waiting.set_result(None)
        if feed.midway and after >= info.head and not changed:
            self._told_midway(feed)
        if changed and not after:  # nothing else will say so
            for one in feed.runs:
                if one.run_id != info.run_id:
                    self._doubt(feed, one)
            self._ask_next(feed)

    def _refused(self, request: _Request, error: RequestRefused) -> None:
        feed, run = request.feed, request.handle
        if feed is None:
            _set_exception(request.answer, error)
            if (thread_id := request.message.get("thread_id")) in self._feeds:
                self._tidy(self._feeds[thread_id])
        elif run is not None and error.code == "not_found":
            self._lost(feed, run)
        elif error.retryable:
            feed.following = False
            self._follow_soon()
        else:
            self._abandon(feed, error)

    def _lost(self, feed: _Feed, run: Run) -> None:
        """The server knows nothing of the run any more."""
        feed.following = False
        feed.deaf.discard(run)
        end = End(run_id=run.run_id, seq=_seq(run) + 1, status="lost")
        self._give(feed, end, [run])
        self._finish(feed, run)

    def _abandon(self, feed: _Feed, error: RequestRefused) -> None:
        """The thread may not be followed."""
        for answer in feed.attaching.values():
            _set_exception(answer, error)
        if told := [handle for handle in feed.handles if handle not in feed.attaching]:
            self._report(error, *told)
        for handle in feed.handles:
            handle.finish(error)
        feed.attaching.clear()
        feed.handles.clear()
        feed.following = False
        self._told_midway(feed)
        self._tidy(feed)

    def _logged(self, message: Message) -> None:
        """A message of a run."""
        feed = self._feed_of(message)
        if feed is None:
            return
        if message.run_id is not None:
            self._threads[message.run_id] = feed.thread_id
        if feed.midway:
            self._told_midway(feed)
        starting = self._starting.get(message.run_id or "")
        if starting is not None and starting not in feed.handles and isinstance(message, RunInfo):
            # The first message of a run may overtake the answer.
            starting.view.skip(Position(message.epoch, (message.seq or 1) - 1))
            self._join(feed, starting, live=False)
        self._give(feed, message, feed.handles)
        if isinstance(message, End):
            self._threads.pop(message.run_id or "", None)
            for run in feed.runs:
                if run.run_id == message.run_id and run.status in ENDED:
                    self._finish(feed, run)

    def _feed_of(self, message: Message) -> _Feed | None:
        if isinstance(message, RunInfo):
            return self._feeds.get(message.thread_id)
        thread_id = self._threads.get(message.run_id or "")
        if thread_id is not None:
            return self._feeds.get(thread_id)
        return self._midway[0] if self._midway and message.run_id is not None else None

    def _give(self, feed: _Feed, message: Message, handles: Sequence[Handle]) -> None:
        """Tell a message to those to whom it is news; the client's own callbacks once."""
        owners: list[Mapping[str, Callable[..., object]]] = [self._callbacks]
        for handle in tuple(handles):
            told = handle.view.error
            if handle not in feed.deaf and handle.view.take(message):
                handle.hear(message)
                self._call(handle, message, [handle.callbacks, *owners])
                owners.clear()
            error = handle.view.error
            if isinstance(handle, Run) and isinstance(message, End) and error and not told:
                self._report(error, handle)

    def _call(
        self,
        handle: Handle,
        message: Message,
        owners: Sequence[Mapping[str, Callable[..., object]]],
    ) -> None:
        name = call_for(message)
        callbacks = [one for owner in owners if (one := owner.get(name or "")) is not None]
        if callbacks:
            self._calls.add(
                callbacks,
                arguments(handle.view, message),
                key=(handle, name, message.message_id) if isinstance(message, Text) else None,
                failed=None if name == "on_error" else lambda error: self._report(error, handle),
            )

    def _finish(self, feed: _Feed, run: Run) -> None:
        run.finish()
        feed.handles.remove(run)
        self._tidy(feed)

    def _tidy(self, feed: _Feed) -> None:
        """Follow no more than there are handles for."""
        if feed.doubts:
            self._ask_next(feed)
        elif feed.handles:
            if not feed.following or feed.wanted not in (None, *(run.run_id for run in feed.runs)):
                self._follow(feed)
        elif not self._is_wanted(feed.thread_id):
            if feed.following and feed.wanted is None:
                self._leave(feed.thread_id)
            if self._feeds.get(feed.thread_id) is feed:
                del self._feeds[feed.thread_id]
            for run_id in [
                run for run, thread in self._threads.items() if thread == feed.thread_id
            ]:
                del self._threads[run_id]

    def _is_wanted(self, thread_id: str) -> bool:
        """Whether a run is about to start on the thread."""
        return any(
            request.kind not in ("call", "leave") and request.message.get("thread_id") == thread_id
            for request in self._pending.values()
        )

    # -- recovering -------------------------------------------------------------------------

    def _recover(self, message: Gap | Snapshot) -> None:
        feed = self._feeds.get(message.thread_id or "")
        if feed is None:
            return
        handles = [run for run in feed.runs if run.run_id == feed.scope] or feed.handles
        doubtful: list[Run] = []
        if isinstance(message, Snapshot):
            handles, doubtful = self._checked(feed, message, handles)
            feed.epoch = message.epoch
            if message.run is not None:
                self._threads[message.run.run_id] = feed.thread_id
        else:
            feed.head = message.head
        self._give(feed, message, handles)
        for run in doubtful:
            self._doubt(feed, run)
        if feed.midway:
            self._told_midway(feed)
        self._ask_next(feed)

    def _checked(
        self, feed: _Feed, snapshot: Snapshot, handles: Sequence[Handle]
    ) -> tuple[list[Handle], list[Run]]:
        """Those for whom the snapshot is true, and the runs that may have ended unseen.

        A run that it does not show at work is told nothing, and stays where it is, until the
        server was asked for its end, which outlives the rest of it. Where the snapshot lies before
        the head, that end follows by itself.
        """
        running = snapshot.run.run_id if snapshot.run and snapshot.run.status not in ENDED else None
        told: list[Handle] = []
        doubtful: list[Run] = []
        for handle in handles:
            position = handle.position
            same = position is None or position.epoch == snapshot.epoch
            waits = same and handle.status == "queued" and _seq(handle)
            at_work = not isinstance(handle, Run) or handle.run_id == running or waits
            if isinstance(handle, Run) and not at_work and snapshot.position.seq >= feed.head:
                doubtful.append(handle)
                if same:
                    continue
            told.append(handle)
        return told, doubtful

    def _doubt(self, feed: _Feed, run: Run) -> None:
        if run not in feed.doubted:
            feed.doubted.add(run)
            feed.doubts.append(run)
            feed.deaf.add(run)

    def _ask_next(self, feed: _Feed) -> None:
        """Ask for the end of the next run that may have ended."""
        while feed.doubts:
            run = feed.doubts.popleft()
            if run in feed.handles:
                self._follow(feed, run)
                return

    # -- telling ----------------------------------------------------------------------------

    def _report(self, error: Exception, *handles: Handle) -> None:
        """Tell of an error that no call of the program can raise."""
        owners = [*(handle.callbacks for handle in handles), self._callbacks]
        callbacks = [owner["on_error"] for owner in owners if "on_error" in owner]
        if callbacks:
            self._calls.add(callbacks, (error,))
        elif isinstance(error, ConnectionLostError):
            logger.warning("%s; trying again", error)
        else:
            logger.error("%s: %s", type(error).__name__, error, exc_info=error)


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("ws", "wss", "http", "https") and bool(parts.hostname)
        _ = parts.port
    except (TypeError, ValueError, AttributeError):
        good = False
    if not good:
        raise ConfigurationError(f"url: expected ws://… or wss://…, got {url!r}")


def _new_id(run_id: str | None) -> str:
    return str(uuid.uuid4()) if run_id is None else run_id


def _refusal(error: Error) -> RequestRefused:
    return RequestRefused(
        error.code,
        error.message,
        field=error.field,
        retryable=error.retryable,
        retry_after=None if error.retry_after_ms is None else error.retry_after_ms / 1000,
    )


def _stale(thread_id: str, feed: _Feed, after: Position) -> Gap:
    """What the server would say of a position in a log that was lost."""
    return Gap(
        thread_id=thread_id,
        reason="epoch",
        requested=after.seq,
        first=1,
        head=feed.head,
        epoch=feed.epoch,
    )


def _set_exception(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
        with suppress(asyncio.CancelledError):
            future.exception()  # whoever waited may have gone
