"""What a client of the LangChain protocol is told of a frame: its events, and on which channel.

The LangChain Agent Streaming Protocol (https://github.com/langchain-ai/agent-protocol, the types of
the package `langchain-protocol`), as its clients really read it: names in snake case.

An event has a number that no other event of the thread has, that grows from each to the next, and
that stays the same in every replay: clients take it for their cursor (`seq`, `since`) and for the
identity of the event (`event_id`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from langgraph_ws.codec import dumps, source_json
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
    RunFailed,
    RunFinished,
    RunStarted,
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
from langgraph_ws.log import Entry, epoch_began

__all__ = [
    "CHANNELS",
    "CHANNEL_OF",
    "TERMINAL_EVENTS",
    "Event",
    "Numbers",
    "encode",
    "events_of",
    "namespace_of",
    "started_block",
    "taken_back",
]

Json: TypeAlias = dict[str, Any]

CHANNELS = frozenset(
    {
        "values",
        "updates",
        "messages",
        "tools",
        "lifecycle",
        "input",
        "checkpoints",
        "tasks",
        "custom",
    }
)
"""The channels that a client may subscribe to, beside `custom:<name>`."""

CHANNEL_OF: Mapping[type[Frame], str] = {
    RunStarted: "lifecycle",
    RunFailed: "lifecycle",
    RunFinished: "lifecycle",
    SubgraphStarted: "lifecycle",
    SubgraphFinished: "lifecycle",
    StepStarted: "tasks",
    StepFinished: "tasks",
    MessageStarted: "messages",
    BlockStarted: "messages",
    BlockDelta: "messages",
    BlockFinished: "messages",
    MessageFinished: "messages",
    ToolStarted: "tools",
    ToolDelta: "tools",
    ToolFinished: "tools",
    StateUpdated: "updates",
    StateSnapshot: "values",
    AttemptStarted: "values",
    CheckpointSaved: "checkpoints",
    Interrupted: "input",
    InterruptAnswered: "input",
    Custom: "custom",
    Sources: "custom",
}
"""The channel of each kind of frame; the others make no event."""

TERMINAL_EVENTS: Mapping[str, str] = {
    "completed": "completed",
    "interrupted": "interrupted",
    "cancelled": "interrupted",
}
"""How the end of a run is told, by its status; of other ends `RunFailed` has told before."""

_PARTS = 64
"""How many events one entry may make."""
_EPOCH_BITS = 21
"""Numbers begin anew with every epoch, above all those of earlier ones: (2**21 / 64) entries for
each second that an epoch lasts are more than any thread makes. They stay below 2**53 until 2106."""


class Numbers:
    """The numbers of the events of a thread, in one epoch of its log."""

    __slots__ = ("_base",)

    def __init__(self, epoch: str) -> None:
        self._base = epoch_began(epoch) << _EPOCH_BITS

    def of(self, seq: int, part: int = 0) -> int:
        """The number of an event of an entry."""
        return self._base + seq * _PARTS + part

    def through(self, seq: int) -> int:
        """The number that all events up to an entry lie at or below; 0: there are none."""
        return self.of(seq, _PARTS - 1) if seq else 0


@dataclass(frozen=True, slots=True)
class Event:
    """One event.

    Attributes:
        method: Its method: the channel, or `input.requested` and `input.answered`.
        data: What it says.
        root: What the root graph's lifecycle comes to with it; None for any other event.
        namespace: Where it is told; None: where the frame stands.
    """

    method: str
    data: Any
    root: str | None = None
    namespace: tuple[str, ...] | None = None


Made: TypeAlias = "Event | tuple[Event, ...] | None"

_ROLES = {"assistant": "ai", "user": "human", "system": "system"}
_STEP_STATUS = {
    "finished": "completed",
    "interrupted": "interrupted",
    "failed": "failed",
    "cancelled": "interrupted",
}
_BLOCKS = frozenset(
    {
        "text",
        "reasoning",
        "tool_call",
        "invalid_tool_call",
        "server_tool_call",
        "server_tool_result",
        "image",
        "audio",
        "video",
        "file",
        "non_standard",
    }
)
_FAILED = "The message was not finished."


def namespace_of(frame: Any, event: Event) -> tuple[str, ...]:
    """The namespace that an event of the frame is told at."""
    return getattr(frame, "namespace", ()) if event.namespace is None else event.namespace


def events_of(frame: Frame, run_id: str) -> tuple[Event, ...]:
    """The events of a frame that needs nothing of those before it."""
    make = _EVENTS.get(type(frame))
    made = make(frame, run_id) if make is not None else None
    if made is None:
        return ()
    return made if isinstance(made, tuple) else (made,)


def encode(entry: Entry, number: int, event: Event) -> bytes:
    """The message that tells of an event."""
    run_id = entry.run_id
    # Clients take the run of a root lifecycle event from its id.
    event_id = str(number) if event.root is None else f"synth:{run_id}:lc||{event.root}"
    namespace = namespace_of(entry.frame, event)
    params: Json = {"namespace": namespace, "timestamp": entry.time_ms}
    if node := getattr(entry.frame, "node", None):
        params["node"] = node
    params["data"] = event.data
    return dumps(
        {
            "type": "event",
            "event_id": event_id,
            "seq": number,
            "run_id": run_id,
            "method": event.method,
            "params": params,
        }
    )


# --- lifecycle -------------------------------------------------------------------------------


def _run_started(frame: RunStarted, _run_id: str) -> Made:
    return _root("running", graph_name=frame.graph)


def _run_failed(frame: RunFailed, _run_id: str) -> Made:
    told = {"code": frame.code, "retryable": frame.retryable, "error_id": frame.error_id}
    return _root("failed", error=frame.message, **told)


def _run_finished(frame: RunFinished, _run_id: str) -> Made:
    event = TERMINAL_EVENTS.get(frame.status)
    if event is None:
        return None
    return _root(event, reason="cancelled" if frame.status == "cancelled" else None)


def _root(event: str, **told: Any) -> Event:
    return Event("lifecycle", {"event": event, **_known(told)}, root=event)


def _subgraph_started(frame: SubgraphStarted, _run_id: str) -> Made:
    return Event("lifecycle", _subgraph(frame, "started"))


def _subgraph_finished(frame: SubgraphFinished, _run_id: str) -> Made:
    return Event("lifecycle", _subgraph(frame, _STEP_STATUS[frame.status]))


def _subgraph(frame: SubgraphStarted | SubgraphFinished, event: str) -> Json:
    data: Json = {"event": event, "namespace": frame.namespace, "graph_name": frame.graph}
    if task_id := frame.namespace[-1].partition(":")[2]:
        data["trigger_call_id"] = task_id
    if isinstance(frame, SubgraphStarted) and frame.tool_call_id is not None:
        data["cause"] = {"type": "toolCall", "tool_call_id": frame.tool_call_id}
    return data


def _step_started(frame: StepStarted, _run_id: str) -> Made:
    data = {"id": frame.task_id, "name": frame.node, "input": frame.input}
    return Event("tasks", data | {"triggers": frame.triggers, "interrupts": []})


def _step_finished(frame: StepFinished, _run_id: str) -> Made:
    failed = "The step failed." if frame.status == "failed" else None
    data = {"id": frame.task_id, "name": frame.node, "error": failed, "result": frame.result}
    # A client asks only whether there are any; what they are comes on `input`.
    waits: list[Json] = [{}] if frame.status == "interrupted" else []
    return Event("tasks", data | {"interrupts": waits})


# --- messages --------------------------------------------------------------------------------


def _message_started(frame: MessageStarted, run_id: str) -> Made:
    role = _ROLES.get(frame.role)
    if role is None:
        return None
    said = {"event": "message-start", "role": role, "id": frame.message_id, "run_id": run_id}
    return Event("messages", said | _known({"name": frame.name}))


def taken_back(
    message_ids: Iterable[str], values: Mapping[str, Any], namespace: tuple[str, ...]
) -> tuple[Event, Event]:
    """Two states that make a page drop messages: one that has them, then the true one.

    A page (`useStream`) shows what was streamed until it has been in a state and then is no more.
    """
    drafts = [{"type": "ai", "id": id_, "content": ""} for id_ in message_ids]
    saved = values.get("messages")
    with_them = {**values, "messages": [*(saved if isinstance(saved, list) else ()), *drafts]}
    return (
        Event("values", with_them, namespace=namespace),
        Event("values", values, namespace=namespace),
    )


def started_block(frame: BlockStarted, run_id: str) -> Event:
    """The event of a block that begins empty."""
    if frame.kind == "tool_call":
        content: Json = {
            "type": "tool_call_chunk",
            "id": frame.tool_call_id,
            "name": frame.name,
            "args": "",
        }
    else:
        content = {"type": frame.kind, frame.kind: ""}
    return _block(frame, run_id, "content-block-start", content=content)


def _block_delta(frame: BlockDelta, run_id: str) -> Made:
    """The event of more text; arguments of tools are told as all so far, by who knows them."""
    if frame.kind not in ("text", "reasoning"):
        return None
    delta = {"type": f"{frame.kind}-delta", frame.kind: frame.text}
    return _block(frame, run_id, "content-block-delta", delta=delta)


def _block_finished(frame: BlockFinished, run_id: str) -> Made:
    return _block(frame, run_id, "content-block-finish", content=_content(frame.block))


def _block(
    frame: BlockStarted | BlockDelta | BlockFinished, run_id: str, event: str, **what: Json
) -> Event:
    about = {"id": frame.message_id, "run_id": run_id}
    return Event("messages", {"event": event, "index": frame.index, **what, **about})


def _content(block: Json) -> Json:
    """A finished block in the protocol's words."""
    kind = block.get("type")
    if kind == "text":
        text: Json = {"type": "text", "text": block["text"]}
        cited = block.get("citations")
        return text | {"annotations": cited} if cited else text
    return block if kind in _BLOCKS else {"type": "non_standard", "value": block}


def _message_finished(frame: MessageFinished, run_id: str) -> Made:
    if frame.role not in _ROLES:
        return None
    about = {"id": frame.streamed_id or frame.message_id, "run_id": run_id}
    if frame.status != "finished":
        failed = {"event": "error", "message": _FAILED, "code": frame.status}
        return Event("messages", failed | about)
    metadata = frame.metadata or {}
    said = {
        "usage": frame.usage,
        "reason": metadata.get("finish_reason"),
        "metadata": metadata or None,
    }
    return Event("messages", {"event": "message-finish", **_known(said), **about})


# --- tools -----------------------------------------------------------------------------------


def _tool_started(frame: ToolStarted, run_id: str) -> Made:
    return _tool(frame, run_id, "tool-started", tool_name=frame.name, input=frame.input)


def _tool_delta(frame: ToolDelta, run_id: str) -> Made:
    delta = frame.delta if isinstance(frame.delta, str) else dumps(frame.delta).decode()
    return _tool(frame, run_id, "tool-output-delta", delta=delta)


def _tool_finished(frame: ToolFinished, run_id: str) -> Made:
    if frame.status == "error":
        content = frame.content
        text = content if isinstance(content, str) else dumps(content).decode()
        return _tool(frame, run_id, "tool-error", message=text)
    return _tool(frame, run_id, "tool-finished", output=_output(frame))


def _output(frame: ToolFinished) -> Json:
    """What a tool put out, as the message that a model reads of it."""
    message: Json = {
        "type": "tool",
        "name": frame.name,
        "tool_call_id": frame.tool_call_id,
        "content": frame.content,
        "status": frame.status,
    }
    return message | _known({"id": frame.message_id, "artifact": frame.artifact})


def _tool(
    frame: ToolStarted | ToolDelta | ToolFinished, run_id: str, event: str, **what: Any
) -> Event:
    about = {"event": event, "tool_call_id": frame.tool_call_id, "run_id": run_id}
    return Event("tools", {**about, **what})


# --- state, interrupts, custom ---------------------------------------------------------------


def _state_updated(frame: StateUpdated, _run_id: str) -> Made:
    values = {} if frame.values is None else frame.values
    return Event("updates", {"node": frame.node, "values": values})


def _state_snapshot(frame: StateSnapshot, _run_id: str) -> Made:
    return Event("values", frame.values)


def _checkpoint_saved(frame: CheckpointSaved, _run_id: str) -> Made:
    saved = {"id": frame.checkpoint_id, "step": frame.step, "source": frame.source}
    return Event("checkpoints", saved | _known({"parent_id": frame.parent_id}))


def _interrupted(frame: Interrupted, _run_id: str) -> Made:
    # The Python client (0.4.14) reads `value`, the others and the specification `payload`.
    asked = {"interrupt_id": frame.interrupt_id, "payload": frame.value, "value": frame.value}
    schema = _known({"response_schema": frame.response_schema})
    return Event("input.requested", asked | schema)


def _interrupt_answered(frame: InterruptAnswered, _run_id: str) -> Made:
    return Event("input.answered", {"interrupt_ids": frame.interrupt_ids})


def _custom(frame: Custom, _run_id: str) -> Made:
    name = None if frame.name == "custom" else frame.name  # the mapper's word for one without
    return Event("custom", _known({"name": name}) | {"payload": frame.data})


def _sources(frame: Sources, _run_id: str) -> Made:
    found = [source_json(source) for source in frame.sources]
    return Event("custom", {"name": "sources", "payload": found})


def _known(values: Mapping[str, Any]) -> Json:
    return {name: value for name, value in values.items() if value is not None}


_EVENTS: Mapping[type[Frame], Callable[[Any, str], Made]] = {
    RunStarted: _run_started,
    RunFailed: _run_failed,
    RunFinished: _run_finished,
    SubgraphStarted: _subgraph_started,
    SubgraphFinished: _subgraph_finished,
    StepStarted: _step_started,
    StepFinished: _step_finished,
    MessageStarted: _message_started,
    BlockDelta: _block_delta,
    BlockFinished: _block_finished,
    MessageFinished: _message_finished,
    ToolStarted: _tool_started,
    ToolDelta: _tool_delta,
    ToolFinished: _tool_finished,
    StateUpdated: _state_updated,
    StateSnapshot: _state_snapshot,
    CheckpointSaved: _checkpoint_saved,
    Interrupted: _interrupted,
    InterruptAnswered: _interrupt_answered,
    Custom: _custom,
    Sources: _sources,
}
