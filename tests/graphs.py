"""Small graphs that many tests run."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import Annotated, Any, TypedDict

from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.messages import AIMessage
from langchain_core.retrievers import BaseRetriever
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.types import interrupt

from langgraph_ws.testing import Reply, ScriptedModel

Answer = Reply | AIMessage | str
HELLO = {"messages": [("user", "hello")]}


def thread(thread_id: str = "1", **more: Any) -> dict[str, Any]:
    """A config with a thread id."""
    return {"configurable": {"thread_id": thread_id}, **more}


def line(*nodes: tuple[str, Any], state: Any = MessagesState, saver: Any = None, **how: Any) -> Any:
    """A graph of nodes that run one after the other."""
    builder = StateGraph(
        state, **({"context_schema": how.pop("context")} if "context" in how else {})
    )
    previous = START
    for name, node in nodes:
        builder.add_node(name, node)
        builder.add_edge(previous, name)
        previous = name
    return builder.compile(checkpointer=saver, **how)


def fan(*nodes: tuple[str, Any], state: Any = MessagesState, saver: Any = None) -> Any:
    """A graph of nodes that run at once."""
    builder = StateGraph(state)
    for name, node in nodes:
        builder.add_node(name, node)
        builder.add_edge(START, name)
    return builder.compile(checkpointer=saver)


def model_node(
    *responses: Reply | AIMessage | str, tags: Iterable[str] = (), **options: Any
) -> Any:
    """A node that asks a model which answers so."""
    model = ScriptedModel(responses, **options).with_config(tags=list(tags))

    async def node(state: Any) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    return node


def says(*messages: Any) -> Callable[[Any], dict[str, Any]]:
    """A node that writes messages itself."""
    return lambda state: {"messages": list(messages)}


def chat(*responses: Answer, saver: Any = None, **options: Any) -> Any:
    """A graph of one node that asks a model."""
    return line(("model", model_node(*responses, **options)), saver=saver)


def agent(tools: list[Any], *responses: Reply | str, saver: Any = None, **how: Any) -> Any:
    """A model and its tools, by turns, until it calls none."""
    builder = StateGraph(MessagesState)
    builder.add_node("model", model_node(*responses))
    builder.add_node("tools", ToolNode(tools, **how))
    builder.add_edge(START, "model")
    builder.add_conditional_edges("model", tools_condition, ["tools", END])
    builder.add_edge("tools", "model")
    return builder.compile(checkpointer=saver)


def nested(depth: int, innermost: Any, *, saver: Any = None) -> Any:
    """A graph whose only node is a graph whose only node … runs `innermost`."""
    graph = line(("leaf", innermost), saver=saver if depth == 0 else None)
    for level in range(depth, 0, -1):
        graph = line((f"level{level}", graph), saver=saver if level == 1 else None)
    return graph


def ask(question: Any = "ok?") -> Callable[[Any], dict[str, Any]]:
    """A node that waits for an answer and repeats it."""
    return lambda state: {"messages": [AIMessage(f"got {interrupt(question)}")]}


def asking(question: Any = "ok?") -> Any:
    """A graph that waits for an answer."""
    return line(("ask", ask(question)), saver=InMemorySaver())


class Shelf(BaseRetriever):
    """A retriever that finds these documents, whatever it is asked."""

    documents: list[Document]

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[Document]:
        return self.documents


class Anything(TypedDict, total=False):
    """A state without messages."""

    value: Any
    log: Annotated[list[str], operator.add]
