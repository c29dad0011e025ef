"""One process of several: python serve.py PORT REDIS_URL CHECKPOINTS

All processes share the port, the log in Redis and the checkpoints; any serves any thread. The
checkpoints are in a file here, for the example; use PostgreSQL where processes are many.
"""

import asyncio
import signal
import sys
from contextlib import asynccontextmanager

from aiohttp import web
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, MessagesState, StateGraph

from langgraph_ws import attach_websocket
from langgraph_ws.log.redis import RedisThreadLog
from langgraph_ws.testing import Reply, ScriptedModel

PORT, REDIS, CHECKPOINTS = sys.argv[1:]
TEXT = "Chapter {}: whoever tells this story may change, but not a word of it is lost. "


def chapter(number):
    model = ScriptedModel([Reply(text=TEXT.format(number), delay=0.2)])

    async def node(state: MessagesState):
        return {"messages": [await model.ainvoke(state["messages"])]}

    return node


@asynccontextmanager
async def graph(identity):
    async with AsyncSqliteSaver.from_conn_string(CHECKPOINTS) as saver:
        builder = StateGraph(MessagesState).add_edge(START, "chapter1")
        for number in (1, 2, 3):
            builder.add_node(f"chapter{number}", chapter(number))
        builder.add_edge("chapter1", "chapter2").add_edge("chapter2", "chapter3")
        yield builder.compile(checkpointer=saver)


async def main():
    app = web.Application()
    chat = attach_websocket(app, graph, log=RedisThreadLog(REDIS, lease=3))
    runner = web.AppRunner(app)
    await runner.setup()
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    await web.TCPSite(runner, "127.0.0.1", int(PORT), reuse_port=True).start()
    print("ready", flush=True)
    await told.wait()
    await chat.drain()
    await runner.cleanup()


asyncio.run(main())
