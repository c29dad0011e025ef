"""Nothing is lost and nothing comes twice: cut connections, clients that stop reading."""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from langchain_core.messages import AIMessage
from langgraph.config import get_stream_writer
from langgraph.graph import START, MessagesState, StateGraph

from langgraph_ws import Limits, MemoryThreadLog, Retention, attach_websocket
from langgraph_ws.testing import Reply, ScriptedModel
from tests.proxy import CuttingProxy
from tests.rawsocket import RawClient


@asynccontextmanager
async def serving(graph: Any, **options: Any) -> AsyncIterator[int]:
    app = web.Application()
    attach_websocket(app, graph, **options)
    async with TestServer(app, host="127.0.0.1") as server:
        assert server.port is not None
        yield server.port


class Follower:
    """A client that starts one run and follows it to its end, through as many connections as it
    takes; it knows nothing but PROTOCOL.md."""

    def __init__(self, port: int, *, mode: str = "delta") -> None:
        self.url = f"http://127.0.0.1:{port}/ws"
        self.mode = mode
        self.epoch = ""
        self.after = 0
        self.thread_id: str | None = None
        self.numbers: list[int] = []
        self.text = ""
        self.gaps: list[dict[str, Any]] = []
        self.ended: str | None = None
        self.repeated = 0
        self.heard = asyncio.Event()

    def hello(self) -> dict[str, Any]:
        options = {"text": self.mode}
        if self.thread_id is None:
            messages = [{"role": "user", "content": "go"}]
            return {"type": "new_chat", "run_id": "r", "messages": messages, "options": options}
        position = {"after": self.after, "epoch": self.epoch} if self.epoch else {}
        return {"type": "attach", "thread_id": self.thread_id, "options": options, **position}

    async def connect(self, session: aiohttp.ClientSession) -> None:
        """Follow until the run ends or the connection does."""
        try:
            async with session.ws_connect(self.url, max_msg_size=0, timeout=_QUICK) as ws:
                await ws.send_json(self.hello())
                async for message in ws:
                    if message.type is not aiohttp.WSMsgType.TEXT:
                        return
                    self.take(orjson.loads(message.data))
                    if self.ended is not None:
                        return
        except (aiohttp.ClientError, ConnectionError, TimeoutError):
            pass

    def take(self, message: dict[str, Any]) -> None:
        data = message["data"]
        seq = message.get("seq")
        if seq is not None:
            if seq <= self.after:
                self.repeated += 1
                return
            assert message.get("from_seq", seq) > self.after, "a message overlaps what was seen"
            self.after = seq
            self.heard.set()
        match message["type"]:
            case "run":
                self.thread_id = data["thread_id"]
                self.epoch = data.get("epoch", self.epoch)
            case "tick":
                self.numbers.append(data["number"])
            case "text" if self.mode == "delta":
                assert data["offset"] == len(self.text)
                self.text += data["delta"]
            case "text":
                self.text = data["text"]
            case "gap":
                self.gaps.append(data)
            case "snapshot":
                self.after, self.epoch = data["seq"], data["epoch"]
                said = [*data["open"], *data["messages"]]
                self.text = "".join(
                    block.get("text", "")
                    for message in said
                    if message["role"] == "assistant"
                    for block in message.get("blocks", message.get("content"))
                )
            case "end":
                self.ended = data["status"]
            case "error":
                raise AssertionError(message)
            case _:
                pass


_QUICK = aiohttp.ClientWSTimeout(ws_close=1)


def ticking(count: int, at_once: int) -> Any:
    async def tick(state: MessagesState) -> dict[str, Any]:
        writer = get_stream_writer()
        for number in range(count):
            writer({"type": "tick", "number": number})
            if number % at_once == 0:
                await asyncio.sleep(0.005)
        return {}

    return StateGraph(MessagesState).add_node("tick", tick).add_edge(START, "tick").compile()


@pytest.mark.timeout(180)
async def test_two_hundred_cuts_lose_nothing_and_double_nothing() -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    count = 40_000
    log = MemoryThreadLog(Retention(entries=100_000, thread_bytes=1 << 30, total_bytes=1 << 31))
    async with (
        serving(ticking(count, at_once=20), log=log, limits=Limits(connections=10_000)) as port,
        CuttingProxy(port, seed=seed, cuts=200).serving() as proxy,
        aiohttp.ClientSession() as session,
    ):
        client = Follower(proxy.port)
        while client.ended is None:
            await client.connect(session)
    assert client.ended == "completed"
    assert client.numbers == list(range(count))
    assert client.repeated == 0
    assert not client.gaps
    assert proxy.cuts == 200


@pytest.mark.parametrize("mode", ["delta", "full"])
@pytest.mark.timeout(120)
async def test_who_outlives_the_log_gets_a_gap_a_snapshot_and_the_right_text(mode: str) -> None:
    """The default limits, and a run that makes more than twice as many frames as they hold."""
    words = " ".join(f"word{number}" for number in range(600))
    model = ScriptedModel([Reply(text=words, chunk_chars=8)])
    pauses = [asyncio.Event(), asyncio.Event()]
    go_on = [asyncio.Event(), asyncio.Event()]

    async def talk(state: MessagesState) -> dict[str, Any]:
        writer = get_stream_writer()
        text, part = "", 0
        async for chunk in model.astream("x"):
            text += chunk.text
            if part < 2 and len(text) > len(words) * (part + 1) / 3:
                for number in range(12_000):
                    writer({"type": "tick", "number": number})
                pauses[part].set()
                await go_on[part].wait()
                part += 1
            await asyncio.sleep(0)
        return {"messages": [AIMessage(text)]}

    graph = StateGraph(MessagesState).add_node("talk", talk).add_edge(START, "talk").compile()
    async with serving(graph) as port, aiohttp.ClientSession() as session:
        client = Follower(port, mode=mode)
        for pause, resume in zip(pauses, go_on, strict=True):
            client.heard.clear()
            following = asyncio.create_task(client.connect(session))
            await client.heard.wait()
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            assert client.ended is None
            await pause.wait()
            resume.set()
        while client.ended is None:
            await client.connect(session)
    assert client.ended == "completed"
    assert client.text == words
    assert client.gaps
    assert all(gap["reason"] == "trimmed" for gap in client.gaps)


async def test_another_process_has_another_epoch_and_the_client_starts_from_a_snapshot() -> None:
    async with aiohttp.ClientSession() as session:
        graph = ticking(10, at_once=1)
        async with serving(graph) as port:
            client = Follower(port)
            await client.connect(session)
            assert client.ended == "completed"
        async with serving(graph) as port:
            client.url = f"http://127.0.0.1:{port}/ws"
            client.ended = None
            async with session.ws_connect(client.url) as ws:
                await ws.send_json(client.hello())
                messages = [orjson.loads((await ws.receive()).data) for _ in range(3)]
    run, gap, snapshot = messages
    assert [message["type"] for message in messages] == ["run", "gap", "snapshot"]
    assert run["data"]["status"] == "idle"
    assert gap["data"]["reason"] in ("unknown", "epoch")
    assert gap["data"]["requested"] == client.after
    assert snapshot["data"]["seq"] == 0


def resident() -> int:
    """Bytes of memory that this process holds."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def ping(ws: aiohttp.ClientWebSocketResponse) -> float:
    """Seconds from a ping to its pong."""
    began = time.perf_counter()
    await ws.send_json({"type": "ping"})
    while (await ws.receive_json())["type"] != "pong":
        pass
    return time.perf_counter() - began


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.timeout(120)
async def test_clients_that_stop_reading_cost_the_others_and_the_memory_nothing() -> None:
    """Twenty of them follow a run that says far more than a socket holds; twenty others chat on.

    The limits are those of a machine that is busy with something else: without the bounds the
    stuck ones would hold some 4 MB each in the kernel alone, and the others would wait for them.
    """
    count, waits, stuck = 30_000, [], []

    async def chatter(state: MessagesState) -> dict[str, Any]:
        writer = get_stream_writer()
        for number in range(count):
            writer({"type": "tick", "number": number, "padding": "x" * 200})
            if number % 50 == 0:
                await asyncio.sleep(0.005)
        return {}

    graph = StateGraph(MessagesState).add_node("chatter", chatter).add_edge(START, "chatter")
    app = web.Application()
    attachment = attach_websocket(app, graph.compile(), stall_timeout=1.0)
    async with TestServer(app, host="127.0.0.1") as server, aiohttp.ClientSession() as session:
        assert server.port is not None
        url = f"http://127.0.0.1:{server.port}/ws"
        messages = [{"role": "user", "content": "go"}]
        run = await attachment.start(messages=messages, thread_id="t")
        before, peak = resident(), 0

        async def to_its_end() -> int:
            return len([0 async for _ in attachment.follow(run_id=run.run_id)])

        end = asyncio.create_task(to_its_end())
        for _ in range(20):
            client = await RawClient.connect(server.port, receive_buffer=4096)
            await client.send({"type": "attach", "thread_id": "t"})
            stuck.append(client)
        healthy = [await session.ws_connect(url) for _ in range(20)]
        while not end.done():
            waits += await asyncio.gather(*(ping(ws) for ws in healthy))
            peak = max(peak, resident() - before)
            await asyncio.sleep(0.02)
        assert await end > count
        while attachment.connections > len(healthy):  # noqa: ASYNC110  # no event for it
            await asyncio.sleep(0.01)
        assert all([await client.dropped() for client in stuck])
        for ws in healthy:
            await ws.close()
        for client in stuck:
            client.close()
    assert len(waits) > 500
    waits.sort()
    print(f"p99 {waits[int(len(waits) * 0.99)]:.3f} s, {peak >> 20} MiB")
    assert waits[int(len(waits) * 0.99)] < 1.0
    assert peak < 100 * 2**20
