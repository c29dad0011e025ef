"""Who runs what: one active run for each thread, those that wait for it, and whose they are.

A run that is accepted is *live* until its end is in the log: it waits in the queue of its thread,
or it is the active one, which one process carries under a lease. With the lease comes a fence, a
number that grows with every new holder; the log takes a write with an old one no more.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from langgraph_ws.frames import Frame, RunFailed, RunFinished

__all__ = [
    "Admission",
    "Admitted",
    "Keeper",
    "Lease",
    "Registry",
    "Standing",
    "Ticket",
    "Where",
    "lost",
]

Admission = Literal["enqueue", "interrupt", "rollback", "reject"]
"""What becomes of a run whose thread has an active one; `reject`: it is not taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """A run to be carried out.

    Attributes:
        run: Its name among all runs, `<identity>/<run id>`.
        thread: The key of its thread.
        thread_id: Its thread as the client knows it.
        graph: The name of its graph.
        work: What it takes to carry it out.
    """

    run: str
    thread: str
    thread_id: str
    graph: str
    work: Any

    @property
    def run_id(self) -> str:
        """The run as the client knows it."""
        return self.run.rpartition("/")[2]


@dataclass(slots=True, eq=False, kw_only=True)
class Lease:
    """The right to carry out the active run of a thread.

    Attributes:
        fence: Grows with every holder of the thread.
        attempt: How often the run was begun, this time included.
        crashes: How many of its holders disappeared.
        supersedes: The run that it was started to end.
        stop: It has been cancelled.
        deadline: When it ends unless it is renewed, by `clock`.
        clock: A clock that goes on while the process stands still.
    """

    ticket: Ticket
    fence: int
    attempt: int = 1
    crashes: int = 0
    supersedes: str | None = None
    stop: bool = False
    deadline: float = float("inf")
    clock: Callable[[], float] = lambda: 0.0

    @property
    def is_held(self) -> bool:
        """Whether the process may still believe that it holds the lease."""
        return self.clock() < self.deadline


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a live run stands; `place`: in the queue, from 1; None: it is the active one."""

    ticket: Ticket
    place: int | None = None
    attempt: int = 1


class Where(NamedTuple):
    """Where a run is to be found."""

    thread: str
    thread_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """What became of a run that was to be admitted.

    Attributes:
        lease: It is the active run, and this process is to carry it out.
        standing: It waits, or it is live already.
        busy: It was not taken, because the thread has an active run or (`full`) too many wait.
        conflict: It was not taken, because a run of its name exists on another thread.
    """

    lease: Lease | None = None
    standing: Standing | None = None
    busy: bool = False
    full: bool = False
    conflict: bool = False


class Keeper(Protocol):
    """Who carries out runs in this process, and is told what concerns them."""

    def take(self, lease: Lease) -> None:
        """Go on with a run whose holder disappeared or let go of it."""
        ...

    def stop(self, run: str) -> None:
        """A run that is carried here has been cancelled."""
        ...

    def lose(self, run: str) -> None:
        """A run that is carried here is (or may be) carried by somebody else from now on."""
        ...

    def encode(self, work: Any) -> bytes:
        """What it takes to carry out a run, as JSON."""
        ...

    def decode(self, data: bytes) -> Any:
        """What `encode` made `data` of.

        Raises:
            ValueError: It made it of nothing.
        """
        ...

    def graph_names(self) -> Sequence[str]:
        """The names of the graphs whose runs can be carried out here."""
        ...


class Registry(ABC):
    """The live runs of every thread of a log.

    Attributes:
        is_shared: Whether other processes take over what this one lets go of.
    """

    is_shared: bool

    @abstractmethod
    async def start(self, keeper: Keeper) -> None:
        """Begin to work, inside the running event loop; called once."""

    @abstractmethod
    async def close(self) -> None:
        """Let go of every lease."""

    @abstractmethod
    async def admit(self, ticket: Ticket, how: Admission, limit: int) -> Admitted:
        """Make a run live: the active one of its thread if there is none, or one that waits.

        To `interrupt` or `rollback` cancels the active run and waits before all others; those
        that were waiting to do the same are ended as cancelled.

        Args:
            ticket: The run.
            how: What becomes of it while the thread has an active run.
            limit: How many may wait.
        """

    @abstractmethod
    async def finish(
        self, lease: Lease, frames: Sequence[Frame], *, interrupted: bool | None
    ) -> Lease | None:
        """End the active run of a thread: log its last frames, and let the next one be active.

        Args:
            lease: Its lease.
            frames: Its last frames; none: they are logged, or there are none.
            interrupted: Whether the thread waits for an answer, and its queue with it; None: as
                before, and without frames it is as if the run had never been.

        Returns:
            The lease of the next run, for this process to carry out.

        Raises:
            LeaseLost: Somebody else holds the lease.
            LogFailed: The frames could not be stored.
        """

    @abstractmethod
    async def release(self, lease: Lease, *, crashed: bool = False) -> Lease | None:
        """Let go of a run that is not at its end: somebody else is to go on with it.

        Args:
            lease: Its lease.
            crashed: It could be carried no further, which counts as if its holder had disappeared.

        Returns:
            The lease of the next run, where there is nobody else and the run is over.
        """

    @abstractmethod
    async def withdraw(self, standing: Standing, frames: Sequence[Frame]) -> bool:
        """End a run that waits: log its last frames; False: it waits no more."""

    @abstractmethod
    async def stop(self, standing: Standing) -> None:
        """Have the active run of a thread cancelled, whoever carries it."""

    @abstractmethod
    async def live(self, thread: str) -> tuple[Standing, ...]:
        """The live runs of a thread: the active one, then those that wait, in order."""

    @abstractmethod
    async def where(self, run: str) -> Where | None:
        """Where a run is to be found that is live, or ended not too long ago."""

    @abstractmethod
    async def watch(self, thread: str, *, watched: bool) -> None:
        """Take note that clients of this process follow a thread, or that none does any more."""

    @abstractmethod
    async def is_watched(self, thread: str) -> bool:
        """Whether clients of another process follow a thread."""

    @abstractmethod
    async def orphans(self) -> tuple[Standing, ...]:
        """The runs that would wait in vain once this process has ended."""


def lost(*, retryable: bool) -> list[Frame]:
    """The last frames of a run that nobody goes on with.

    Args:
        retryable: Whether the thread can go on from its checkpoint.
    """
    message = "The run was lost with the server that carried it."
    return [
        RunFailed(code="lost", message=message, retryable=retryable),
        RunFinished(status="lost"),
    ]
