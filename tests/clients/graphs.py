"""The graphs that the official clients talk to, by the names that the clients give.

What a graph says depends only on its thread's state, so that threads do not disturb each other.
Where a test must do something in the middle of a run, a node waits at a gate.
"""

from __future__ import annotations

import asyncio
import operator
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any, TypedDict

from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.tools import tool
from langgraph.config import get_config, get_stream_writer
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, ToolRuntime
from langgraph.types import Send, interrupt

from langgraph_ws.testing import Reply, ScriptedModel, call
from tests.clients.gates import gate

Update = dict[str, Any]

BEFORE, AFTER = "Before the gate. ", "After the gate."
FLOOD = 3_000
"""How many events the graph `flood` makes: more than the 1,024 that the Python client holds."""
BIG = 1_100_000
"""Characters in the state of the graph `big`: more than the 1 MiB frames of the Python client."""


def graphs(checkpointer: Any = None) -> Mapping[str, Any]:
    """All graphs, compiled with this checkpointer."""
    return {name: build().compile(checkpointer) for name, build in BUILDERS.items()}


def of_messages(state: MessagesState, kind: type = HumanMessage) -> list[str]:
    """The texts of a thread's messages of a kind."""
    return [str(message.text) for message in state["messages"] if isinstance(message, kind)]


class PausingModel(ScriptedModel):
    """A model that waits between its chunks.

    Args:
        responses: What it answers.
        pause: What it waits for, called with the text so far.
    """

    pause: Callable[[str], Awaitable[Any]]

    async def _astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
        text = ""
        async for chunk in super()._astream(*args, **kwargs):
            yield chunk
            text += chunk.text
            await self.pause(text)


async def say(reply: Reply | str, pause: Callable[[str], Awaitable[Any]] | None = None) -> Update:
    """Ask a model that answers so, and waits between its chunks."""
    model = ScriptedModel([reply]) if pause is None else PausingModel([reply], pause=pause)
    return {"messages": [await model.ainvoke("x")]}


def line(*nodes: tuple[str, Any], state: Any = MessagesState) -> StateGraph[Any, Any, Any, Any]:
    """A graph of nodes that run one after the other."""
    builder = StateGraph(state)
    for name, node in nodes:
        builder.add_node(name, node)
    builder.add_edge(START, nodes[0][0])
    for (name, _), (following, _) in pairwise(nodes):
        builder.add_edge(name, following)
    return builder


# --- text ------------------------------------------------------------------------------------


def chat() -> Any:
    """Says which turn it is and what was said."""

    async def model(state: MessagesState) -> Update:
        said = of_messages(state)
        return await say(Reply(text=f"Turn {len(said)}: {said[-1]}", usage=(3, 4)))

    return line(("model", model))


def gated() -> Any:
    """Answers at once; what begins with "slow" in two halves, with a gate of that name between."""

    async def model(state: MessagesState) -> Update:
        said = of_messages(state)[-1]
        if not said.startswith("slow"):
            return await say(f"Quick answer to {said}.")
        first = f"{said}: {BEFORE}"

        async def half_way(text: str) -> None:
            if text == first:
                await gate(said)

        return await say(Reply(text=first + AFTER, chunk_chars=len(first)), half_way)

    return line(("model", model))


def whole() -> Any:
    """Writes its message itself, without a model."""
    return line(("writer", lambda state: {"messages": [AIMessage("Written, not streamed.")]}))


def thinking() -> Any:
    """Thinks before it speaks."""

    async def model(state: MessagesState) -> Update:
        return await say(Reply(reasoning="Let me think.", text="I have thought."))

    return line(("model", model))


def failing() -> Any:
    """Fails in the middle of a message; at "slow" after the gate `slow`."""

    async def model(state: MessagesState) -> Update:
        async def before_it(text: str) -> None:
            if text == BEFORE[:8] and of_messages(state)[-1] == "slow":
                await gate("slow")

        error = ValueError("out of order")
        return await say(Reply(text=BEFORE, error=error, error_after=2), before_it)

    return line(("model", model))


_MEETINGS: defaultdict[str, asyncio.Barrier] = defaultdict(lambda: asyncio.Barrier(2))


def twins() -> Any:
    """Two nodes that stream at once, by turns, chunk by chunk."""

    def twin(text: str) -> Callable[[MessagesState], Any]:
        async def node(state: MessagesState) -> Update:
            meeting = _MEETINGS[get_config()["configurable"]["thread_id"]]
            return await say(Reply(text=text, chunk_chars=5), lambda _: meeting.wait())

        return node

    builder = StateGraph(MessagesState)
    for name in ("left", "right"):
        builder.add_node(name, twin(f"{name:<5} speaks, word by word"))
        builder.add_edge(START, name)
    return builder


# --- tools -----------------------------------------------------------------------------------


@tool
async def add(a: int, b: int) -> str:
    """Add two numbers."""
    return str(a + b)


@tool
async def count_up(to: int, runtime: ToolRuntime) -> str:
    """Count, one number at a time."""
    for number in range(1, to + 1):
        runtime.emit_output_delta(f"{number} ")
    return f"counted to {to}"


@tool
async def divide(a: int, b: int) -> str:
    """Divide two numbers."""
    return str(a / b)


def agent(*calls: Any) -> Callable[[], Any]:
    """A model that makes these calls in one message, and reads out the results."""

    def build() -> Any:
        async def model(state: MessagesState) -> Update:
            last = state["messages"][-1]
            if last.type == "tool":
                results = [message for message in state["messages"] if message.type == "tool"]
                told = ", ".join(str(message.content) for message in results[-len(calls) :])
                return await say(f"Results: {told}")
            return await say(Reply(text="Let me see.", tool_calls=calls))

        def route(state: MessagesState) -> str:
            return "tools" if getattr(state["messages"][-1], "tool_calls", None) else END

        builder = StateGraph(MessagesState)
        builder.add_node("model", model)
        builder.add_node(
            "tools", ToolNode([add, count_up, divide], handle_tool_errors=_told_to_the_model)
        )
        builder.add_edge(START, "model")
        builder.add_conditional_edges("model", route, ["tools", END])
        builder.add_edge("tools", "model")
        return builder

    return build


def _told_to_the_model(error: Exception) -> str:
    return f"failed: {error}"


# --- subgraphs, custom events, state ---------------------------------------------------------


def nested() -> Any:
    """Three graphs, each in the next, and all speak.

    At "slow" the innermost waits at the gate `down`, and the outermost at the gate `up`.
    """

    async def write(state: MessagesState) -> Update:
        if of_messages(state)[-1] == "slow":
            await gate("down")
        return await say("Deep down.")

    async def sum_up(state: MessagesState) -> Update:
        return await say("Half way up.")

    async def answer(state: MessagesState) -> Update:
        if of_messages(state)[-1] == "slow":
            await gate("up")
        return await say("On top.")

    writer = line(("write", write)).compile(name="writer")
    research = line(("writer", writer), ("sum_up", sum_up)).compile(name="research")
    return line(("research", research), ("answer", answer))


class Found(TypedDict, total=False):
    """What several tasks write to."""

    found: Annotated[list[str], operator.add]


class Fan(Found, total=False):
    """A state that has subjects to look up."""

    subjects: list[str]
    subject: str


def mapped() -> Any:
    """Sends one task for each subject to the same subgraph."""

    def look_up(state: Fan) -> Update:
        get_stream_writer()({"name": "looking", "payload": state["subject"]})
        return {"found": [state["subject"].upper()]}

    builder = StateGraph(Fan)
    inner = StateGraph(Fan, output_schema=Found).add_node("look", look_up).add_edge(START, "look")
    builder.add_node("look_up", inner.compile(name="look_up"))
    builder.add_conditional_edges(
        START,
        lambda state: [Send("look_up", {"subject": name}) for name in state["subjects"]],
        ["look_up"],
    )
    return builder


def custom() -> Any:
    """Writes custom events: named ones, and one that is just a value."""

    async def work(state: MessagesState) -> Update:
        write = get_stream_writer()
        for percent in (0, 50, 100):
            write({"name": "progress", "payload": {"percent": percent}})
        write({"name": "metrics", "payload": 7})
        write("plain")
        return await say("Worked.")

    return line(("work", work))


class Steps(TypedDict, total=False):
    """A state without messages."""

    log: Annotated[list[str], operator.add]
    total: int


def steps() -> Any:
    """Three supersteps on a state without messages."""

    def step(name: str) -> tuple[str, Callable[[Steps], Update]]:
        return name, lambda state: {"log": [name], "total": state.get("total", 0) + 1}

    return line(*(step(name) for name in ("one", "two", "three")), state=Steps)


# --- interrupts ------------------------------------------------------------------------------


def ask() -> Any:
    """Asks for approval, and says what it was told."""

    async def approve(state: MessagesState) -> Update:
        answer = interrupt({"question": f"Send {of_messages(state)[-1]}?"})
        return await say(f"You said {answer}.")

    return line(("approve", approve))


def ask_twice() -> Any:
    """Two nodes ask at once."""
    builder = StateGraph(Steps)
    for name in ("left", "right"):
        builder.add_node(name, _asker(name))
        builder.add_edge(START, name)
    return builder


def _asker(name: str) -> Callable[[Steps], Update]:
    return lambda state: {"log": [f"{name}={interrupt(name)}"]}


def ask_in_turn() -> Any:
    """One node asks, and then another."""
    return line(("first", _asker("first")), ("second", _asker("second")), state=Steps)


def ask_and_go() -> Any:
    """A node asks; another runs only when it is sent for, and says how much log it was given."""
    builder = StateGraph(Steps)
    builder.add_node("ask", _asker("asked"))
    builder.add_node("other", lambda state: {"log": [f"other after {len(state['log'])}"]})
    builder.add_edge(START, "ask")
    return builder


def ask_below() -> Any:
    """A subgraph asks."""

    async def approve(state: MessagesState) -> Update:
        return await say(f"You said {interrupt('From below?')}.")

    return line(("below", line(("approve", approve)).compile(name="below")))


# --- much ------------------------------------------------------------------------------------


def flood() -> Any:
    """Writes more events than some clients hold, and a word after them."""

    async def write(state: MessagesState) -> Update:
        writer = get_stream_writer()
        for number in range(FLOOD):
            writer({"name": "tick", "payload": number})
        return await say("All written.")

    return line(("write", write))


def big() -> Any:
    """Has a state that is larger than the frames that the Python client takes."""

    async def write(state: MessagesState) -> Update:
        return {"messages": [AIMessage("x" * BIG, id="big")]}

    return line(("write", write))


BUILDERS: Mapping[str, Callable[[], Any]] = {
    "chat": chat,
    "gated": gated,
    "whole": whole,
    "thinking": thinking,
    "failing": failing,
    "twins": twins,
    "adder": agent(call("add", a=1, b=2)),
    "counter": agent(call("count_up", to=3)),
    "divider": agent(call("divide", a=1, b=0)),
    "parallel": agent(
        call("add", "call_1", a=1, b=1), call("count_up", "call_2", to=2), call("divide", a=1, b=0)
    ),
    "nested": nested,
    "mapped": mapped,
    "custom": custom,
    "steps": steps,
    "ask": ask,
    "ask_twice": ask_twice,
    "ask_in_turn": ask_in_turn,
    "ask_and_go": ask_and_go,
    "ask_below": ask_below,
    "flood": flood,
    "big": big,
}


def names() -> Sequence[str]:
    """The names of the graphs."""
    return tuple(BUILDERS)
