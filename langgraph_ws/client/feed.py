"""What a client follows of one thread."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from langgraph_ws.client.handles import Handle, Run, Thread
from langgraph_ws.client.messages import RunInfo

__all__ = ["Feed", "seq_of"]

Json: TypeAlias = dict[str, Any]


@dataclass(slots=True, eq=False)
class Feed:
    """What the client follows of one thread.

    Attributes:
        handles: Who is told.
        attaching: Those whose `attach` has not been answered yet.
        deaf: Those who are told nothing yet: what comes lies behind what they are to hear first.
        epoch: Of the log, as the server last named it.
        head: The last entry, as the server last named it.
        following: Whether this connection follows the thread.
        scope: The run that the server tells of; None: all of the thread.
        wanted: The same, as it will be when all is answered.
        full: Whether texts are asked for in full: somebody began in the middle of one.
        midway: Whether messages may come of a run that nobody has named.
        doubts: Runs that may have ended unseen, to be asked about one by one.
        doubted: Those, and those asked about already on this connection.
    """

    thread_id: str
    handles: list[Handle] = field(default_factory=list)
    attaching: dict[Thread, asyncio.Future[None]] = field(default_factory=dict)
    deaf: set[Handle] = field(default_factory=set)
    epoch: str = ""
    head: int = 0
    following: bool = False
    scope: str | None = None
    wanted: str | None = None
    full: bool = False
    midway: bool = False
    doubts: deque[Run] = field(default_factory=deque)
    doubted: set[Run] = field(default_factory=set)

    @property
    def mode(self) -> Json:
        """How texts are asked for."""
        return {"text": "full" if self.full else "delta"}

    @property
    def runs(self) -> list[Run]:
        """The runs among those who are told."""
        return [handle for handle in self.handles if isinstance(handle, Run)]

    @property
    def seen(self) -> int:
        """How far anybody has been told."""
        return max((seq_of(handle) for handle in self.handles), default=0)

    @property
    def epoch_of_handles(self) -> str:
        """That of the positions of those who were told something."""
        return next(
            position.epoch
            for handle in self.handles
            if (position := handle.position) is not None and position.seq
        )

    def learn(self, info: RunInfo) -> None:
        """Take what an answer says of the log."""
        self.epoch, self.head = info.epoch, info.head

    def disconnected(self) -> None:
        """Forget what was true of the last connection alone."""
        self.following, self.scope, self.wanted = False, None, None
        self.deaf = set(self.attaching)
        self.doubts.clear()
        self.doubted.clear()


def seq_of(handle: Handle) -> int:
    """How far it has been told."""
    position = handle.position
    return position.seq if position is not None else 0
