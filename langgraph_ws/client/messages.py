"""What a server of the chat protocol sends: one frozen class for each type of message.

The fields of a message's `data` stand beside those of its envelope (`run_id`, `seq`…). A type that
PROTOCOL.md does not name is a `Custom`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, ValidationError

from langgraph_ws.client.errors import ProtocolError
from langgraph_ws.codec import loads
from langgraph_ws.log import Position

__all__ = [
    "Attempt",
    "Authenticated",
    "Bye",
    "ChatMessage",
    "Checkpoint",
    "Custom",
    "End",
    "Error",
    "Final",
    "Gap",
    "Heartbeat",
    "Interrupt",
    "InterruptAnswered",
    "Message",
    "OpenBlock",
    "OpenMessage",
    "Pong",
    "Reasoning",
    "RolledBack",
    "RunInfo",
    "RunStanding",
    "Snapshot",
    "Source",
    "Sources",
    "State",
    "Text",
    "ToolCall",
    "ToolResult",
    "WorkflowStep",
    "parse",
]

Json: TypeAlias = dict[str, Any]
RunEnd: TypeAlias = Literal["completed", "interrupted", "cancelled", "failed", "drained", "lost"]
ENDED = frozenset({"completed", "interrupted", "cancelled", "failed", "drained", "lost"})
"""The statuses of runs that ended."""


class _Model(BaseModel):
    """Data that a server sent; what is not known of it is ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Message(_Model):
    """What all messages have.

    Attributes:
        type: The type, as it stands on the wire.
        run_id: The run that it belongs to; None where it is about none.
        seq: Its position in the thread; None where it is not in the log.
        from_seq: The first of the entries that were merged into it; None where none were.
        request_id: The id of the message that it answers; None where it answers none.
    """

    type: str
    run_id: str | None = None
    seq: int | None = None
    from_seq: int | None = None
    request_id: str | int | float | None = None


class _Placed(Message):
    """A message from somewhere in the graph; `namespace` is empty for the root."""

    node: str | None = None
    namespace: tuple[str, ...] = ()
    task_id: str | None = None


class Source(_Model):
    """A source that the graph used."""

    id: str
    title: str | None = None
    url: str | None = None
    snippet: str | None = None
    metadata: Json | None = None


class Interrupt(_Placed):
    """The graph waits for an answer; `id` is what to answer."""

    type: str = "interrupt"
    id: str
    value: Any = None
    ordinal: int = 0
    response_schema: Json | None = None


class InterruptAnswered(Message):
    """These interrupts wait no longer; `superseded`: a new turn discarded them."""

    ids: tuple[str, ...] = ()
    superseded: bool = False


class RunInfo(Message):
    """How a run, or a thread without one (`run_id` None), stands.

    With `seq` it is the beginning of the run, and has its `messages` and `time` (milliseconds
    since 1970).
    """

    thread_id: str
    status: str
    place: int | None = None
    epoch: str = ""
    head: int = 0
    checkpoint_id: str | None = None
    graph: str | None = None
    interrupts: tuple[Interrupt, ...] = ()
    messages: tuple[Json, ...] = ()
    time: int | None = None


class Text(_Placed):
    """More of a message's text: `delta` at `offset` (in code points) of block `index`.

    `text` is all of it instead, where the server tells that.
    """

    message_id: str
    index: int = 0
    delta: str | None = None
    offset: int = 0
    text: str | None = None


class Reasoning(Text):
    """More of what the model thinks; fields as in `Text`."""


class ChatMessage(_Placed):
    """A finished message.

    `content` is a list of content blocks; `time` is in milliseconds since 1970.
    """

    type: str = "message"
    message_id: str
    role: str = "assistant"
    name: str | None = None
    content: tuple[Json, ...] = ()
    status: str = "finished"
    streamed_id: str | None = None
    usage: Json | None = None
    citations: tuple[Json, ...] = ()
    metadata: Json | None = None
    time: int | None = None

    @property
    def text(self) -> str:
        """The text of all of its text blocks."""
        return self._joined("text")

    @property
    def reasoning(self) -> str:
        """What the model thought."""
        return self._joined("reasoning")

    def _joined(self, kind: str) -> str:
        return "".join(
            str(block.get(kind, "")) for block in self.content if block.get("type") == kind
        )


class ToolCall(_Placed):
    """What the model asks for; `status` is `started`, `arguments` or `finished`."""

    message_id: str
    index: int = 0
    tool_call_id: str | None = None
    name: str | None = None
    status: str
    arguments: str | None = None
    delta: str | None = None
    offset: int = 0
    args: Json | None = None
    error: str | None = None


class ToolResult(Message):
    """A tool at work; `status` is `started`, `output`, `success` or `error`."""

    tool_call_id: str | None = None
    name: str | None = None
    namespace: tuple[str, ...] = ()
    status: str
    input: Any = None
    delta: Any = None
    content: Any = None
    error_id: str | None = None
    artifact: Any = None


class Sources(Message):
    """All sources of the run so far; the last `added` of them are new."""

    sources: tuple[Source, ...] = ()
    added: int = 0


class WorkflowStep(_Placed):
    """A node started or ended (`status`)."""

    step: str
    status: str
    duration_ms: int | None = None


class State(_Placed):
    """The state of the graph, or (`node`) what one node wrote."""

    values: Any = None


class Checkpoint(Message):
    """A checkpoint was saved; edit and fork can start from its id."""

    checkpoint_id: str
    namespace: tuple[str, ...] = ()
    parent_id: str | None = None
    step: int = 0
    source: str = ""


class Custom(Message):
    """What the application sent itself, under its own `name`."""

    name: str
    data: Any = None


class Final(Message):
    """The graph completed."""

    text: str = ""
    message_id: str | None = None
    sources: tuple[Source, ...] = ()
    usage: Json | None = None
    execution_time_ms: int = 0
    checkpoint_id: str | None = None
    output: Any = None


class Error(Message):
    """The run failed; without `seq` a message was refused."""

    code: str
    message: str = ""
    retryable: bool = False
    error_id: str | None = None
    field: str | None = None
    retry_after_ms: int | None = None


class End(Message):
    """The run ended: once, and last."""

    type: str = "end"
    status: RunEnd


class RolledBack(Message):
    """What the run `superseded` said is void."""

    superseded: str


class Attempt(Message):
    """Another process goes on: what these tasks said after `rollback_to` is void."""

    attempt: int = 1
    rerun_task_ids: tuple[str, ...] = ()
    rollback_to: int = 0


class Gap(Message):
    """Something was lost: the entries before `first` (or all, by `reason`) are gone.

    What follows replaces what was known: a `snapshot`, or the log from its beginning. Except where
    `reason` is `buffer`: then this program read too slowly, and its oldest messages were dropped
    here; texts and views are whole.
    """

    type: str = "gap"
    thread_id: str | None = None
    reason: str
    requested: int = 0
    first: int = 0
    head: int = 0
    epoch: str = ""


class RunStanding(_Model):
    """The newest run of a snapshot."""

    run_id: str
    status: str


class OpenBlock(_Model):
    """A block of an unfinished message; `block` is set once it is whole."""

    index: int
    kind: str = "text"
    text: str = ""
    tool_call_id: str | None = None
    name: str | None = None
    block: Json | None = None


class OpenMessage(_Model):
    """An unfinished message."""

    message_id: str
    role: str = "assistant"
    node: str | None = None
    namespace: tuple[str, ...] = ()
    task_id: str | None = None
    blocks: tuple[OpenBlock, ...] = ()


class Snapshot(Message):
    """What the thread looks like at (`epoch`, `seq`); it replaces what was known."""

    thread_id: str
    epoch: str
    run: RunStanding | None = None
    messages: tuple[ChatMessage, ...] = ()
    open: tuple[OpenMessage, ...] = ()
    interrupts: tuple[Interrupt, ...] = ()
    sources: tuple[Source, ...] = ()
    values: Any = None

    @property
    def position(self) -> Position:
        """Where the thread looks like this."""
        return Position(self.epoch, self.seq or 0)


class Authenticated(Message):
    """The token was accepted, until `expires_at` (milliseconds since 1970; None: for ever)."""

    expires_at: int | None = None


class Pong(Message):
    """The answer to a ping."""

    time: int = 0


class Heartbeat(Message):
    """The connection lives; `threads` are the heads of the followed ones.

    `degraded`: the server cannot reach its log just now, so that nothing new can come.
    """

    time: int = 0
    threads: Json = {}
    degraded: bool = False


class Bye(Message):
    """The server is about to close."""

    reason: str = ""
    retry: str = "resume"
    after_ms: int = 0


_TYPES: Mapping[str, type[Message]] = {
    "run": RunInfo,
    "final": Final,
    "error": Error,
    "end": End,
    "rolled_back": RolledBack,
    "attempt": Attempt,
    "text": Text,
    "reasoning": Reasoning,
    "message": ChatMessage,
    "tool_call": ToolCall,
    "tool_result": ToolResult,
    "sources": Sources,
    "workflow_step": WorkflowStep,
    "interrupt": Interrupt,
    "interrupt_answered": InterruptAnswered,
    "state": State,
    "checkpoint": Checkpoint,
    "custom": Custom,
    "gap": Gap,
    "snapshot": Snapshot,
    "authenticated": Authenticated,
    "pong": Pong,
    "heartbeat": Heartbeat,
    "bye": Bye,
}
_ENVELOPE = ("type", "run_id", "seq", "from_seq", "request_id")


def parse(text: str | bytes) -> Message:
    """The message that a server sent.

    Raises:
        ProtocolError: It is none: no JSON object, no type, or a field is missing or wrong.
    """
    try:
        wire = loads(text)
    except ValueError as error:
        raise ProtocolError(f"the server sent what is not JSON: {error}") from None
    if not isinstance(wire, dict) or not isinstance(wire.get("type"), str):
        raise ProtocolError("the server sent a message that is no object with a type")
    kind = _TYPES.get(wire["type"])
    try:
        if kind is None:
            return Custom.model_validate(_named(wire))
        return kind.model_validate(_fields(wire))
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, fault["loc"]))
        raise ProtocolError(
            f"the server sent a {wire['type']!r} message with a wrong {where!r}: {fault['msg']}"
        ) from None


def _named(wire: Json) -> Json:
    """The fields of a message that bears a name of the application."""
    return {key: wire[key] for key in _ENVELOPE if key in wire} | {
        "name": wire["type"],
        "data": wire.get("data"),
    }


def _fields(wire: Json) -> Json:
    """The fields of `data` and the envelope side by side; null is the same as absent."""
    data = wire.get("data")
    fields: Json = {}
    if isinstance(data, dict):
        fields = {key: value for key, value in data.items() if value is not None}
    if wire["type"] == "rolled_back":
        fields["superseded"] = fields.get("run_id")
    fields |= {key: wire[key] for key in _ENVELOPE if wire.get(key) is not None}
    return fields
