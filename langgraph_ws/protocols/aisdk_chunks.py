"""What a page that uses the AI SDK is told of a response: its frames as UI message chunks.

The chunks are those of `uiMessageChunkSchema` (npm `ai` 7, `src/ui-message-stream/
ui-message-chunks.ts`); the order in which `process-ui-message-stream.ts` takes them is kept here.
Optional fields are absent, never null.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from langgraph_ws.codec import dumps, known
from langgraph_ws.frames import (
    AttemptStarted,
    BlockDelta,
    BlockFinished,
    BlockStarted,
    Custom,
    Frame,
    InterruptAnswered,
    Interrupted,
    MessageFinished,
    MessageStarted,
    RunFailed,
    RunFinished,
    RunResult,
    RunStarted,
    Sources,
    StepFinished,
    StepStarted,
    ToolDelta,
    ToolFinished,
    ToolStarted,
)
from langgraph_ws.log import Entry
from langgraph_ws.protocols.aisdk_requests import INTERRUPT, OURS, UIMessage

__all__ = ["Response"]

Json: TypeAlias = dict[str, Any]

_VARIANT = "aisdk"
_STEP = "data-workflow-step"
_CONTENT = "data-content"
_RESERVED = frozenset({"", "interrupt", "workflow-step", "content", "custom"})
"""Names of custom events that would be taken for our own parts."""
_REASONS: Mapping[str, str] = {
    "stop": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "length": "length",
    "max_tokens": "length",
    "content_filter": "content-filter",
    "refusal": "content-filter",
    "tool_calls": "tool-calls",
    "tool_use": "tool-calls",
}
"""The AI SDK's words for why a model stopped; what is not here is `other`."""
_MEDIA_TYPES: Mapping[str, str] = {
    "image": "image/png",
    "audio": "audio/mpeg",
    "video": "video/mp4",
    "file": "application/octet-stream",
}
"""What a media block is, where it does not say so."""
_UNFINISHED = "The message was not finished."


@dataclass(slots=True)
class _Call:
    """A tool call that the page knows; `output`: what the tool has put out so far."""

    name: str
    input: Any = None
    done: bool = False
    output: str = ""


@dataclass(slots=True)
class _Open:
    """A message that is under way, and its open parts by the index of their blocks."""

    task_id: str | None
    texts: dict[int, str] = field(default_factory=dict)
    calls: dict[int, tuple[str, str]] = field(default_factory=dict)


class Response:
    """One message of the assistant in the making: the frames of a run, or of several.

    A run that answers an interrupt goes on with the message of the run that asked.

    Args:
        message_id: The id of the message.
        page: The message as the page has it, where the response goes on with it.

    Attributes:
        over: Whether the response has ended.
    """

    def __init__(self, message_id: str, page: UIMessage | None = None) -> None:
        self.over = False
        self._message_id = message_id
        self._begun = False
        self._in_step = False
        self._step_tasks: set[str | None] = set()
        self._step_calls: set[str] = set()
        self._open: dict[str, _Open] = {}
        self._calls: dict[str, _Call] = {}
        self._interrupts: dict[str, Json] = {}
        self._reason = "stop"
        self._asked = False
        self._failed = False
        self._metadata: Json = {}
        for part in page.parts if page is not None else ():
            if part.tool is not None and part.tool_call_id:
                done = part.state not in ("input-streaming", "input-available")
                self._calls[part.tool_call_id] = _Call(part.tool, part.input, done)
            elif part.type == INTERRUPT and part.id and isinstance(part.data, dict):
                self._interrupts[part.id] = part.data

    def chunks(self, entry: Entry) -> Iterator[bytes]:
        """The chunks of the next entry."""
        frame = entry.frame
        if type(frame) is BlockDelta:
            yield from self._delta(entry, frame)
            return
        make = _CHUNKS.get(type(frame))
        if make is not None:
            for chunk in make(self, frame):
                yield dumps(chunk)

    # -- the life of the response -----------------------------------------------------------

    def _run_started(self, frame: RunStarted) -> Iterator[Json]:
        self._asked = False
        if not self._begun:
            self._begun = True
            metadata = {"threadId": frame.thread_id, "runId": frame.run_id}
            yield {"type": "start", "messageId": self._message_id, "messageMetadata": metadata}

    def _run_result(self, frame: RunResult) -> Iterator[Json]:
        self._metadata = known(
            usage=frame.usage,
            durationMs=frame.duration_ms,
            checkpointId=frame.checkpoint_id,
            output=frame.output,
        )
        yield from ()

    def _run_failed(self, frame: RunFailed) -> Iterator[Json]:
        yield from self._close()
        self._failed = True
        error_id = f" (error {frame.error_id})" if frame.error_id else ""
        yield {"type": "error", "errorText": f"{frame.message}{error_id}"}

    def _run_finished(self, frame: RunFinished) -> Iterator[Json]:
        self.over = True
        if self._failed:
            return
        yield from self._close()
        if frame.status == "cancelled":
            yield {"type": "abort", "reason": "cancelled"}
        elif frame.status in ("completed", "interrupted"):
            reason = self._reason
            if frame.status == "interrupted":
                # Not "interrupted": that is the AI SDK's word for a response that was cut short,
                # after which a page does not send an answer of its own accord (`chat.ts`).
                reason = "tool-calls" if self._asked else "other"
            metadata = {"messageMetadata": self._metadata} if self._metadata else {}
            yield {"type": "finish", "finishReason": reason, **metadata}
        else:
            yield {"type": "error", "errorText": f"The run ended early: {frame.status}."}

    def _attempt_started(self, frame: AttemptStarted) -> Iterator[Json]:
        """Take back the step that is under way, where all of it will be said again."""
        for message_id in list(self._open):
            yield from self._close_message(message_id)
        if self._in_step and self._step_tasks <= set(frame.rerun_task_ids):
            for call_id in self._step_calls:
                self._calls.pop(call_id, None)
            yield {"type": "reset-step"}

    def _close(self) -> Iterator[Json]:
        """End what is open."""
        for message_id in list(self._open):
            yield from self._close_message(message_id)
        if self._in_step:
            self._in_step = False
            yield {"type": "finish-step"}

    def _close_message(self, message_id: str) -> Iterator[Json]:
        message = self._open.pop(message_id)
        for index, kind in message.texts.items():
            yield {"type": f"{kind}-end", "id": f"{message_id}:{index}"}
        for call_id, name in message.calls.values():
            call = {"toolCallId": call_id, "toolName": name, "input": {}, "dynamic": True}
            yield {"type": "tool-input-error", **call, "errorText": _UNFINISHED}

    # -- messages ---------------------------------------------------------------------------

    def _message_started(self, frame: MessageStarted) -> Iterator[Json]:
        """Begin a step with each message, except while another one is under way."""
        if frame.role != "assistant":
            return
        if not self._open:
            if self._in_step:
                yield {"type": "finish-step"}
            self._in_step = True
            self._step_tasks.clear()
            self._step_calls.clear()
            yield {"type": "start-step"}
        self._step_tasks.add(frame.task_id)
        self._open[frame.message_id] = _Open(frame.task_id)

    def _block_started(self, frame: BlockStarted) -> Iterator[Json]:
        message = self._open.get(frame.message_id)
        if message is None:
            return
        if frame.kind in ("text", "reasoning"):
            message.texts[frame.index] = frame.kind
            about = {"id": f"{frame.message_id}:{frame.index}", **_about(frame)}
            yield {"type": f"{frame.kind}-start", **about}
        elif frame.kind == "tool_call" and frame.tool_call_id and frame.name:
            message.calls[frame.index] = (frame.tool_call_id, frame.name)
            self._step_calls.add(frame.tool_call_id)
            self._calls[frame.tool_call_id] = _Call(frame.name)
            call = {"toolCallId": frame.tool_call_id, "toolName": frame.name, "dynamic": True}
            yield {"type": "tool-input-start", **call, **_about(frame)}

    def _delta(self, entry: Entry, frame: BlockDelta) -> Iterator[bytes]:
        """More of a block, encoded once for all who read it: the way of nearly every token."""
        message = self._open.get(frame.message_id)
        if message is None or not (frame.index in message.texts or frame.index in message.calls):
            return
        data = entry.encoded.get(_VARIANT)
        if data is None:
            if frame.kind == "tool_call":
                call_id, _ = message.calls[frame.index]
                said = {"toolCallId": call_id, "inputTextDelta": frame.text}
                chunk = {"type": "tool-input-delta", **said}
            else:
                part_id = f"{frame.message_id}:{frame.index}"
                chunk = {"type": f"{frame.kind}-delta", "id": part_id, "delta": frame.text}
            data = entry.encoded[_VARIANT] = dumps(chunk)
        yield data

    def _block_finished(self, frame: BlockFinished) -> Iterator[Json]:
        message = self._open.get(frame.message_id)
        if message is None:
            return
        part_id = f"{frame.message_id}:{frame.index}"
        if frame.kind == "tool_call":
            begun = message.calls.pop(frame.index, None)
            yield self._called(frame, begun[0] if begun else part_id)
        elif frame.kind == "media":
            yield _file(frame.block) or {"type": _CONTENT, "id": part_id, "data": frame.block}
        elif message.texts.pop(frame.index, None) is not None:
            yield {"type": f"{frame.kind}-end", "id": part_id}

    def _called(self, frame: BlockFinished, fallback: str) -> Json:
        """The tool call as a whole: its arguments, or why they are none."""
        block = frame.block
        call_id, name = str(block.get("id") or fallback), str(block.get("name") or "")
        self._step_calls.add(call_id)
        call = self._calls[call_id] = _Call(name, block.get("args"))
        said = {"toolCallId": call_id, "toolName": name, "input": block.get("args")}
        about = {"dynamic": True, **_about(frame)}
        if block.get("type") == "invalid_tool_call":
            call.done = True
            return {"type": "tool-input-error", **said, "errorText": block["error"], **about}
        return {"type": "tool-input-available", **said, **about}

    def _message_finished(self, frame: MessageFinished) -> Iterator[Json]:
        message_id = frame.streamed_id or frame.message_id
        if message_id not in self._open:
            return
        yield from self._close_message(message_id)
        reason = (frame.metadata or {}).get("finish_reason")
        self._reason = _REASONS.get(str(reason), "other") if reason else "stop"

    # -- tools ------------------------------------------------------------------------------

    def _tool_started(self, frame: ToolStarted) -> Iterator[Json]:
        """Tell of a call that no message has told of."""
        if frame.tool_call_id not in self._calls:
            self._calls[frame.tool_call_id] = _Call(frame.name, frame.input)
            call = {"toolCallId": frame.tool_call_id, "toolName": frame.name}
            yield {"type": "tool-input-available", **call, "input": frame.input, "dynamic": True}

    def _tool_delta(self, frame: ToolDelta) -> Iterator[Json]:
        yield from self._tool_started(_started(frame))
        output = frame.delta
        if isinstance(output, str):  # each output replaces the one before
            call = self._calls[frame.tool_call_id]
            output = call.output = call.output + output
        said = {"toolCallId": frame.tool_call_id, "output": output, "preliminary": True}
        yield {"type": "tool-output-available", **said, **_about(frame)}

    def _tool_finished(self, frame: ToolFinished) -> Iterator[Json]:
        yield from self._tool_started(_started(frame))
        self._calls[frame.tool_call_id].done = True
        about = {"toolCallId": frame.tool_call_id, **_about(frame)}
        content = frame.content
        if frame.status == "error":
            text = content if isinstance(content, str) else dumps(content).decode()
            yield {"type": "tool-output-error", "errorText": text, **about}
        else:
            yield {"type": "tool-output-available", "output": content, **about}

    # -- the rest ---------------------------------------------------------------------------

    def _interrupted(self, frame: Interrupted) -> Iterator[Json]:
        data = {
            "value": frame.value,
            "status": "pending",
            **known(
                node=frame.node,
                namespace=frame.namespace or None,
                responseSchema=frame.response_schema,
            ),
        }
        self._interrupts[frame.interrupt_id] = data
        yield {"type": INTERRUPT, "id": frame.interrupt_id, "data": data}
        for approval_id, call_id, reason in self._approvals(frame):
            self._asked = True
            asked = {"approvalId": approval_id, "toolCallId": call_id, **known(reason=reason)}
            yield {"type": "tool-approval-request", **asked}

    def _approvals(self, frame: Interrupted) -> Iterator[tuple[str, str, str | None]]:
        """The tool calls that an interrupt asks about.

        It names one (`tool_call_id`), or several as LangChain's `HumanInTheLoopMiddleware` does:
        by the name of the tool and its arguments (`action_requests`).
        """
        asked = frame.value if isinstance(frame.value, dict) else {}
        if (call_id := asked.get("tool_call_id")) in self._calls:
            yield frame.interrupt_id, str(call_id), None
            return
        actions = asked.get("action_requests")
        waiting = {call_id: call for call_id, call in self._calls.items() if not call.done}
        for index, action in enumerate(actions if isinstance(actions, list) else ()):
            wanted = (action.get("name"), action.get("args")) if isinstance(action, dict) else None
            for call_id, call in waiting.items():
                if (call.name, call.input) == wanted:
                    del waiting[call_id]
                    yield f"{frame.interrupt_id}:{index}", call_id, _text(action.get("description"))
                    break

    def _interrupt_answered(self, frame: InterruptAnswered) -> Iterator[Json]:
        """Mark the questions of this message as answered; those of an older one stay there."""
        if frame.superseded:
            return
        for interrupt_id in frame.interrupt_ids:
            data = self._interrupts.pop(interrupt_id, {}) | {"status": "answered"}
            yield {"type": INTERRUPT, "id": interrupt_id, "data": data}

    def _sources(self, frame: Sources) -> Iterator[Json]:
        for source in frame.sources[len(frame.sources) - frame.added :]:
            ours = known(snippet=source.snippet, metadata=source.metadata)
            about = {"providerMetadata": {OURS: ours}} if ours else {}
            if source.url:
                said = {"sourceId": source.id, "url": source.url, **known(title=source.title)}
                yield {"type": "source-url", **said, **about}
            else:
                said = {"sourceId": source.id, "title": source.title or source.id}
                yield {"type": "source-document", "mediaType": "text/plain", **said, **about}

    def _custom(self, frame: Custom) -> Iterator[Json]:
        """Data that has an `id` stays in the message; other data only passes by (`onData`)."""
        name, data = frame.name, frame.data
        if name in _RESERVED:
            name, data = "custom", {"name": name, "data": data}
        data_id = frame.data.get("id") if isinstance(frame.data, dict) else None
        stays = {"id": data_id} if isinstance(data_id, str) else {"transient": True}
        yield {"type": f"data-{name}", **stays, "data": data}

    def _step_started(self, frame: StepStarted) -> Iterator[Json]:
        yield _workflow_step(frame, status="started")

    def _step_finished(self, frame: StepFinished) -> Iterator[Json]:
        yield _workflow_step(frame, status=frame.status, durationMs=frame.duration_ms)


def _workflow_step(frame: StepStarted | StepFinished, **said: Any) -> Json:
    data = {"step": frame.node, **known(namespace=frame.namespace or None, **said)}
    return {"type": _STEP, "id": frame.task_id, "data": data}


def _started(frame: ToolDelta | ToolFinished) -> ToolStarted:
    return ToolStarted(tool_call_id=frame.tool_call_id, name=frame.name, input={})


def _about(frame: Any) -> Json:
    """Where in the graph something comes from."""
    ours = known(
        node=getattr(frame, "node", None),
        messageId=getattr(frame, "message_id", None),
        namespace=frame.namespace or None,
    )
    return {"providerMetadata": {OURS: ours}}


def _file(block: Json) -> Json | None:
    """A media block as a file; None where it is none that a page can show."""
    media_type = block.get("mime_type") or _MEDIA_TYPES.get(str(block.get("type")))
    if media_type is None:
        return None
    if isinstance(data := block.get("base64"), str):
        return {"type": "file", "url": f"data:{media_type};base64,{data}", "mediaType": media_type}
    if isinstance(url := block.get("url"), str):
        return {"type": "file", "url": url, "mediaType": media_type}
    return None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


_CHUNKS: Mapping[type[Frame], Callable[[Response, Any], Iterator[Json]]] = {
    RunStarted: Response._run_started,
    RunResult: Response._run_result,
    RunFailed: Response._run_failed,
    RunFinished: Response._run_finished,
    AttemptStarted: Response._attempt_started,
    MessageStarted: Response._message_started,
    BlockStarted: Response._block_started,
    BlockFinished: Response._block_finished,
    MessageFinished: Response._message_finished,
    ToolStarted: Response._tool_started,
    ToolDelta: Response._tool_delta,
    ToolFinished: Response._tool_finished,
    Interrupted: Response._interrupted,
    InterruptAnswered: Response._interrupt_answered,
    Sources: Response._sources,
    Custom: Response._custom,
    StepStarted: Response._step_started,
    StepFinished: Response._step_finished,
}
