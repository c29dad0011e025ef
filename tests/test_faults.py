"""Nothing is lost and nothing comes twice: cut connections, clients that stop reading."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
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
