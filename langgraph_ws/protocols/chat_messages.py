"""What a client of the chat protocol is sent: one encoder for each class of frame."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from langgraph_ws.codec import dumps, known, source_json
from langgraph_ws.commands import RunInfo, Snapshot
from langgraph_ws.errors import GapError, InvalidRequest, RequestError
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
from langgraph_ws.log import Entry
from langgraph_ws.protocols.chat_requests import RequestId
from langgraph_ws.view import OpenBlock, OpenMessage

__all__ = [
    "ENCODERS",
    "RESERVED",
    "Where",
    "answer",
    "error_message",
    "gap_message",
    "place",
    "run_message",
    "snapshot_message",
    "task",
]

RESERVED = frozenset(
    {
        "run",
        "final",
        "error",
        "end",
        "rolled_back",
        "attempt",
        "text",
        "reasoning",
        "message",
        "tool_call",
        "tool_result",
        "sources",
        "workflow_step",
        "interrupt",
        "interrupt_answered",
        "state",
        "checkpoint",
        "custom",
        "gap",
        "snapshot",
        "authenticated",
        "pong",
        "heartbeat",
        "bye",
    }
)
"""The types that the server sends; a custom event that bears one of them comes as `custom`."""

Json: TypeAlias = dict[str, Any]


def place(frame: Any) -> Json:
    """Where in the graph a frame comes from, as far as it is known."""
    data: Json = {}
    if frame.node:
        data["node"] = frame.node
    if frame.namespace:
        data["namespace"] = frame.namespace
    return data


def task(frame: Any) -> Json:
    """Where in the graph a frame comes from, and the task that it is from."""
    data = place(frame)
    if frame.task_id:
        data["task_id"] = frame.task_id
    return data


def _within(frame: Any) -> Json:
    """The namespace of a frame, unless it is the root."""
    return {"namespace": frame.namespace} if frame.namespace else {}


def _interrupt_json(frame: Interrupted) -> Json:
    return {
        "id": frame.interrupt_id,
        "value": frame.value,
        "ordinal": frame.ordinal,
        **task(frame),
        **known(response_schema=frame.response_schema),
    }


def _message_json(frame: MessageFinished) -> Json:
    return {
        "message_id": frame.message_id,
        **known(streamed_id=frame.streamed_id),
        "role": frame.role,
        **known(name=frame.name),
        "content": frame.content,
        "status": frame.status,
        **task(frame),
        **known(usage=frame.usage, citations=frame.citations or None, metadata=frame.metadata),
    }


def _tool_call_json(frame: BlockStarted | BlockFinished, status: str) -> Json:
    return {"message_id": frame.message_id, "index": frame.index, **task(frame), "status": status}


def _tool_json(frame: ToolStarted | ToolDelta | ToolFinished, status: str) -> Json:
    return {
        "tool_call_id": frame.tool_call_id,
        "name": frame.name,
        **_within(frame),
        "status": status,
    }


@dataclass(frozen=True, slots=True)
class Where:
    """What an encoder needs beside the frame."""

    entry: Entry
    epoch: str
    expose_state: bool


Encoded: TypeAlias = tuple[str, Any] | None
"""The type and the data of a message; None: the client is told nothing."""


def _nothing(_frame: Frame, _where: Where) -> Encoded:
    return None


def _run_started(frame: RunStarted, where: Where) -> Encoded:
    return "run", {
        "thread_id": frame.thread_id,
        "run_id": frame.run_id,
        "status": "running",
        "epoch": where.epoch,
        "head": where.entry.seq,
        "checkpoint_id": frame.checkpoint_id,
        "graph": frame.graph,
        "interrupts": [],
        "messages": frame.messages,
        "time": where.entry.time_ms,
    }


def _step_started(frame: StepStarted, _where: Where) -> Encoded:
    return "workflow_step", {
        "step": frame.node,
        "status": "started",
        **_within(frame),
        "task_id": frame.task_id,
    }


def _step_finished(frame: StepFinished, _where: Where) -> Encoded:
    return "workflow_step", {
        "step": frame.node,
        "status": frame.status,
        **_within(frame),
        "task_id": frame.task_id,
        **known(duration_ms=frame.duration_ms),
    }


def _block_started(frame: BlockStarted, _where: Where) -> Encoded:
    if frame.kind != "tool_call":
        return None
    call = known(tool_call_id=frame.tool_call_id, name=frame.name)
    return "tool_call", _tool_call_json(frame, "started") | call


def _block_finished(frame: BlockFinished, _where: Where) -> Encoded:
    if frame.kind != "tool_call":
        return None
    block = frame.block
    call = known(tool_call_id=block.get("id"), name=block.get("name"))
    if block.get("type") == "invalid_tool_call":
        call |= {"arguments": block.get("args"), "error": block.get("error")}
    else:
        call["args"] = block.get("args")
    return "tool_call", _tool_call_json(frame, "finished") | call


def _message_finished(frame: MessageFinished, where: Where) -> Encoded:
    return "message", _message_json(frame) | {"time": where.entry.time_ms}


def _tool_started(frame: ToolStarted, _where: Where) -> Encoded:
    return "tool_result", _tool_json(frame, "started") | known(input=frame.input)


def _tool_delta(frame: ToolDelta, _where: Where) -> Encoded:
    return "tool_result", _tool_json(frame, "output") | {"delta": frame.delta}


def _tool_finished(frame: ToolFinished, where: Where) -> Encoded:
    data = _tool_json(frame, frame.status) | {"content": frame.content}
    data |= known(error_id=frame.error_id)
    if where.expose_state and frame.artifact is not None:
        data["artifact"] = frame.artifact
    return "tool_result", data


def _sources(frame: Sources, _where: Where) -> Encoded:
    return "sources", {
        "sources": [source_json(source) for source in frame.sources],
        "added": frame.added,
    }


def _state_updated(frame: StateUpdated, where: Where) -> Encoded:
    if not where.expose_state:
        return None
    return "state", {"values": frame.values, "node": frame.node, **_within(frame)}


def _state_snapshot(frame: StateSnapshot, where: Where) -> Encoded:
    if not where.expose_state:
        return None
    return "state", {"values": frame.values, **_within(frame)}


def _checkpoint_saved(frame: CheckpointSaved, _where: Where) -> Encoded:
    return "checkpoint", {
        "checkpoint_id": frame.checkpoint_id,
        **known(parent_id=frame.parent_id),
        "step": frame.step,
        "source": frame.source,
        **_within(frame),
    }


def _interrupted(frame: Interrupted, _where: Where) -> Encoded:
    return "interrupt", _interrupt_json(frame)


def _interrupt_answered(frame: InterruptAnswered, _where: Where) -> Encoded:
    return "interrupt_answered", {"ids": frame.interrupt_ids, "superseded": frame.superseded}


def _custom(frame: Custom, _where: Where) -> Encoded:
    if not frame.name or frame.name in RESERVED:
        return "custom", {"name": frame.name, "data": frame.data}
    return frame.name, frame.data


def _attempt_started(frame: AttemptStarted, _where: Where) -> Encoded:
    return "attempt", {
        "attempt": frame.attempt,
        "rerun_task_ids": frame.rerun_task_ids,
        "rollback_to": frame.rollback_to,
    }


def _rolled_back(frame: RolledBack, _where: Where) -> Encoded:
    return "rolled_back", {"run_id": frame.run_id}


def _run_result(frame: RunResult, _where: Where) -> Encoded:
    return "final", {
        "text": frame.text,
        **known(message_id=frame.message_id),
        "sources": [source_json(source) for source in frame.sources],
        **known(usage=frame.usage),
        "execution_time_ms": frame.duration_ms,
        **known(checkpoint_id=frame.checkpoint_id, output=frame.output),
    }


def _run_failed(frame: RunFailed, _where: Where) -> Encoded:
    return "error", {
        "code": frame.code,
        "message": frame.message,
        **known(error_id=frame.error_id),
        "retryable": frame.retryable,
    }


def _run_finished(frame: RunFinished, _where: Where) -> Encoded:
    return "end", {"status": frame.status}


Encoder: TypeAlias = Callable[[Any, Where], Encoded]

ENCODERS: Mapping[type[Frame], Encoder] = {
    RunStarted: _run_started,
    StepStarted: _step_started,
    StepFinished: _step_finished,
    MessageStarted: _nothing,
    BlockStarted: _block_started,
    BlockDelta: _nothing,  # not by itself: chat.py merges those that wait together
    BlockFinished: _block_finished,
    MessageFinished: _message_finished,
    ToolStarted: _tool_started,
    ToolDelta: _tool_delta,
    ToolFinished: _tool_finished,
    Sources: _sources,
    StateUpdated: _state_updated,
    StateSnapshot: _state_snapshot,
    CheckpointSaved: _checkpoint_saved,
    Interrupted: _interrupted,
    InterruptAnswered: _interrupt_answered,
    SubgraphStarted: _nothing,
    SubgraphFinished: _nothing,
    Custom: _custom,
    AttemptStarted: _attempt_started,
    RolledBack: _rolled_back,
    RunResult: _run_result,
    RunFailed: _run_failed,
    RunFinished: _run_finished,
}
"""How each class of frame becomes the type and the data of a message."""


def answer(kind: str, data: Json, request_id: RequestId = None) -> bytes:
    """A message that is not in the log."""
    if request_id is None:
        return dumps({"type": kind, "data": data})
    return dumps({"type": kind, "request_id": request_id, "data": data})


def error_message(error: RequestError, request_id: RequestId = None) -> bytes:
    """The `error` that refuses a message."""
    data: Json = {"code": error.code, "message": error.message, "retryable": error.retryable}
    data |= known(error_id=error.error_id, retry_after_ms=error.retry_after_ms)
    if isinstance(error, InvalidRequest):
        data["field"] = error.field
    return answer("error", data, request_id)


def run_message(info: RunInfo, request_id: RequestId, status: str | None = None) -> bytes:
    """The `run` that answers a message; `status` where it is not the run's own."""
    data: Json = {
        "thread_id": info.thread_id,
        "run_id": info.run_id,
        "status": status or info.status,
        **known(place=info.place),
        "epoch": info.position.epoch,
        "head": info.position.seq,
        "checkpoint_id": info.checkpoint_id,
        **known(graph=info.graph),
        "interrupts": [_interrupt_json(interrupt) for interrupt in info.interrupts],
    }
    return answer("run", data, request_id)


def gap_message(thread_id: str, gap: GapError) -> bytes:
    """The `gap` that says what was lost."""
    data: Json = {
        "thread_id": thread_id,
        "reason": gap.reason,
        "requested": gap.requested,
        "first": gap.first,
        "head": gap.head,
        "epoch": gap.epoch,
    }
    return answer("gap", data)


def snapshot_message(snapshot: Snapshot, expose_state: bool) -> bytes:
    """The `snapshot` that replaces what the client knew of a thread."""
    run = {"run_id": snapshot.run_id, "status": snapshot.status} if snapshot.run_id else None
    data: Json = {
        "thread_id": snapshot.thread_id,
        "epoch": snapshot.position.epoch,
        "seq": snapshot.position.seq,
        "run": run,
        "messages": [_message_json(message) for message in snapshot.messages],
        "open": [_open_json(message) for message in snapshot.open],
        "interrupts": [_interrupt_json(interrupt) for interrupt in snapshot.interrupts],
        "sources": [source_json(source) for source in snapshot.sources],
    }
    if expose_state and snapshot.values is not None:
        data["values"] = snapshot.values
    return answer("snapshot", data)


def _open_json(message: OpenMessage) -> Json:
    started = message.started
    return {
        "message_id": started.message_id,
        "role": started.role,
        **task(started),
        "blocks": [_open_block_json(*item) for item in sorted(message.blocks.items())],
    }


def _open_block_json(index: int, block: OpenBlock) -> Json:
    return {
        "index": index,
        "kind": block.kind,
        "text": block.text,
        **known(tool_call_id=block.tool_call_id, name=block.name, block=block.block),
    }
