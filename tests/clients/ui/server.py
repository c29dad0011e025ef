"""The server that the clients talk to, as a process of its own.

`python -m tests.clients.ui.server [pages]` prints its port and serves until its standard input
ends, so that it never outlives the tests. Each graph has a route of its own, with every protocol.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from aiohttp import web
from langchain_core.documents import Document
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import interrupt

from langgraph_ws import attach_websocket
from langgraph_ws.demo import demo_graph
from langgraph_ws.testing import Reply, ScriptedModel, call
from tests.graphs import Shelf, agent, chat, fan, line, model_node

PROTOCOLS = ("chat", "langchain", "aisdk", "agui")
Json = dict[str, Any]


@tool
def weather(city: str) -> str:
    """Tell the weather."""
    if city == "Atlantis":
        raise ValueError("no such city")
    return f"Sunny in {city}"


def searching() -> Any:
    """Thinks, calls two tools at once, one of which fails, and has sources."""
    calls = [call("weather", "c1", city="Rome"), call("weather", "c2", city="Atlantis")]
    found = [Document(id="d", page_content="x", metadata={"title": "T", "url": "https://e.com"})]

    async def look(state: Any, config: RunnableConfig) -> Json:
        await Shelf(documents=found).ainvoke("q", config)
        return {}

    inner = agent(
        [weather],
        Reply(text="Let me see.", reasoning="Hm.", tool_calls=calls),
        Reply(text="Done.", usage=(3, 2)),
        handle_tool_errors=True,
    )
    return line(("look", look), ("answer", inner), saver=InMemorySaver())


def asking(name: str) -> Any:
    return lambda state: {"messages": [AIMessage(f"{name}: {interrupt({'question': name})}")]}


def approving() -> Any:
    """Asks before it runs a tool, as LangChain's `HumanInTheLoopMiddleware` does."""

    def ask(state: Any) -> Json:
        actions = [
            {"name": it["name"], "args": it["args"]} for it in state["messages"][-1].tool_calls
        ]
        decided = interrupt({"action_requests": actions, "review_configs": []})["decisions"]
        return {"messages": [AIMessage(", ".join(it["type"] for it in decided))]}

    calls = [call("weather", "c1", city="Rome"), call("weather", "c2", city="Oslo")]
    return line(("model", model_node(Reply(tool_calls=calls))), ("ask", ask), saver=InMemorySaver())


class Gate:
    """A graph whose answer stops in the middle, until its thread is let go on."""

    def __init__(self) -> None:
        self._open: dict[str, asyncio.Event] = {}

    def of(self, thread_id: str) -> asyncio.Event:
        return self._open.setdefault(thread_id, asyncio.Event())

    @property
    def graph(self) -> Any:
        first, second = model_node("Before. ", "Before. "), model_node("After.", "After.")

        async def wait(state: Any, config: RunnableConfig) -> Json:
            await self.of(config["configurable"]["thread_id"]).wait()
            return {}

        nodes = (("first", first), ("wait", wait), ("second", second))
        return line(*nodes, saver=InMemorySaver())

    async def let(self, request: web.Request) -> web.Response:
        """Let a thread go on."""
        self.of(request.match_info["thread_id"]).set()
        return web.Response()


def failing() -> Any:
    async def fail(state: Any) -> Json:
        raise RuntimeError("secret")

    return line(("fail", fail), saver=InMemorySaver())


def talking() -> Any:
    """Says how many messages it has heard."""

    async def talk(state: Any) -> Json:
        text = f"Heard {len(state['messages'])}: {state['messages'][-1].content}"
        return {"messages": [await ScriptedModel([text]).ainvoke(state["messages"])]}

    return line(("talk", talk), saver=InMemorySaver())


async def serve() -> None:
    """Serve until the standard input ends."""
    gate = Gate()
    both = fan(
        ("left", model_node(*["Left it is."] * 2, chunk_delay=0.002)),
        ("right", model_node(*["Right it is."] * 2, chunk_delay=0.002)),
    )
    graphs = {
        "talk": talking(),
        "search": lambda _: searching(),
        "both": both,
        "ask": fan(("a", asking("a")), ("b", asking("b")), saver=InMemorySaver()),
        "approve": approving(),
        "fail": failing(),
        "slow": gate.graph,
        "demo": demo_graph(delay=0.002),
        "forgetful": chat(*["Hello."] * 9),
    }
    app = web.Application()
    for name, graph in graphs.items():
        attach_websocket(app, graph, f"/{name}", protocols=PROTOCOLS, merge_window=0)
    app.router.add_post("/go-on/{thread_id}", gate.let)
    if len(sys.argv) > 1:
        app.router.add_static("/page", sys.argv[1])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        print(runner.addresses[0][1], flush=True)
        await asyncio.to_thread(sys.stdin.read)
    finally:
        await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(serve())
