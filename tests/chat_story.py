"""One thread that says everything a thread can say, for the tests of the chat protocol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from langgraph_ws.commands import Attach, Attached, RunInfo, Snapshot
from langgraph_ws.errors import GapError
from langgraph_ws.frames import (
    AttemptStarted,
    BlockDelta,
    BlockFinished,
    BlockStarted,
    CheckpointSaved,
    Custom,
    Frame,
    InterruptAnswered,
    Interrupted,
    MessageFinished,
    MessageStarted,
    RolledBack,
    RunFailed,
    RunFinished,
    RunResult,
    RunStarted,
    Source,
    Sources,
    StateSnapshot,
    StateUpdated,
    StepFinished,
    StepStarted,
    SubgraphFinished,
    SubgraphStarted,
    ToolDelta,
    ToolFinished,
    ToolStarted,
)
from langgraph_ws.log import Entry, Position
from langgraph_ws.protocols.chat import ChatSession
from langgraph_ws.session import Do
from langgraph_ws.view import OpenBlock, OpenMessage

EPOCH = "e-1"
TIME = 1_760_000_000_000
INTERRUPT = "0f3c9e4b2a6d48e1b7c5a9d8e6f01234"
SOURCE = Source(id="s1", title="Pregel", url="https://example.com/pregel")
AGENT: dict[str, Any] = {"node": "agent", "task_id": "task-1"}
DEEP: dict[str, Any] = {"node": "agent", "task_id": "task-2", "namespace": ("sub:task-1",)}


def text(message_id: str, index: int, said: str, offset: int, **more: Any) -> BlockDelta:
    """Part of a text."""
    return BlockDelta(
        message_id=message_id, index=index, kind="text", text=said, offset=offset, **more
    )


def _block(kind: Any, index: int, parts: Sequence[str], block: dict[str, Any]) -> list[Frame]:
    about: dict[str, Any] = {"message_id": "m-1", "index": index, "kind": kind} | AGENT
    call = {"tool_call_id": block["id"], "name": block["name"]} if kind == "tool_call" else {}
    offsets = [sum(map(len, parts[:number])) for number in range(len(parts))]
    return [
        BlockStarted(**about, **call),
        *(
            BlockDelta(text=part, offset=at, **about)
            for part, at in zip(parts, offsets, strict=True)
        ),
        BlockFinished(block=block, **about),
    ]


_BLOCKS: list[dict[str, Any]] = [
    {"type": "reasoning", "reasoning": "Look it up."},
    {"type": "text", "text": "A superstep "},
    {"type": "tool_call", "id": "c-1", "name": "search", "args": {"query": "superstep"}},
    {"type": "invalid_tool_call", "id": "c-2", "name": "search", "args": "{", "error": "no JSON"},
    {"type": "text", "text": "is one tick 🕐."},
    {"type": "image", "url": "https://example.com/tick.png"},
]

FIRST_RUN: list[Frame] = [
    RunStarted(
        thread_id="t-1",
        run_id="r-1",
        graph="chat",
        checkpoint_id="cp-0",
        messages=(
            {"message_id": "m-0", "role": "user", "content": [{"type": "text", "text": "What?"}]},
        ),
    ),
    StepStarted(task_id="task-1", node="agent"),
    MessageStarted(message_id="m-1", **AGENT),
    *_block("reasoning", 0, ["Look ", "it up."], _BLOCKS[0]),
    *_block("text", 1, ["A super", "step "], _BLOCKS[1]),
    *_block("tool_call", 2, ['{"query": ', '"superstep"}'], _BLOCKS[2]),
    *_block("tool_call", 3, ["{"], _BLOCKS[3]),
    *_block("text", 4, ["is one ", "tick 🕐", "."], _BLOCKS[4]),
    *_block("media", 5, ["…"], _BLOCKS[5]),
    MessageFinished(
        message_id="m-final",
        streamed_id="m-1",
        content=tuple(_BLOCKS),
        usage={"input_tokens": 9, "output_tokens": 6, "total_tokens": 15},
        citations=({"type": "citation", "url": "https://example.com/pregel"},),
        metadata={"model_name": "scripted"},
        **AGENT,
    ),
    ToolStarted(tool_call_id="c-1", name="search", input={"query": "superstep"}),
    ToolDelta(tool_call_id="c-1", name="search", delta="1 hit"),
    ToolFinished(tool_call_id="c-1", name="search", content="3 hits", artifact={"hits": 3}),
    ToolFinished(
        tool_call_id="c-2",
        name="search",
        status="error",
        content="The tool failed.",
        error_id="4a1b",
        namespace=("sub:task-1",),
    ),
    Sources(sources=(SOURCE, Source(id="s2", snippet="one tick")), added=2),
    SubgraphStarted(namespace=("sub:task-1",), graph="sub", tool_call_id="c-1"),
    StepStarted(task_id="task-2", node="inner", namespace=("sub:task-1",)),
    # two nodes that stream at once
    MessageStarted(message_id="m-2", **DEEP),
    MessageStarted(message_id="m-3", **AGENT),
    text("m-2", 0, "one", 0, **DEEP),
    text("m-3", 0, "eins", 0, **AGENT),
    text("m-2", 0, " two", 3, **DEEP),
    text("m-2", 0, " three", 7, **DEEP),
    text("m-3", 0, " zwei", 4, **AGENT),
    MessageFinished(message_id="m-2", content=({"type": "text", "text": "one two three"},), **DEEP),
    MessageFinished(
        message_id="m-3", content=({"type": "text", "text": "eins zwei"},), status="failed"
    ),
    StepFinished(task_id="task-2", node="inner", namespace=("sub:task-1",), duration_ms=12),
    SubgraphFinished(namespace=("sub:task-1",), graph="sub"),
    StateUpdated(node="agent", values={"step": 1}),
    StateSnapshot(values={"step": 2}, namespace=("sub:task-1",)),
    CheckpointSaved(checkpoint_id="cp-2", parent_id="cp-1", step=2, source="loop"),
    CheckpointSaved(checkpoint_id="cp-1", parent_id=None, step=1, source="input"),
    Custom(name="progress", data={"percent": 40}, node="agent"),
    Custom(name="end", data={"percent": 41}),
    Custom(name="", data=None),
    StepFinished(task_id="task-1", node="agent", status="interrupted"),
    Interrupted(
        interrupt_id=INTERRUPT,
        value={"question": "Send it?"},
        response_schema={"type": "boolean"},
        **AGENT,
    ),
    RunFinished(status="interrupted"),
]

SECOND_RUN: list[Frame] = [
    RunStarted(thread_id="t-1", run_id="r-2", graph="chat", attempt=2),
    InterruptAnswered(interrupt_ids=(INTERRUPT,)),
    AttemptStarted(attempt=2, rerun_task_ids=("task-1",), rollback_to=12),
    RolledBack(run_id="r-1"),
    RunResult(
        text="A superstep is one tick.",
        message_id="m-1",
        sources=(SOURCE,),
        usage={"input_tokens": 9, "output_tokens": 6, "total_tokens": 15},
        duration_ms=812,
        checkpoint_id="cp-3",
        output={"step": 3},
    ),
    RunFailed(code="graph_failed", message="The graph failed.", error_id="4a1b", retryable=True),
    RunFinished(status="completed"),
]


def entries(frames: Sequence[Frame], run_id: str = "r-1", first: int = 1) -> list[Entry]:
    """The frames as entries of a log."""
    return [Entry(first + number, run_id, TIME + number, it) for number, it in enumerate(frames)]


def story() -> list[Entry]:
    """Both runs as they lie in the log."""
    return entries(FIRST_RUN) + entries(SECOND_RUN, "r-2", len(FIRST_RUN) + 1)


def info(**changes: Any) -> RunInfo:
    """How the thread stands."""
    values: dict[str, Any] = {
        "thread_id": "t-1",
        "run_id": "r-1",
        "status": "running",
        "position": Position(EPOCH, 0),
        "graph": "chat",
    }
    return RunInfo(**values | changes)


def ask(session: ChatSession, **message: Any) -> Do:
    """Send a message that is good."""
    [action] = session.receive(orjson.dumps(message).decode())
    assert isinstance(action, Do), action
    return action


def follow(
    session: ChatSession, mode: str = "full", *, after: int | None = 0, **answer: Any
) -> list[Any]:
    """Attach to the thread, and return what the client is told at once."""
    asked = ask(session, type="attach", thread_id="t-1", options={"text": mode})
    assert isinstance(asked.command, Attach)
    return decoded(session.done(asked.token, Attached(**{"info": info(), "after": after} | answer)))


def decoded(messages: Sequence[bytes] | None) -> list[Any]:
    """Messages as a client reads them."""
    assert messages is not None
    return [orjson.loads(message) for message in messages]


def snapshot(**changes: Any) -> Snapshot:
    """The thread at its entry 100, in the middle of a message."""
    values: dict[str, Any] = {
        "thread_id": "t-1",
        "position": Position("e-2", 100),
        "run_id": "r-9",
        "status": "running",
        "messages": (
            MessageFinished(
                message_id="m-0", role="user", content=({"type": "text", "text": "Hello"},)
            ),
        ),
        "open": (
            OpenMessage(
                MessageStarted(message_id="m-9", **AGENT),
                {
                    1: OpenBlock("tool_call", "c-9", "search", ['{"q', '": ']),
                    0: OpenBlock("text", None, None, ["So ", "far"], {"type": "text"}),
                },
            ),
        ),
        "interrupts": (Interrupted(interrupt_id=INTERRUPT, value="Send it?"),),
        "sources": (SOURCE,),
        "values": {"step": 7},
    }
    return Snapshot(**values | changes)


TRIMMED = GapError("trimmed", requested=41, first=90, head=100, epoch="e-2")
