"""A graph that asks before it acts, and a client that answers; both ends in one file."""

import asyncio

import aiohttp
from aiohttp import web
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt
from typing_extensions import TypedDict

from langgraph_ws import attach_websocket


class Order(TypedDict, total=False):
    amount: int
    status: str


async def approve(order: Order) -> Order:
    answer = interrupt({"question": f"Pay {order['amount']} €?", "options": ["yes", "no"]})
    return {"status": "paid" if answer == "yes" else "refused"}


builder = StateGraph(Order).add_node("approve", approve).add_edge(START, "approve")
graph = builder.compile(checkpointer=InMemorySaver())

app = web.Application()
attach_websocket(app, graph, expose_output=True)


async def order(url: str, amount: int, decide) -> str:
    """Order, answer what the graph asks, and return what became of it."""
    async with aiohttp.ClientSession() as http, http.ws_connect(url) as ws:
        await ws.send_json({"type": "new_chat", "input": {"amount": amount}})
        answers = {}
        while True:
            message = await ws.receive_json()
            match message["type"], message["data"]:
                case "run", {"thread_id": thread_id}:
                    resume = {"type": "resume_chat", "thread_id": thread_id}
                case "interrupt", {"id": interrupt_id, "value": value}:
                    answers[interrupt_id] = decide(value)
                case "end", {"status": "interrupted"}:
                    await ws.send_json(resume | {"resume": answers})
                case "final", {"output": output}:
                    return output["status"]


async def main() -> None:
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = "ws://{}:{}/ws".format(*runner.addresses[0])
    print(await order(url, 20, lambda asked: print(asked["question"]) or "yes"))
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(main())
