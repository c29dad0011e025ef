"""A graph on a WebSocket: run it, then talk to it with `python examples/terminal_chat.py`."""

from aiohttp import web
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph

from langgraph_ws import attach_websocket
from langgraph_ws.testing import ScriptedModel

model = ScriptedModel(["Hello! I am a scripted model.", "Put your own in my place."])


async def agent(state: MessagesState) -> MessagesState:
    return {"messages": [await model.ainvoke(state["messages"])]}


builder = StateGraph(MessagesState)
builder.add_node("agent", agent)
builder.add_edge(START, "agent")
graph = builder.compile(checkpointer=InMemorySaver())

app = web.Application()
attach_websocket(app, graph)

if __name__ == "__main__":
    web.run_app(app, host="127.0.0.1", port=8765)
