"""For the tests of your own graphs: a model, a recorder, a client, and golden transcripts.

::

    model = ScriptedModel(["Hello!", Reply(tool_calls=[call("search", query="cats")])])

    run = await record(graph, {"messages": "hi"})             # no socket: frames
    assert run.text == "Hello!"

    async with chat_client(graph) as chat:                    # a real one: messages
        heard = await chat.run("hi")
    assert_transcript(heard, "transcripts/hello.jsonl")

`chat_client` also takes an application, or the client that pytest-aiohttp's `aiohttp_client` made.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from enum import Enum
from itertools import count
from typing import Any, Final, TypeAlias, TypeVar

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from langgraph_ws.aiohttp import ATTACHMENTS, attach_websocket
from langgraph_ws.codec import dumps, loads
from langgraph_ws.errors import ConfigurationError
from langgraph_ws.frames import Frame, RunFinished, RunResult, RunStatus
from langgraph_ws.mapping import ChatMapper, Mapper
from langgraph_ws.scripted import Reply, ScriptedModel, call
from langgraph_ws.streaming import stream_frames
from langgraph_ws.transcripts import assert_transcript

__all__ = [
    "Chat",
    "Heard",
    "Recording",
    "Reply",
    "ScriptedModel",
    "assert_transcript",
    "call",
    "chat_client",
    "record",
]

Json: TypeAlias = dict[str, Any]
AnyFrame = TypeVar("AnyFrame")
Http: TypeAlias = "TestClient[web.Request, web.Application]"


class _Nothing(Enum):
    """That an argument was not given, where None would be a value."""

    NOTHING = "nothing"


_NOTHING: Final = _Nothing.NOTHING


# --- without a socket ------------------------------------------------------------------------


class Recording(list[Frame]):
    """The frames of a run, in order."""

    def of(self, kind: type[AnyFrame]) -> list[AnyFrame]:
        """Those of a class."""
        return [frame for frame in self if isinstance(frame, kind)]

    @property
    def text(self) -> str:
        """The text that the run ended with; empty when it did not complete."""
        return "".join(result.text for result in self.of(RunResult))

    @property
    def status(self) -> RunStatus | None:
        """How the run ended."""
        return next((end.status for end in self.of(RunFinished)), None)


async def record(
    graph: Any,
    input: Any,  # noqa: A002  # LangGraph's word
    config: Mapping[str, Any] | None = None,
    *,
    mapper: type[Mapper] = ChatMapper,
    context: Any = None,
    modes: Collection[str] = (),
    **options: Any,
) -> Recording:
    """Run a graph and return all of its frames.

    Args:
        graph: A compiled graph.
        input: What it is given.
        config: LangGraph's config.
        mapper: The class that makes frames.
        context: The graph's context.
        modes: Stream modes to ask for beyond those of the mapper.
        options: Other options of `stream_frames`.
    """
    frames = stream_frames(
        graph, input, config, mapper=mapper, context=context, modes=modes, **options
    )
    return Recording([frame async for frame in frames])


# --- over a socket ---------------------------------------------------------------------------


class Heard(list[Json]):
    """Messages of the chat protocol, in order."""

    def of(self, kind: str) -> list[Any]:
        """The `data` of those of a type."""
        return [message["data"] for message in self if message["type"] == kind]

    @property
    def text(self) -> str:
        """The text that the run ended with; empty when it did not complete."""
        return "".join(final["text"] for final in self.of("final"))

    @property
    def status(self) -> str | None:
        """How the run ended; None when it has not."""
        return next((end["status"] for end in self.of("end")), None)

    @property
    def thread_id(self) -> str:
        """The thread of the first `run` among them."""
        return str(self.of("run")[0]["thread_id"])

    @property
    def run_id(self) -> str:
        """The id of the first `run` among them."""
        return str(self.of("run")[0]["run_id"])


class Chat:
    """One connection that speaks the chat protocol; made by `chat_client`.

    One thing at a time may wait for messages. For a second connection, give `http` to
    `chat_client`.

    Attributes:
        http: The client of the whole application: for other requests, and other connections.
        heard: Everything that was received so far.
        timeout: Seconds that may pass until what is waited for has come.
    """

    def __init__(self, ws: aiohttp.ClientWebSocketResponse, http: Http, timeout: float) -> None:
        self._ws = ws
        self._ids = count(1)
        self.http = http
        self.heard = Heard()
        self.timeout = timeout

    async def send(self, message: Mapping[str, Any]) -> None:
        """Send a message."""
        await self._ws.send_str(dumps(dict(message)).decode())

    async def receive(self, kind: str | None = None) -> Json:
        """The next message; with a type, the next of it, whatever comes before.

        Raises:
            AssertionError: It did not come in time, or the server closed the connection.
        """
        return (await self.until(kind))[-1]

    async def until(self, kind: str | None) -> Heard:
        """All messages up to the next one of a type (None: any), which is the last.

        Raises:
            AssertionError: It did not come in time, or the server closed the connection.
        """
        messages = Heard()
        async with self._patience(f"a {kind!r} message" if kind else "a message"):
            while not messages or kind not in (None, messages[-1]["type"]):
                messages.append(await self._next())
        return messages

    async def run(
        self, messages: str | Sequence[Mapping[str, Any]] | None = None, **fields: Any
    ) -> Heard:
        """Send `new_chat`; return the answer and all messages of the run, up to its `end`.

        Args:
            messages: What the user says, or messages; None where `input` is given.
            fields: The other fields of `new_chat`.

        Raises:
            AssertionError: The server refused, or the run did not end in time.
        """
        return await self._run({"type": "new_chat", **_turn(messages), **fields})

    async def resume(self, thread_id: str, answer: Any = _NOTHING, **fields: Any) -> Heard:
        """Send `resume_chat`; return the answer and all messages of the run, up to its `end`.

        Args:
            thread_id: The thread.
            answer: The answer to its interrupts: `{id: value}`, or a bare value when one waits.
            fields: The other fields of `resume_chat`.

        Raises:
            AssertionError: The server refused, or the run did not end in time.
        """
        given = {} if answer is _NOTHING else {"resume": answer}
        return await self._run({"type": "resume_chat", "thread_id": thread_id, **given, **fields})

    async def closed(self) -> int:
        """The code that the server closes the connection with, whatever comes before.

        Raises:
            AssertionError: It did not in time.
        """
        async with self._patience("the connection to be closed"):
            while not self._ws.closed:
                await self._take()
        return self._ws.close_code or 1006

    async def _run(self, request: Json) -> Heard:
        asked = f"{request['type']}-{next(self._ids)}"
        before = len(self.heard)
        await self.send(request | {"id": asked})
        async with self._patience(f"the run that {request['type']} asked for to end"):
            while (answer := await self._next()).get("request_id") != asked:
                pass
            if answer["type"] == "error":
                raise AssertionError(f"the server refused {request['type']}: {answer['data']}")
            run_id = answer["data"]["run_id"]
            # On a thread that is followed already, the run may be heard of before the answer.
            messages = [it for it in self.heard[before:] if it.get("run_id") == run_id]
            while not messages or messages[-1]["type"] != "end":
                message = await self._next()
                if message.get("run_id") == run_id:
                    messages.append(message)
        return Heard([answer, *messages])

    async def _next(self) -> Json:
        message = await self._take()
        if message is None:
            raise AssertionError(f"the server closed the connection with {self._ws.close_code}")
        return message

    async def _take(self) -> Json | None:
        """The next message; None when the connection is closed."""
        received = await self._ws.receive()
        if received.type is not aiohttp.WSMsgType.TEXT:
            return None
        message: Json = loads(received.data)
        self.heard.append(message)
        return message

    @asynccontextmanager
    async def _patience(self, awaited: str) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self.timeout):
                yield
        except TimeoutError:
            types = Counter(message["type"] for message in self.heard)
            heard = ", ".join(f"{kind} ({number})" for kind, number in types.items()) or "nothing"
            raise AssertionError(
                f"waited {self.timeout} s for {awaited}; received so far: {heard}"
            ) from None


@asynccontextmanager
async def chat_client(
    target: Any,
    path: str | None = None,
    *,
    headers: Mapping[str, str] | None = None,
    timeout: float = 10.0,
    **options: Any,
) -> AsyncIterator[Chat]:
    """Serve a graph or an application on a free port, and connect to it.

    Args:
        target: Whatever `attach_websocket` takes; or an aiohttp `Application` that is not running;
            or a `TestClient` (such as `aiohttp_client` of pytest-aiohttp makes), which is left
            open.
        path: The route; None: the only one of the application.
        headers: Those of the handshake (`Origin`, `Cookie`…).
        timeout: Seconds that each wait for messages may take.
        options: Those of `attach_websocket`, for a graph.

    Raises:
        ConfigurationError: There are options but no graph, or it cannot be known which route.
        aiohttp.WSServerHandshakeError: The server refused the connection; `status` says how.
    """
    async with _client_of(target, path, options) as http:
        where = _only_path(http) if path is None else path
        async with http.ws_connect(where, headers=headers, max_msg_size=0) as ws:
            yield Chat(ws, http, timeout)


@asynccontextmanager
async def _client_of(target: Any, path: str | None, options: Json) -> AsyncIterator[Http]:
    if not isinstance(target, TestClient | web.Application):
        app = web.Application()
        attach_websocket(app, target, "/ws" if path is None else path, **options)
        target = app
    elif options:
        raise ConfigurationError(f"{', '.join(options)}: expected only beside a graph")
    if isinstance(target, TestClient):
        yield target
        return
    async with TestClient(TestServer(target)) as http:
        yield http


def _only_path(http: Http) -> str:
    attached = {} if http.app is None else http.app.get(ATTACHMENTS, {})
    paths = list(attached)
    if len(paths) != 1:
        found = ", ".join(paths) or "none is known"
        raise ConfigurationError(f"path: expected that of the route to talk to ({found})")
    return paths[0]


def _turn(messages: str | Sequence[Mapping[str, Any]] | None) -> Json:
    if messages is None:
        return {}
    if isinstance(messages, str):
        return {"messages": [{"role": "user", "content": messages}]}
    return {"messages": [dict(message) for message in messages]}
