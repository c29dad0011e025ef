"""One connection of the client: a task that alone sends, and one that listens for silence.

aiohttp's client (3.13.5 and 3.14.5) shares its traps with the server side: cancelling one waiting
send spoils the others (3.14, PR #12307), so there is one writer and no send is cancelled; closing
waits for a peer that may be gone, so it is bounded, and a dead connection is shut down below it.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from contextlib import suppress

import aiohttp
from aiohttp import WSMsgType

from langgraph_ws.client.messages import Bye
from langgraph_ws.client.reconnect import Lost, Silence

__all__ = ["Link"]

_CLOSE_S = 2.0
_CLOSING = (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR)


class Link:
    """An open connection.

    Args:
        ws: The connection, with `autoping` off.
        heartbeat: Seconds of silence after which it is pinged.
        ping: The message to send then.

    Attributes:
        ready: Whether the client may send what it likes.
        paused: Whether it reads nothing at the moment, so that silence means nothing.
        bye: What the server said before it closes.
        lost: Why we gave it up; None where we did not.
    """

    def __init__(self, ws: aiohttp.ClientWebSocketResponse, heartbeat: float, ping: bytes) -> None:
        self.ready = False
        self.paused = False
        self.bye: Bye | None = None
        self.lost: Lost | None = None
        self._ws = ws
        self._ping = ping
        self._outbox: deque[tuple[bytes, WSMsgType]] = deque()
        self._wake = asyncio.Event()
        self._closing = False
        self._code: int | None = None
        self._reason = ""
        self._loop = asyncio.get_running_loop()
        self._silence = Silence(heartbeat, self._loop.time())
        self._writer = self._loop.create_task(self._write())
        self._watcher = self._loop.create_task(self._watch())

    @property
    def code(self) -> int | None:
        """The close code that the server sent; None where it sent none."""
        return self._code

    @property
    def reason(self) -> str:
        """What it sent with the code."""
        return self._reason

    def put(self, data: bytes, opcode: WSMsgType = WSMsgType.TEXT) -> None:
        """Have a message sent."""
        self._outbox.append((data, opcode))
        self._wake.set()

    async def receive(self) -> str | bytes | None:
        """The next message; None when the connection has ended."""
        while True:
            message = await self._ws.receive()
            self._silence.heard(self._loop.time())
            if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                data: str | bytes = message.data
                return data
            if message.type is WSMsgType.PING:
                self.put(bytes(message.data), WSMsgType.PONG)
            elif message.type in _CLOSING:
                if message.type is WSMsgType.CLOSE:
                    self._code, self._reason = message.data, str(message.extra or "")
                return None

    def drop(self, lost: Lost) -> None:
        """Give the connection up; `receive` ends."""
        self.lost = self.lost or lost
        sock = self._ws.get_extra_info("socket")
        if sock is not None:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    async def close(self) -> None:
        """Close, in a bounded time."""
        self._closing = True
        self._watcher.cancel()
        self._wake.set()
        await asyncio.wait({self._writer, self._watcher}, timeout=_CLOSE_S)
        if not self._writer.done():
            self.drop(Lost(reason="the server takes nothing"))
            await asyncio.wait({self._writer})
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                await self._ws.close()

    async def _write(self) -> None:
        with suppress(ConnectionError):
            while True:
                while self._outbox:
                    await self._ws.send_frame(*self._outbox.popleft())
                if self._closing:
                    return
                self._wake.clear()
                await self._wake.wait()

    async def _watch(self) -> None:
        while True:
            if self.paused:
                self._silence.heard(self._loop.time())
            due = self._silence.check(self._loop.time())
            if due == "dead":
                self.drop(Lost(reason="the server is silent"))
                return
            if due == "ping":
                if self.ready:
                    self.put(self._ping)
                continue
            await asyncio.sleep(due)
