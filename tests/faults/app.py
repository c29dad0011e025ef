"""One process of an application that several serve: `python -m tests.faults.app options-as-JSON`.

Its nodes write down when they begin and end, so that the tests see what ran how often, and where.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import interrupt

from langgraph_ws import Identity, attach_websocket, current_run
from langgraph_ws.log.redis import RedisThreadLog
from langgraph_ws.protocols import PROTOCOLS
from langgraph_ws.testing import Reply, ScriptedModel, call

OPTIONS: dict[str, Any] = {}
STEPS = {"plan": 1, "left": 2, "right": 2, "first": 2, "second": 3, "act": 4, "tools": 5}
STEPS |= {"ask": 6, "finish": 7}
"""In which order the nodes run: one of a step begins when all of the steps before have ended."""


def text_of(name: str) -> str:
    """What the node says."""
    return f"{name}: " + " ".join(f"{name[:2]}{number}" for number in range(12))


def note(event: str, name: str) -> None:
    run = current_run()
    line = [time.time(), os.getpid(), event, name, run.run_id, run.task_id, run.attempt]
    with open(OPTIONS["notes"], "a", encoding="utf-8") as notes:  # noqa: PTH123
        notes.write(json.dumps(line) + "\n")


def says(name: str, **reply: Any) -> Callable[[MessagesState], Any]:
    """A node that streams its text."""
    delay = OPTIONS.get("delay", 0.01)
    model = ScriptedModel([Reply(text=text_of(name), chunk_chars=3, delay=delay, **reply)])

    async def node(state: MessagesState) -> dict[str, Any]:
        note("begin", name)
        if name == "left" and current_run().attempt == 1:
            time.sleep(OPTIONS.get("block", 0.0))  # noqa: ASYNC251  # nothing else runs meanwhile
        message = await model.ainvoke(state["messages"])
        note("end", name)
        return {"messages": [message]}

    return node


@tool
async def look(what: str) -> str:
    """Look something up."""
    await asyncio.sleep(OPTIONS.get("delay", 0.01) * 10)
    return f"found {what}"


async def ask(state: MessagesState) -> dict[str, Any]:
    answer = interrupt("go on?")
    return {"messages": [AIMessage(f"you said {answer}")]}


def build(saver: Any) -> Any:
    """Parallel nodes, a subgraph, a tool, an interrupt."""
    inner = StateGraph(MessagesState)
    inner.add_node("first", says("first")).add_node("second", says("second"))
    inner.add_edge(START, "first").add_edge("first", "second")
    builder = StateGraph(MessagesState)
    for name in ("plan", "left", "right", "finish"):
        builder.add_node(name, says(name))
    builder.add_node("sub", inner.compile())
    builder.add_node("act", says("act", tool_calls=[call("look", what="it")]))
    builder.add_node("tools", ToolNode([look])).add_node("ask", ask)
    builder.add_edge(START, "plan")
    for name in ("left", "right", "sub"):
        builder.add_edge("plan", name)
    builder.add_edge(["left", "right", "sub"], "act")
    builder.add_edge("act", "tools").add_edge("tools", "ask").add_edge("ask", "finish")
    return builder.compile(checkpointer=saver)


@asynccontextmanager
async def opened(checkpoints: str) -> AsyncIterator[Any]:
    """The saver of an address."""
    if checkpoints == "none":
        yield None
    elif checkpoints.startswith("postgres"):
        async with AsyncPostgresSaver.from_conn_string(checkpoints) as saver:
            yield saver
    else:
        async with AsyncSqliteSaver.from_conn_string(checkpoints) as saver:
            # Several processes write to one file here; five seconds are not enough for that.
            await saver.conn.execute("PRAGMA busy_timeout = 30000")
            await saver.conn.execute("PRAGMA synchronous = NORMAL")
            yield saver


@asynccontextmanager
async def graph(identity: Identity) -> AsyncIterator[Any]:
    async with opened(OPTIONS["checkpoints"]) as saver:
        yield build(saver)


async def serve() -> None:
    app = web.Application()
    log = RedisThreadLog(
        OPTIONS["redis"],
        prefix=OPTIONS.get("prefix", "faults"),
        lease=OPTIONS.get("lease", 2.0),
        patience=OPTIONS.get("patience", 10.0),
    )
    attachment = attach_websocket(
        app,
        {"agent": graph},
        log=log,
        protocols=PROTOCOLS,
        playground=True,
        heartbeat=OPTIONS.get("heartbeat", 5.0),
        drain_timeout=5.0,
    )
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    await web.TCPSite(runner, "127.0.0.1", OPTIONS["port"], reuse_port=True).start()
    print("ready", flush=True)
    await told.wait()
    await attachment.drain()
    await runner.cleanup()


if __name__ == "__main__":
    OPTIONS.update(json.loads(sys.argv[1]))
    asyncio.run(serve())
