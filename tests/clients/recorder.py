"""A client of the LangChain protocol that knows only the specification, and keeps all frames."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Any
from uuid import uuid4

import aiohttp

from tests.clients.rules import COMMAND, RESULTS, TERMINAL, Json, Rules

PATIENCE = 20.0
"""Seconds that anything may take; far more than it needs."""
CHANNELS = (
    *("values", "updates", "messages", "tools", "lifecycle", "input", "checkpoints", "tasks"),
    "custom",
)


class Recorder:
    """One connection.

    Attributes:
        url: Where the graphs are attached.
        thread_id: Its thread.
        frames: What it got, in order.
        rules: The rules that this is checked with.
        close_code: The code that the server closed it with.
    """

    def __init__(self, ws: aiohttp.ClientWebSocketResponse, url: str, thread_id: str) -> None:
        self.url = url
        self.thread_id = thread_id
        self.frames: list[Json] = []
        self.rules = Rules()
        self._ws = ws
        self._ids = count(1)
        self._grown = asyncio.Condition()
        self._closed = False

    @property
    def close_code(self) -> int | None:
        return self._ws.close_code

    @property
    def events(self) -> list[Json]:
        """The events among the frames."""
        return [frame for frame in self.frames if frame["type"] == "event"]

    def of(self, method: str) -> list[Any]:
        """The data of the events of a method."""
        return [each["params"]["data"] for each in self.events if each["method"] == method]

    async def pump(self) -> None:
        """Take in what comes, until the connection is closed."""
        async for message in self._ws:
            frame = message.json()
            self.rules.check(frame)
            await self._grow(frame)
        self._closed = True
        await self._grow()

    async def _grow(self, *frames: Json) -> None:
        async with self._grown:
            self.frames += frames
            self._grown.notify_all()

    async def until(self, wanted: Callable[[Json], Any], after: int = 0) -> Json:
        """The first frame that is wanted, after so many, once it is there."""
        async with asyncio.timeout(PATIENCE), self._grown:
            while True:
                for frame in self.frames[after:]:
                    if wanted(frame):
                        return frame
                after = len(self.frames)
                assert not self._closed, f"closed with {self.close_code}"
                await self._grown.wait()

    async def closed(self) -> int | None:
        """The code of the close that the server sends."""
        async with asyncio.timeout(PATIENCE), self._grown:
            await self._grown.wait_for(lambda: self._closed)
        return self.close_code

    async def send_text(self, text: str) -> None:
        await self._ws.send_str(text)

    async def send_bytes(self, data: bytes) -> None:
        await self._ws.send_bytes(data)

    async def answer(self, method: str, **params: Any) -> Json:
        """Send a command; the frame that answers it."""
        number = next(self._ids)
        if method in ("subscription.subscribe", "subscription.reconnect"):
            self.rules.subscribed()
        await self._ws.send_json({"id": number, "method": method, "params": params})
        return await self.until(lambda frame: frame.get("id") == number)

    async def command(self, method: str, **params: Any) -> Json:
        """Send a command that the specification knows; its result."""
        COMMAND.validate_python({"id": 0, "method": method, "params": params})
        answer = await self.answer(method, **params)
        assert answer["type"] == "success", answer
        RESULTS[method].validate_python(answer["result"])
        result: Json = answer["result"]
        return result

    async def refused(self, method: str, **params: Any) -> tuple[str, str]:
        """Send a command that is refused; the code and the text."""
        answer = await self.answer(method, **params)
        assert answer["type"] == "error", answer
        return answer["error"], answer["message"]

    async def subscribe(self, *channels: str, **more: Any) -> Json:
        return await self.command(
            "subscription.subscribe", channels=list(channels or CHANNELS), **more
        )

    async def run(self, graph: str, given: Any, **more: Any) -> Json:
        """Start a run."""
        return await self.command("run.start", assistant_id=graph, input=given, **more)

    async def end(self, run_id: str) -> str:
        """How a run ended, once it has."""
        frame = await self.until(
            lambda frame: (
                frame.get("event_id", "").startswith(f"synth:{run_id}:")
                and frame["params"]["data"]["event"] in TERMINAL
            )
        )
        return str(frame["params"]["data"]["event"])


@asynccontextmanager
async def recording(
    url: str, thread_id: str | None = None, **options: Any
) -> AsyncIterator[Recorder]:
    """A connection to a thread; when the block ends, no frame may have broken a rule."""
    thread_id = thread_id or str(uuid4())
    async with (
        aiohttp.ClientSession() as http,
        http.ws_connect(
            f"{url}/threads/{thread_id}/stream/events", max_msg_size=0, **options
        ) as ws,
    ):
        recorder = Recorder(ws, url, thread_id)
        pump = asyncio.create_task(recorder.pump())
        try:
            yield recorder
        finally:
            await ws.close()
            await pump
    assert not recorder.rules.broken, "\n".join(recorder.rules.broken)
