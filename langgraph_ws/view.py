"""What the frames of a thread add up to: the part of a snapshot that the log itself can give.

A log folds every frame into the view of its thread as it is appended, so that what was trimmed is
still known where it matters: finished messages, the text so far of open ones, pending interrupts.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Literal

from langgraph_ws.frames import (
    AttemptStarted,
    BlockDelta,
    BlockFinished,
    BlockKind,
    BlockStarted,
    Frame,
    InterruptAnswered,
    Interrupted,
    MessageFinished,
    MessageStarted,
    RolledBack,
    RunFinished,
    RunStarted,
    RunStatus,
    Source,
    Sources,
)

__all__ = ["OpenBlock", "OpenMessage", "RunView", "ThreadView", "closing"]


@dataclass(slots=True)
class OpenBlock:
    """A content block of an open message; `block` is set once it is whole."""

    kind: BlockKind
    tool_call_id: str | None = None
    name: str | None = None
    parts: list[str] = field(default_factory=list)
    block: dict[str, Any] | None = None

    @property
    def text(self) -> str:
        """What was written of it so far."""
        return "".join(self.parts)


@dataclass(slots=True)
class OpenMessage:
    """A message that has started and not finished; blocks by index."""

    started: MessageStarted
    blocks: dict[int, OpenBlock] = field(default_factory=dict)


@dataclass(slots=True)
class RunView:
    """What is known of one run; `status` is None while it runs."""

    run_id: str
    started: RunStarted | None = None
    status: RunStatus | None = None
    messages: list[MessageFinished] = field(default_factory=list)
    open: dict[str, OpenMessage] = field(default_factory=dict)
    sources: tuple[Source, ...] = ()

    def void(self, tasks: Collection[str]) -> None:
        """Forget what these tasks have said."""
        self.messages = [message for message in self.messages if message.task_id not in tasks]
        self.open = {
            message_id: message
            for message_id, message in self.open.items()
            if message.started.task_id not in tasks
        }


@dataclass(slots=True)
class ThreadView:
    """What the frames of a thread add up to; runs in the order they began."""

    runs: dict[str, RunView] = field(default_factory=dict)
    interrupts: dict[str, Interrupted] = field(default_factory=dict)

    def apply(self, run_id: str, frame: Frame) -> None:
        """Fold in the next frame of the thread."""
        run = self.runs.get(run_id)
        if run is None:
            run = self.runs[run_id] = RunView(run_id)
        match frame:
            case BlockDelta():
                message = run.open.get(frame.message_id)
                if message is not None and frame.index in message.blocks:
                    message.blocks[frame.index].parts.append(frame.text)
            case BlockStarted():
                if (message := run.open.get(frame.message_id)) is not None:
                    message.blocks[frame.index] = OpenBlock(
                        frame.kind, frame.tool_call_id, frame.name
                    )
            case BlockFinished():
                if (message := run.open.get(frame.message_id)) is not None:
                    block = message.blocks.setdefault(frame.index, OpenBlock(frame.kind))
                    block.block = frame.block
            case MessageStarted():
                run.open[frame.message_id] = OpenMessage(frame)
            case MessageFinished():
                run.open.pop(frame.streamed_id or frame.message_id, None)
                run.messages.append(frame)
            case Sources():
                run.sources = frame.sources
            case Interrupted():
                self.interrupts[frame.interrupt_id] = frame
            case InterruptAnswered():
                for interrupt_id in frame.interrupt_ids:
                    self.interrupts.pop(interrupt_id, None)
            case RunStarted():
                run.started = frame
            case AttemptStarted():
                run.void(frozenset(frame.rerun_task_ids))
            case RolledBack():
                self.runs.pop(frame.run_id, None)
            case RunFinished():
                run.status = frame.status
                run.open.clear()
            case _:
                pass

    @property
    def latest(self) -> RunView | None:
        """The run that began last."""
        return next(reversed(self.runs.values()), None)

    def copy(self) -> ThreadView:
        """A view that later frames do not change."""
        return ThreadView(
            {
                run_id: RunView(
                    run.run_id,
                    run.started,
                    run.status,
                    list(run.messages),
                    {
                        message_id: OpenMessage(
                            message.started,
                            {
                                index: OpenBlock(
                                    block.kind,
                                    block.tool_call_id,
                                    block.name,
                                    [block.text],
                                    block.block,
                                )
                                for index, block in message.blocks.items()
                            },
                        )
                        for message_id, message in run.open.items()
                    },
                    run.sources,
                )
                for run_id, run in self.runs.items()
            },
            dict(self.interrupts),
        )


def closing(run: RunView, status: Literal["failed", "cancelled"]) -> list[Frame]:
    """The frames that end the messages of a run that nobody will finish any more."""
    return [_closed(message, status) for message in run.open.values()]


def _closed(message: OpenMessage, status: Literal["failed", "cancelled"]) -> MessageFinished:
    started = message.started
    return MessageFinished(
        message_id=started.message_id,
        role=started.role,
        content=tuple(
            block.block if block.block is not None else {"type": block.kind, block.kind: block.text}
            for block in message.blocks.values()
            if block.block is not None or block.kind in ("text", "reasoning")
        ),
        status=status,
        node=started.node,
        namespace=started.namespace,
        task_id=started.task_id,
        name=started.name,
    )
