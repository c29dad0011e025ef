"""What a client of AG-UI is told of a run: its frames as events.

The events are those of AG-UI 1.0 (npm `@ag-ui/core`), in the order that the official client
verifies (`@ag-ui/client`, `src/verify/verify.ts`): each part begins, and ends before the run does.
Optional fields are absent, never null.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from langgraph_ws.codec import dumps, known, source_json
from langgraph_ws.commands import Snapshot
from langgraph_ws.frames import (
    AttemptStarted,
    BlockDelta,
    BlockFinished,
    BlockStarted,
    Custom,
    Frame,
    Interrupted,
    MessageFinished,
    MessageStarted,
    RunFailed,
    RunFinished,
    RunResult,
    RunStarted,
    RunStatus,
    Sources,
    StateSnapshot,
    StepFinished,
    StepStarted,
    SubgraphFinished,
    SubgraphStarted,
    ToolDelta,
    ToolFinished,
    ToolStarted,
)
from langgraph_ws.log import Entry
from langgraph_ws.view import OpenMessage

__all__ = ["RunEvents", "run_error"]

Json: TypeAlias = dict[str, Any]

_VERSION = "1.0"
_VARIANT = "agui"
_REASON = "langgraph:interrupt"
_OURS = "langgraph"


@dataclass(slots=True)
class _Open:
    """A message that is under way: which of its parts are open, by the index of the block."""

    tag: Json
    text: bool = False
    reasoning: set[int] = field(default_factory=set)
    calls: dict[int, str] = field(default_factory=dict)


class RunEvents:
    """The events of one run.

    Args:
        thread_id: Its thread.
        run_id: Its id.
        expose_state: Whether the client may see the state of the graph.

    Attributes:
        over: Whether the run has ended.
    """

    def __init__(self, thread_id: str, run_id: str, *, expose_state: bool) -> None:
        self.over = False
        self._about = {"threadId": thread_id, "runId": run_id}
        self._expose_state = expose_state
        self._open: dict[str, _Open] = {}
        self._calls: set[str] = set()
        self._steps: dict[str, tuple[str, Json]] = {}
        self._subagents: dict[tuple[str, ...], str] = {}
        self._subgraphs = 0
        self._interrupts: dict[str, Interrupted] = {}
        self._usage: dict[str | None, dict[str, int]] = {}
        self._result: Any = None
        self._failed = False

    def events(self, entry: Entry) -> Iterator[bytes]:
        """The events of the next entry."""
        frame = entry.frame
        if type(frame) is BlockDelta:
            yield from self._delta(entry, frame)
            return
        make = _EVENTS.get(type(frame))
        if make is not None:
            for event in make(self, frame):
                yield dumps(event | {"timestamp": entry.time_ms})

    def begin_from(self, snapshot: Snapshot) -> Iterator[bytes]:
        """The events that tell of a thread as it is, so that what comes goes on from there."""
        started = {"type": "RUN_STARTED", **self._about, "protocolVersion": _VERSION}
        events: list[Json] = [started]
        if self._expose_state and snapshot.values is not None:
            events.append({"type": "STATE_SNAPSHOT", "snapshot": snapshot.values})
        messages = [it for message in snapshot.messages for it in _message(message)]
        messages += [_so_far(message) for message in snapshot.open if _is_said(message.started)]
        events.append({"type": "MESSAGES_SNAPSHOT", "messages": messages})
        self._interrupts = {it.interrupt_id: it for it in snapshot.interrupts}
        for message in messages:
            self._calls |= {call["id"] for call in message.get("toolCalls", ())}
        for open_message in snapshot.open:
            events += self._reopen(open_message)
        return map(dumps, events)

    def _reopen(self, message: OpenMessage) -> Iterator[Json]:
        """Go on with a message of which the client has the text so far."""
        yield from self._message_started(message.started)
        for index, block in message.blocks.items():
            if block.kind == "text" and block.block is None:
                yield from self._text_started(message.started.message_id)
            elif block.kind == "reasoning" and block.block is None:
                started = BlockStarted(
                    message_id=message.started.message_id, index=index, kind="reasoning"
                )
                yield from self._block_started(started)
                id_, tag = _part_id(started), self._open[started.message_id].tag
                yield {"type": _REASONED, "messageId": id_, "delta": block.text, **tag}

    def end(self, status: RunStatus) -> Iterator[bytes]:
        """The events of an end that no frame tells of."""
        return map(dumps, self._run_finished(RunFinished(status=status)))

    # -- the life of the run ----------------------------------------------------------------

    def _run_started(self, frame: RunStarted) -> Iterator[Json]:
        yield {"type": "RUN_STARTED", **self._about, "protocolVersion": _VERSION}

    def _run_result(self, frame: RunResult) -> Iterator[Json]:
        self._result = frame.output
        yield from ()

    def _run_failed(self, frame: RunFailed) -> Iterator[Json]:
        yield from self._close()
        self._failed = self.over = True
        error_id = f" (error {frame.error_id})" if frame.error_id else ""
        usage = {"usage": self._usages()} if self._usage else {}
        yield run_error(frame.code, f"{frame.message}{error_id}") | usage

    def _run_finished(self, frame: RunFinished) -> Iterator[Json]:
        self.over = True
        if self._failed:
            return
        yield from self._close()
        outcome: Json
        if frame.status == "interrupted" and self._interrupts:
            waiting = [_interrupt(it) for it in self._interrupts.values()]
            outcome = {"type": "interrupt", "interrupts": waiting}
        elif frame.status == "cancelled":
            outcome = {"type": "cancelled"}
        elif frame.status in ("completed", "interrupted"):
            outcome = {"type": "success"}
        else:
            yield run_error(frame.status, f"The run ended early: {frame.status}.")
            return
        finished = {"type": "RUN_FINISHED", **self._about, "outcome": outcome}
        usage = self._usages() if self._usage else None
        yield finished | known(result=self._result, usage=usage)

    def _attempt_started(self, frame: AttemptStarted) -> Iterator[Json]:
        """End what is under way; AG-UI has no word for taking it back."""
        yield from self._close()

    def _close(self) -> Iterator[Json]:
        """End what is open, the innermost first."""
        for message_id in list(self._open):
            yield from self._close_message(message_id)
        for name, tag in reversed(self._steps.values()):
            yield {"type": "STEP_FINISHED", "stepName": name, **tag}
        self._steps.clear()
        for namespace in sorted(self._subagents, key=len, reverse=True):
            yield from self._end_subagent(namespace)

    def _usages(self) -> list[Json]:
        return [known(model=model, **usage) for model, usage in self._usage.items()]

    # -- steps and subgraphs ----------------------------------------------------------------

    def _step_started(self, frame: StepStarted) -> Iterator[Json]:
        """Begin a step; its name is one that no other open one has."""
        tag = self._tag(frame.namespace)
        taken = {name for name, other in self._steps.values() if other == tag}
        name, number = frame.node, 1
        while name in taken:
            number += 1
            name = f"{frame.node}#{number}"
        self._steps[frame.task_id] = (name, tag)
        yield {"type": "STEP_STARTED", "stepName": name, **tag}

    def _step_finished(self, frame: StepFinished) -> Iterator[Json]:
        step = self._steps.pop(frame.task_id, None)
        if step is not None:
            yield {"type": "STEP_FINISHED", "stepName": step[0], **step[1]}

    def _subgraph_started(self, frame: SubgraphStarted) -> Iterator[Json]:
        parent = self._tag(frame.namespace[:-1]).get("subagentRunId")
        self._subgraphs += 1
        id_ = f"{'|'.join(frame.namespace)}#{self._subgraphs}"
        self._subagents[frame.namespace] = id_
        call_id = frame.tool_call_id if frame.tool_call_id in self._calls else None
        about = known(parentSubagentRunId=parent, parentToolCallId=call_id)
        yield {"type": "SUBAGENT_STARTED", "subagentRunId": id_, "name": frame.graph, **about}

    def _subgraph_finished(self, frame: SubgraphFinished) -> Iterator[Json]:
        inner = len(frame.namespace)
        tags = [id_ for space, id_ in self._subagents.items() if space[:inner] == frame.namespace]
        for task_id, (name, tag) in list(self._steps.items()):
            if tag.get("subagentRunId") in tags:
                del self._steps[task_id]
                yield {"type": "STEP_FINISHED", "stepName": name, **tag}
        for message_id, message in list(self._open.items()):
            if message.tag.get("subagentRunId") in tags:
                yield from self._close_message(message_id)
        for namespace in sorted(self._subagents, key=len, reverse=True):
            if namespace[:inner] == frame.namespace:
                yield from self._end_subagent(namespace, frame.status)

    def _end_subagent(
        self, namespace: tuple[str, ...], status: str = "cancelled"
    ) -> Iterator[Json]:
        id_ = self._subagents.pop(namespace)
        if status == "failed":
            yield {"type": "SUBAGENT_ERROR", "subagentRunId": id_, "message": "It failed."}
            return
        outcomes = {"finished": "success", "interrupted": "suspended"}
        outcome = {"outcome": {"type": outcomes[status]}} if status in outcomes else {}
        yield {"type": "SUBAGENT_FINISHED", "subagentRunId": id_, **outcome}

    def _tag(self, namespace: tuple[str, ...]) -> Json:
        """Whose an event is: that of a subgraph that is under way, or of the run itself."""
        id_ = self._subagents.get(namespace)
        return {} if id_ is None else {"subagentRunId": id_}

    # -- messages ---------------------------------------------------------------------------

    def _message_started(self, frame: MessageStarted) -> Iterator[Json]:
        if _is_said(frame):
            self._open[frame.message_id] = _Open(self._tag(frame.namespace))
        yield from ()

    def _text_started(self, message_id: str) -> Iterator[Json]:
        message = self._open[message_id]
        if not message.text:
            message.text = True
            about = {"messageId": message_id, "role": "assistant"}
            yield {"type": "TEXT_MESSAGE_START", **about, **message.tag}

    def _block_started(self, frame: BlockStarted) -> Iterator[Json]:
        message = self._open.get(frame.message_id)
        if message is None:
            return
        if frame.kind == "text":
            yield from self._text_started(frame.message_id)
        elif frame.kind == "reasoning":
            message.reasoning.add(frame.index)
            about = {"messageId": _part_id(frame), **message.tag}
            yield {"type": "REASONING_START", **about}
            yield {"type": "REASONING_MESSAGE_START", "role": "reasoning", **about}
        elif frame.kind == "tool_call" and frame.tool_call_id and frame.name:
            message.calls[frame.index] = frame.tool_call_id
            yield self._call(frame.tool_call_id, frame.name, frame.message_id, message.tag)

    def _call(self, call_id: str, name: str, parent: str | None, tag: Json) -> Json:
        self._calls.add(call_id)
        said = {"toolCallId": call_id, "toolCallName": name, **known(parentMessageId=parent)}
        return {"type": "TOOL_CALL_START", **said, **tag}

    def _delta(self, entry: Entry, frame: BlockDelta) -> Iterator[bytes]:
        """More of a block, encoded once for all who read it: the way of nearly every token."""
        message = self._open.get(frame.message_id)
        if message is None:
            return
        event: Json
        if frame.kind == "text" and message.text:
            event = {"type": "TEXT_MESSAGE_CONTENT", "messageId": frame.message_id}
        elif frame.index in message.reasoning:
            event = {"type": _REASONED, "messageId": _part_id(frame)}
        elif frame.index in message.calls:
            event = {"type": "TOOL_CALL_ARGS", "toolCallId": message.calls[frame.index]}
        else:
            return
        variant = f"{_VARIANT}{message.tag.get('subagentRunId', '')}"
        data = entry.encoded.get(variant)
        if data is None:
            said = {"delta": frame.text, **message.tag, "timestamp": entry.time_ms}
            data = entry.encoded[variant] = dumps(event | said)
        yield data

    def _block_finished(self, frame: BlockFinished) -> Iterator[Json]:
        message = self._open.get(frame.message_id)
        if message is None:
            return
        if frame.index in message.reasoning:
            message.reasoning.discard(frame.index)
            yield from _reasoned(_part_id(frame), message.tag)
        elif frame.kind == "tool_call":
            call_id = message.calls.pop(frame.index, None)
            if call_id is None:
                yield from self._whole_call(frame, message.tag)
            else:
                yield {"type": "TOOL_CALL_END", "toolCallId": call_id, **message.tag}
        elif frame.kind == "media":
            said = {"messageId": frame.message_id, "index": frame.index, "block": frame.block}
            yield {"type": "CUSTOM", "name": "content", "value": said, **message.tag}

    def _whole_call(self, frame: BlockFinished, tag: Json) -> Iterator[Json]:
        block = frame.block
        call_id = str(block.get("id") or _part_id(frame))
        if call_id not in self._calls:
            name = str(block.get("name") or "")
            yield from self._called(call_id, name, block.get("args"), frame.message_id, tag)

    def _called(
        self, call_id: str, name: str, args: Any, parent: str | None, tag: Json
    ) -> Iterator[Json]:
        """A tool call that comes in one piece."""
        text = args if isinstance(args, str) else dumps({} if args is None else args).decode()
        yield self._call(call_id, name, parent, tag)
        yield {"type": "TOOL_CALL_ARGS", "toolCallId": call_id, "delta": text, **tag}
        yield {"type": "TOOL_CALL_END", "toolCallId": call_id, **tag}

    def _message_finished(self, frame: MessageFinished) -> Iterator[Json]:
        if frame.usage:
            self._add_usage(frame)
        message_id = frame.streamed_id or frame.message_id
        if message_id in self._open:
            yield from self._close_message(message_id)

    def _close_message(self, message_id: str) -> Iterator[Json]:
        message = self._open.pop(message_id)
        for index in sorted(message.reasoning):
            yield from _reasoned(f"{message_id}:r{index}", message.tag)
        for call_id in message.calls.values():
            yield {"type": "TOOL_CALL_END", "toolCallId": call_id, **message.tag}
        if message.text:
            yield {"type": "TEXT_MESSAGE_END", "messageId": message_id, **message.tag}

    def _add_usage(self, frame: MessageFinished) -> None:
        usage = frame.usage or {}
        model = (frame.metadata or {}).get("model_name")
        known = self._usage.setdefault(model, {})
        given = {
            "inputTokens": usage.get("input_tokens"),
            "outputTokens": usage.get("output_tokens"),
            "totalTokens": usage.get("total_tokens"),
            "reasoningTokens": (usage.get("output_token_details") or {}).get("reasoning"),
            "cachedInputTokens": (usage.get("input_token_details") or {}).get("cache_read"),
        }
        for name, value in given.items():
            if isinstance(value, int) and value >= 0:
                known[name] = known.get(name, 0) + value

    # -- tools ------------------------------------------------------------------------------

    def _tool_started(self, frame: ToolStarted) -> Iterator[Json]:
        """Tell of a call that no message has told of."""
        if frame.tool_call_id not in self._calls:
            tag = self._tag(frame.namespace)
            yield from self._called(frame.tool_call_id, frame.name, frame.input, None, tag)

    def _tool_delta(self, frame: ToolDelta) -> Iterator[Json]:
        value = {"toolCallId": frame.tool_call_id, "delta": frame.delta}
        tag = self._tag(frame.namespace)
        yield {"type": "CUSTOM", "name": "tool_output_delta", "value": value, **tag}

    def _tool_finished(self, frame: ToolFinished) -> Iterator[Json]:
        content = frame.content
        said = {
            "messageId": frame.message_id or f"{frame.tool_call_id}:result",
            "toolCallId": frame.tool_call_id,
            "role": "tool",
            "content": content if isinstance(content, str) else dumps(content).decode(),
        }
        status = {"status": frame.status, **known(errorId=frame.error_id)}
        failed = {"metadata": {_OURS: status}} if frame.status == "error" else {}
        yield {"type": "TOOL_CALL_RESULT", **said, **failed, **self._tag(frame.namespace)}

    # -- the rest ---------------------------------------------------------------------------

    def _interrupted(self, frame: Interrupted) -> Iterator[Json]:
        self._interrupts[frame.interrupt_id] = frame
        yield from ()

    def _state(self, frame: StateSnapshot) -> Iterator[Json]:
        if self._expose_state and not frame.namespace:
            yield {"type": "STATE_SNAPSHOT", "snapshot": frame.values}

    def _sources(self, frame: Sources) -> Iterator[Json]:
        found = [source_json(source) for source in frame.sources]
        yield {"type": "CUSTOM", "name": "sources", "value": found}

    def _custom(self, frame: Custom) -> Iterator[Json]:
        said = {"name": frame.name, "value": frame.data}
        yield {"type": "CUSTOM", **said, **self._tag(frame.namespace)}


_REASONED = "REASONING_MESSAGE_CONTENT"


def run_error(code: str, message: str) -> Json:
    """The event of a run that failed, or never began."""
    return {"type": "RUN_ERROR", "message": message, "code": code}


def _is_said(frame: MessageStarted) -> bool:
    return frame.role == "assistant"


def _part_id(frame: BlockStarted | BlockDelta | BlockFinished) -> str:
    return f"{frame.message_id}:r{frame.index}"


def _reasoned(part_id: str, tag: Json) -> Iterator[Json]:
    yield {"type": "REASONING_MESSAGE_END", "messageId": part_id, **tag}
    yield {"type": "REASONING_END", "messageId": part_id, **tag}


def _interrupt(frame: Interrupted) -> Json:
    value = frame.value
    asked = value if isinstance(value, dict) else {}
    message = value if isinstance(value, str) else asked.get("question", asked.get("message"))
    call_id = asked.get("tool_call_id")
    where = known(node=frame.node, namespace=frame.namespace or None)
    return {
        "id": frame.interrupt_id,
        "reason": _REASON,
        **known(
            message=message if isinstance(message, str) else None,
            toolCallId=call_id if isinstance(call_id, str) else None,
            responseSchema=frame.response_schema,
        ),
        "metadata": {_OURS: {"value": value, **where}},
    }


def _message(frame: MessageFinished) -> Iterator[Json]:
    """A finished message, as a list of messages has it."""
    text = "".join(str(it.get("text", "")) for it in frame.content if it.get("type") == "text")
    if frame.role == "tool":
        return
    message: Json = {"id": frame.message_id, "role": frame.role, "content": text}
    calls = [
        _call_json(str(it.get("id") or ""), str(it.get("name") or ""), it.get("args"))
        for it in frame.content
        if it.get("type") in ("tool_call", "invalid_tool_call")
    ]
    yield message | {"toolCalls": calls} if calls and frame.role == "assistant" else message


def _so_far(message: OpenMessage) -> Json:
    """A message that is still being written; a call that is will be told as a whole."""
    blocks: Sequence[Any] = [message.blocks[index] for index in sorted(message.blocks)]
    text = "".join(block.text for block in blocks if block.kind == "text")
    said: Json = {"id": message.started.message_id, "role": "assistant", "content": text}
    calls = [
        _call_json(block.tool_call_id, block.name or "", block.text)
        for block in blocks
        if block.kind == "tool_call" and block.tool_call_id and block.block is not None
    ]
    return said | {"toolCalls": calls} if calls else said


def _call_json(call_id: str, name: str, args: Any) -> Json:
    text = args if isinstance(args, str) else dumps({} if args is None else args).decode()
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": text}}


_EVENTS: Mapping[type[Frame], Callable[[RunEvents, Any], Iterator[Json]]] = {
    RunStarted: RunEvents._run_started,
    RunResult: RunEvents._run_result,
    RunFailed: RunEvents._run_failed,
    RunFinished: RunEvents._run_finished,
    AttemptStarted: RunEvents._attempt_started,
    StepStarted: RunEvents._step_started,
    StepFinished: RunEvents._step_finished,
    SubgraphStarted: RunEvents._subgraph_started,
    SubgraphFinished: RunEvents._subgraph_finished,
    MessageStarted: RunEvents._message_started,
    BlockStarted: RunEvents._block_started,
    BlockFinished: RunEvents._block_finished,
    MessageFinished: RunEvents._message_finished,
    ToolStarted: RunEvents._tool_started,
    ToolDelta: RunEvents._tool_delta,
    ToolFinished: RunEvents._tool_finished,
    Interrupted: RunEvents._interrupted,
    StateSnapshot: RunEvents._state,
    Sources: RunEvents._sources,
    Custom: RunEvents._custom,
}
