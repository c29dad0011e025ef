"""What a client sees of a run: frozen data, one class for each kind of frame.

Everything comes as *started, delta, finished*; every frame names the message, block, tool call or
task that it is about; every *finished* frame carries the whole. So a wire protocol can encode a
frame without remembering those before it.

A frame says what happened. Where and when (thread, run, position, time) stands on the log's
`Entry` that holds it. All values in a frame are plain JSON data (see `codec.plain`), so nothing
that the graph changes later changes a frame.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, cast

__all__ = [
    "FRAMES",
    "AttemptStarted",
    "BlockDelta",
    "BlockFinished",
    "BlockKind",
    "BlockStarted",
    "CheckpointSaved",
    "Custom",
    "Frame",
    "InterruptAnswered",
    "Interrupted",
    "MessageFinished",
    "MessageStarted",
    "RolledBack",
    "RunFailed",
    "RunFinished",
    "RunResult",
    "RunStarted",
    "RunStatus",
    "Source",
    "Sources",
    "StateSnapshot",
    "StateUpdated",
    "StepFinished",
    "StepStarted",
    "SubgraphFinished",
    "SubgraphStarted",
    "ToolDelta",
    "ToolFinished",
    "ToolStarted",
    "new_delta",
]

RunStatus = Literal["completed", "interrupted", "cancelled", "failed", "drained", "lost"]
"""How a run ended."""

StepStatus = Literal["finished", "interrupted", "failed", "cancelled"]
"""How a task of the graph ended."""

BlockKind = Literal["text", "reasoning", "tool_call", "media"]
"""The kind of a content block; `media` is whatever is not one of the other three."""

Role = Literal["assistant", "user", "tool", "system"]
Json = dict[str, Any]
Namespace = tuple[str, ...]
"""Where in nested subgraphs: `()` is the root, then one `node:task_id` for each level."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted:
    """A run began.

    `messages` are those that it was given; `checkpoint_id` is the checkpoint that it began from
    (None: an empty thread, or no checkpointer); `attempt` is 1 unless another process took over.
    """

    thread_id: str
    run_id: str
    graph: str
    attempt: int = 1
    checkpoint_id: str | None = None
    messages: tuple[Json, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StepStarted:
    """A task of the graph (one execution of a node) began.

    `input` is what it was given and `triggers` what made it run; only where state is shown.
    """

    task_id: str
    node: str
    namespace: Namespace = ()
    input: Any = None
    triggers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFinished:
    """A task of the graph ended; `duration_ms` is None when its start was not seen.

    `result` is what it wrote; only where state is shown.
    """

    task_id: str
    node: str
    namespace: Namespace = ()
    status: StepStatus = "finished"
    duration_ms: int | None = None
    error_id: str | None = None
    result: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageStarted:
    """A message began."""

    message_id: str
    role: Role = "assistant"
    node: str | None = None
    namespace: Namespace = ()
    task_id: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockStarted:
    """A content block of a message began; `tool_call_id` and `name` are those of a tool call."""

    message_id: str
    index: int
    kind: BlockKind
    node: str | None = None
    namespace: Namespace = ()
    task_id: str | None = None
    tool_call_id: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockDelta:
    """More of a block: text, reasoning, or the arguments of a tool call as the model writes them.

    `offset` is how many characters (Unicode code points) of the block came before.
    """

    message_id: str
    index: int
    kind: BlockKind
    text: str
    offset: int
    node: str | None = None
    namespace: Namespace = ()
    task_id: str | None = None


class _NewDelta:
    """A `BlockDelta` in the making.

    A frozen dataclass sets each field with `object.__setattr__`: 1.5 µs instead of 0.3 (CPython
    3.11), for nearly every token.
    """

    __slots__ = BlockDelta.__slots__

    def __init__(
        self,
        message_id: str,
        index: int,
        kind: BlockKind,
        text: str,
        offset: int,
        node: str | None,
        namespace: Namespace,
        task_id: str | None,
    ) -> None:
        self.message_id = message_id
        self.index = index
        self.kind = kind
        self.text = text
        self.offset = offset
        self.node = node
        self.namespace = namespace
        self.task_id = task_id
        self.__class__ = BlockDelta  # type: ignore[assignment]  # which has the same slots


new_delta: Callable[[str, int, BlockKind, str, int, str | None, Namespace, str | None], BlockDelta]
new_delta = cast("Any", _NewDelta)
"""Makes a `BlockDelta` of its fields, in their order, in a fifth of the time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockFinished:
    """A content block ended; `block` is the whole of it.

    `{"type": "text", "text", "citations"?}`, `{"type": "reasoning", "reasoning"}`,
    `{"type": "tool_call", "id", "name", "args": {…}}`,
    `{"type": "invalid_tool_call", "id", "name", "args": "…", "error"}` (arguments that are not a
    JSON object), or a media block as LangChain has it.
    """

    message_id: str
    index: int
    kind: BlockKind
    block: Json
    node: str | None = None
    namespace: Namespace = ()
    task_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageFinished:
    """A message ended; `content` is all of its blocks, in order.

    `message_id` is the id under which the graph keeps it; `streamed_id` is the one under which its
    frames came, where that was another. `usage` is LangChain's `UsageMetadata`; `metadata` holds
    `model_name` and `finish_reason` where they are known.
    """

    message_id: str
    role: Role = "assistant"
    content: tuple[Json, ...] = ()
    status: Literal["finished", "failed", "cancelled"] = "finished"
    streamed_id: str | None = None
    node: str | None = None
    namespace: Namespace = ()
    task_id: str | None = None
    name: str | None = None
    usage: Json | None = None
    citations: tuple[Json, ...] = ()
    metadata: Json | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolStarted:
    """A tool began to run."""

    tool_call_id: str
    name: str
    input: Any = None
    namespace: Namespace = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolDelta:
    """Part of what a running tool puts out."""

    tool_call_id: str
    name: str
    delta: Any
    namespace: Namespace = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolFinished:
    """A tool ended; `content` is what the model sees of its result (text or content blocks)."""

    tool_call_id: str
    name: str
    status: Literal["success", "error"] = "success"
    content: Any = None
    artifact: Any = None
    error_id: str | None = None
    message_id: str | None = None
    namespace: Namespace = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Something that an answer rests on; `id` is stable and unique within the run."""

    id: str
    title: str | None = None
    url: str | None = None
    snippet: str | None = None
    metadata: Json | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """The sources of the run so far, in the order they were found; the last `added` are new."""

    sources: tuple[Source, ...]
    added: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StateUpdated:
    """A node wrote to the state; sent only where state is shown."""

    node: str
    values: Any
    namespace: Namespace = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StateSnapshot:
    """The whole state after a superstep; sent only where state is shown."""

    values: Any
    namespace: Namespace = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointSaved:
    """A checkpoint was saved; edit and fork start from its id."""

    checkpoint_id: str
    parent_id: str | None
    step: int
    source: str
    namespace: Namespace = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Interrupted:
    """The graph waits for an answer; `ordinal` counts the interrupts of the run from 0."""

    interrupt_id: str
    value: Any
    ordinal: int = 0
    node: str | None = None
    namespace: Namespace = ()
    task_id: str | None = None
    response_schema: Json | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InterruptAnswered:
    """Pending interrupts were answered, or (`superseded`) discarded by a new turn."""

    interrupt_ids: tuple[str, ...]
    superseded: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SubgraphStarted:
    """A subgraph began; `tool_call_id` is the tool call that caused it, where that is known."""

    namespace: Namespace
    graph: str
    tool_call_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SubgraphFinished:
    """A subgraph ended."""

    namespace: Namespace
    graph: str
    status: StepStatus = "finished"


@dataclass(frozen=True, slots=True, kw_only=True)
class Custom:
    """What the application says: a writer's payload, a custom event, or a mapper's own frame."""

    name: str
    data: Any
    node: str | None = None
    namespace: Namespace = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptStarted:
    """Another process went on with the run.

    What the tasks in `rerun_task_ids` said after position `rollback_to` will be said again. The
    messages that were open have been finished before, as `cancelled`.
    """

    attempt: int
    rerun_task_ids: tuple[str, ...]
    rollback_to: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RolledBack:
    """The run `run_id` was superseded and the thread went back to before it."""

    run_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """The graph completed.

    `text` is that of the last finished assistant message that clients may see; `usage` is the sum
    over the run; `output` is the final state, only where the application exposes it.
    """

    text: str = ""
    message_id: str | None = None
    sources: tuple[Source, ...] = ()
    usage: Json | None = None
    duration_ms: int = 0
    checkpoint_id: str | None = None
    output: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFailed:
    """The run could not go on; what happened is in the server's log under `error_id`."""

    code: str
    message: str
    error_id: str | None = None
    retryable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFinished:
    """The run ended: always, last, once."""

    status: RunStatus


Frame = (
    RunStarted
    | StepStarted
    | StepFinished
    | MessageStarted
    | BlockStarted
    | BlockDelta
    | BlockFinished
    | MessageFinished
    | ToolStarted
    | ToolDelta
    | ToolFinished
    | Sources
    | StateUpdated
    | StateSnapshot
    | CheckpointSaved
    | Interrupted
    | InterruptAnswered
    | SubgraphStarted
    | SubgraphFinished
    | Custom
    | AttemptStarted
    | RolledBack
    | RunResult
    | RunFailed
    | RunFinished
)

FRAMES: tuple[type[Frame], ...] = Frame.__args__
