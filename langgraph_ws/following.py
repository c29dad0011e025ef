"""The threads that one connection follows: a cursor over the log of each.

This is the half of a connection that knows runs and logs and no socket. What it has to say to the
client it hands to `send`; what the logs hold for the client is fetched with `take`, when the
socket can take more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, get_args

from langgraph_ws.commands import (
    Attach,
    Attached,
    Cancel,
    Cancelling,
    Detach,
    Detached,
    Identity,
    RunInfo,
    Snapshot,
    StartRun,
)
from langgraph_ws.errors import GapError, LogClosed, RequestError
from langgraph_ws.frames import RunFinished, RunStatus
from langgraph_ws.log import Entry, Follower, Position
from langgraph_ws.session import tells_nothing

if TYPE_CHECKING:
    from langgraph_ws.runs import Runs
    from langgraph_ws.session import Session, Teller

__all__ = ["Follow", "Lost", "Threads", "TooSlow"]

logger = logging.getLogger(__name__)

_BATCH = 256
"""Entries read at once: what waits together merges, and no thread keeps the others waiting."""
_RETRIES = 5
_ENDED = frozenset(get_args(RunStatus))


class TooSlow(Exception):
    """The client cannot be brought up to date: the log moves on faster than it reads."""


@dataclass(slots=True, eq=False)
class Follow:
    """One followed thread.

    `run_id`: only this run is shown; `until`: the `seq` after which nothing of it comes any more;
    `cursor` is None while a gap is being mended; `tell`: what the session makes of most entries.
    """

    identity: Identity
    thread_id: str
    run_id: str | None
    cursor: Follower | None = None
    until: int | None = None
    tell: Teller = tells_nothing

    def close(self) -> None:
        """Read no more of it."""
        if self.cursor is not None:
            self.cursor.close()
            self.cursor = None


@dataclass(frozen=True, slots=True)
class Lost:
    """A followed thread fell out of the log, and has to be mended."""

    follow: Follow
    gap: GapError


class Threads:
    """The threads that one connection follows.

    Args:
        runs: Where runs are started and logs are read.
        session: The protocol of the connection.
        limit: Threads at once.
        send: Takes messages for the client, to be sent before anything that `take` gives later.
        wake: Called when `take` has something.
        deliver: Called with a thread that has just said something, in the step in which it is said,
            to `read` it now or have it `wait`; None: they all wait.
        tell: Called instead, where that is possible, with the one entry that was said; whether it
            was taken.
        lost: Called when a thread fell out of the log; `mend` is then to be called.
    """

    __slots__ = (
        "_closed",
        "_deliver",
        "_follows",
        "_limit",
        "_lost",
        "_ready",
        "_runs",
        "_send",
        "_session",
        "_tell",
        "_timer",
        "_wake",
    )

    def __init__(
        self,
        runs: Runs,
        session: Session,
        *,
        limit: int,
        send: Callable[[Sequence[bytes]], None],
        wake: Callable[[], None],
        lost: Callable[[Lost], None],
        deliver: Callable[[Follow], None] | None = None,
        tell: Callable[[Follow, Entry], bool] | None = None,
    ) -> None:
        self._runs = runs
        self._session = session
        self._limit = limit
        self._send = send
        self._wake = wake
        self._deliver = deliver or self.wait
        self._tell = tell
        self._lost = lost
        self._follows: dict[str, Follow] = {}
        self._ready: dict[Follow, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    # -- reading ----------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether `take` has something."""
        return bool(self._ready)

    @property
    def followed(self) -> int:
        """How many there are."""
        return len(self._follows)

    @property
    def lag(self) -> int:
        """How many entries the slowest of them is behind."""
        return max(
            (follow.cursor.lag for follow in self._follows.values() if follow.cursor), default=0
        )

    @property
    def heads(self) -> dict[str, Position]:
        """Where the followed threads stand."""
        return {
            follow.thread_id: follow.cursor.position
            for follow in self._follows.values()
            if follow.cursor is not None
        }

    def take(self) -> list[bytes]:
        """The next messages of one thread that has news; those that have take turns."""
        follow = next(iter(self._ready))
        del self._ready[follow]
        return self.read(follow)

    def read(self, follow: Follow) -> list[bytes]:
        """The next messages of one thread."""
        cursor = follow.cursor
        if cursor is None:
            return []
        try:
            entries = cursor.read(_BATCH)
        except GapError as gap:
            follow.close()
            self._lost(Lost(follow, gap))
            return []
        except LogClosed:
            self._drop(follow, dropped=True)
            return []
        if len(entries) == 1:
            message = follow.tell(entries[0])
            if message is not None:
                return [message]
        elif len(entries) == _BATCH:
            self.wait(follow)
        if follow.run_id is not None:
            entries = [entry for entry in entries if entry.run_id == follow.run_id]
            if self._is_over(follow, entries):
                self._drop(follow, dropped=False)
        if not entries:
            return []
        messages = self._made_of(follow, entries)
        if self._session.done_with(follow.thread_id):
            self._drop(follow, dropped=False)
        return messages

    def _made_of(self, follow: Follow, entries: Sequence[Entry]) -> list[bytes]:
        """The messages for entries; what the session holds back of them is sent when it is due."""
        messages = self._session.send(follow.thread_id, entries)
        self._set_timer()
        return messages

    def _set_timer(self) -> None:
        due_in = self._session.due_in()
        if due_in is not None and self._timer is None and not self._closed:
            self._timer = asyncio.get_running_loop().call_later(due_in, self._time_has_come)

    def _time_has_come(self) -> None:
        self._timer = None
        self.send_overdue()
        self._set_timer()

    def send_overdue(self) -> None:
        """Send what the session held back and is due by now."""
        if overdue := self._session.overdue():
            self._send(overdue)

    def _is_over(self, follow: Follow, entries: list[Entry]) -> bool:
        if entries and isinstance(entries[-1].frame, RunFinished):
            return True
        cursor, until = follow.cursor, follow.until
        return cursor is not None and until is not None and cursor.position.seq >= until

    # -- commands ---------------------------------------------------------------------------

    async def start(self, identity: Identity, token: int, command: StartRun) -> None:
        """Start a run and follow its thread.

        Raises:
            RequestError: That cannot be done.
            TooSlow: The thread moves on too fast.
        """
        self._check_room(command.thread_id)
        info = await self._runs.start(identity, command)
        follow = self._follows.get(info.thread_id)
        if follow is not None and follow.run_id is None:
            self._send(self._session.done(token, Attached(info=info)))
            return
        # A queued run begins where another one is in the middle of its text: hence the rewind.
        wanted = _Wanted(begin=info.start, rewind=True, told=info.run_id)
        await self._follow(identity, token, info, wanted)

    async def attach(self, identity: Identity, token: int, command: Attach) -> None:
        """Follow a thread or a run from a position on.

        Raises:
            RequestError: That cannot be done.
            TooSlow: The thread moves on too fast.
        """
        if command.thread_id is not None:
            self._check_room(command.thread_id)
        info = await self._runs.info(identity, command.thread_id, command.run_id)
        self._check_room(info.thread_id)
        begin = command.after
        if begin is None and not command.summed_up:
            everything = Position(info.position.epoch, 0)
            begin = info.start if command.run_id is not None else everything
        wanted = _Wanted(
            begin=begin,
            rewind=command.rewind,
            told=info.run_id if command.summed_up else command.run_id,
            only=command.run_id,
            named=command.after is not None,
            held=command.held,
        )
        resumed = await self._follow(identity, token, info, wanted)
        if resumed and begin is not None and (missed := info.position.seq - begin.seq) > 0:
            self._runs.metrics.frames_replayed(self._session.name, missed)

    async def detach(self, identity: Identity, token: int, command: Detach) -> None:
        """Stop following a thread; its runs go on.

        Raises:
            RequestError: It is not followed.
        """
        thread_id = command.thread_id
        if thread_id is None or thread_id in self._follows:
            info = await self._runs.info(identity, thread_id, command.run_id)
            if (follow := self._follows.get(info.thread_id)) is not None:
                self._drop(follow, dropped=False)
                self._send(self._session.done(token, Detached(info=info)))
                return
        raise RequestError("not_found", "no such thread or run is followed")

    async def cancel(self, identity: Identity, token: int, command: Cancel) -> None:
        """Tell a run to stop.

        Raises:
            RequestError: There is no such run.
        """
        info = await self._runs.cancel(identity, command.thread_id, command.run_id)
        self._send(self._session.done(token, Cancelling(info=info)))

    async def mend(self, lost: Lost) -> bool:
        """Go on from a snapshot after a gap; whether the protocol can tell the client so.

        Raises:
            RequestError: The thread may not be followed any longer.
            TooSlow: The thread moves on too fast.
        """
        follow = lost.follow
        self._runs.metrics.gap(lost.gap.reason)
        if self._follows.get(follow.thread_id) is not follow:
            return True
        snapshot, cursor = await self._snapshot(follow)
        if self._follows.get(follow.thread_id) is not follow:
            cursor.close()
            return True
        messages = self._session.gap(follow.thread_id, lost.gap, snapshot)
        if messages is None:
            cursor.close()
            return False
        self._send(messages)
        follow.cursor = cursor
        self._deliver(follow)
        return True

    def close(self) -> None:
        """Follow nothing any more, because the connection has ended."""
        self._closed = True
        for follow in tuple(self._follows.values()):
            self._drop(follow, dropped=True)
        self._ready.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # -- following --------------------------------------------------------------------------

    def _check_room(self, thread_id: str | None) -> None:
        if thread_id not in self._follows and len(self._follows) >= self._limit:
            raise RequestError(
                "limit_exceeded", f"one connection may follow {self._limit} threads; detach first"
            )

    async def _follow(self, identity: Identity, token: int, info: RunInfo, wanted: _Wanted) -> bool:
        """Follow from where it is wanted, or else from a snapshot; whether the former."""
        follow = Follow(identity, info.thread_id, wanted.only)
        if wanted.only is not None and info.status in _ENDED:
            follow.until = info.position.seq
        gap = None
        try:
            if wanted.begin is not None:
                begin = await self._begin(follow, wanted, wanted.begin)
                info = _within(info, begin.epoch)
                attached = Attached(info=info, run_id=wanted.only, after=begin.seq)
                self._register(follow, self._session.done(token, attached))
                return True
        except GapError as error:
            gap = error if wanted.named else None
            if gap is not None:
                self._runs.metrics.gap(gap.reason)
        await self._follow_snapshot(token, info, wanted, follow, gap)
        return False

    async def _begin(self, follow: Follow, wanted: _Wanted, begin: Position) -> Position:
        """Give a follow its cursor; the position that it begins at.

        Raises:
            GapError: There is none to be had.
            TooSlow: The oldest entry is never held long enough.
        """
        for _ in range(_RETRIES):
            try:
                follow.cursor = await self._cursor(follow, begin, rewind=wanted.rewind)
            except GapError:
                if not wanted.held:
                    raise
                key = self._runs.key(follow.identity, follow.thread_id)
                bounds = await self._runs.log.bounds(key)
                begin = Position(bounds.epoch, bounds.first - 1)
            else:
                return Position(follow.cursor.position.epoch, begin.seq)
        raise TooSlow

    async def _follow_snapshot(
        self,
        token: int,
        info: RunInfo,
        wanted: _Wanted,
        follow: Follow,
        gap: GapError | None,
    ) -> None:
        """Follow from a snapshot; of a run that ended, its end is shown all the same."""
        snapshot, cursor = await self._snapshot(follow)
        info = _within(info, cursor.position.epoch)
        if gap is not None:
            gap.epoch = info.position.epoch
        try:
            end = await self._end_of(follow, wanted.told, snapshot)
        except BaseException:
            cursor.close()
            raise
        if end:
            # The client ignores what lies before its position, so the snapshot must not be said
            # to stand after the end that is shown next.
            snapshot = replace(snapshot, position=Position(info.position.epoch, end[0].seq - 1))
        attached = Attached(
            info=info,
            run_id=wanted.only,
            after=snapshot.position.seq,
            gap=gap,
            snapshot=snapshot,
        )
        messages = self._session.done(token, attached)
        if end:
            messages = [*messages, *self._made_of(follow, end)]
        if end and wanted.only is not None:
            follow.until = 0
        follow.cursor = cursor  # not before: what is read of it is told after the snapshot
        self._register(follow, messages)

    async def _end_of(
        self, follow: Follow, run_id: str | None, snapshot: Snapshot
    ) -> tuple[Entry, ...]:
        """How a run ended, where the snapshot already lies behind that."""
        if run_id is None:
            return ()
        key = self._runs.key(follow.identity, follow.thread_id)
        end = await self._runs.log.result_of(key, run_id)
        return end if end and end[-1].seq <= snapshot.position.seq else ()

    async def _snapshot(self, follow: Follow) -> tuple[Snapshot, Follower]:
        """A snapshot, and a cursor that goes on from it."""
        for _ in range(_RETRIES):
            snapshot = await self._runs.snapshot(follow.identity, follow.thread_id)
            try:
                cursor = await self._cursor(follow, snapshot.position)
            except GapError:
                continue
            return replace(snapshot, position=cursor.position), cursor
        raise TooSlow

    async def _cursor(self, follow: Follow, after: Position, *, rewind: bool = False) -> Follower:
        """A cursor over the log of a thread, which has it read or told what is said.

        Raises:
            GapError: The position cannot be resumed from.
        """
        return await self._runs.follow(
            follow.identity,
            follow.thread_id,
            after,
            partial(self._deliver, follow),
            rewind=rewind,
            tell=self._tell and partial(self._tell, follow),
        )

    def _register(self, follow: Follow, messages: Sequence[bytes]) -> None:
        """Say that a thread is followed, and follow it, in this order and in one step."""
        self._send(messages)
        follow.tell = self._session.teller(follow.thread_id)
        previous = self._follows.pop(follow.thread_id, None)
        if previous is None:
            self._runs.joined(follow.identity, follow.thread_id)
        else:
            previous.close()
        self._follows[follow.thread_id] = follow
        if self._closed:
            self._drop(follow, dropped=True)
        elif self._session.done_with(follow.thread_id):
            self._drop(follow, dropped=False)
        else:
            self._ready[follow] = None
            self._wake()

    def _drop(self, follow: Follow, *, dropped: bool) -> None:
        follow.close()
        self._ready.pop(follow, None)
        if self._follows.get(follow.thread_id) is follow:
            del self._follows[follow.thread_id]
            try:
                self._runs.left(follow.identity, follow.thread_id, dropped=dropped)
            except RequestError as error:
                logger.warning("thread_key refused a thread that was followed: %s", error)

    def wait(self, follow: Follow) -> None:
        """Have a thread wait for its turn to be taken."""
        self._ready[follow] = None
        self._wake()


def _within(info: RunInfo, epoch: str) -> RunInfo:
    """The info in the epoch that is followed: an unknown thread has one only from now on."""
    return replace(info, position=Position(epoch, info.position.seq))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """From where a thread is to be followed.

    `begin`: the position, None: it is not held any more; `told`: the run whose end is to be shown;
    `only`: the one run to show; `named`: the position is one that the client named; `held`: the
    oldest entry that is held will do as well.
    """

    begin: Position | None
    rewind: bool
    told: str | None
    only: str | None = None
    named: bool = False
    held: bool = False
