"""The JSON Schema of the chat protocol, generated from the code that speaks it.

What clients send comes from the models that decode it (`chat_requests`). What they are sent is
described here, one type for each type of message: the typed counterpart of the tables in
PROTOCOL.md. The names are those of `static/client.d.ts`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, NotRequired, TypeAlias

from pydantic import Field, TypeAdapter
from pydantic.json_schema import JsonSchemaMode
from typing_extensions import TypedDict  # pydantic refuses that of typing before Python 3.12

from langgraph_ws.errors import ErrorCode, GapReason
from langgraph_ws.frames import BlockKind, Role, RunStatus, StepStatus
from langgraph_ws.protocols.chat_messages import RESERVED
from langgraph_ws.protocols.chat_requests import REQUESTS
from langgraph_ws.session import Retry

__all__ = ["MESSAGES", "schema"]

Json: TypeAlias = dict[str, Any]
Time: TypeAlias = Annotated[int, Field(description="Milliseconds since 1970.")]
Offset: TypeAlias = Annotated[
    int, Field(description="How many Unicode code points of the block came before.")
]


# --- parts of messages -----------------------------------------------------------------------


class ContentBlock(TypedDict):
    """A block of a message, as LangChain has it; what else is in it depends on its type."""

    type: str


class Source(TypedDict):
    """Something that an answer rests on."""

    id: str
    title: NotRequired[str]
    url: NotRequired[str]
    snippet: NotRequired[str]
    metadata: NotRequired[Json]


class Usage(TypedDict):
    """What a message, or a run, cost; the model may add details."""

    input_tokens: int
    output_tokens: int
    total_tokens: int


class Place(TypedDict):
    """Where in the graph; `namespace` has a `node:task_id` for each subgraph, absent: the root."""

    node: NotRequired[str]
    namespace: NotRequired[list[str]]


class Task(Place):
    """Where in the graph, and the task."""

    task_id: NotRequired[str]


class Interrupt(Task):
    """The graph waits for an answer to `value`."""

    id: str
    value: Any
    ordinal: int
    response_schema: NotRequired[Json]


class GivenMessage(TypedDict):
    """A message of the input of a turn."""

    message_id: str | None
    role: Role
    content: list[ContentBlock]


class MessageData(Task):
    """A finished message; `streamed_id` is the id that its `text` came under, where another.

    In a snapshot it has no `time`.
    """

    message_id: str
    streamed_id: NotRequired[str]
    role: Role
    name: NotRequired[str]
    content: list[ContentBlock]
    status: Literal["finished", "failed", "cancelled"]
    usage: NotRequired[Usage]
    citations: NotRequired[list[Json]]
    metadata: NotRequired[Json]
    time: NotRequired[Time]


class OpenBlock(TypedDict):
    """A block of an unfinished message; `block` is there once it is whole."""

    index: int
    kind: BlockKind
    text: str
    tool_call_id: NotRequired[str]
    name: NotRequired[str]
    block: NotRequired[ContentBlock]


class OpenMessage(Task):
    """An unfinished message."""

    message_id: str
    role: Role
    blocks: list[OpenBlock]


class SnapshotRun(TypedDict):
    """The newest run of a thread."""

    run_id: str
    status: RunStatus | Literal["queued", "running", "idle"]


class Head(TypedDict):
    """Where the log of a thread stands."""

    epoch: str
    head: int


# --- data of messages ------------------------------------------------------------------------


class RunData(TypedDict):
    """How a run stands, or a thread that has none."""

    thread_id: str
    run_id: str | None
    status: RunStatus | Literal["queued", "running", "idle", "cancelling", "detached"]
    place: NotRequired[Annotated[int, Field(description="In the queue, from 1.")]]
    epoch: str
    head: Annotated[int, Field(description="The last seq of the thread.")]
    checkpoint_id: str | None
    graph: NotRequired[str]
    interrupts: list[Interrupt]
    messages: NotRequired[list[GivenMessage]]
    time: NotRequired[Time]


class Final(TypedDict):
    """The graph completed."""

    text: str
    message_id: NotRequired[str]
    sources: list[Source]
    usage: NotRequired[Usage]
    execution_time_ms: int
    checkpoint_id: NotRequired[str]
    output: NotRequired[Any]


class ErrorData(TypedDict):
    """A run failed, or a message was refused; `field` is the field of it that was wrong."""

    code: ErrorCode
    message: str
    retryable: bool
    error_id: NotRequired[str]
    field: NotRequired[str]
    retry_after_ms: NotRequired[int]


class EndData(TypedDict):
    """How the run ended."""

    status: RunStatus


class RolledBackData(TypedDict):
    """The run that was superseded."""

    run_id: str


class AttemptData(TypedDict):
    """What these tasks said after `rollback_to` is void."""

    attempt: int
    rerun_task_ids: list[str]
    rollback_to: int


class TextData(Task):
    """All of a message's text so far (`text`), or what is new (`delta` at `offset`)."""

    message_id: str
    index: int
    text: NotRequired[str]
    delta: NotRequired[str]
    offset: NotRequired[Offset]


class ToolCallData(Task):
    """What the model asks for; `arguments` is the JSON text so far, or what is no JSON object."""

    message_id: str
    index: int
    status: Literal["started", "arguments", "finished"]
    tool_call_id: NotRequired[str]
    name: NotRequired[str]
    arguments: NotRequired[str]
    delta: NotRequired[str]
    offset: NotRequired[Offset]
    args: NotRequired[Json]
    error: NotRequired[str]


class ToolResultData(TypedDict):
    """A tool at work."""

    tool_call_id: str
    name: str
    namespace: NotRequired[list[str]]
    status: Literal["started", "output", "success", "error"]
    input: NotRequired[Any]
    delta: NotRequired[Any]
    content: NotRequired[Any]
    error_id: NotRequired[str]
    artifact: NotRequired[Any]


class SourcesData(TypedDict):
    """All sources of the run so far; the last `added` of them are new."""

    sources: list[Source]
    added: int


class WorkflowStepData(TypedDict):
    """A task of the graph began or ended."""

    step: str
    status: Literal["started"] | StepStatus
    namespace: NotRequired[list[str]]
    task_id: str
    duration_ms: NotRequired[int]


class InterruptAnsweredData(TypedDict):
    """These interrupts wait no longer."""

    ids: list[str]
    superseded: bool


class StateData(Place):
    """The state, or (with `node`) what one node wrote."""

    values: Any


class CheckpointData(TypedDict):
    """Where edit and fork can start."""

    checkpoint_id: str
    parent_id: NotRequired[str]
    step: int
    source: str
    namespace: NotRequired[list[str]]


class CustomData(TypedDict):
    """A custom event whose name is taken, or empty."""

    name: str
    data: Any


class GapData(TypedDict):
    """Entries of the log that the client will not see."""

    thread_id: str
    reason: GapReason
    requested: int
    first: int
    head: int
    epoch: str


class SnapshotData(TypedDict):
    """What a thread looks like at (`epoch`, `seq`)."""

    thread_id: str
    epoch: str
    seq: int
    run: SnapshotRun | None
    messages: list[MessageData]
    open: list[OpenMessage]
    interrupts: list[Interrupt]
    sources: list[Source]
    values: NotRequired[Any]


class AuthenticatedData(TypedDict):
    """When the identity expires; null: never."""

    expires_at: Time | None


class PongData(TypedDict):
    """The server's time."""

    time: Time


class HeartbeatData(TypedDict):
    """The server's time, and where each followed thread stands; `degraded`: nothing can come."""

    time: Time
    threads: dict[str, Head]
    degraded: NotRequired[bool]


class ByeData(TypedDict):
    """The server is about to close."""

    reason: Literal["restart", "slow", "expired", "overloaded", "unavailable", "abuse"]
    retry: Retry
    after_ms: int


# --- messages --------------------------------------------------------------------------------


class Logged(TypedDict):
    """A message that is kept in the log."""

    run_id: str
    seq: int


class Merged(Logged):
    """A message that several entries of the log may have been merged into."""

    from_seq: NotRequired[int]


class Answer(TypedDict):
    """A message that may answer one of the client's."""

    request_id: NotRequired[str | int | float]


class LoggedOrAnswer(Answer):
    """A message that is either kept in the log, or an answer."""

    run_id: NotRequired[str]
    seq: NotRequired[int]


class RunMessage(LoggedOrAnswer):
    """With `seq` the beginning of a run, with `request_id` an answer."""

    type: Literal["run"]
    data: RunData


class FinalMessage(Logged):
    """The graph completed."""

    type: Literal["final"]
    data: Final


class ErrorMessage(LoggedOrAnswer):
    """With `seq`: the run failed. Without: a message was refused."""

    type: Literal["error"]
    data: ErrorData


class EndMessage(Logged):
    """The run ended: once, and last."""

    type: Literal["end"]
    data: EndData


class RolledBackMessage(Logged):
    """What a run said is void."""

    type: Literal["rolled_back"]
    data: RolledBackData


class AttemptMessage(Logged):
    """Another process goes on with the run."""

    type: Literal["attempt"]
    data: AttemptData


class TextMessage(Merged):
    """A message is being written."""

    type: Literal["text"]
    data: TextData


class ReasoningMessage(Merged):
    """What the model thinks."""

    type: Literal["reasoning"]
    data: TextData


class FinishedMessage(Logged):
    """A message is finished."""

    type: Literal["message"]
    data: MessageData


class ToolCallMessage(Merged):
    """What the model asks for."""

    type: Literal["tool_call"]
    data: ToolCallData


class ToolResultMessage(Logged):
    """A tool at work."""

    type: Literal["tool_result"]
    data: ToolResultData


class SourcesMessage(Logged):
    """The sources of the run so far."""

    type: Literal["sources"]
    data: SourcesData


class WorkflowStepMessage(Logged):
    """A task of the graph began or ended."""

    type: Literal["workflow_step"]
    data: WorkflowStepData


class InterruptMessage(Logged):
    """The graph waits for an answer."""

    type: Literal["interrupt"]
    data: Interrupt


class InterruptAnsweredMessage(Logged):
    """Interrupts wait no longer."""

    type: Literal["interrupt_answered"]
    data: InterruptAnsweredData


class StateMessage(Logged):
    """The state of the graph, where the application shows it."""

    type: Literal["state"]
    data: StateData


class CheckpointMessage(Logged):
    """A checkpoint was saved."""

    type: Literal["checkpoint"]
    data: CheckpointData


class NamedCustomMessage(Logged):
    """A custom event that bears a name of the protocol, or none."""

    type: Literal["custom"]
    data: CustomData


class GapMessage(TypedDict):
    """Something was lost; a snapshot follows."""

    type: Literal["gap"]
    data: GapData


class SnapshotMessage(TypedDict):
    """What replaces everything that the client knew of a thread."""

    type: Literal["snapshot"]
    data: SnapshotData


class AuthenticatedMessage(Answer):
    """The token was accepted."""

    type: Literal["authenticated"]
    data: AuthenticatedData


class PongMessage(Answer):
    """The answer to a ping."""

    type: Literal["pong"]
    data: PongData


class HeartbeatMessage(TypedDict):
    """The connection lives."""

    type: Literal["heartbeat"]
    data: HeartbeatData


class ByeMessage(TypedDict):
    """The server is about to close."""

    type: Literal["bye"]
    data: ByeData


class CustomMessage(Logged):
    """A custom event, under its own name."""

    type: str
    data: Any


MESSAGES: Mapping[str, Any] = {
    "run": RunMessage,
    "final": FinalMessage,
    "error": ErrorMessage,
    "end": EndMessage,
    "rolled_back": RolledBackMessage,
    "attempt": AttemptMessage,
    "text": TextMessage,
    "reasoning": ReasoningMessage,
    "message": FinishedMessage,
    "tool_call": ToolCallMessage,
    "tool_result": ToolResultMessage,
    "sources": SourcesMessage,
    "workflow_step": WorkflowStepMessage,
    "interrupt": InterruptMessage,
    "interrupt_answered": InterruptAnsweredMessage,
    "state": StateMessage,
    "checkpoint": CheckpointMessage,
    "custom": NamedCustomMessage,
    "gap": GapMessage,
    "snapshot": SnapshotMessage,
    "authenticated": AuthenticatedMessage,
    "pong": PongMessage,
    "heartbeat": HeartbeatMessage,
    "bye": ByeMessage,
}
"""What the server sends, by type; any other type is the name of a custom event."""


# --- the document ----------------------------------------------------------------------------

_MAX_INTEGER = 2**53 - 1
_REQUEST_ID: Json = {
    "description": "Comes back as request_id in what answers the message.",
    "anyOf": [
        {"type": "string"},
        {"type": "number", "minimum": -_MAX_INTEGER, "maximum": _MAX_INTEGER},
        {"type": "null"},
    ],
}
_DEFINITIONS = "#/$defs/"
_NAMES = {"_Message": "InputMessage", "_ToolCall": "InputToolCall", "_Options": "RunOptions"}
"""What parts of requests are called in the document; other classes keep their names."""


def _there(name: str) -> Json:
    """That a field is there, and not null."""
    return {"required": [name], "properties": {name: {"not": {"type": "null"}}}}


def _both(one: Json, other: Json) -> Json:
    return {"allOf": [one, other]}


_INPUT: Json = {"properties": {"input": {"not": {"type": "null"}}}}
_ONE_OF_TWO: Json = {"anyOf": [_there("thread_id"), _there("run_id")]}
_LOGGED_OR_NOT: Json = {"dependentRequired": {"run_id": ["seq"], "seq": ["run_id"]}}
_RULES: Mapping[str, Json] = {
    "NewChat": _INPUT | {"oneOf": [_there("messages"), {"required": ["input"]}]},
    "ResumeChat": _INPUT
    | {
        "not": {
            "anyOf": [
                _both(_there("messages"), {"required": ["input"]}),
                _both(_there("messages"), {"required": ["resume"]}),
                {"required": ["input", "resume"]},
            ]
        },
        "anyOf": [
            {"required": ["resume"]},
            {"properties": {"update": {"type": "null"}, "goto": {"type": "null"}}},
        ],
    },
    "Attach": _ONE_OF_TWO
    | {
        "if": {"required": ["after"], "properties": {"after": {"type": "integer", "minimum": 1}}},
        "then": _there("epoch"),
    },
    "Detach": _ONE_OF_TWO,
    "Cancel": _ONE_OF_TWO,
    "InputMessage": {
        "if": {"properties": {"role": {"const": "tool"}}},
        "then": _there("tool_call_id"),
    },
    "RunMessage": _LOGGED_OR_NOT,
    "ErrorMessage": _LOGGED_OR_NOT,
    "TextData": {"oneOf": [{"required": ["text"]}, {"required": ["delta", "offset"]}]},
    "ContentBlock": {"additionalProperties": True},
    "Usage": {"additionalProperties": True},
    "CustomMessage": {
        "properties": {"type": {"minLength": 1, "not": {"enum": sorted(RESERVED)}}},
    },
}
"""What the types of Python do not say: which fields go together."""


def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of every message of the chat protocol.

    A message is a `ClientMessage` or a `ServerMessage`; each type of message has a definition of
    its own. Names are in snake case. Objects are open, since unknown fields are to be ignored.
    """
    requests = {_name(model.__name__): kind for kind, model in REQUESTS.items()} | {"Ping": "ping"}
    sent = [*MESSAGES.values(), CustomMessage]
    parts = _definitions([*REQUESTS.values(), *sent])
    parts["Ping"] = {"description": "Is answered with a pong.", "type": "object"}
    for name, kind in requests.items():
        parts[name] = _request(kind, parts[name])
    definitions = {
        "ClientMessage": {
            "description": "What a client sends.",
            "oneOf": [_ref(name) for name in requests],
        },
        "ServerMessage": {
            "description": "What the server sends.",
            "oneOf": [_ref(message.__name__) for message in sent],
        },
        **parts,
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "The chat protocol of langgraph_ws, version 1",
        "description": "PROTOCOL.md says what the messages mean.",
        "oneOf": [_ref("ClientMessage"), _ref("ServerMessage")],
        "$defs": {name: {"title": name} | part for name, part in definitions.items()},
    }


def _definitions(types: Iterable[Any]) -> dict[str, Json]:
    """The types, and all that they are made of, by name."""
    adapters: list[tuple[str, JsonSchemaMode, TypeAdapter[Any]]] = [
        (kind.__name__, "validation", TypeAdapter(kind)) for kind in types
    ]
    _, document = TypeAdapter.json_schemas(
        adapters, by_alias=False, ref_template=f"{_DEFINITIONS}{{model}}"
    )
    tidied = {_name(name): _tidy(part) for name, part in document["$defs"].items()}
    return {name: _merged(part, _RULES.get(name, {})) for name, part in sorted(tidied.items())}


def _request(kind: str, part: Json) -> Json:
    """What a client sends, with the fields that all of its messages have."""
    return part | {
        "properties": {"type": {"const": kind}, "id": _REQUEST_ID, **part.get("properties", {})},
        "required": ["type", *part.get("required", [])],
    }


def _tidy(part: Any) -> Any:
    """Without the titles and defaults that pydantic adds, and with names as in the document."""
    if isinstance(part, list):
        return [_tidy(item) for item in part]
    if not isinstance(part, dict):
        return part
    tidied = {key: _tidy(value) for key, value in part.items()}
    if isinstance(tidied.get("title"), str):  # a field may be called so, too
        del tidied["title"]
    if "default" in tidied and tidied["default"] is None:
        del tidied["default"]
    if "$ref" in tidied:
        tidied["$ref"] = _DEFINITIONS + _name(tidied["$ref"].removeprefix(_DEFINITIONS))
    return tidied


def _merged(part: Json, rule: Json) -> Json:
    """A definition and what goes beyond it."""
    merged = part | rule
    if "properties" in rule:
        fields = {
            name: part["properties"][name] | more for name, more in rule["properties"].items()
        }
        merged["properties"] = part["properties"] | fields
    return merged


def _name(class_name: str) -> str:
    return _NAMES.get(class_name, class_name.removeprefix("_"))


def _ref(name: str) -> Json:
    return {"$ref": _DEFINITIONS + name}
