"""The registry of runs in Redis: any process admits, cancels and finds the runs of all.

A lease lasts by the clock of Redis. Its holder renews it, and stops believing in it some time
before it ends, by a clock that goes on while the process stands still. What concerns a run is
written down first (so that nothing is lost with a message), and then a bell is rung.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol
from zlib import crc32

from langgraph_ws.codec import dumps, loads
from langgraph_ws.errors import LeaseLost, LogFailed
from langgraph_ws.frames import Frame, RunFinished
from langgraph_ws.log import Position
from langgraph_ws.log import scripts as lua
from langgraph_ws.log.fold import Fold
from langgraph_ws.log.redis_server import number, some_at_once, text
from langgraph_ws.log.registry import (
    Admission,
    Admitted,
    Keeper,
    Lease,
    Registry,
    Standing,
    Ticket,
    Where,
    lost,
)
from langgraph_ws.view import RunView, ThreadView, closing

__all__ = ["RedisRegistry"]

logger = logging.getLogger(__name__)

_BELIEF = 0.8
"""The part of a lease that its holder believes in."""
_TICKS = 5
"""How often, while a lease lasts, it is renewed and looked for those that have ended."""
_PAUSES_S = (0.0, 5.0, 30.0)
"""How long a run stays alone after its first, second and every later crash."""
_CLOSE_S = 2.0
_CLAIMED = 32
"""Runs of one slot that are looked at, in turn, whether they can be taken over."""
_LEFT = 5
"""For how many times a lease a run is left to others that cannot be carried out here."""


def _now() -> float:
    """Seconds by a clock that goes on while the process, or the machine, stands still."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Store(Protocol):
    """What the registry uses of the log in Redis."""

    async def run(self, script: str, thread: str, *arguments: Any) -> Any:
        """Run a script on the keys of a thread."""
        ...

    async def write(
        self,
        script: str,
        thread: str,
        run_id: str,
        frames: Sequence[Frame],
        *more: Any,
        fence: int | None = None,
    ) -> list[Any]:
        """Run a script that writes frames; what it returns beside what was written."""
        ...

    async def command(self, key: str, *arguments: Any) -> Any:
        """Run a command on a key of no thread."""
        ...

    async def view(self, thread: str) -> tuple[Position, ThreadView]:
        """What the frames of a thread add up to."""
        ...

    def fold_of(self, thread: str) -> Fold | None:
        """What this process knows of a thread."""
        ...

    def new_epoch(self) -> str:
        """A name for an epoch that begins now."""
        ...

    async def listen(self, hear: Callable[[Mapping[bytes, bytes]], None]) -> None:
        """Begin to hear the bell."""
        ...

    def ring(self, **news: str) -> None:
        """Ring the bell in every process, before long."""
        ...

    def let_go(self, thread: str) -> None:
        """The thread is written elsewhere from now on."""
        ...


class RedisRegistry(Registry):
    """The runs of all processes that share a log in Redis.

    Args:
        store: The log.
        prefix: What every key begins with.
        shards: How many hash slots the threads are spread over.
        is_cluster: Whether they lie on several servers, so that none waits for another.
        owner: The name of this process.
        lease: Seconds that a lease lasts.
        keep_s: Seconds that it is known where a run is to be found.
    """

    is_shared = True

    def __init__(
        self,
        store: Store,
        *,
        prefix: str,
        shards: int,
        is_cluster: bool,
        owner: str,
        lease: float,
        keep_s: float,
    ) -> None:
        self._store = store
        self._prefix = prefix
        self._shards = shards
        self._owner = owner
        self._lease_s = lease
        self._lease_ms = int(lease * 1000)
        self._keep_ms = int(keep_s * 1000)
        self._held: dict[str, Lease] = {}
        self._finishing: set[Lease] = set()  # what is heard of these may be out of date
        self._watched: set[str] = set()
        self._claims = 0
        self._offsets = [0] * shards  # where to look next for what can be taken over
        self._left: dict[str, float] = {}  # threads that are left to others, and until when
        every = range(shards)
        self._apart = [[shard] for shard in every] if is_cluster else [every]
        # When it was last written down where the runs are to be found.
        self._placed = [_now()] * shards
        self._keeper: Keeper | None = None
        self._bells = [asyncio.Event() for _ in self._apart]
        self._tasks: set[asyncio.Task[None]] = set()
        self._guard: asyncio.Task[None] | None = None
        self._closed = False

    async def start(self, keeper: Keeper) -> None:
        """Begin to renew what is held, and to take over what nobody holds."""
        self._keeper = keeper
        await self._store.listen(self._hear)
        self._tasks = {
            asyncio.create_task(self._tend(shards, bell), name="redis registry")
            for shards, bell in zip(self._apart, self._bells, strict=True)
        }
        self._guard = asyncio.create_task(self._watch_deadlines(), name="redis leases")

    async def close(self) -> None:
        """Let go of every lease."""
        self._closed = True
        self._ring()
        if self._tasks:
            # A command that is cancelled costs its connection, and redis-py 8.1 swallows a
            # cancellation while it connects: it gets the time to end.
            _, pending = await asyncio.wait(self._tasks, timeout=_CLOSE_S)
            if pending:
                for task in pending:
                    task.cancel()
                await asyncio.wait(pending)
            self._tasks = set()
        # At once: each may wait as long as Redis may be away.
        await asyncio.gather(*map(self._release, list(self._held.values())))
        if self._guard is not None:
            self._guard.cancel()
            await asyncio.wait({self._guard})
            self._guard = None

    async def admit(self, ticket: Ticket, how: Admission, limit: int) -> Admitted:
        """Make a run live: the active one of its thread if there is none, or one that waits."""
        is_new = await self._tell_where(ticket, "NX")
        if not is_new:
            known = await self.where(ticket.run)
            if known is not None and known.thread != ticket.thread:
                return Admitted(conflict=True)
        began = _now()
        reply = await self._store.write(
            lua.ADMIT,
            ticket.thread,
            ticket.run_id,
            [RunFinished(status="cancelled")],
            *(ticket.thread, ticket.run, self._encode(ticket)),
            *(dumps([ticket.thread_id, ticket.graph]), ticket.graph, how, limit),
            *(self._owner, self._lease_ms),
        )
        outcome, *rest = reply
        if outcome in (b"MINE", b"LIVE") and not is_new:  # who wrote it down may take it back
            await self._tell_where(ticket)
        if outcome == b"MINE":
            return Admitted(lease=self._hold(rest[0], ticket, began))
        if outcome == b"LIVE":
            place, *superseded = rest
            for active in superseded:
                self._tell_stop(text(active))
            return Admitted(standing=Standing(ticket=ticket, place=number(place) or None))
        if is_new:
            await self._take_back_where(ticket)
        return Admitted(busy=True, full=outcome == b"FULL")

    async def finish(
        self, lease: Lease, frames: Sequence[Frame], *, interrupted: bool | None
    ) -> Lease | None:
        """End the active run of a thread, and let the next one be active."""
        ticket = lease.ticket
        state = "" if interrupted is None else str(int(interrupted))
        began = _now()
        self._finishing.add(lease)
        try:
            more = await self._store.write(
                *(lua.FINISH, ticket.thread, ticket.run_id, frames),
                *(ticket.thread, ticket.run, state, self._owner, self._lease_ms),
                fence=lease.fence,
            )
        finally:
            self._finishing.discard(lease)
        self._forget(lease)
        if not frames and interrupted is None:
            await self._take_back_where(ticket)
        return await self._take(more[0], ticket.thread, began) if more else None

    async def release(self, lease: Lease, *, crashed: bool = False) -> Lease | None:
        """Let go of a run that is not at its end: somebody else is to go on with it."""
        thread = lease.ticket.thread
        if self._forget(lease):
            self._store.let_go(thread)
            if crashed:  # others may fare better
                self._left[thread] = _now() + self._lease_s
            await self._store.run(lua.RELEASE, thread, thread, lease.fence, int(crashed))
            self._store.ring(claim="1")
        return None

    async def _release(self, lease: Lease) -> None:
        """Let go of a run, or let its lease run out."""
        with contextlib.suppress(LogFailed):
            await self.release(lease)

    async def withdraw(self, standing: Standing, frames: Sequence[Frame]) -> bool:
        """End a run that waits: log its last frames; False: it waits no more."""
        ticket = standing.ticket
        reply = await self._store.write(
            lua.WITHDRAW, ticket.thread, ticket.run_id, frames, ticket.run
        )
        return reply != [b"NO"]

    async def stop(self, standing: Standing) -> None:
        """Have the active run of a thread cancelled, whoever carries it."""
        ticket = standing.ticket
        if number(await self._store.run(lua.STOP, ticket.thread, ticket.run)):
            self._tell_stop(ticket.run)

    async def live(self, thread: str) -> tuple[Standing, ...]:
        """The live runs of a thread: the active one, then those that wait, in order."""
        found = await self._store.run(lua.LIVE, thread)
        return tuple(
            Standing(
                ticket=_ticket(run, told, thread), place=place or None, attempt=number(attempt)
            )
            for place, (run, told, attempt) in (
                (place, item) for place, item in enumerate(found) if item
            )
        )

    async def where(self, run: str) -> Where | None:
        """Where a run is to be found that is live, or ended not too long ago."""
        found = await self._store.command(key := self._where(run), "GET", key)
        if found is None:
            return None
        try:
            thread, thread_id, *_ = loads(found)
        except (ValueError, TypeError) as error:
            raise LogFailed(f"where {run!r} is, as Redis has it, is corrupt") from error
        return Where(str(thread), str(thread_id))

    async def watch(self, thread: str, *, watched: bool) -> None:
        """Take note that clients of this process follow a thread, or that none does any more."""
        (self._watched.add if watched else self._watched.discard)(thread)
        await self._tell_watched(thread)

    async def is_watched(self, thread: str) -> bool:
        """Whether clients of another process follow a thread."""
        return number(await self._store.run(lua.WATCHED, thread, self._owner)) > 0

    async def _tell_watched(self, thread: str) -> None:
        long = self._lease_ms if thread in self._watched else 0
        await self._store.run(lua.WATCH, thread, self._owner, long)

    async def orphans(self) -> tuple[Standing, ...]:
        """None: other processes go on."""
        return ()

    async def restore(self, thread: str, fence: int) -> None:
        """Tell a Redis that was wiped what this process carries, and knows of the thread.

        Raises:
            LeaseLost: The thread is not held here.
        """
        lease = self._held.get(thread)
        if lease is None or lease.fence != fence or not lease.is_held:
            raise LeaseLost(f"the thread {thread!r} is not held any more")
        ticket = lease.ticket
        logger.error("Redis has lost the thread %r; it is written down again", thread)
        fold = self._store.fold_of(thread)
        runs: list[tuple[str, bool]] = []
        if fold is not None:
            runs = [(run.run_id, run.status is not None) for run in fold.view.runs.values()]
        began = _now()
        mine = await self._store.run(
            lua.RESTORE,
            *(thread, thread, self._owner, fence, self._lease_ms),
            *(ticket.run, self._encode(ticket), dumps([ticket.thread_id, ticket.graph])),
            *(ticket.graph, lease.attempt, lease.crashes, lease.supersedes or ""),
            *(self._store.new_epoch(), "" if fold is None else fold.dump(1)),
            dumps(runs),
        )
        if not number(mine):
            self._lose(lease)
            raise LeaseLost(f"the thread {thread!r} is not held any more")
        await self._tell_where(ticket)
        self._renewed(lease, began)

    # -- leases -----------------------------------------------------------------------------

    async def _take(self, leased: Sequence[Any], thread: str, began: float) -> Lease | None:
        """Hold a run that another process accepted; None: it cannot be carried out here."""
        run, work, told, fence, *_ = leased
        ticket = _ticket(run, told, thread)
        assert self._keeper is not None
        try:
            ticket = replace(ticket, work=self._keeper.decode(work))
        except ValueError as error:
            # Its text may quote what the client sent.
            kind = type(error).__name__
            logger.warning("run %s cannot be carried out here: %s", ticket.run_id, kind)
            return await self._leave(ticket, number(fence))
        return self._hold(leased, ticket, began)

    async def _leave(self, ticket: Ticket, fence: int) -> Lease | None:
        """Leave a run to others, and end it when nobody could carry it out.

        Returns:
            The lease of the next run, if it was ended.
        """
        thread = ticket.thread
        self._left[thread] = _now() + self._lease_s
        patience = _LEFT * self._lease_ms
        try:
            if not number(await self._store.run(lua.LEAVE, thread, thread, fence, patience)):
                return None
            _, view = await self._store.view(thread)
            run = view.runs.get(ticket.run_id) or RunView(ticket.run_id)
            frames = [*closing(run, "failed"), *lost(retryable=run.started is None)]
            return await self.finish(Lease(ticket=ticket, fence=fence), frames, interrupted=False)
        except LogFailed as error:  # the lease runs out by itself
            logger.warning("run %s could not be left to others: %s", ticket.run_id, error)
            return None

    def _hold(self, leased: Sequence[Any], ticket: Ticket, began: float) -> Lease:
        _, _, _, fence, attempt, crashes, supersedes, stop = leased
        lease = Lease(
            ticket=ticket,
            fence=number(fence),
            attempt=number(attempt),
            crashes=number(crashes),
            supersedes=text(supersedes) or None,
            stop=bool(stop),
            clock=_now,
        )
        self._renewed(lease, began)
        self._held[ticket.thread] = lease
        return lease

    def _renewed(self, lease: Lease, began: float) -> None:
        lease.deadline = began + self._lease_s * _BELIEF

    def _forget(self, lease: Lease) -> bool:
        """Hold it no longer; whether it was held."""
        if self._held.get(lease.ticket.thread) is not lease:
            return False
        del self._held[lease.ticket.thread]
        return True

    def _lose(self, lease: Lease) -> None:
        lease.deadline = float("-inf")
        if self._forget(lease):
            logger.warning("run %s is not held any more", lease.ticket.run_id)
            self._store.let_go(lease.ticket.thread)
            if self._keeper is not None:
                self._keeper.lose(lease.ticket.run)

    async def _tend(self, shards: Sequence[int], bell: asyncio.Event) -> None:
        """Renew what is held in some slots, and take over what nobody holds, again and again."""
        tick = self._lease_s / _TICKS
        while not self._closed:
            try:
                await self._renew_all(shards)
                await some_at_once(map(self._claim_of, random.sample(shards, len(shards))))
                self._left = {it: ends for it, ends in self._left.items() if ends > _now()}
                watched = [thread for thread in self._watched if self._shard_of(thread) in shards]
                await some_at_once(map(self._tell_watched, watched))
            except LogFailed as error:
                logger.warning("leases cannot be looked after: %s", error)
            except Exception:
                logger.exception("leases cannot be looked after")
            if self._closed:
                return
            with contextlib.suppress(TimeoutError):
                # Jitter, so that processes do not all look at the same time.
                async with asyncio.timeout(tick * random.uniform(0.8, 1.1)):  # noqa: S311
                    await bell.wait()
            bell.clear()

    async def _renew_all(self, shards: Sequence[int]) -> None:
        held = list(self._held.values())
        await some_at_once(
            self._renew(lease) for lease in held if self._shard_of(lease.ticket.thread) in shards
        )
        first = shards[0]
        if _now() - self._placed[first] > self._keep_ms / 1000 / _TICKS:
            self._placed[first] = _now()
            await some_at_once(
                self._tell_where(lease.ticket)
                for lease in held
                if self._shard_of(lease.ticket.run) in shards
            )

    async def _renew(self, lease: Lease) -> None:
        thread = lease.ticket.thread
        began = _now()
        reply = await self._store.run(
            lua.RENEW, thread, thread, self._owner, lease.fence, self._lease_ms
        )
        if self._held.get(thread) is not lease or lease in self._finishing:
            return
        if reply[0] == b"GONE":
            with contextlib.suppress(LeaseLost):
                await self.restore(thread, lease.fence)
        elif reply[0] == b"OK":
            self._renewed(lease, began)
            if reply[1]:
                self._stop(lease.ticket.run)
        else:
            self._lose(lease)

    async def _watch_deadlines(self) -> None:
        """Lose what could not be renewed in time, whatever the renewing waits for."""
        tick = self._lease_s / _TICKS
        while True:
            for lease in list(self._held.values()):
                if not lease.is_held:
                    self._lose(lease)
            ends = min((lease.deadline for lease in self._held.values()), default=math.inf)
            await asyncio.sleep(min(tick, ends - _now()))

    async def _claim_of(self, shard: int) -> None:
        """Take over some runs of a slot; after those that cannot be, it is the turn of others."""
        offset = self._offsets[shard]
        leases = f"{self._prefix}:{{{shard}}}:leases"
        found = await self._store.command(leases, "EVAL", lua.DUE, 1, leases, offset, _CLAIMED)
        random.shuffle(found)
        staying = [thread for thread in map(text, found) if not await self._claim(thread)]
        self._offsets[shard] = offset + len(staying) if len(found) == _CLAIMED else 0

    async def _claim(self, thread: str) -> bool:
        """Take over the active run of a thread; whether it waits for nobody any more."""
        if thread in self._held or thread in self._left or self._keeper is None:
            return False
        self._claims += 1
        began = _now()
        reply = await self._store.run(
            lua.CLAIM,
            *(thread, thread, self._owner, self._lease_ms, f"{self._owner}:claim:{self._claims}"),
            dumps([int(pause * 1000) for pause in _PAUSES_S]),
            *self._keeper.graph_names(),
        )
        if reply[0] != b"MINE":
            return bool(reply[0] == b"NONE")
        lease = await self._take(reply[1], thread, began)
        if lease is None:
            return False
        logger.warning("run %s is taken over (attempt %d)", lease.ticket.run_id, lease.attempt)
        self._keeper.take(lease)
        return True

    # -- the bell ---------------------------------------------------------------------------

    def _hear(self, news: Mapping[bytes, bytes]) -> None:
        if (run := news.get(b"stop")) is not None:
            self._stop(text(run))
        else:
            self._ring()

    def _ring(self) -> None:
        for bell in self._bells:
            bell.set()

    def _tell_stop(self, run: str) -> None:
        if not self._stop(run):
            self._store.ring(stop=run)

    def _stop(self, run: str) -> bool:
        """Cancel a run if it is carried here."""
        for lease in self._held.values():
            if lease.ticket.run == run:
                lease.stop = True
                if self._keeper is not None:
                    self._keeper.stop(run)
                return True
        return False

    # -- keys and data ----------------------------------------------------------------------

    def _where(self, run: str) -> str:
        return f"{self._prefix}:{{{self._shard_of(run)}}}:run:{run}"

    def _shard_of(self, name: str) -> int:
        """The slot of a thread, or of where a run is to be found."""
        return crc32(name.encode()) % self._shards

    async def _tell_where(self, ticket: Ticket, *condition: str) -> bool:
        """Write down where a run is to be found, and who says so."""
        key, told = self._where(ticket.run), self._told(ticket)
        done = await self._store.command(key, "SET", key, told, *condition, "PX", self._keep_ms)
        return bool(done)

    async def _take_back_where(self, ticket: Ticket) -> None:
        """A run was refused here: it is not to be found, unless another process has taken it."""
        key, told = self._where(ticket.run), self._told(ticket)
        await self._store.command(key, "EVAL", lua.TAKE_BACK, 1, key, told)

    def _told(self, ticket: Ticket) -> bytes:
        return dumps([ticket.thread, ticket.thread_id, self._owner])

    def _encode(self, ticket: Ticket) -> bytes:
        assert self._keeper is not None
        return self._keeper.encode(ticket.work)


def _ticket(run: Any, told: Any, thread: str) -> Ticket:
    """A run as Redis holds it, without what it takes to carry it out.

    Raises:
        LogFailed: It is none.
    """
    try:
        name = text(run)
        thread_id, graph = loads(told)
    except (ValueError, TypeError) as error:
        raise LogFailed(f"run {run!r} in Redis is corrupt: {error}") from error
    return Ticket(run=name, thread=thread, thread_id=str(thread_id), graph=str(graph), work=None)
