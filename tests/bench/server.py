"""The servers that are measured: `python -m tests.bench.server VARIANT TOKENS DELAY [REDIS_URL]`.

Each answers any message on `/ws` with one run of the same graph, whose model costs next to nothing,
and tells under `/cpu` how many seconds of CPU the process has used.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp import WSMsgType, web
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langgraph.graph import START, MessagesState, StateGraph

from langgraph_ws import Limits, attach_websocket
from langgraph_ws.log.redis import RedisThreadLog

OURS = ("langgraph-ws", "compressed", "unmerged")
Loop = Callable[[Any, web.WebSocketResponse], Awaitable[None]]
STATM = Path("/proc/self/statm")
INPUT = {"messages": [("user", "go")]}


class Tokens(BaseChatModel):
    """A model that streams `count` tokens, `delay` seconds apart."""

    count: int
    delay: float

    @property
    def _llm_type(self) -> str:
        return "tokens"

    async def _astream(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        for _ in range(self.count):
            if self.delay:
                await asyncio.sleep(self.delay)
            chunk = ChatGenerationChunk(message=AIMessageChunk(content="token "))
            if run_manager is not None:
                await run_manager.on_llm_new_token("token ", chunk=chunk)
            yield chunk

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=AIMessageChunk(content=""))])


def graph_of(count: int, delay: float) -> Any:
    model = Tokens(count=count, delay=delay)

    async def agent(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    return StateGraph(MessagesState).add_node("agent", agent).add_edge(START, "agent").compile()


async def bare(graph: Any, ws: web.WebSocketResponse) -> None:
    """The graph alone: nothing is sent but the end."""
    async for _ in graph.astream(INPUT, stream_mode="messages"):
        pass


async def messages(graph: Any, ws: web.WebSocketResponse) -> None:
    """The leanest loop that one writes by hand."""
    async for chunk, _ in graph.astream(INPUT, stream_mode="messages"):
        await ws.send_str(json.dumps({"type": "text", "delta": chunk.content}))


async def events(graph: Any, ws: web.WebSocketResponse) -> None:
    """The loop of LangGraph's documentation."""
    async for event in graph.astream_events(INPUT, version="v2"):
        if event["event"] == "on_chat_model_stream":
            text = event["data"]["chunk"].content
            await ws.send_str(json.dumps({"type": "text", "delta": text}))


BY_HAND: dict[str, Loop] = {"bare": bare, "messages": messages, "events": events}


def by_hand(graph: Any, loop: Loop) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handler(request: web.Request) -> web.StreamResponse:
        ws = web.WebSocketResponse(compress=False)
        await ws.prepare(request)
        async for message in ws:
            if message.type is WSMsgType.TEXT:
                await loop(graph, ws)
                await ws.send_str('{"type": "end"}')
        return ws

    return handler


def by_hand_for_many(graph: Any) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """The leanest way to show one run to many: all who are connected are sent each token."""
    connected: list[web.WebSocketResponse] = []

    async def tell(text: str) -> None:
        for ws in connected.copy():
            await ws.send_str(text)

    async def handler(request: web.Request) -> web.StreamResponse:
        ws = web.WebSocketResponse(compress=False)
        await ws.prepare(request)
        connected.append(ws)
        async for message in ws:
            if message.type is WSMsgType.TEXT and json.loads(message.data)["type"] == "attach":
                await ws.send_str('{"type": "run"}')
            elif message.type is WSMsgType.TEXT:
                async for chunk, _ in graph.astream(INPUT, stream_mode="messages"):
                    await tell(json.dumps({"type": "text", "delta": chunk.content}))
                await tell('{"type": "end"}')
        connected.remove(ws)
        return ws

    return handler


async def cpu(request: web.Request) -> web.Response:
    return web.json_response(time.process_time())


async def memory(request: web.Request) -> web.Response:
    """The resident set of the process, in bytes (Linux)."""
    pages = int(STATM.read_text(encoding="ascii").split()[1])  # noqa: ASYNC240  # no disk
    return web.json_response(pages * os.sysconf("SC_PAGESIZE"))


def main(variant: str, tokens: str, delay: str, redis: str = "") -> None:
    app = web.Application()
    graph = graph_of(int(tokens), float(delay))
    if variant in OURS:
        limits = Limits(connections_per_address=10_000)
        log = RedisThreadLog(redis) if redis else None
        options: dict[str, Any] = {"merge_window": 0} if variant == "unmerged" else {}
        attach_websocket(
            app, graph, limits=limits, log=log, compress=variant == "compressed", **options
        )
    elif variant == "many":
        app.router.add_get("/ws", by_hand_for_many(graph))
    else:
        app.router.add_get("/ws", by_hand(graph, BY_HAND[variant]))
    app.router.add_get("/cpu", cpu)
    app.router.add_get("/memory", memory)
    sys.stderr = open("/dev/null", "w", encoding="utf-8")  # noqa: PTH123, SIM115

    async def serve() -> None:
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        print(runner.addresses[0][1], flush=True)
        await asyncio.to_thread(sys.stdin.read)
        await runner.cleanup()

    asyncio.run(serve())


if __name__ == "__main__":
    main(*sys.argv[1:])
