"""The log of a thread: where runs write frames and connections read them.

A position is `(epoch, seq)`. `seq` counts the entries of a thread 1, 2, 3… without holes; the
epoch changes only when the log of the thread, or its end, was lost. Entries keep their position,
ids and time for ever: every replay shows the same.

Resume is all or nothing: the epoch must be equal, the position not ahead of the head, and the next
entry still held; otherwise `GapError`, and the reader starts again from a snapshot.
"""

from __future__ import annotations

import logging
import re
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

from langgraph_ws.errors import GapError, GapReason
from langgraph_ws.frames import Frame, RunFailed, RunFinished, RunResult
from langgraph_ws.log.registry import Registry
from langgraph_ws.view import ThreadView

__all__ = [
    "TERMINAL",
    "Bounds",
    "Entry",
    "Follower",
    "Health",
    "LogSize",
    "Position",
    "Retention",
    "ThreadLog",
    "epoch_began",
    "gap_error",
    "new_epoch",
    "wake_all",
]

logger = logging.getLogger(__name__)

_EPOCH = re.compile(r"(\d{1,12})-[0-9a-f]+")


def new_epoch(now: float) -> str:
    """A name for an epoch that begins now: no other has it, and it tells when it began.

    Args:
        now: The time in seconds since the Unix epoch.
    """
    return f"{int(now)}-{secrets.token_hex(8)}"


def epoch_began(epoch: str) -> int:
    """The second in which an epoch began, since the Unix epoch; 0 when its name tells none."""
    named = _EPOCH.fullmatch(epoch)
    return int(named[1]) if named else 0


TERMINAL = (RunResult, RunFailed, RunFinished)
"""The frames that tell how a run ended; they outlive the others of the run."""


class Position(NamedTuple):
    """A place in the log of a thread: after entry `seq` (0: before the first)."""

    epoch: str
    seq: int


class Bounds(NamedTuple):
    """What a log holds of a thread: entries `first` to `head` (none when `first > head`)."""

    epoch: str
    first: int
    head: int


Health = Literal["ok", "degraded", "down"]
"""`degraded`: the log cannot be reached just now; `down`: for too long to wait any longer."""


class LogSize(NamedTuple):
    """What a log holds in this process."""

    threads: int
    entries: int
    bytes: int


class Entry:
    """A frame in the log.

    Attributes:
        seq: Its number in the thread, from 1.
        run_id: The run that it belongs to, as the client knows it.
        time_ms: When it was logged, in milliseconds since the Unix epoch.
        frame: What happened.
        encoded: Its bytes for each protocol variant, made once and shared by all who follow.
    """

    __slots__ = ("encoded", "frame", "run_id", "seq", "time_ms")

    def __init__(self, seq: int, run_id: str, time_ms: int, frame: Frame) -> None:
        self.seq = seq
        self.run_id = run_id
        self.time_ms = time_ms
        self.frame = frame
        self.encoded: dict[str, bytes] = {}

    def __repr__(self) -> str:
        return f"Entry({self.seq}, {self.run_id!r}, {self.time_ms}, {self.frame!r})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How much a log keeps.

    Finished runs go first, oldest first; of a running one the oldest frames go when it outgrows
    the limits of its thread. Terminal frames are kept beside the log for `result_s`.

    Attributes:
        entries: Entries of one thread.
        thread_bytes: Bytes of one thread.
        total_bytes: Bytes of all threads in this process; beyond it, with nothing finished left
            to drop, new runs are refused as `overloaded`.
        finished_s: Seconds that the frames of a run are kept after its end.
        result_s: Seconds that its terminal frames are kept after its end.
    """

    entries: int = 10_000
    thread_bytes: int = 8 * 2**20
    total_bytes: int = 256 * 2**20
    finished_s: float = 600.0
    result_s: float = 86_400.0

    @property
    def known_s(self) -> float:
        """Seconds that anything is known of a run after its end."""
        return max(self.result_s, self.finished_s)


def gap_error(reason: GapReason, requested: int, bounds: Bounds) -> GapError:
    """The error that says why a position cannot be resumed from, and what is held instead."""
    return GapError(
        reason,
        requested=requested,
        first=bounds.first,
        head=bounds.head,
        epoch=bounds.epoch,
    )


class Follower(Protocol):
    """A cursor over the log of one thread."""

    @property
    def position(self) -> Position:
        """The position of the entry read last."""
        ...

    @property
    def lag(self) -> int:
        """How many entries lie after the position."""
        ...

    def read(self, limit: int) -> list[Entry]:
        """The entries after the position that are there now, at most `limit`; moves past them.

        Raises:
            GapError: The next entry is no longer held, or the log was lost.
            LogClosed: The log has been closed and everything in it was read.
        """
        ...

    def close(self) -> None:
        """Stop following; `wake` is not called again."""
        ...


def wake_all(followers: Mapping[Any, Callable[[], None]]) -> None:
    """Wake the followers of a thread; one that raises hurts no other."""
    for follower, wake in tuple(followers.items()):
        if follower in followers:  # an earlier one may have closed it
            try:
                wake()
            except Exception:
                logger.exception("a follower of a thread log failed to wake")


class ThreadLog(ABC):
    """The log of every thread of one or more graphs.

    A thread is named by a key (`Runs` makes it of identity and thread id). One process writes to a
    thread at a time, and one task in it.

    Attributes:
        waits: Whether `append` may have to wait for something; `append_now` is there if not.
    """

    waits: ClassVar[bool] = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "append" in vars(cls) and "append_now" not in vars(cls):
            cls.waits = True  # one way to write would go past the other

    @abstractmethod
    async def start(self) -> None:
        """Begin to work, inside the running event loop; called once."""

    @abstractmethod
    async def close(self) -> None:
        """End every follower and release what the log holds."""

    @abstractmethod
    def registry(self) -> Registry:
        """The registry of the runs that write to the log; always the same."""

    @abstractmethod
    async def append(
        self, thread: str, run_id: str, frames: Sequence[Frame], *, fence: int | None = None
    ) -> Position:
        """Write frames to the end of the log; when it returns, every follower may see them.

        Args:
            thread: The thread.
            run_id: The run that they are of.
            frames: The frames.
            fence: That of the lease under which they are written; None: it needs none.

        Returns:
            The position of the last of them.

        Raises:
            LogClosed: The log has been closed.
            LeaseLost: The lease is somebody else's by now.
        """

    def append_now(
        self, thread: str, run_id: str, frames: Sequence[Frame], *, fence: int | None = None
    ) -> None:
        """The same as `append`, in a log of which `waits` is False; it tells no position."""
        raise NotImplementedError

    @abstractmethod
    async def follow(
        self,
        thread: str,
        after: Position | None,
        wake: Callable[[], None],
        *,
        rewind: bool = False,
        tell: Callable[[Entry], bool] | None = None,
    ) -> Follower:
        """Read from a position on: first what is held, then what comes.

        Args:
            thread: The thread; it need not exist yet.
            after: The position of the last entry already seen; None, or a `seq` of 0 in any
                epoch: everything, which needs the first entry to be held still.
            wake: Called in the event loop, once for each batch of new entries, and when the log is
                lost or closed; it must not block and must not raise.
            rewind: Begin at the first entry of the run that `after` lies in instead, for a reader
                that needs the whole run to make sense of the rest.
            tell: May be called instead of `wake`, under the same conditions, with the entry after
                the position when no other is new: whether it was taken, so that the position is
                after it; if it was not, `wake` is called. A log need not make use of it.

        Raises:
            GapError: The position cannot be resumed from.
            LogClosed: The log has been closed.
        """

    @abstractmethod
    async def bounds(self, thread: str) -> Bounds:
        """What is held of a thread (first 1 and head 0 of a thread that nobody knows)."""

    @abstractmethod
    async def view(self, thread: str) -> tuple[Position, ThreadView]:
        """What the frames so far add up to, and the position it stands for; a copy to keep."""

    @abstractmethod
    async def start_of(self, thread: str, run_id: str) -> Position | None:
        """The position before the first entry of a run; None when that is not held (any more)."""

    @abstractmethod
    async def result_of(self, thread: str, run_id: str) -> tuple[Entry, ...]:
        """The terminal entries of a run that ended, in order; empty when nobody knows them."""

    @abstractmethod
    def has_room(self) -> bool:
        """Whether new runs may begin (False: the limit of all threads is used up)."""

    @abstractmethod
    def size(self) -> LogSize:
        """How much is held in this process."""

    def health(self) -> Health:
        """Whether the log can be read and written; one in memory always can."""
        return "ok"
