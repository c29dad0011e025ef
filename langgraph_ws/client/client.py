"""The Python client of the chat protocol: what a program asks it for.

::

    async with connect("ws://127.0.0.1:8765/ws") as client:
        run = await client.new_chat("Hello", on_text=lambda text, message: print(text))
        print((await run.result()).text)

A client keeps one connection (`Connection`), and follows threads over it (`Following`).
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeAlias, Unpack, overload
from urllib.parse import urlsplit

import aiohttp

import langgraph_ws.client.requests as requests
from langgraph_ws.client.callbacks import Callbacks, Given, Telling, check_callbacks
from langgraph_ws.client.connection import Connection, ConnectionState, Token
from langgraph_ws.client.errors import ConnectionFailedError, RequestRefused
from langgraph_ws.client.following import Following
from langgraph_ws.client.handles import Run, Thread, closed_error
from langgraph_ws.client.outbox import set_exception
from langgraph_ws.client.reconnect import Reconnect
from langgraph_ws.client.requests import NOTHING, Messages
from langgraph_ws.errors import ConfigurationError
from langgraph_ws.log import Position

__all__ = ["Client", "connect"]

Json: TypeAlias = dict[str, Any]
_CALLBACKS_S = 5.0


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
        callbacks: Given,
    ) -> None:
        self._session = session
        self._own_session = session is None
        self._room = asyncio.Event()
        self._telling = Telling(callbacks, self._room.set)
        self._following = Following(self._telling, self._room, rules)
        self._connection = Connection(
            url,
            token=token,
            headers=headers,
            rules=rules,
            heartbeat=heartbeat,
            following=self._following,
            telling=self._telling,
            room=self._room,
            on_open=self._open,
            on_state=on_state,
        )
        self._main: asyncio.Task[None] | None = None
        self._opened: asyncio.Future[None] | None = None
        self._failure: ConnectionFailedError | None = None

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
        return self._connection.state

    async def close(self) -> None:
        """Close the connection, in a bounded time; runs go on without it.

        Callbacks that wait get their turn. What is not over raises `ConnectionFailedError`.
        """
        if self._main is not None:
            self._main.cancel()
            await asyncio.wait({self._main})
        self._fail(closed_error(), closing=True)
        await self._telling.finish(_CALLBACKS_S)
        if self._own_session and self._session is not None:
            await self._session.close()

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
            run = Run(self, run_id, callbacks, after)
            await self._following.watch(run, message)
            return run
        thread = Thread(self, thread_id or "", callbacks, after)
        await self._following.attach(thread)
        return thread

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
        message = requests.cancel(run_id=run_id, thread_id=thread_id)
        self._check_open()
        try:
            await self._following.ask(message)
        except RequestRefused as error:
            if error.code != "not_found":
                raise

    async def detach(self, thread: Thread) -> None:
        """Follow a thread no longer; its runs go on."""
        self._following.detach(thread)

    def resume_reading(self) -> None:
        """There may be room again for what was not read."""
        self._room.set()

    async def _start(self, message: Json, callbacks: Mapping[str, Any]) -> Run:
        self._check_open()
        run = Run(self, message["run_id"], callbacks)
        await self._following.start(run, message)
        return run

    def _check_open(self) -> None:
        if self._main is None:
            raise ConfigurationError("use the client inside `async with connect(…) as client`")
        if self._failure is not None:
            raise self._failure

    async def _stay_connected(self, session: aiohttp.ClientSession) -> None:
        self._fail(await self._connection.stay(session), closing=False)

    def _open(self) -> None:
        if self._opened is not None and not self._opened.done():
            self._opened.set_result(None)

    def _fail(self, failure: ConnectionFailedError, *, closing: bool) -> None:
        """There is no connection, and there will be none."""
        if self._failure is not None:
            return
        self._failure = failure
        self._following.fail(failure, closing=closing)
        self._connection.change(ConnectionState(status="closed", reason=failure.reason))
        if self._opened is not None:
            set_exception(self._opened, failure)


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
