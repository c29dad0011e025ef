"""What the messages of a thread add up to, for those who follow it: no I/O, nothing waits.

A `View` is a position and what was said until there. It passes over what it knows already, goes on
from a snapshot, and forgets what became void (`rolled_back`, `attempt`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from langgraph_ws.client.errors import RunFailedError
from langgraph_ws.client.messages import (
    ENDED,
    Attempt,
    ChatMessage,
    End,
    Error,
    Final,
    Gap,
    Interrupt,
    InterruptAnswered,
    Message,
    OpenMessage,
    Reasoning,
    RolledBack,
    RunInfo,
    Snapshot,
    Source,
    Sources,
    Text,
    WorkflowStep,
)
from langgraph_ws.log import Position

__all__ = ["Result", "View"]

Kind: TypeAlias = Literal["text", "reasoning"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How a run ended, when it did not fail.

    Attributes:
        status: `completed`, `interrupted` (see `interrupts`) or `cancelled`.
        text: The text of the last assistant message.
        message_id: Its id.
        sources: All sources of the run.
        usage: The tokens that it cost, where that is known.
        execution_time_ms: How long it took; 0 where that is not known.
        checkpoint_id: Where it ended.
        output: The final state, where the server shows it.
        interrupts: What waits for an answer.
    """

    status: str
    text: str = ""
    message_id: str | None = None
    sources: tuple[Source, ...] = ()
    usage: Mapping[str, Any] | None = None
    execution_time_ms: int = 0
    checkpoint_id: str | None = None
    output: Any = None
    interrupts: tuple[Interrupt, ...] = ()


@dataclass(slots=True)
class _Block:
    """A block in the making; `length` is that of its text, in code points."""

    kind: str
    parts: list[str] = field(default_factory=list)
    length: int = 0

    def text(self) -> str:
        """All of it; joined once, so that asking after each part costs no list of all parts."""
        text = "".join(self.parts)
        self.parts[:] = [text]
        return text

    def add(self, delta: str, offset: int) -> None:
        """Take the next part; what of it is known already is cut off."""
        new = delta[max(self.length - offset, 0) :]
        self.parts.append(new)
        self.length += len(new)


@dataclass(slots=True)
class _Open:
    """A message that is not finished."""

    message_id: str
    run_id: str | None
    task_id: str | None
    role: str = "assistant"
    blocks: dict[int, _Block] = field(default_factory=dict)

    def add(self, kind: Kind, message: Text) -> None:
        """Take more of its text."""
        if message.text is not None:
            self._replace(kind, message.index, message.text)
        elif message.delta is not None:
            block = self.blocks.get(message.index)
            if block is None:
                block = self.blocks[message.index] = _Block(kind)
            block.add(message.delta, message.offset)

    def text(self, kind: Kind) -> str:
        """All of its text, or all that was thought."""
        blocks = sorted(self.blocks.items(), key=lambda item: item[0])
        return "".join(block.text() for _, block in blocks if block.kind == kind)

    def _replace(self, kind: Kind, index: int, text: str) -> None:
        """All of the text is this: which block holds how much of it is not known."""
        for at in [at for at, block in self.blocks.items() if block.kind == kind]:
            del self.blocks[at]
        self.blocks[index] = _Block(kind, [text], len(text))


@dataclass(frozen=True, slots=True)
class _Said:
    """A finished message, the run that it belongs to, and its position."""

    message: ChatMessage
    run_id: str | None
    seq: int


class View:
    """What is known of a thread, or (`run_id`) of one run of it.

    Args:
        run_id: The run; None: all of the thread.
        after: The position to begin after.

    Attributes:
        thread_id: The thread; None until the server has named it.
        run_id: The run.
        status: How the run stands, or the newest one of the thread: `queued`, `running`,
            `cancelling`, or how it ended; `idle` where there is none.
        sources: All sources of that run so far, in order.
        final: The `final` of that run; None before it.
        error: Why that run failed; None where it did not.
    """

    def __init__(self, run_id: str | None = None, after: Position | None = None) -> None:
        self.thread_id: str | None = None
        self.run_id = run_id
        self.status = "idle" if run_id is None else "queued"
        self.sources: tuple[Source, ...] = ()
        self.final: Final | None = None
        self.error: RunFailedError | None = None
        self._epoch, self._seq = after or ("", 0)
        self._newest = run_id
        self._lost = False
        self._said: dict[str, _Said] = {}
        self._open: dict[str, _Open] = {}
        self._interrupts: dict[str, Interrupt] = {}
        self._steps: dict[str, WorkflowStep] = {}

    @property
    def position(self) -> Position | None:
        """Where it stands; None until the server has said so."""
        return Position(self._epoch, self._seq) if self._epoch or self._seq else None

    @property
    def messages(self) -> list[ChatMessage]:
        """The finished messages, in order, those of the user included."""
        return [said.message for said in self._said.values()]

    @property
    def interrupts(self) -> list[Interrupt]:
        """What waits for an answer."""
        return list(self._interrupts.values())

    @property
    def steps(self) -> list[WorkflowStep]:
        """The tasks of the newest run, each as it stands, in the order they began."""
        return list(self._steps.values())

    @property
    def text(self) -> str:
        """The text of the newest assistant message of the newest run, so far."""
        if self.final is not None:
            return self.final.text
        for message in reversed(self._open.values()):
            if message.role == "assistant" and (text := message.text("text")):
                return text
        return next(
            (
                said.message.text
                for said in reversed(self._said.values())
                if said.message.role == "assistant" and said.run_id in (self._newest, None)
            ),
            "",
        )

    def text_of(self, message_id: str, kind: Kind) -> str:
        """The text of an unfinished message so far; empty where there is no such message."""
        message = self._open.get(message_id)
        return "" if message is None else message.text(kind)

    def result(self) -> Result:
        """How the run ended.

        Raises:
            RunFailedError: It failed.
        """
        if self.error is not None:
            raise self.error
        final = self.final or Final(type="final", text=self.text, sources=self.sources)
        return Result(
            status=self.status,
            text=final.text,
            message_id=final.message_id,
            sources=final.sources,
            usage=final.usage,
            execution_time_ms=final.execution_time_ms,
            checkpoint_id=final.checkpoint_id,
            output=final.output,
            interrupts=tuple(self._interrupts.values()),
        )

    def take(self, message: Message) -> bool:
        """Take the next message of the thread; whether it was news of what this is a view of."""
        match message:
            case Gap():
                self._lost = True
                return True
            case Snapshot():
                return self._go_on_from(message)
        if message.seq is None:
            if isinstance(message, RunInfo):
                self._answer(message)
            return False
        if message.seq <= self._seq:
            return False
        self._seq = message.seq
        if self._concerns(message):
            self._fold(message)
            return True
        return False

    def skip(self, position: Position) -> None:
        """Begin after this position, unless something is known already."""
        if not self._seq:
            self._epoch, self._seq = position

    def forget_position(self, epoch: str) -> None:
        """Begin anew in another epoch."""
        self._epoch, self._seq = epoch, 0

    # -- one message ------------------------------------------------------------------------

    def _concerns(self, message: Message) -> bool:
        if self.run_id is None or message.run_id == self.run_id:
            return True
        return isinstance(message, RolledBack) and message.superseded == self.run_id

    def _answer(self, info: RunInfo) -> None:
        """Learn from an answer; `seq` moves with logged messages alone."""
        self.thread_id = info.thread_id
        if not self._seq:
            self._epoch = info.epoch
        if info.status == "detached" or (self.run_id or info.run_id) != info.run_id:
            return
        self._newest = info.run_id
        self._stands(info.status)
        for interrupt in info.interrupts:
            self._interrupts.setdefault(interrupt.id, interrupt)

    def _stands(self, status: str) -> None:
        # How a run ended is what its `end` says: its last messages may be still to come.
        if self.run_id is None or status not in ENDED:
            self.status = status

    def _fold(self, message: Message) -> None:
        match message:
            case Text():
                self._write(message)
            case ChatMessage():
                self._open.pop(message.streamed_id or message.message_id, None)
                self._say(message, message.run_id, message.seq or 0)
            case WorkflowStep():
                self._steps[message.task_id or message.step] = message
            case Sources():
                self.sources = message.sources
            case Interrupt():
                self._interrupts[message.id] = message
            case InterruptAnswered():
                for interrupt_id in message.ids:
                    self._interrupts.pop(interrupt_id, None)
            case RunInfo():
                self._begin(message)
            case Attempt():
                self._rerun(message)
            case RolledBack():
                self._forget(message.superseded)
            case Final():
                self.final = message
            case Error():
                self.error = RunFailedError(
                    message.code,
                    message.message,
                    error_id=message.error_id,
                    retryable=message.retryable,
                    run_id=message.run_id,
                )
            case End():
                self.status = message.status
                if message.status in _WORDS and self.error is None:
                    self.error = _ended_badly(message)
                if message.status != "lost":  # then what it had begun to say is all there is
                    self._close(message.run_id)

    def _write(self, message: Text) -> None:
        opened = self._open.get(message.message_id)
        if opened is None:
            opened = _Open(message.message_id, message.run_id, message.task_id)
            self._open[message.message_id] = opened
        opened.add("reasoning" if isinstance(message, Reasoning) else "text", message)

    def _say(self, message: ChatMessage, run_id: str | None, seq: int) -> None:
        self._said[message.message_id] = _Said(message, run_id, seq)

    def _begin(self, info: RunInfo) -> None:
        self.thread_id, self._epoch = info.thread_id, info.epoch
        self._newest, self.status = info.run_id, info.status
        self.final = self.error = None
        self.sources = ()
        self._steps.clear()
        for given in info.messages:
            if isinstance(given.get("message_id"), str):
                self._say(_given(given), info.run_id, info.seq or 0)

    def _rerun(self, attempt: Attempt) -> None:
        """Another process goes on: forget what it will say again."""
        again = frozenset(attempt.rerun_task_ids)
        for message_id, opened in list(self._open.items()):
            if opened.run_id == attempt.run_id and opened.task_id in again:
                del self._open[message_id]
        for message_id, said in list(self._said.items()):
            after = said.run_id == attempt.run_id and said.seq > attempt.rollback_to
            if after and said.message.task_id in again:
                del self._said[message_id]
        for key, step in list(self._steps.items()):
            if step.task_id in again and (step.seq or 0) > attempt.rollback_to:
                del self._steps[key]

    def _forget(self, run_id: str) -> None:
        """The run never was."""
        self._said = {key: said for key, said in self._said.items() if said.run_id != run_id}
        self._interrupts = {
            key: interrupt
            for key, interrupt in self._interrupts.items()
            if interrupt.run_id != run_id
        }
        self._close(run_id)
        if self.run_id == run_id:
            self.sources = ()
            self._steps.clear()

    def _close(self, run_id: str | None) -> None:
        for message_id, opened in list(self._open.items()):
            if opened.run_id in (run_id, None):
                del self._open[message_id]

    # -- snapshots --------------------------------------------------------------------------

    def _go_on_from(self, snapshot: Snapshot) -> bool:
        epoch, seq = snapshot.position
        known = self._epoch == epoch and seq <= self._seq
        if known and not self._lost:
            return False
        self._lost = False
        self.thread_id = snapshot.thread_id
        self._epoch, self._seq = epoch, seq
        newest = snapshot.run.run_id if snapshot.run is not None else None
        mine = self.run_id is None or newest == self.run_id
        self._said = self._attributed(snapshot.messages, newest)
        self._open = {
            message.message_id: _opened(message, newest) for message in snapshot.open if mine
        }
        self._interrupts = {interrupt.id: interrupt for interrupt in snapshot.interrupts if mine}
        if mine:
            if newest != self._newest:
                self.final = self.error = None
            self._newest = newest
            self.sources = snapshot.sources
            self._steps.clear()
            self._stands(snapshot.run.status if snapshot.run is not None else "idle")
        return True

    def _attributed(self, messages: Sequence[ChatMessage], newest: str | None) -> dict[str, _Said]:
        """The messages of a snapshot that this is a view of.

        A snapshot does not say which run a message belongs to. Those that are known keep theirs;
        those from the last one of the user on are taken to be of the newest run.
        """
        last = max((at for at, it in enumerate(messages) if it.role == "user"), default=0)
        said = {}
        for at, message in enumerate(messages):
            known = self._said.get(message.message_id)
            if known is not None:
                run_id, seq = known.run_id, known.seq
            else:
                run_id, seq = newest if at >= last else None, self._seq
            if self.run_id in (None, run_id):
                said[message.message_id] = _Said(message, run_id, seq)
        return said


def _given(message: Mapping[str, Any]) -> ChatMessage:
    """A message that a run was given; the application may have put anything into it."""
    content = message.get("content")
    blocks = content if isinstance(content, list) else []
    return ChatMessage(
        message_id=message["message_id"],
        role=str(message.get("role", "user")),
        content=tuple(block for block in blocks if isinstance(block, dict)),
    )


def _opened(message: OpenMessage, run_id: str | None) -> _Open:
    blocks = {
        block.index: _Block(block.kind, [block.text], len(block.text)) for block in message.blocks
    }
    return _Open(message.message_id, run_id, message.task_id, message.role, blocks)


def _ended_badly(end: End) -> RunFailedError:
    """What to say where the run has not said why."""
    return RunFailedError(
        end.status, _WORDS[end.status], retryable=end.status == "drained", run_id=end.run_id
    )


_WORDS = {
    "failed": "the run failed",
    "drained": "the server went away in the middle of the run",
    "lost": "the server knows nothing of the run any more",
}
