"""What a client may ask for, and what it is answered; data that every wire protocol shares."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from langgraph_ws.errors import GapError, InvalidRequest
from langgraph_ws.frames import Interrupted, MessageFinished, RunStatus, Source
from langgraph_ws.log import Position
from langgraph_ws.view import OpenMessage

__all__ = [
    "ANONYMOUS",
    "Answer",
    "Attach",
    "Attached",
    "Authenticate",
    "Authenticated",
    "Cancel",
    "Cancelling",
    "Command",
    "Detach",
    "Detached",
    "Goto",
    "Identity",
    "MultitaskStrategy",
    "Read",
    "ReadHistory",
    "ReadState",
    "ReadTree",
    "RunInfo",
    "Saved",
    "Snapshot",
    "StartRun",
    "check_id",
]

MultitaskStrategy = Literal["enqueue", "reject", "interrupt", "rollback"]
"""What to do with a new run on a thread that has an active one."""

Goto = str | tuple[str, Any]
"""A node to go to, or a node and the input that it alone is to get."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who a client is, as the application's `authorize` says.

    Attributes:
        id: The identity's name; threads and runs belong to it. Only `ANONYMOUS`, who is nobody in
            particular, has an empty one.
        config: What the graph gets in `config["configurable"]` beside the allowed options (and
            in its context, for fields of its `context_schema`); it wins over the client's.
        expires_at: When it ends, in seconds since the Unix epoch; None: never.
    """

    id: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    expires_at: float | None = None


ANONYMOUS = Identity()


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRun:
    """Start a run, or go on with a thread.

    Attributes:
        kind: `input`: a turn, with `messages` or `input`; `answer`: answers to interrupts;
            `continue`: neither, from the checkpoint.
        thread_id: The thread; None: a new one.
        run_id: The run's id; None: a new one. One that exists is followed instead of started.
        graph: Which graph; None: the thread's own, or the first.
        messages: Messages of the turn, each `{role, content, …}`, validated by the protocol.
        history: The messages before them, as the client has them; for a thread of which no
            messages are saved.
        instead_of: The id of a message; the run begins from the newest checkpoint without it.
        input: The graph's input as it is, when `messages` is None.
        answers: Answers by interrupt id; None when there is one bare `answer`.
        answer: The answer to the only pending interrupt, when `answers` is None.
        update: A change to the state, beside the answers; None: none.
        goto: Nodes to go to, beside the answers.
        answers_pending: Whether an `input` answers the interrupt that waits, where one does.
        checkpoint_id: The checkpoint to go on from; None: the newest.
        multitask_strategy: None: the server's default.
        options: What the client asked to be passed to the graph, before the allowlist.
        trace: The trace context of the client (W3C `traceparent`, `tracestate`), if it has one.
    """

    kind: Literal["input", "answer", "continue"] = "input"
    thread_id: str | None = None
    run_id: str | None = None
    graph: str | None = None
    messages: tuple[dict[str, Any], ...] | None = None
    history: tuple[dict[str, Any], ...] = ()
    instead_of: str | None = None
    input: Any = None
    answers: Mapping[str, Any] | None = None
    answer: Any = None
    update: Any = None
    goto: tuple[Goto, ...] = ()
    answers_pending: bool = False
    checkpoint_id: str | None = None
    multitask_strategy: MultitaskStrategy | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    trace: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attach:
    """Follow a thread, or (`run_id`) one run to its end.

    Attributes:
        after: The position of the last entry already seen; None: from the beginning.
        held: Whether to begin, with `after` None, at the oldest entry that is still held, instead
            of at a snapshot, where the beginning is not.
        summed_up: Whether to begin with a snapshot, whatever is held.
        rewind: Whether the session needs the run from its beginning to make sense of the rest.
    """

    thread_id: str | None = None
    run_id: str | None = None
    after: Position | None = None
    held: bool = False
    summed_up: bool = False
    rewind: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Detach:
    """Stop following a thread, or the thread of a run."""

    thread_id: str | None = None
    run_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """Stop a run: this one, or the active one of a thread."""

    thread_id: str | None = None
    run_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadState:
    """Read the saved state of a thread.

    Attributes:
        checkpoint_id: At which checkpoint; None: the newest.
        namespace: Of which subgraph; `()`: of the root.
        subgraphs: Whether the states of subgraphs that are under way are wanted within it.
    """

    thread_id: str
    checkpoint_id: str | None = None
    namespace: tuple[str, ...] = ()
    subgraphs: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadHistory:
    """Read the saved states of a thread, the newest first.

    Attributes:
        limit: How many at most.
        before: Only those before this checkpoint; None: from the newest.
        namespace: Of which subgraph; `()`: of the root.
        metadata: Only those whose metadata has these values.
    """

    thread_id: str
    limit: int = 10
    before: str | None = None
    namespace: tuple[str, ...] = ()
    metadata: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadTree:
    """Read which subgraphs a run has called, and how they stand.

    Attributes:
        run_id: The run; None: the newest of the thread.
    """

    thread_id: str
    run_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Authenticate:
    """Say who the client is."""

    token: str = field(repr=False)


_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")


def check_id(field: str, value: object) -> None:
    """Refuse what is not the id of a thread or a run.

    Raises:
        InvalidRequest: It is not 1 to 128 letters, digits, `_`, `.`, `:` and `-`.
    """
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise InvalidRequest(
            field, f"expected 1 to 128 letters, digits, `_`, `.`, `:` or `-`, got {value!r}"
        )


Read = ReadState | ReadHistory | ReadTree
"""What is only looked at."""

Command = StartRun | Attach | Detach | Cancel | Authenticate | Read


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """How a run, or a thread that has none (`run_id` None, status `idle`), stands.

    Attributes:
        place: The run's place in the queue, from 1; None unless queued.
        position: The head of the thread's log now.
        start: The position before the run's first entry; None when it is no longer held.
        checkpoint_id: The checkpoint that the run began from.
        interrupts: Those that wait for an answer now.
    """

    thread_id: str
    run_id: str | None
    status: RunStatus | Literal["queued", "running", "idle"]
    position: Position
    start: Position | None = None
    place: int | None = None
    graph: str | None = None
    checkpoint_id: str | None = None
    interrupts: tuple[Interrupted, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What a thread looks like at a position.

    Attributes:
        run_id: The newest run; None when there is none.
        status: Its status.
        messages: The finished messages that clients may see, in order.
        open: The unfinished ones, with their text so far.
        values: The state; None where it is not shown.
    """

    thread_id: str
    position: Position
    run_id: str | None = None
    status: RunStatus | Literal["running", "idle"] = "idle"
    messages: tuple[MessageFinished, ...] = ()
    open: tuple[OpenMessage, ...] = ()
    interrupts: tuple[Interrupted, ...] = ()
    sources: tuple[Source, ...] = ()
    values: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attached:
    """The answer to `Attach` and `StartRun`: the thread is followed.

    Attributes:
        run_id: The one run that is followed; None: the whole thread.
        after: Show what lies after this `seq`; None: the thread was followed already and simply
            goes on.
        gap: Why the position asked for could not be resumed from; None when it could, or when
            none was asked for.
        snapshot: What replaces everything before `after`; set when there is a gap, or when the
            beginning is no longer held.
    """

    info: RunInfo
    run_id: str | None = None
    after: int | None = None
    gap: GapError | None = None
    snapshot: Snapshot | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Detached:
    """The answer to `Detach`."""

    info: RunInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelling:
    """The answer to `Cancel`: the run has been told to stop."""

    info: RunInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class Authenticated:
    """The answer to `Authenticate`."""

    expires_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """The answer to a `Read`: plain JSON data."""

    value: Any


Answer = Attached | Detached | Cancelling | Authenticated | Saved
