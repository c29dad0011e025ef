"""What is loaded onto a process, and what has to hold meanwhile and afterwards.

Each scenario returns what it measured, for the table of `python -m tests.load`. What depends on how
fast the machine is goes into the table; only what must hold on any machine is asserted.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from redis.asyncio import Redis

from tests.load.app import STORY, raise_file_limit
from tests.rawsocket import PING, PONG, RawClient, first_frame, frame
from tests.servers import free_port

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60.0
DRAIN_S = 3.0


class Site:
    """A process under load, and the session of its clients."""

    def __init__(self, session: aiohttp.ClientSession, port: int) -> None:
        self.session = session
        self.port = port
        self.url = f"http://127.0.0.1:{port}/ws"
        self.process: asyncio.subprocess.Process | None = None

    async def start(self, **options: Any) -> None:
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.load.app", json.dumps({"port": self.port, **options})),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,  # failures on purpose are logged, too
            cwd=ROOT,
        )
        assert self.process.stdout is not None
        line = await self.process.stdout.readline()
        assert line == b"ready\n", line

    async def stop(self, number: signal.Signals = signal.SIGKILL) -> float:
        """End the process; how many seconds it took."""
        assert self.process is not None
        began = time.monotonic()
        self.process.send_signal(number)
        await self.process.wait()
        self.process = None
        return time.monotonic() - began

    async def vitals(self) -> dict[str, float]:
        async with self.session.get(f"http://127.0.0.1:{self.port}/vitals") as response:
            found: dict[str, float] = await response.json()
        return found

    async def connect(self) -> aiohttp.ClientWebSocketResponse:
        return await self.session.ws_connect(
            self.url, max_msg_size=0, timeout=aiohttp.ClientWSTimeout(ws_close=2)
        )

    async def attached(self, thread_id: str, **position: Any) -> aiohttp.ClientWebSocketResponse:
        """A connection that follows a thread."""
        ws = await self.connect()
        options = {"text": "delta"}
        await ws.send_json(
            {"type": "attach", "thread_id": thread_id, "options": options, **position}
        )
        await until(ws, "run")
        return ws

    async def settled(self, before: dict[str, float], *names: str) -> dict[str, float]:
        """What the process uses once these are what they were before."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            now = await self.vitals()
            more = {name: (before[name], now[name]) for name in names if now[name] > before[name]}
            if not more:
                return now
            assert time.monotonic() < deadline, more
            await asyncio.sleep(0.2)


@asynccontextmanager
async def site(**options: Any) -> AsyncIterator[Site]:
    """A process that serves, and ends with the block."""
    raise_file_limit()
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        made = Site(session, free_port())
        await made.start(**options)
        try:
            yield made
        finally:
            if made.process is not None:
                await made.stop()


async def until(ws: aiohttp.ClientWebSocketResponse, *kinds: str) -> list[dict[str, Any]]:
    """All messages up to the first of these types."""
    heard: list[dict[str, Any]] = []
    async with _bounded(heard):
        async for message in ws:
            heard.append(json.loads(message.data))
            if heard[-1]["type"] in kinds:
                return heard
    raise AssertionError(f"the connection ended ({ws.close_code}) before {kinds}")


@asynccontextmanager
async def _bounded(heard: Sequence[dict[str, Any]]) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(2 * PATIENCE_S):
            yield
    except TimeoutError:
        raise AssertionError(f"nothing came after {heard[-3:]}") from None


async def say(ws: aiohttp.ClientWebSocketResponse, text: str, **request: Any) -> None:
    messages = [{"role": "user", "content": text}]
    options = {"text": "delta"}
    await ws.send_json({"type": "new_chat", "messages": messages, "options": options, **request})


async def ping(ws: aiohttp.ClientWebSocketResponse) -> float:
    """Seconds until the server answers."""
    began = time.perf_counter()
    await ws.send_json({"type": "ping"})
    await until(ws, "pong")
    return time.perf_counter() - began


def percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


async def many(count: int, make: Any) -> list[Any]:
    """As many of them, two hundred at a time: the client is one process with one loop, too."""
    made = []
    for first in range(0, count, 200):
        numbers = range(first, min(first + 200, count))
        made += await asyncio.gather(*(make(number) for number in numbers))
    return made


async def close_all(sockets: Sequence[aiohttp.ClientWebSocketResponse]) -> None:
    for first in range(0, len(sockets), 200):
        await asyncio.gather(*(ws.close() for ws in sockets[first : first + 200]))


async def idle(*, connections: int, seconds: float) -> str:
    """Connections that follow a thread and say nothing, with a conversation beside them."""
    async with site() as served:
        before = await served.vitals()
        sockets = await many(connections, lambda number: served.attached(f"idle-{number}"))
        full = await served.vitals()
        assert full["open"] == connections

        async def listen(ws: aiohttp.ClientWebSocketResponse) -> None:
            """Read what comes (heartbeats), as a client does: a ping that nobody reads is lost."""
            async for _ in ws:
                pass

        listening = [asyncio.create_task(listen(ws)) for ws in sockets]
        beside, waits = await served.connect(), []
        ends = time.monotonic() + seconds
        began = (await served.vitals())["cpu"], time.monotonic()
        while time.monotonic() < ends:
            waits.append(await ping(beside))
            await asyncio.sleep(0.1)
        after = await served.vitals()
        busy = (after["cpu"] - began[0]) / (time.monotonic() - began[1])
        assert after["open"] == connections + 1, "connections were dropped"
        await beside.close()
        await close_all(sockets)
        await asyncio.gather(*listening)
        await served.settled(before, "open", "connections", "tasks")
    size = (full["rss"] - before["rss"]) / connections / 1e3
    return (
        f"{connections} connections, {size:.1f} KB each, {busy:.0%} of a core for {seconds:.0f} s; "
        f"none dropped; a ping beside them takes {percentile(waits, 0.5) * 1e3:.1f} ms "
        f"(p99 {percentile(waits, 0.99) * 1e3:.0f})"
    )


async def storm(*, clients: int) -> str:
    """The process is killed and started again, and all of its clients come back at once."""
    async with site() as served:
        speaker = await served.connect()
        await say(speaker, "tell", thread_id="t")
        heard = await until(speaker, "end")
        position = {"after": heard[-1]["seq"]}
        position["epoch"] = next(m["data"]["epoch"] for m in heard if m["type"] == "run")
        sockets = await many(clients, lambda _: served.attached("t", **position))
        await served.stop()
        ended = await asyncio.gather(*(ws.receive() for ws in sockets))
        assert all(message.type in _ENDED for message in ended)
        await close_all([*sockets, speaker])
        await served.start()
        refused: Counter[int] = Counter()

        async def come_back(number: int) -> aiohttp.ClientWebSocketResponse:
            while True:
                try:
                    return await served.attached(f"again-{number % 50}")
                except aiohttp.WSServerHandshakeError as error:
                    refused[error.status] += 1
                    await asyncio.sleep(random.uniform(0.1, 0.5))

        began = time.perf_counter()
        sockets = await asyncio.gather(*(come_back(number) for number in range(clients)))
        waited = time.perf_counter() - began
        assert (await served.vitals())["open"] == clients
        assert not refused, refused
        await close_all(sockets)
    return f"{clients} clients follow again after {waited:.1f} s; none refused"


_ENDED = (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)


async def stuck_at_sigterm(*, stuck: int, good: int) -> str:
    """SIGTERM while clients take nothing: the process ends in time, the others are told 1012."""
    async with site(attach={"drain_timeout": DRAIN_S}) as served:
        deaf = []
        for _ in range(stuck):
            client = await RawClient.connect(served.port, receive_buffer=4096)
            await client.send({"type": "attach", "thread_id": "t"})
            deaf.append(client)
        sockets = await many(good, lambda number: served.attached(f"good-{number}"))
        speaker = await served.connect()
        await say(speaker, "ticks 100000 0.001 2000", thread_id="t")
        await until(speaker, "tick")
        speaking = asyncio.create_task(_drain(speaker))
        await asyncio.sleep(1.0)  # the buffers of those that do not read are full by now
        codes = [asyncio.create_task(_drain(ws)) for ws in sockets]
        seconds = await served.stop(signal.SIGTERM)
        assert Counter(await asyncio.gather(*codes)) == {1012: good}
        await speaking
        for client in deaf:
            client.close()
    # A run that never reaches another superstep gets all of the drain, then the closing its own.
    assert seconds < DRAIN_S + 6, seconds
    return f"ended after {seconds:.1f} s (drain {DRAIN_S:.0f} s); {good} others closed with 1012"


async def _drain(ws: aiohttp.ClientWebSocketResponse) -> int | None:
    async for _ in ws:
        pass
    return ws.close_code


async def stuck(*, stuck: int, good: int, seconds: float) -> str:
    """Clients that stop reading a run that says much, beside those that chat."""
    async with site(attach={"stall_timeout": 5.0}) as served:
        sockets = await many(good, lambda _: served.connect())
        calm: list[float] = []
        for _ in range(5):
            calm += await asyncio.gather(*(ping(ws) for ws in sockets))
        before = await served.vitals()
        speaker = await served.connect()
        pause = 0.01
        await say(speaker, f"ticks {int(seconds / pause)} {pause} 10000", thread_id="t")
        await until(speaker, "tick")
        speaking = asyncio.create_task(until(speaker, "end"))
        deaf = []
        for _ in range(stuck):
            client = await RawClient.connect(served.port, receive_buffer=4096)
            await client.send({"type": "attach", "thread_id": "t"})
            deaf.append(client)
        waits: list[float] = []
        peak = 0.0
        while not speaking.done():
            waits += await asyncio.gather(*(ping(ws) for ws in sockets))
            peak = max(peak, (await served.vitals())["rss"])
            await asyncio.sleep(0.5)
        await speaking
        after = await served.settled({"connections": good + 1}, "connections")
        assert after["stalled"] == stuck, after
        assert all([await client.dropped() for client in deaf])
        for client in deaf:
            client.close()
        await close_all([*sockets, speaker])
        await served.settled(before | {"open": 0}, "open", "files", "tasks")
    grown = (peak - before["rss"]) / 2**20
    return (
        f"{stuck} dropped; {good} others: p99 of a ping {percentile(waits, 0.99) * 1e3:.0f} ms "
        f"({percentile(calm, 0.99) * 1e3:.0f} without them); {grown:.0f} MiB more, log included"
    )


class Viewer(asyncio.Protocol):
    """A client that notes how late what it is sent comes, and does nothing else with it.

    A thousand that unpack everything, on the cores of the server, would measure themselves.
    """

    def __init__(self, lags: list[float]) -> None:
        self.count = 0
        self.ended = asyncio.get_running_loop().create_future()
        self._lags = lags
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        now = time.time()
        data = self._data + data
        while (taken := first_frame(data)) is not None:
            first, payload, data = taken
            if said := _SAID_AT.search(payload):
                self.count += 1
                self._lags.append(now - float(said[1]))
            elif first & 15 == PING:
                self.transport.write(frame(PONG, payload))
            elif b'"type":"end"' in payload:
                self.ended.set_result(None)
        self._data = data

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_exception(AssertionError("the connection ended before the run"))


_SAID_AT = re.compile(rb'"at":([0-9.]+)')


async def fan_out(*, viewers: int, seconds: float) -> str:
    """One run, thirty words a second, many viewers."""
    async with site() as served:
        lags: list[float] = []

        async def view(_: int) -> Viewer:
            client, viewer = await RawClient.connect(served.port), Viewer(lags)
            await client.send(
                {"type": "attach", "thread_id": "t", "options": {"text": "delta"}},
            )
            await client.receive("run")
            await client.pass_on(viewer)
            return viewer

        viewing: list[Viewer] = await many(viewers, view)
        speaker = await served.connect()
        before, began = await served.vitals(), time.monotonic()
        count = int(seconds * 30)
        await say(speaker, f"ticks {count} {1 / 30} 0", thread_id="t")
        await until(speaker, "end")
        await asyncio.gather(*(viewer.ended for viewer in viewing))
        busy = ((await served.vitals())["cpu"] - before["cpu"]) / (time.monotonic() - began)
        assert {viewer.count for viewer in viewing} == {count}
        for viewer in viewing:
            viewer.transport.close()
        await speaker.close()
    return (
        f"{viewers} viewers of 30 messages a second: {busy:.0%} of a core, "
        f"p50 {percentile(lags, 0.5) * 1e3:.0f} ms, p99 {percentile(lags, 0.99) * 1e3:.0f} ms "
        "(client on the same cores)"
    )


async def soak(*, seconds: float, clients: int, redis: str = "") -> str:
    """Chats, failures, cuts and returns; afterwards all that was used has been given back."""
    retention = {"finished_s": 8.0, "result_s": 10.0}
    prefix = "lgws" if redis else ""
    async with site(redis=redis, retention=retention) as served:
        chance = random.Random(7)
        done: Counter[str] = Counter()

        async def live(number: int, ends: float) -> None:
            while time.monotonic() < ends:
                done["connections"] += 1
                ws = await served.connect()
                match chance.randrange(5):
                    case 0:  # cut in the middle, and back on another connection
                        thread_id = f"{number}-{done['connections']}"
                        await say(ws, "tell", thread_id=thread_id)
                        heard = await until(ws, "text")
                        epoch = next(m["data"]["epoch"] for m in heard if m["type"] == "run")
                        assert ws._conn is not None  # a cut, not a close
                        assert ws._conn.transport is not None
                        ws._conn.transport.abort()
                        await ws.close()
                        ws = await served.connect()
                        last = next(m["seq"] for m in reversed(heard) if "seq" in m)
                        position = {"thread_id": thread_id, "after": last, "epoch": epoch}
                        options = {"text": "delta"}
                        await ws.send_json({"type": "attach", "options": options, **position})
                        # Who comes back after what was said is gone is shown the end.
                        heard += await until(ws, "end", "snapshot")
                        assert _told(heard) == STORY, heard[-7:]
                        done["cuts"] += 1
                    case 1:
                        await say(ws, "fail")
                        assert (await until(ws, "end"))[-1]["data"]["status"] == "failed"
                    case 2:
                        await ws.send_str("}{")
                        await until(ws, "error")
                    case _:
                        await say(ws, "tell")
                        heard = await until(ws, "end")
                        assert _told(heard) == STORY, heard[-7:]
                await ws.close()

        async def round_of(length: float) -> dict[str, float]:
            ends = time.monotonic() + length
            await asyncio.gather(*(live(number, ends) for number in range(clients)))
            return await served.settled(still, *names)

        still = await served.vitals()
        names = ["open", "tasks", "runs"]
        first = await round_of(min(10.0, seconds / 4))
        still |= {"tasks": first["tasks"], "files": first["files"]}  # pools are filled by now
        names.append("threads")
        if not redis:  # the pool of redis-py keeps as many connections as were used at once
            names.append("files")
        warm = await round_of(seconds / 4)
        still["blocks"] = warm["blocks"] * 1.05
        names.append("blocks")
        last = await round_of(seconds * 3 / 4)
        left = await _keys(redis, prefix) if redis else 0
        assert last["runs"] == last["connections"] == last["threads"] == 0, last
        assert left == 0, f"{left} keys are left in Redis"
    grown = (last["rss"] - warm["rss"]) / 2**20
    return (
        f"{done['connections']} connections, {last['ended']:.0f} runs, {done['cuts']} cuts in "
        f"{seconds / 60:.0f} min: tasks, runs, connections, threads and Python's blocks of memory "
        f"as before, {'no key left in Redis' if redis else 'files too'}; "
        f"{last['rss'] / 2**20:.0f} MiB, {grown:+.1f} after the first quarter"
    )


def _told(heard: Sequence[dict[str, Any]]) -> str:
    """The text of the answer, piece by piece or from a snapshot."""
    if heard[-1]["type"] == "end":
        return "".join(m["data"]["delta"] for m in heard if m["type"] == "text")
    messages = heard[-1]["data"]["messages"]
    answers = [m["content"] for m in messages if m["role"] == "assistant"]
    assert len(answers) == 1, heard[-7:]
    return "".join(block["text"] for block in answers[0])


async def _keys(url: str, prefix: str) -> int:
    """How many keys are left, once those that expire have expired."""
    deadline = time.monotonic() + PATIENCE_S
    async with Redis.from_url(url) as redis:
        while left := len([key async for key in redis.scan_iter(f"{prefix}*")]):
            if time.monotonic() > deadline:
                return left
            await asyncio.sleep(0.5)
    return 0
