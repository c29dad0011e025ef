"""TCP proxies that break connections: at random, when told to, or in place of an answer."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Self


class _Proxy:
    """Serves on a free port of the loopback, each connection in a task of its own."""

    def __init__(self, target: int, seed: int) -> None:
        self.port = 0
        self._target = target
        self._random = random.Random(seed)
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Self]:
        """Serve on a free port."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in tuple(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await server.wait_closed()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._forward(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise NotImplementedError


class CuttingProxy(_Proxy):
    """Forwards to a port; each connection is cut after a random number of bytes.

    Args:
        port: The port to forward to, on loopback.
        seed: The seed of all chance in it.
        cuts: How many connections to cut; later ones live.
        longest: The most bytes that pass in one direction before a cut.
    """

    def __init__(self, port: int, *, seed: int, cuts: int, longest: int = 20_000) -> None:
        super().__init__(port, seed)
        self.connections = 0
        self.cuts = 0
        self._most = cuts
        self._longest = longest

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        doomed = self.connections <= self._most
        # Short ones cut the handshake and the first messages, long ones the stream.
        top = self._random.choice([400, 2_000, self._longest])
        left = [self._random.randrange(1, top) if doomed else 1 << 60]
        reset = self._random.random() < 0.5
        sides = [writer]
        try:
            upstream, downstream = await asyncio.open_connection("127.0.0.1", self._target)
            sides.append(downstream)
            pumps = {
                asyncio.create_task(self._pump(reader, downstream, left)),
                asyncio.create_task(self._pump(upstream, writer, left)),
            }
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
            self.cuts += left[0] <= 0
        finally:
            for side in sides:
                if reset:
                    side.transport.abort()
                side.close()
            for side in sides:
                with suppress(ConnectionError):
                    await side.wait_closed()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, left: list[int]
    ) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(self._random.choice([1, 7, 100, 4096])):
                writer.write(data[: max(left[0], 0)])
                left[0] -= len(data)
                if left[0] <= 0:
                    return
                await writer.drain()


class Switch:
    """A proxy whose target can be changed; all connections break then."""

    def __init__(self, target: int) -> None:
        self.port = 0
        self._target = target
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = True

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Switch]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            self._break()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def to(self, target: int) -> None:
        self._target = target
        self._break()

    def cut(self) -> None:
        """Break all connections, and let none through."""
        self._open = False
        self._break()

    def mend(self) -> None:
        self._open = True

    def _break(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        if not self._open:
            writer.transport.abort()
            return
        upstream, downstream = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers |= {writer, downstream}
        pumps = [_pump(reader, downstream), _pump(upstream, writer)]
        await asyncio.gather(*pumps, return_exceptions=True)
        for side in (writer, downstream):
            side.transport.abort()
            self._writers.discard(side)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(4096):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.transport.abort()


class EatingProxy(_Proxy):
    """Forwards requests to a port; some answers are eaten, and the connection closed instead.

    Args:
        port: The port to forward to, on loopback.
        seed: The seed of all chance in it.
        share: The share of answers that is eaten.
        spared: Whether an answer to this request is always given.
    """

    def __init__(
        self, port: int, *, seed: int, share: float, spared: Callable[[bytes], bool]
    ) -> None:
        super().__init__(port, seed)
        self.eaten = 0
        self.share = share
        self._spared = spared

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sides = [writer]
        try:
            with suppress(ConnectionError):
                upstream, downstream = await asyncio.open_connection("127.0.0.1", self._target)
                sides.append(downstream)
                await self._serve(reader, writer, upstream, downstream)
        finally:
            for side in sides:
                side.close()
            for side in sides:
                with suppress(ConnectionError):
                    await side.wait_closed()

    async def _serve(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        upstream: asyncio.StreamReader,
        downstream: asyncio.StreamWriter,
    ) -> None:
        while request := await reader.read(1 << 20):
            downstream.write(request)
            answer = await upstream.read(1 << 20)
            if not self._spared(request) and self._random.random() < self.share:
                self.eaten += 1
                return
            writer.write(answer)
