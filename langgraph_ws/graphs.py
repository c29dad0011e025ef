"""Which graphs a route serves, and what each of them takes.

A source is a compiled graph, a factory that is called with the identity of the client, or a
mapping of names to either. A factory returns a compiled graph, an awaitable of one, or an
asynchronous context manager of one (for savers that have to be opened inside the event loop).
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import fields, is_dataclass
from typing import Any, cast
from uuid import uuid4

from langchain_core.messages import BaseMessage
from langchain_core.messages.utils import convert_to_messages
from langchain_core.runnables import RunnableConfig
from langgraph.pregel.protocol import PregelProtocol
from langgraph.types import StateSnapshot
from pydantic import BaseModel

from langgraph_ws.commands import Identity, StartRun
from langgraph_ws.errors import ConfigurationError, InvalidRequest, RequestError
from langgraph_ws.streaming import check_graph, graph_options

__all__ = [
    "Graph",
    "GraphSource",
    "Graphs",
    "context_of",
    "graph_input",
    "read_state",
]

Graph = Any
GraphSource = Any
"""A compiled graph, a factory `(identity) -> graph`, or a mapping of names to either."""


class Graphs:
    """The graphs of a route, by name.

    Raises:
        ConfigurationError: The source is none of what it may be.
    """

    def __init__(self, source: GraphSource) -> None:
        if isinstance(source, Mapping):
            if not source:
                raise ConfigurationError("graph: expected at least one named graph, got none")
            self._sources = {_name(name): _check(graph, name) for name, graph in source.items()}
        else:
            self._sources = {_default_name(source): _check(source)}

    @property
    def names(self) -> tuple[str, ...]:
        """The names, the default one first."""
        return tuple(self._sources)

    def choose(self, name: str | None) -> str:
        """The name itself, or the default one.

        Raises:
            RequestError: No graph has this name.
        """
        if name is None:
            return self.names[0]
        if name not in self._sources:
            raise RequestError(
                "unknown_graph",
                f"assistant_id: no graph is named {name!r}; expected {' or '.join(self._sources)}",
            )
        return name

    @asynccontextmanager
    async def open(self, name: str, identity: Identity) -> AsyncIterator[Graph]:
        """The graph of this name, for this identity, for as long as it is used."""
        source = self._sources[name]
        if isinstance(source, PregelProtocol):
            yield source
            return
        made = source(identity)
        if inspect.isawaitable(made):
            made = await made
        if hasattr(made, "__aenter__"):
            async with made as graph:
                yield check_graph(graph)
        else:
            yield check_graph(made)


def _check(value: Any, name: object = None) -> Any:
    """A source for one name: a compiled graph, or a factory."""
    if isinstance(value, PregelProtocol):
        return value
    if callable(value) and not hasattr(value, "compile") and not hasattr(value, "invoke"):
        return value
    where = "graph" if name is None else f"graph {name!r}"
    hint = "; call .compile()" if hasattr(value, "compile") else ""
    raise ConfigurationError(
        f"{where}: expected a compiled graph, a factory (identity) -> graph, or a mapping of names "
        f"to them, got {type(value).__name__}{hint}"
    )


def _name(name: object) -> str:
    if not isinstance(name, str) or not name:
        raise ConfigurationError(f"graph: expected names that are strings, got {name!r}")
    return name


def _default_name(source: Any) -> str:
    if isinstance(source, PregelProtocol):
        return str(getattr(source, "name", None) or "graph")
    return str(getattr(source, "__name__", "graph"))


def graph_input(graph: Graph, request: StartRun, *, fresh: bool) -> tuple[Any, list[BaseMessage]]:
    """What a turn gives to the graph, and its messages, which then have ids.

    Where no messages are saved (`fresh`), the graph is also given those that came before.

    An `input` is the application's own and goes to the graph as it came; of the messages in it
    those are told that have an id, for the graph makes up the others.

    Raises:
        InvalidRequest: The graph takes no messages, or one of them is not understood.
    """
    if request.messages is None:
        return request.input, _messages_in(request.input)
    if not _takes_messages(graph):
        raise InvalidRequest(
            "messages", "this graph has no `messages` in its state; send its `input`"
        )
    messages = [_message(index, message) for index, message in enumerate(request.messages)]
    before = [_message(index, it) for index, it in enumerate(request.history)] if fresh else []
    return {"messages": [*before, *messages]}, messages


def _takes_messages(graph: Graph) -> bool:
    """Whether it can be told what the input is made of, and there are no messages in it."""
    if getattr(graph, "builder", None) is None:
        return True  # the functional API, a remote graph: its function will see
    return "messages" in graph.channels


def _messages_in(value: Any) -> list[BaseMessage]:
    found = value.get("messages") if isinstance(value, Mapping) else None
    try:
        messages = convert_to_messages(found) if isinstance(found, list) else []
    except (ValueError, TypeError, KeyError, NotImplementedError):
        return []
    return [message for message in messages if message.id]


def _message(index: int, data: dict[str, Any]) -> BaseMessage:
    try:
        [message] = convert_to_messages([data])
    except (ValueError, TypeError, KeyError, NotImplementedError):
        raise InvalidRequest(
            f"messages.{index}", "expected a message {role, content, …} that LangChain understands"
        ) from None
    if message.id is None:
        message.id = str(uuid4())
    return message


def context_of(graph: Graph, values: Mapping[str, Any]) -> dict[str, Any] | None:
    """Those values that are fields of the graph's `context_schema`; None where it has none."""
    schema = getattr(graph, "context_schema", None)
    if schema is None:
        return None
    names: Iterable[str]
    if isinstance(schema, type) and issubclass(schema, BaseModel):
        names = schema.model_fields
    elif is_dataclass(schema):
        names = [field.name for field in fields(schema)]
    else:
        names = getattr(schema, "__annotations__", {})
    return {name: values[name] for name in names if name in values}


async def read_state(
    graph: Graph, config: RunnableConfig, *, subgraphs: bool = False
) -> StateSnapshot | None:
    """The state of a thread; None when there is none, or nothing to read it from.

    Args:
        graph: The graph.
        config: The config of the thread.
        subgraphs: Whether tasks have the states of their subgraphs with them.
    """
    if not graph_options(graph).checkpointer:
        return None
    state = cast("StateSnapshot", await graph.aget_state(config, subgraphs=subgraphs))
    return state if state.created_at is not None or state.metadata else None
