"""Hear what a graph streams where it is said, instead of through `astream`'s queue.

`Pregel.astream` puts every part into a queue and wakes a task for it, and that is most of what a
token costs (langgraph 1.2: 60 µs paced, of which some 35 are this). A `Tap` is given to a run in
its config: as the stream that a parent graph has for its subgraphs, as the writer of custom data,
and as LangGraph's own callback handlers for messages and tools. Each part comes to it in the order
in which it was said, in the same form as `astream(version="v2")` has it.

These are not parts of LangGraph's public interface. All that is used of it stands in this module;
`available` tells once whether it is all there and works, and otherwise runs go the public way.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from collections.abc import Callable, Collection, Mapping
from copy import copy
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID, uuid4

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.runnables import RunnableConfig
from langgraph.config import get_config, get_stream_writer
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.pregel import Pregel
from langgraph.runtime import Runtime

from langgraph_ws.mapping import Part

__all__ = ["Tap", "available", "can_tap"]

logger = logging.getLogger("langgraph_ws")

if TYPE_CHECKING:
    from langgraph._internal._constants import (
        CONF,
        CONFIG_KEY_CHECKPOINT_NS,
        CONFIG_KEY_RUNTIME,
        CONFIG_KEY_STREAM,
        INTERRUPT,
        NS_SEP,
    )
    from langgraph.pregel._messages import StreamMessagesHandler
    from langgraph.pregel._tools import StreamToolCallHandler
    from langgraph.pregel.protocol import StreamProtocol

    _MISSING: ImportError | None
else:
    try:
        from langgraph._internal._constants import (
            CONF,
            CONFIG_KEY_CHECKPOINT_NS,
            CONFIG_KEY_RUNTIME,
            CONFIG_KEY_STREAM,
            INTERRUPT,
            NS_SEP,
        )
        from langgraph.pregel._messages import StreamMessagesHandler
        from langgraph.pregel._tools import StreamToolCallHandler
        from langgraph.pregel.protocol import StreamProtocol
    except ImportError as error:  # a LangGraph that has them elsewhere
        _MISSING = error
    else:
        _MISSING = None


if TYPE_CHECKING or _MISSING is None:

    class _Ear(StreamMessagesHandler):
        """Hears all that callbacks tell: LangChain asks each handler of a run for each token.

        Models stream for it (`_StreamingCallbackHandler` of langchain-core), so it is for those who
        want messages.

        Args:
            stream: Takes what is heard.
            grow: Takes, in the event loop, a chunk that only goes on with the text of the last one;
                False: it does not.
            tools: Hears tools; None: they are not heard.
            beside: Hears retrievers and custom events; None: they are not heard.

        Attributes:
            grow: As above; it may be changed.
        """

        def __init__(
            self,
            stream: Callable[[Any], None],
            grow: Callable[[AIMessageChunk], bool],
            *,
            tools: StreamToolCallHandler | None,
            beside: BaseCallbackHandler | None,
        ) -> None:
            super().__init__(stream, subgraphs=True, parent_ns=())
            self.grow = grow
            self._thread = threading.get_ident()
            if tools is not None:
                self.on_tool_start = tools.on_tool_start  # type: ignore[method-assign]
                self.on_tool_end = tools.on_tool_end  # type: ignore[method-assign]
                self.on_tool_error = tools.on_tool_error  # type: ignore[method-assign]
            if beside is not None:
                self.on_retriever_start = beside.on_retriever_start  # type: ignore[method-assign]
                self.on_retriever_end = beside.on_retriever_end  # type: ignore[method-assign]
                self.on_retriever_error = beside.on_retriever_error  # type: ignore[method-assign]
                self.on_custom_event = beside.on_custom_event  # type: ignore[method-assign]

        def on_llm_new_token(
            self,
            token: Any,
            *,
            chunk: Any = None,
            run_id: UUID,
            parent_run_id: UUID | None = None,
            tags: list[str] | None = None,
            **kwargs: Any,
        ) -> None:
            """Pass on the chunk of a message whose beginning was heard."""
            meta = self.metadata.get(run_id)
            if meta is None or not isinstance(chunk, ChatGenerationChunk):
                return
            message = chunk.message
            if (
                threading.get_ident() == self._thread
                and type(message) is AIMessageChunk
                and self.grow(message)
            ):
                return
            if message.id is None:
                message.id = str(uuid4())
            self.seen.add(message.id)
            self.stream((meta[0], "messages", (message, meta[1])))


class Tap:
    """Takes what one run streams.

    Args:
        graph: The graph.
        modes: The stream modes to hear.
        take: Called with each part, in the event loop, in the order in which they were said. It
            must not raise.
        grow: Called, in the event loop, with a chunk of a message before anything else; True: it
            has been taken, so it is no part any more.
    """

    def __init__(
        self,
        graph: Any,
        modes: Collection[str],
        take: Callable[[Part], None],
        grow: Callable[[AIMessageChunk], bool],
    ) -> None:
        self._graph = graph
        self._modes = set(modes)
        self._take = take
        self._grow = grow
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._coerce = getattr(graph, "_output_mapper", None)
        self._ear: _Ear | None = None
        self._closed = False
        self.dropped = 0

    def close(self) -> None:
        """Drop what comes from now on, and count it."""
        self._closed = True
        if self._ear is not None:
            self._ear.grow = lambda _: False

    def graph(self) -> Any:
        """The graph, in the form in which it has to run to be heard.

        Without anybody who waits for its queue a graph runs a lone node in the task of its caller:
        a node that swallows a cancellation would keep it from the graph. `stream_eager` gives each
        node a task of its own. The application's graph stays as it is.
        """
        graph = copy(self._graph)
        graph.stream_eager = True
        return graph

    def config(self, config: RunnableConfig) -> RunnableConfig:
        """The config with which a run comes to be heard; what was given stays as it is.

        The handlers have to be added beside it: `callbacks`.
        """
        configurable = {
            **config.get(CONF, {}),
            CONFIG_KEY_STREAM: StreamProtocol(self._hear, cast("Any", self._modes)),
            CONFIG_KEY_RUNTIME: Runtime(stream_writer=self._write),
        }
        return {**config, "configurable": configurable}

    def callbacks(self, beside: BaseCallbackHandler | None = None) -> list[BaseCallbackHandler]:
        """The callback handlers that hear messages and tools, and what `beside` hears."""
        tools = None
        if "tools" in self._modes:
            tools = StreamToolCallHandler(self._hear, subgraphs=True, parent_ns=())
        if "messages" in self._modes:
            self._ear = _Ear(self._hear, self._grow, tools=tools, beside=beside)
            return [self._ear]
        return [handler for handler in (tools, beside) if handler is not None]

    def _write(self, data: Any) -> None:
        """Take what a node gives to its stream writer."""
        if "custom" in self._modes:
            path = get_config().get(CONF, {})[CONFIG_KEY_CHECKPOINT_NS].split(NS_SEP)
            self._hear((tuple(path[:-1]), "custom", data))

    def _hear(self, chunk: Any) -> None:
        """Take a part, from whatever thread: nodes that are not async have one of their own."""
        if threading.get_ident() == self._thread:
            self._pass(chunk)
            return
        try:
            self._loop.call_soon_threadsafe(self._pass, chunk)
        except RuntimeError:  # the loop is closed: a thread outlived it
            self.dropped += 1

    def _pass(self, chunk: Any) -> None:
        if self._closed:
            self.dropped += 1
            return
        namespace, mode, data = chunk
        if mode == "tasks" and isinstance(data.get("error"), asyncio.CancelledError):
            return  # beside one that failed, or with the run: `astream` has ended by then
        if mode == "values" and isinstance(data, dict):
            data = {key: value for key, value in data.items() if key != INTERRUPT}
            if self._coerce is not None and not namespace:
                data = self._coerce(data)
        self._take({"type": mode, "ns": namespace, "data": data})


_PARAMETERS: Mapping[str, tuple[str, ...]] = {
    "StreamMessagesHandler": ("stream", "subgraphs", "parent_ns"),
    "StreamToolCallHandler": ("stream", "subgraphs", "parent_ns"),
    "StreamProtocol": ("__call__", "modes"),
}


def can_tap(graph: Any) -> bool:
    """Whether runs of this graph can be heard: those that run in this process."""
    return isinstance(graph, Pregel)


async def available() -> bool:
    """Whether the LangGraph that is installed can be heard; says in the log why not."""
    missing = str(_MISSING) if _MISSING is not None else await _mismatch()
    if missing:
        logger.warning(
            "this LangGraph is heard through its public stream, which costs more: %s", missing
        )
    return not missing


async def _mismatch() -> str:
    """What is not as this module needs it; empty when all is."""
    for kind in (StreamMessagesHandler, StreamToolCallHandler, StreamProtocol):
        known = inspect.signature(kind).parameters
        absent = [name for name in _PARAMETERS[kind.__name__] if name not in known]
        if absent:
            return f"{kind.__name__} takes no {', '.join(absent)}"
    try:
        heard = await _trial()
    except Exception as error:
        return f"a run on trial failed with {type(error).__name__}: {error}"
    return "" if heard == _EXPECTED else f"a run on trial told {heard}"


_EXPECTED = [
    "values 0",
    "tasks 0",
    "values 1",
    "tasks 1",
    "custom 1",
    "messages 1",
    "tasks 1",
    "values 1",
    "tasks 0",
    "values 0",
]
"""What a small run tells: of what, and how deep in subgraphs."""


async def _trial() -> list[str]:
    """Run a graph within a graph, whose node writes something and returns a message."""

    async def speak(state: MessagesState) -> dict[str, Any]:
        get_stream_writer()("custom")
        return {"messages": [AIMessage("message", id="1")]}

    inner = StateGraph(MessagesState).add_node(speak).add_edge(START, "speak").compile()
    graph = StateGraph(MessagesState).add_node("inner", inner).add_edge(START, "inner").compile()
    heard: list[str] = []
    tap = Tap(
        graph,
        ("values", "tasks", "custom", "messages"),
        lambda part: heard.append(f"{part['type']} {len(part['ns'])}"),
        lambda _: False,
    )
    config: RunnableConfig = {"callbacks": tap.callbacks()}
    async for _ in tap.graph().astream({"messages": []}, tap.config(config), stream_mode=[]):
        pass
    return heard
