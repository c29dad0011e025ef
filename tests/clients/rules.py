"""What every frame of the LangChain protocol, and every sequence of them, must be.

The shapes are those of the official bindings (`langchain_protocol`), with what they leave open and
every client relies on: `event_id`, `seq`, and the order in which the specification puts the events
of a message, of a tool call, and of a run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

import langchain_protocol as protocol
from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

Json: TypeAlias = dict[str, Any]

TERMINAL = frozenset({"completed", "failed", "interrupted"})


class InputAnswered(TypedDict):
    """What the bindings do not have yet: version 0.0.21 of the JavaScript ones does."""

    interrupt_ids: list[str]


_FRAMES: Mapping[str, TypeAdapter[Any]] = {
    "event": TypeAdapter(protocol.Event),
    "success": TypeAdapter(protocol.CommandResponse),
    "error": TypeAdapter(protocol.ErrorResponse),
}
_DATA: Mapping[str, TypeAdapter[Any]] = {
    "values": TypeAdapter(dict[str, Any]),
    "updates": TypeAdapter(protocol.UpdatesData),
    "messages": TypeAdapter(protocol.MessagesData),
    "tools": TypeAdapter(protocol.ToolsData),
    "lifecycle": TypeAdapter(protocol.LifecycleData),
    "input.requested": TypeAdapter(protocol.InputRequestedData),
    "input.answered": TypeAdapter(InputAnswered),
    "checkpoints": TypeAdapter(protocol.Checkpoint),
    "tasks": TypeAdapter(dict[str, Any]),
    "custom": TypeAdapter(protocol.CustomData),
}
RESULTS: Mapping[str, TypeAdapter[Any]] = {
    "run.start": TypeAdapter(protocol.RunResult),
    "subscription.subscribe": TypeAdapter(protocol.SubscribeResult),
    "subscription.unsubscribe": TypeAdapter(protocol.EmptyResult),
    "subscription.reconnect": TypeAdapter(protocol.ReconnectResult),
    "agent.getTree": TypeAdapter(protocol.AgentResult),
    "input.respond": TypeAdapter(protocol.EmptyResult),
    "input.inject": TypeAdapter(protocol.EmptyResult),
    "state.get": TypeAdapter(protocol.StateGetResult),
    "state.listCheckpoints": TypeAdapter(protocol.ListCheckpointsResult),
    "state.fork": TypeAdapter(protocol.StateForkResult),
}
COMMAND: TypeAdapter[Any] = TypeAdapter(protocol.Command)


def malformed(frame: Json) -> list[str]:
    """What is wrong with the shape of a frame."""
    kind = frame.get("type")
    if kind not in _FRAMES:
        return [f"type: {kind!r}"]
    if kind != "event":
        return _wrong(_FRAMES[kind], frame)
    method = frame.get("method")
    if method not in _DATA:
        return [f"method: {method!r}"]
    params = frame["params"]
    wrong = [] if method == "input.answered" else _wrong(_FRAMES["event"], frame)
    wrong += [f"params.data: {text}" for text in _wrong(_DATA[method], params["data"])]
    if type(params["timestamp"]) is not int:
        wrong.append("params.timestamp: not an integer")
    if not all(isinstance(part, str) for part in params["namespace"]):
        wrong.append("params.namespace: not a list of strings")
    if type(frame.get("seq")) is not int or not frame.get("event_id"):
        wrong.append("an event without seq or event_id")
    return wrong


def _wrong(adapter: TypeAdapter[Any], value: Any) -> list[str]:
    try:
        adapter.validate_python(value)
    except ValidationError as error:
        return [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
    return []


@dataclass
class _Message:
    """An open message: its open block and what that has said so far."""

    block: int | str | None = None
    text: str = ""
    kind: str = ""


@dataclass
class Rules:
    """The rules for the frames that one connection gets.

    Attributes:
        broken: What was wrong.
    """

    broken: list[str] = field(default_factory=list)
    _seen: dict[str, Json] = field(default_factory=dict)
    _numbers: dict[int, str] = field(default_factory=dict)
    _last: int = 0
    _replays: int = 0
    _messages: dict[str, _Message] = field(default_factory=dict)
    _tools: dict[tuple[str, str], bool] = field(default_factory=dict)
    _ended: set[str] = field(default_factory=set)

    def subscribed(self) -> None:
        """A subscription was asked for: what it replays is older than what came last."""
        self._replays += 1

    def check(self, frame: Json) -> None:
        """Take the next frame that the connection got."""
        problems = malformed(frame)
        if not problems and frame["type"] == "event":
            problems = list(self._check(frame))
        self.broken += [f"{problem} in {frame}"[:600] for problem in problems]

    def _check(self, event: Json) -> Iterator[str]:
        if (first := self._seen.get(event["event_id"])) is not None:
            if first != event:
                yield f"a replay that differs from {first}"
            return
        self._seen[event["event_id"]] = event
        yield from self._number(event)
        if event.get("run_id") in self._ended:
            yield "an event of a run that has ended"
        if event["event_id"].startswith("synth:") and event["method"] != "lifecycle":
            yield "an event_id that clients take for that of a run"
        check = _ORDER.get(event["method"])
        if check is not None:
            yield from check(self, event)

    def _number(self, event: Json) -> Iterator[str]:
        seq = event["seq"]
        if seq in self._numbers:
            yield f"seq {seq} is that of {self._numbers[seq]}"
        self._numbers[seq] = event["event_id"]
        if seq <= self._last:
            if not self._replays:
                yield f"seq {seq} after {self._last}"
            self._replays -= 1
        self._last = seq

    def _message(self, event: Json) -> Iterator[str]:
        data, params = event["params"]["data"], event["params"]
        message_id, kind = data.get("id"), data["event"]
        if message_id is None or "run_id" not in data or "node" not in params:
            yield "an event of a message without id, run_id or node"
            return
        message = self._messages.get(message_id)
        if kind == "message-start":
            if message is not None:
                yield "a message that starts twice"
            self._messages[message_id] = _Message()
        elif message is None:
            yield "an event of a message that is not open"
        elif kind in ("message-finish", "error"):
            del self._messages[message_id]
            if message.block is not None and kind == "message-finish":
                yield f"a message that finishes with block {message.block} open"
        else:
            yield from _block(message, data)

    def _tool(self, event: Json) -> Iterator[str]:
        data = event["params"]["data"]
        key = (repr(event["params"]["namespace"]), data["tool_call_id"])
        if data["event"] == "tool-started":
            if self._tools.get(key):
                yield "a tool call that starts twice"
            self._tools[key] = True
        elif not self._tools.get(key):
            yield "an event of a tool call that is not running"
        elif data["event"] != "tool-output-delta":
            self._tools[key] = False

    def _lifecycle(self, event: Json) -> Iterator[str]:
        data = event["params"]["data"]
        if event["params"]["namespace"]:
            return
        marker, _, rest = event["event_id"].partition(":")
        run_id = rest.partition(":")[0]
        if marker != "synth" or not rest.endswith(f":lc||{data['event']}"):
            yield "a root lifecycle event whose id does not tell its run"
        if run_id in self._ended and "run_id" not in event:
            yield "an event of a run that has ended"
        if data["event"] in TERMINAL:
            self._ended.add(run_id)
            if self._messages:
                yield f"the end of a run while {sorted(self._messages)} are open"


_ORDER: Mapping[str, Callable[[Rules, Json], Iterator[str]]] = {
    "messages": Rules._message,
    "tools": Rules._tool,
    "lifecycle": Rules._lifecycle,
}


def _block(message: _Message, data: Json) -> Iterator[str]:
    """The rules for the blocks of a message: one after the other, and nothing lost."""
    index, kind = data["index"], data["event"]
    if kind == "content-block-start":
        if message.block is not None:
            yield f"block {index} starts while block {message.block} is open"
        message.block, message.kind = index, data["content"]["type"]
        message.text = _text(data["content"])
    elif message.block != index:
        yield f"an event of block {index}, which is not open"
    elif kind == "content-block-delta":
        delta = data["delta"]
        if delta["type"] == "tool-call-delta":
            yield "a delta that clients up to 1.11 do not know"
        elif delta["type"] == "block-delta":
            message.text = delta["fields"].get("args", message.text)
        else:
            message.text += cast("str", delta.get("text", delta.get("reasoning", "")))
    else:
        if message.kind in ("text", "reasoning") and _text(data["content"]) != message.text:
            yield f"a block that said {message.text!r}"
        message.block = None


def _text(block: Json) -> str:
    return str(block.get("text", block.get("reasoning", "")))
