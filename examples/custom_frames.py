"""Frames of your own: events that nodes write, a function as handler, a mapper class."""

from aiohttp import web
from langgraph.config import get_stream_writer
from langgraph.graph import START, MessagesState, StateGraph

from langgraph_ws import ChatMapper, attach_websocket, on
from langgraph_ws.frames import Custom
from langgraph_ws.testing import ScriptedModel

model = ScriptedModel(["Cooked to the minute, and served warm."])


async def cook(state: MessagesState) -> MessagesState:
    write = get_stream_writer()
    for percent in (0, 50, 100):
        # Arrives as {"type": "progress", "data": {"percent": …}}, with no mapper at all.
        write({"name": "progress", "payload": {"percent": percent}})
    write({"temperature": 98.6})
    return {"messages": [await model.ainvoke(state["messages"])]}


builder = StateGraph(MessagesState)
builder.add_node("cook", cook)
builder.add_edge(START, "cook")
graph = builder.compile()


class Kitchen(ChatMapper):
    """A class: `self` is the memory of one run, and `on` subscribes to a stream mode or event."""

    def __init__(self):
        super().__init__()
        self.words = 0

    @on("custom")
    def on_custom(self, part):
        if "temperature" not in part["data"]:
            return super().on_custom(part)
        celsius = round((part["data"]["temperature"] - 32) / 1.8, 1)
        return Custom(name="temperature", data={"celsius": celsius})

    @on("on_chat_model_end")
    def count_words(self, event):
        self.words += len(event["data"]["output"].text.split())
        return Custom(name="words", data={"so_far": self.words})


def finished(part):
    """A function: it takes a part of the stream, and returns nothing, a frame, or several."""
    done = part["data"].get("payload") == {"percent": 100}
    return Custom(name="finished", data={}) if done else None


app = web.Application()
attach_websocket(app, graph, "/class", mapper=Kitchen)
attach_websocket(app, graph, "/function", mapper=ChatMapper.extend({"custom": finished}))

if __name__ == "__main__":
    web.run_app(app, host="127.0.0.1", port=8765)
