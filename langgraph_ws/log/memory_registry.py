"""The registry of runs in the memory of one process."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from langgraph_ws.errors import LeaseLost
from langgraph_ws.frames import Frame, RunFinished
from langgraph_ws.log.registry import (
    Admission,
    Admitted,
    Keeper,
    Lease,
    Registry,
    Standing,
    Ticket,
    Where,
)

if TYPE_CHECKING:
    from langgraph_ws.log import ThreadLog

__all__ = ["MemoryRegistry"]

_REMEMBERED = 100_000
"""Runs whose thread is remembered, at most, so that they can be found by their name alone."""


@dataclass(slots=True)
class _Waiting:
    ticket: Ticket
    supersedes: str | None = None


@dataclass(slots=True)
class _Thread:
    active: Lease | None = None
    queue: list[_Waiting] = field(default_factory=list)
    interrupted: bool = False


class MemoryRegistry(Registry):
    """The runs of one process, which all end with it.

    Args:
        log: Where runs that never began are ended.
        clock: The time in seconds.
    """

    is_shared = False

    def __init__(self, log: ThreadLog, clock: Callable[[], float]) -> None:
        self._log = log
        self._clock = clock
        self._keeper: Keeper | None = None
        self._threads: dict[str, _Thread] = {}
        self._where: OrderedDict[str, Where] = OrderedDict()
        self._over: OrderedDict[str, float] = OrderedDict()  # not live any more, since when
        self._fences = 0

    async def start(self, keeper: Keeper) -> None:
        """Begin to work."""
        self._keeper = keeper

    async def close(self) -> None:
        """Forget every run."""
        for runs in (self._threads, self._where, self._over):
            runs.clear()

    def forget(self, before: float) -> None:
        """Forget where the runs are to be found that were over by then."""
        while self._over and next(iter(self._over.values())) <= before:
            self._where.pop(self._over.popitem(last=False)[0], None)

    def check(self, thread: str, fence: int | None) -> None:
        """Refuse a write with a fence that is no longer that of the thread.

        Raises:
            LeaseLost: It is not.
        """
        if fence is None:
            return
        state = self._threads.get(thread)
        if state is None or state.active is None or state.active.fence != fence:
            raise LeaseLost(f"the thread {thread!r} is not held any more")

    async def admit(self, ticket: Ticket, how: Admission, limit: int) -> Admitted:
        """Make a run live: the active one of its thread if there is none, or one that waits."""
        known = self._where.get(ticket.run)
        if known is not None and known.thread != ticket.thread:
            return Admitted(conflict=True)
        thread = self._threads.setdefault(ticket.thread, _Thread())
        for standing in self._standings(thread):
            if standing.ticket.run == ticket.run:
                return Admitted(standing=standing)
        active = thread.active
        if active is None:
            self._remember(ticket)
            return Admitted(lease=self._activate(thread, _Waiting(ticket)))
        if how == "reject" or len(thread.queue) >= limit:
            return Admitted(busy=True, full=how != "reject")
        self._remember(ticket)
        if how == "enqueue":
            thread.queue.append(_Waiting(ticket))
            return Admitted(standing=Standing(ticket=ticket, place=len(thread.queue)))
        superseded = [waiting for waiting in thread.queue if waiting.supersedes is not None]
        thread.queue = [waiting for waiting in thread.queue if waiting.supersedes is None]
        thread.queue.insert(0, _Waiting(ticket, active.ticket.run))
        self._stop(active)
        for waiting in superseded:  # before it began
            self._over[waiting.ticket.run] = self._clock()
            await self._log.append(
                ticket.thread, waiting.ticket.run_id, [RunFinished(status="cancelled")]
            )
        return Admitted(standing=Standing(ticket=ticket, place=1))

    async def finish(
        self, lease: Lease, frames: Sequence[Frame], *, interrupted: bool | None
    ) -> Lease | None:
        """End the active run of a thread, and let the next one be active."""
        ticket = lease.ticket
        self._over[ticket.run] = self._clock()
        if frames:
            await self._log.append(ticket.thread, ticket.run_id, frames, fence=lease.fence)
        elif interrupted is None:
            self._where.pop(ticket.run, None)
        thread = self._threads[ticket.thread]
        if interrupted is not None:
            thread.interrupted = interrupted
        return self._advance(ticket.thread, thread)

    async def release(self, lease: Lease, *, crashed: bool = False) -> Lease | None:
        """Let go of a run that is not at its end; there is nobody to go on with it."""
        thread = self._threads.get(lease.ticket.thread)
        if thread is None or thread.active is not lease:
            return None
        self._over[lease.ticket.run] = self._clock()
        return self._advance(lease.ticket.thread, thread)

    async def withdraw(self, standing: Standing, frames: Sequence[Frame]) -> bool:
        """End a run that waits: log its last frames; False: it waits no more."""
        ticket = standing.ticket
        thread = self._threads.get(ticket.thread, _Thread())
        for waiting in thread.queue:
            if waiting.ticket.run == ticket.run:
                thread.queue.remove(waiting)
                self._over[ticket.run] = self._clock()
                self._settle(ticket.thread, thread)
                await self._log.append(ticket.thread, ticket.run_id, frames)
                return True
        return False

    async def stop(self, standing: Standing) -> None:
        """Have the active run of a thread cancelled."""
        thread = self._threads.get(standing.ticket.thread)
        active = None if thread is None else thread.active
        if active is not None and active.ticket.run == standing.ticket.run:
            self._stop(active)

    async def live(self, thread: str) -> tuple[Standing, ...]:
        """The live runs of a thread: the active one, then those that wait, in order."""
        return self._standings(self._threads.get(thread, _Thread()))

    async def where(self, run: str) -> Where | None:
        """Where a run is to be found."""
        return self._where.get(run)

    async def watch(self, thread: str, *, watched: bool) -> None:
        """Nothing: there is no other process that would ask."""

    async def is_watched(self, thread: str) -> bool:
        """No: there is no other process."""
        return False

    async def orphans(self) -> tuple[Standing, ...]:
        """All that wait."""
        return tuple(
            standing
            for thread in self._threads.values()
            for standing in self._standings(thread)
            if standing.place is not None
        )

    def _standings(self, thread: _Thread) -> tuple[Standing, ...]:
        active = () if thread.active is None else (Standing(ticket=thread.active.ticket),)
        return (
            *active,
            *(
                Standing(ticket=waiting.ticket, place=place)
                for place, waiting in enumerate(thread.queue, 1)
            ),
        )

    def _activate(self, thread: _Thread, waiting: _Waiting) -> Lease:
        self._fences += 1
        thread.active = Lease(
            ticket=waiting.ticket, fence=self._fences, supersedes=waiting.supersedes
        )
        return thread.active

    def _advance(self, key: str, thread: _Thread) -> Lease | None:
        """Let the next run of the queue be active; an interrupted thread has its queue wait."""
        thread.active = None
        if thread.queue and (not thread.interrupted or thread.queue[0].supersedes is not None):
            return self._activate(thread, thread.queue.pop(0))
        self._settle(key, thread)
        return None

    def _settle(self, key: str, thread: _Thread) -> None:
        if thread.active is None and not thread.queue:
            self._threads.pop(key, None)

    def _stop(self, lease: Lease) -> None:
        lease.stop = True
        if self._keeper is not None:
            self._keeper.stop(lease.ticket.run)

    def _remember(self, ticket: Ticket) -> None:
        self._where[ticket.run] = Where(ticket.thread, ticket.thread_id)
        self._where.move_to_end(ticket.run)
        self._over.pop(ticket.run, None)
        while len(self._where) > _REMEMBERED:
            self._over.pop(self._where.popitem(last=False)[0], None)
