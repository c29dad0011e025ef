"""The fold of a thread: its view as a log keeps it beside the entries, bounded, and as JSON.

The first entries may be gone, so every log folds in each entry as it comes. One that is read by
several processes stores its fold now and then, and every process folds on from there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping
from typing import Any

from langgraph_ws.codec import decode_frame, dumps, encode_frame, loads
from langgraph_ws.frames import (
    AttemptStarted,
    BlockDelta,
    Frame,
    MessageFinished,
    RolledBack,
    Sources,
)
from langgraph_ws.view import OpenBlock, OpenMessage, RunView, ThreadView

__all__ = ["Fold"]


class Fold:
    """What the entries of a thread up to one of them add up to.

    Args:
        limit: Bytes that its finished messages may take; the oldest go, the newest stays.

    Attributes:
        seq: The entry that it stands for; 0: none.
        view: What it shows.
        size: About how many bytes its finished messages take.
    """

    def __init__(self, limit: int) -> None:
        self.seq = 0
        self.view = ThreadView()
        self.size = 0
        self._limit = limit
        self._messages: deque[tuple[str, int]] = deque()  # run and bytes of each in the view

    def apply(self, run_id: str, frame: Frame, size: int) -> None:
        """Fold in the next entry, of which `size` bytes are kept."""
        self.seq += 1
        if type(frame) is BlockDelta:  # nearly all are
            self.view.apply(run_id, frame)
            return
        if isinstance(frame, AttemptStarted):
            self._void(run_id, frozenset(frame.rerun_task_ids))
        self.view.apply(run_id, frame)
        if isinstance(frame, MessageFinished):
            self._add(run_id, size)
        elif isinstance(frame, RolledBack):
            self._forget_messages(frame.run_id)

    def grow(self, run_id: str, delta: BlockDelta) -> Callable[[str], object]:
        """What takes the texts of deltas that go on with this one, until another frame comes.

        It does what `apply` would with them, but for `seq`.
        """
        run = self.view.runs.get(run_id)
        message = run.open.get(delta.message_id) if run else None
        block = message.blocks.get(delta.index) if message else None
        return block.parts.append if block else _ignore

    def forget(self, known: Collection[str]) -> None:
        """Let go of every run but these; pending interrupts stay."""
        for run_id in [run_id for run_id in self.view.runs if run_id not in known]:
            del self.view.runs[run_id]
            self._forget_messages(run_id)

    def dump(self, seq: int | None = None) -> bytes:
        """It as JSON; `seq`: the entry that it is to stand for."""
        view = self.view
        return dumps(
            {
                "seq": self.seq if seq is None else seq,
                "runs": [_dump_run(run) for run in view.runs.values()],
                "interrupts": [encode_frame(frame) for frame in view.interrupts.values()],
                "sizes": list(self._messages),
            }
        )

    @classmethod
    def load(cls, data: bytes, limit: int) -> Fold:
        """What `dump` made `data` of.

        Raises:
            ValueError: It made it of nothing.
        """
        fold = cls(limit)
        try:
            stored = loads(data)
            fold.seq = int(stored["seq"])
            for run in map(_load_run, stored["runs"]):
                fold.view.runs[run.run_id] = run
            for frame in map(_load, stored["interrupts"]):
                fold.view.interrupts[frame.interrupt_id] = frame
            for run_id, size in stored["sizes"]:
                fold.size += int(size)
                fold._messages.append((str(run_id), int(size)))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no fold of a thread: {error!r}") from None
        return fold

    def _add(self, run_id: str, size: int) -> None:
        self._messages.append((run_id, size))
        self.size += size
        while len(self._messages) > 1 and self.size > self._limit:
            oldest, freed = self._messages.popleft()
            self.size -= freed
            del self.view.runs[oldest].messages[0]

    def _void(self, run_id: str, tasks: Collection[str]) -> None:
        """Take no more account of what these tasks have said."""
        run = self.view.runs.get(run_id)
        kept = iter([] if run is None else [m.task_id not in tasks for m in run.messages])
        self._messages = deque(item for item in self._messages if item[0] != run_id or next(kept))
        self.size = sum(size for _, size in self._messages)

    def _forget_messages(self, run_id: str) -> None:
        self._messages = deque(item for item in self._messages if item[0] != run_id)
        self.size = sum(size for _, size in self._messages)


def _ignore(_text: str) -> None:
    """The block is not open, so nothing is known of it."""


def _load(data: Mapping[str, Any]) -> Any:
    return decode_frame(data)


def _dump_run(run: RunView) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "started": None if run.started is None else encode_frame(run.started),
        "status": run.status,
        "messages": [encode_frame(message) for message in run.messages],
        "open": [_dump_open(message) for message in run.open.values()],
        "sources": encode_frame(Sources(sources=run.sources, added=0)),
    }


def _load_run(data: Mapping[str, Any]) -> RunView:
    started = data["started"]
    run = RunView(
        str(data["run_id"]),
        None if started is None else _load(started),
        None if data["status"] is None else _load({"frame": "RunFinished", **data}).status,
        [_load(message) for message in data["messages"]],
        sources=_load(data["sources"]).sources,
    )
    for message in map(_load_open, data["open"]):
        run.open[message.started.message_id] = message
    return run


def _dump_open(message: OpenMessage) -> dict[str, Any]:
    return {
        "started": encode_frame(message.started),
        "blocks": [
            [index, block.kind, block.tool_call_id, block.name, block.text, block.block]
            for index, block in message.blocks.items()
        ],
    }


def _load_open(data: Mapping[str, Any]) -> OpenMessage:
    message = OpenMessage(_load(data["started"]))
    for index, kind, tool_call_id, name, text, block in data["blocks"]:
        message.blocks[int(index)] = OpenBlock(kind, tool_call_id, name, [str(text)], block)
    return message
