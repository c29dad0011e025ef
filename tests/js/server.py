"""The server of the JavaScript client's tests: routes for what the demo does not show, and a proxy.

Prints one line of JSON with its ports, and serves until its standard input ends, so that it never
outlives the tests.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import defaultdict
from typing import Any

from aiohttp import web
from langchain_core.messages import AIMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_stream_writer
from langgraph.graph import START, MessagesState, StateGraph

from langgraph_ws import Identity, Limits, MemoryThreadLog, Retention, attach_websocket
from langgraph_ws.demo import demo_graph
from langgraph_ws.testing import Reply, ScriptedModel
from tests.proxy import CuttingProxy

WORDS = " ".join(f"word{number}🕐" for number in range(400))
TICKS = 3_000
CUTS = 60

gates: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)


def main() -> None:
    asyncio.run(serve())


async def serve() -> None:
    app = web.Application()
    app.router.add_get("/gates/{name}", open_gate)
    attach_websocket(app, demo_graph(delay=0.005), "/demo")
    limits = Limits(messages_per_second=100, message_burst=20, threads_per_connection=30)
    attach_websocket(app, graph_of(say_hello), "/hurried", limits=limits)
    attach_websocket(app, graph_of(tick_and_talk), "/ticks", log=log(100_000))
    attach_websocket(app, graph_of(talk_between_gates), "/gated", log=log(200))
    attach_websocket(
        app, graph_of(wait_for_gate), "/token", authorize=nobody, authorize_token=whose
    )
    attach_websocket(app, demo_graph(), "/forbidden", authorize=refuse)
    attach_websocket(app, demo_graph(), "/full", authorize=refuse_for_now)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        seed = time.time_ns() % (1 << 32)
        async with CuttingProxy(port, seed=seed, cuts=CUTS).serving() as proxy:
            print(json.dumps({"port": port, "proxy": proxy.port, "seed": seed}), flush=True)
            await asyncio.to_thread(sys.stdin.read)
    finally:
        await runner.cleanup()


def log(entries: int) -> MemoryThreadLog:
    return MemoryThreadLog(Retention(entries=entries, thread_bytes=1 << 28, total_bytes=1 << 30))


def graph_of(node: Any) -> Any:
    builder = StateGraph(MessagesState).add_node("node", node).add_edge(START, "node")
    return builder.compile(checkpointer=InMemorySaver())


async def open_gate(request: web.Request) -> web.Response:
    gates[request.match_info["name"]].set()
    return web.Response()


async def say_hello(state: MessagesState) -> dict[str, Any]:
    return {"messages": [AIMessage("Hello")]}


async def tick_and_talk(state: MessagesState) -> dict[str, Any]:
    """Say all words, and count between them."""
    write, text, number = get_stream_writer(), "", 0
    async for chunk in ScriptedModel([Reply(text=WORDS, chunk_chars=7)]).astream("x"):
        text += chunk.text
        for _ in range(5):
            if number < TICKS:
                write({"name": "tick", "payload": number})
                number += 1
        await asyncio.sleep(0.002)
    for rest in range(number, TICKS):
        write({"name": "tick", "payload": rest})
    return {"messages": [AIMessage(text)]}


async def talk_between_gates(state: MessagesState) -> dict[str, Any]:
    """Say half of the words, outgrow the log, and say the rest: each after its gate."""
    write, text, passed = get_stream_writer(), "", 0
    name = str(state["messages"][-1].text)
    async for chunk in ScriptedModel([Reply(text=WORDS, chunk_chars=40)]).astream("x"):
        text += chunk.text
        if passed < 2 and len(text) > len(WORDS) * (passed + 1) / 3:
            passed += 1
            write({"name": "waits", "payload": passed})
            await gates[f"{name}-{passed}"].wait()
            for number in range(600):
                write({"name": "tick", "payload": number})
    return {"messages": [AIMessage(text)]}


async def wait_for_gate(state: MessagesState) -> dict[str, Any]:
    await gates[str(state["messages"][-1].text)].wait()
    return {"messages": [AIMessage("It is open.")]}


def nobody(request: web.Request) -> Identity | None:
    return None


def whose(request: web.Request, token: str) -> Identity | None:
    """Ann's tokens: `ann` for ever, `ann:0.5` for half a second."""
    name, _, seconds = token.partition(":")
    if name != "ann":
        return None
    return Identity(id=name, expires_at=time.time() + float(seconds) if seconds else None)


def refuse(request: web.Request) -> Identity | None:
    raise web.HTTPUnauthorized


def refuse_for_now(request: web.Request) -> Identity | None:
    raise web.HTTPServiceUnavailable


if __name__ == "__main__":
    main()
