"""The thread log in the memory of one process: the default, with nothing else to run.

A thread has a record: its entries by `seq`, its view, its runs and its followers. What a record
holds is bounded twice. The *frames* are what `Retention` speaks of. What is *kept* beside them
(terminal entries, the folded view) is bounded too, or many short runs would fill the memory with
results that nobody asks for again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING

from langgraph_ws.codec import dumps_frame
from langgraph_ws.errors import GapReason, LogClosed
from langgraph_ws.frames import (
    BlockDelta,
    Frame,
    Interrupted,
    RunFinished,
    RunStarted,
    Sources,
)
from langgraph_ws.log import (
    TERMINAL,
    Bounds,
    Entry,
    Follower,
    LogSize,
    Position,
    Retention,
    ThreadLog,
    gap_error,
    new_epoch,
    wake_all,
)
from langgraph_ws.log.fold import Fold
from langgraph_ws.log.memory_entries import (
    DELTA_BYTES,
    ENTRY_BYTES,
    Held,
    Kept,
    Opened,
    Pack,
    Strand,
    packed,
)
from langgraph_ws.log.memory_registry import MemoryRegistry
from langgraph_ws.view import ThreadView

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["MemoryThreadLog"]

logger = logging.getLogger(__name__)

_QUIET_S = 10.0
"""How long a run has to have ended before its entries are packed: those who come back at once read
them as they are."""
_PACK_ENTRIES = 64
_PACK_BYTES = 64 * 1024
_SLICE_S = 0.002
_PAUSE_S = 0.01
"""For how long a sweep packs before everybody else has a turn, and how long that lasts."""

_MAX_SWEEP_S = 30.0
_MIN_SWEEP_S = 0.1


class MemoryThreadLog(ThreadLog):
    """A thread log in the memory of this process; it is lost with the process.

    What is kept beside the frames has limits of its own: the finished messages in the view of a
    thread take at most `thread_bytes` (the oldest go, the newest stays); views and terminal entries
    of all runs together take at most `total_bytes`, beyond which the runs that ended first are
    forgotten. A run is forgotten, by `view` too, when both its frames and its result are out of
    time; its pending interrupts stay. Bytes are estimates, close to what CPython takes.

    Args:
        retention: How much is kept.
        clock: The time in seconds since the Unix epoch.
    """

    waits = False

    def __init__(
        self, retention: Retention | None = None, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._retention = retention or Retention()
        self._known_s = self._retention.known_s
        self._most = self._retention.total_bytes
        self._clock = clock
        self._registry = MemoryRegistry(self, clock)
        self._threads: dict[str, _Thread] = {}
        self._with_frames: deque[_Run] = deque()  # ended, frames not yet dropped; oldest end first
        self._with_result: deque[_Run] = deque()  # ended, not yet forgotten; oldest end first
        self._unpacked: deque[_Run] = deque()  # ended, entries not yet packed; oldest end first
        self._opened = Opened()
        self._waiting: dict[_Thread, int] = {}  # nothing left but interrupts, which take so much
        self._bytes = 0
        self._kept = 0
        self._no_epoch = new_epoch(clock())
        self._closed = False
        self._tidy_at = 0.0  # there is nothing to expire or to pack before
        self._timer: asyncio.TimerHandle | None = None
        self._packing: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Drop what is out of time also while nobody uses the log, until `close`.

        Raises:
            LogClosed: The log has been closed.
        """
        self._check_open()
        self._schedule(asyncio.get_running_loop())

    async def close(self) -> None:
        """End every follower and release what the log holds."""
        if self._closed:
            return
        self._closed = True
        for timer in (self._timer, self._packing):
            if timer is not None:
                timer.cancel()
        threads = list(self._threads.values())
        self._threads.clear()
        self._waiting.clear()
        for forgotten in (self._with_frames, self._with_result, self._unpacked, self._opened):
            forgotten.clear()
        for thread in threads:
            thread.closed = True
        for thread in threads:
            wake_all(thread.followers)

    def registry(self) -> MemoryRegistry:
        """The registry of the runs that write to the log."""
        return self._registry

    async def append(
        self, thread: str, run_id: str, frames: Sequence[Frame], *, fence: int | None = None
    ) -> Position:
        """Write frames to the end of the log; when it returns, every follower may see them."""
        self.append_now(thread, run_id, frames, fence=fence)
        bounds = self._bounds(self._threads.get(thread))
        return Position(bounds.epoch, bounds.head)

    def append_now(
        self, thread: str, run_id: str, frames: Sequence[Frame], *, fence: int | None = None
    ) -> None:
        """The same; a log in memory never waits."""
        if self._closed:
            self._check_open()
        if fence is not None:
            self._registry.check(thread, fence)
        now = self._clock()
        if now >= self._tidy_at:
            self._tidy(now)
        if not frames:
            return
        record = self._threads.get(thread)
        if record is not None and len(frames) == 1:
            # The way of nearly every token: keep it short.
            size = record.bytes
            if record.go_on(run_id, frames[0], now):
                self._bytes += record.bytes - size
                if self._bytes >= self._most:
                    self._fit()
                if record.followers:
                    record.tell(self._opened)
                return
        wake_all(self._write(thread, run_id, frames, now).followers)

    def _write(self, thread: str, run_id: str, frames: Sequence[Frame], now: float) -> _Thread:
        record = self._record(thread)
        self._kept -= self._waiting.pop(record, 0)
        frame_bytes, kept = record.bytes, record.kept
        if (ended := record.write(run_id, frames, now)) is not None:
            self._with_frames.append(ended)
            self._with_result.append(ended)
            self._unpacked.append(ended)
            self._tidy_at = now
        self._bytes += record.bytes - frame_bytes
        self._kept += record.kept - kept
        if self._bytes >= self._most or self._kept >= self._most:
            self._fit()
        return record

    async def follow(
        self,
        thread: str,
        after: Position | None,
        wake: Callable[[], None],
        *,
        rewind: bool = False,
        tell: Callable[[Entry], bool] | None = None,
    ) -> Follower:
        """Read from a position on: first what is held, then what comes."""
        self._check_open()
        self._expire(self._clock())
        seq = self._resume(self._threads.get(thread), after, rewind)
        record = self._record(thread)
        follower = _Follower(record, seq, self._settle, self._opened, tell or _untold)
        record.followers[follower] = wake
        record.audience = None
        return follower

    async def bounds(self, thread: str) -> Bounds:
        """What is held of a thread (first 1 and head 0 of a thread that nobody knows)."""
        self._expire(self._clock())
        return self._bounds(self._threads.get(thread))

    async def view(self, thread: str) -> tuple[Position, ThreadView]:
        """What the frames so far add up to, and the position it stands for; a copy to keep."""
        self._expire(self._clock())
        record = self._threads.get(thread)
        bounds = self._bounds(record)
        view = ThreadView() if record is None else record.fold.view.copy()
        return Position(bounds.epoch, bounds.head), view

    async def start_of(self, thread: str, run_id: str) -> Position | None:
        """The position before the first entry of a run; None when that is not held (any more)."""
        self._expire(self._clock())
        record = self._threads.get(thread)
        run = None if record is None else record.runs.get(run_id)
        if record is None or run is None or run.first < record.first:
            return None
        return Position(record.epoch, run.first - 1)

    async def result_of(self, thread: str, run_id: str) -> tuple[Entry, ...]:
        """The terminal entries of a run that ended, in order; empty when nobody knows them."""
        self._expire(self._clock())
        record = self._threads.get(thread)
        run = None if record is None else record.runs.get(run_id)
        return () if run is None or run.end is None else tuple(run.terminal)

    def has_room(self) -> bool:
        """Whether new runs may begin (False: the limit of all threads is used up)."""
        return not self._closed and self._bytes < self._most

    def size(self) -> LogSize:
        """How much is held."""
        entries = sum(len(thread.entries) for thread in self._threads.values())
        return LogSize(len(self._threads), entries, self._bytes + self._kept)

    def _check_open(self) -> None:
        if self._closed:
            raise LogClosed("the thread log has been closed")

    def _record(self, key: str) -> _Thread:
        record = self._threads.get(key)
        if record is None:
            epoch = new_epoch(self._clock())
            record = self._threads[key] = _Thread(key, epoch, self._retention)
        return record

    def _bounds(self, record: _Thread | None) -> Bounds:
        if record is None:
            return Bounds(self._no_epoch, 1, 0)
        return Bounds(record.epoch, record.first, record.head)

    def _resume(self, record: _Thread | None, after: Position | None, rewind: bool) -> int:
        """The `seq` after which to read."""
        seq = 0 if after is None else after.seq
        bounds = self._bounds(record)
        if reason := _gap(bounds, after):
            raise gap_error(reason, seq, bounds)
        start = seq if record is None or not rewind else record.rewound(seq)
        if start + 1 < bounds.first:
            raise gap_error("trimmed", seq, bounds)
        return start

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        delay = max(_MIN_SWEEP_S, min(_MAX_SWEEP_S, self._retention.finished_s / 2))
        self._timer = loop.call_later(delay, self._sweep, loop)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        self._schedule(loop)
        self._expire(self._clock())
        self._registry.forget(self._clock() - self._known_s)
        if self._packing is None:
            self._pack_slice(loop)

    def _pack_slice(self, loop: asyncio.AbstractEventLoop) -> None:
        """Pack for a moment, and go on after a pause if there is more."""
        self._packing = None
        ends = loop.time() + _SLICE_S
        while self._pack(self._clock()):
            if loop.time() >= ends:
                self._packing = loop.call_later(_PAUSE_S, self._pack_slice, loop)
                break

    def _tidy(self, now: float) -> None:
        """Drop what is out of time, pack some of what has ended, and see when to do so again."""
        self._expire(now)
        self._pack(now)
        waits = (
            (self._with_frames, self._retention.finished_s),
            (self._with_result, self._known_s),
            (self._unpacked, _QUIET_S),
        )
        self._tidy_at = min((runs[0].ended + wait for runs, wait in waits if runs), default=inf)

    def _expire(self, now: float) -> None:
        """Drop what is out of time."""
        while self._with_frames and self._with_frames[0].ended + self._retention.finished_s <= now:
            self._drop(self._with_frames.popleft())
        while self._with_result and self._with_result[0].ended + self._known_s <= now:
            self._forget(self._with_result.popleft())

    def _pack(self, now: float) -> bool:
        """Pack some entries of the run that ended first; whether there were any to pack."""
        if not self._unpacked or self._unpacked[0].ended + _QUIET_S > now:
            return False
        run = self._unpacked[0]
        if run.thread.pack(run):
            self._unpacked.popleft()
        return True

    def _fit(self) -> None:
        """Drop what is over the limits of all threads, oldest end first."""
        while self._bytes >= self._most and self._with_frames:
            self._drop(self._with_frames.popleft())
        while self._kept >= self._most and self._waiting:
            self._abandon(next(iter(self._waiting)))
        while self._kept >= self._most and self._with_result:
            self._forget(self._with_result.popleft())

    def _drop(self, run: _Run) -> None:
        """Let go of the frames of a run that ended."""
        before = run.thread.bytes
        run.thread.drop(run)
        self._bytes += run.thread.bytes - before

    def _forget(self, run: _Run) -> None:
        """Let go of everything known of a run that ended."""
        self._drop(run)
        before = run.thread.kept
        run.thread.forget(run.run_id)
        self._kept += run.thread.kept - before
        self._settle(run.thread)
        self._registry.forget(run.ended)

    def _abandon(self, thread: _Thread) -> None:
        """Let go of the interrupts of a thread that has nothing else left."""
        self._kept -= self._waiting.pop(thread)
        thread.fold.view.interrupts.clear()
        self._settle(thread)

    def _settle(self, thread: _Thread) -> None:
        """Let go of a thread of which nothing is left."""
        if thread.runs:
            return
        if thread.fold.view.interrupts:
            if thread not in self._waiting:
                self._waiting[thread] = sum(map(_size, thread.fold.view.interrupts.values()))
                self._kept += self._waiting[thread]
        elif not thread.followers:
            self._threads.pop(thread.key, None)


@dataclass(slots=True, eq=False)
class _Run:
    """What a log knows of a run.

    `first` and `last` are its first and last entry, `end` is the one that says that it ended,
    `ended` the time of that in seconds; `kept` is what is kept of it beside frames and messages; up
    to `packed` its entries are packed.
    """

    thread: _Thread
    run_id: str
    first: int
    last: int
    end: int | None = None
    ended: float = 0.0
    dropped: bool = False
    packed: int = 0
    terminal: list[Entry] = field(default_factory=list)
    kept: int = 0
    sources: int = 0


class _Thread:
    """The record of one thread: entries, view, runs, followers."""

    def __init__(self, key: str, epoch: str, retention: Retention) -> None:
        self.key = key
        self.epoch = epoch
        self.first = 1
        self.head = 0
        self.bytes = 0
        self.closed = False
        self.entries: dict[int, Kept] = {}
        self.strand: Strand | None = None  # to which the newest entry belongs
        self.saying: _Run | None = None  # the run of that
        self.newest: Entry | None = None  # as it was read
        self.fold = Fold(retention.thread_bytes)
        self.runs: dict[str, _Run] = {}
        self.followers: dict[_Follower, Callable[[], None]] = {}
        # The same as a tuple, until they change: `tell` goes through it for every token.
        self.audience: tuple[tuple[_Follower, Callable[[], None]], ...] | None = None
        self._retention = retention
        self._most_entries = retention.entries
        self._most_bytes = retention.thread_bytes
        self._kept = 0

    @property
    def kept(self) -> int:
        """Bytes of what is kept beside the frames."""
        return self._kept + self.fold.size

    def write(self, run_id: str, frames: Sequence[Frame], now: float) -> _Run | None:
        """Add entries and fold them in; the run, if it ended with them."""
        run = self.runs.get(run_id)
        if run is None:
            run = self.runs[run_id] = _Run(self, run_id, self.head + 1, self.head)
        running = run.end is None
        self.newest = None
        time_ms = int(now * 1000)
        for frame in frames:
            if type(frame) is BlockDelta and Strand.takes(frame):
                size = self._say(run, frame, time_ms)
            else:
                size = self._hold(run, frame, time_ms)
            self.bytes += size
        run.last = self.head
        if len(self.entries) > self._retention.entries or self.bytes > self._retention.thread_bytes:
            self._trim()
        if running and run.end is not None:
            run.ended = now
            return run
        return None

    def go_on(self, run_id: str, frame: Frame, now: float) -> bool:
        """Add an entry that only goes on with the delta before it; False: it does more than that.

        So it was not added: `write` it.
        """
        strand, run = self.strand, self.saying
        if (
            strand is None
            or run is None
            or type(frame) is not BlockDelta
            or not strand.add(run_id, frame, int(now * 1000))
        ):
            return False
        run.last = self.head = self.fold.seq = seq = self.head + 1
        self.newest = None
        self.entries[seq] = strand
        self.bytes += DELTA_BYTES + len(frame.text)
        if len(self.entries) > self._most_entries or self.bytes > self._most_bytes:
            self._trim()
        return True

    def tell(self, opened: Opened) -> None:
        """Tell the followers the newest entry; wake those who do not take it."""
        seq = self.head
        before = seq - 1
        entry = self.newest = self.entries[seq].entry(seq, opened)
        audience = self.audience
        if audience is None:
            audience = self.audience = tuple(self.followers.items())
        for follower, wake in audience:
            try:
                if follower.seq == before and follower.tell(entry):
                    follower.seq = seq
                elif follower in self.followers:  # an earlier one may have closed it
                    wake()
            except Exception:
                logger.exception("a follower of a thread log failed to wake")

    def _say(self, run: _Run, frame: BlockDelta, time_ms: int) -> int:
        """Add a delta, and fold it in; the bytes that it takes."""
        seq = self.head + 1
        size = DELTA_BYTES + len(frame.text)
        if self.strand is not None and self.strand.add(run.run_id, frame, time_ms):
            self.fold.seq = seq
        else:
            self.fold.apply(run.run_id, frame, size)
            grow = self.fold.grow(run.run_id, frame)
            self.strand = Strand(seq, run.run_id, time_ms, frame, grow)
            self.saying = run
        self.entries[seq] = self.strand
        self.head = seq
        return size

    def _hold(self, run: _Run, frame: Frame, time_ms: int) -> int:
        """Add a frame that is held by itself, and fold it in; the bytes that it takes."""
        self.head += 1
        size = _size(frame)
        entry = self.entries[self.head] = Held(self.head, run.run_id, time_ms, frame, size)
        self.strand = self.saying = None
        self._note(run, entry)
        self.fold.apply(run.run_id, frame, size)
        return size

    def _note(self, run: _Run, entry: Held) -> None:
        """Remember what outlives the entry, and what that takes."""
        match entry.frame:
            case RunStarted() | Interrupted():
                self._keep(run, entry.size)
            case Sources():
                self._keep(run, entry.size - run.sources)
                run.sources = entry.size
            case frame if isinstance(frame, TERMINAL):
                run.terminal.append(entry)
                self._keep(run, entry.size)
                if isinstance(frame, RunFinished):
                    run.end = entry.seq
            case _:
                pass

    def _keep(self, run: _Run, size: int) -> None:
        run.kept += size
        self._kept += size

    def _trim(self) -> None:
        """Drop what is over the limits of a thread, oldest first; the newest entry stays."""
        limit = self._retention
        while len(self.entries) > 1 and (
            len(self.entries) > limit.entries or self.bytes > limit.thread_bytes
        ):
            self._pop()

    def _pop(self) -> None:
        self.bytes -= self.entries.pop(self.first).drop(self.first)
        self.first += 1

    def drop(self, run: _Run) -> None:
        """Drop the entries of a run that ended, or leave them until those before them go."""
        run.dropped = True
        if self.saying is run:
            self.strand = self.saying = None
        while self.entries:
            oldest = self.runs.get(self.entries[self.first].run_id)
            if oldest is not None and not oldest.dropped:
                break
            self._pop()

    def pack(self, run: _Run) -> bool:
        """Pack the next entries of a run that ended; whether those were the last."""
        seq = max(run.packed + 1, run.first, self.first)
        last = min(run.last, seq + _PACK_ENTRIES - 1)
        entries: list[Held] = []
        encoded: list[bytes] = []
        room = _PACK_BYTES
        while seq <= last:
            entry = self.entries[seq]
            if (
                isinstance(entry, Held)
                and entry.run_id == run.run_id
                and (data := packed(entry)) is not None
                and len(data) < room
            ):
                entries.append(entry)
                encoded.append(data)
                room -= len(data) + 1
            elif entries:
                break
            seq += 1
        run.packed = seq - 1
        if len(entries) > 1:
            pack = Pack(entries, encoded)
            for entry in entries:
                self.entries[entry.seq] = pack
        return seq > run.last

    def forget(self, run_id: str) -> None:
        """Let go of a run that was dropped; pending interrupts stay."""
        self._keep(run := self.runs.pop(run_id), -run.kept)
        self.fold.forget(self.runs)

    def rewound(self, seq: int) -> int:
        """Before the run that entry `seq` lies in, unless that had ended by then."""
        run = self._run_at(seq)
        if run is None or (run.end is not None and run.end <= seq):
            return seq
        return run.first - 1

    def _run_at(self, seq: int) -> _Run | None:
        if (entry := self.entries.get(seq)) is not None:
            return self.runs.get(entry.run_id)
        return next((run for run in self.runs.values() if run.first <= seq <= run.last), None)


class _Follower:
    """A cursor over the log of one thread.

    Attributes:
        seq: The number of the entry read last.
        tell: Takes the next one, or does not.
    """

    __slots__ = ("_opened", "_settle", "_thread", "seq", "tell")

    def __init__(
        self,
        thread: _Thread,
        seq: int,
        settle: Callable[[_Thread], None],
        opened: Opened,
        tell: Callable[[Entry], bool],
    ) -> None:
        self._opened = opened
        self._thread = thread
        self._settle = settle
        self.seq = seq
        self.tell = tell

    @property
    def position(self) -> Position:
        """The position of the entry read last."""
        return Position(self._thread.epoch, self.seq)

    @property
    def lag(self) -> int:
        """How many entries lie after the position."""
        return self._thread.head - self.seq

    def read(self, limit: int) -> list[Entry]:
        """The entries after the position that are there now, at most `limit`; moves past them."""
        thread, opened = self._thread, self._opened
        start = self.seq + 1
        if start == thread.head >= thread.first:  # nearly always
            self.seq = start
            entry = thread.newest
            if entry is None:
                entry = thread.newest = thread.entries[start].entry(start, opened)
            return [entry]
        if start < thread.first:
            raise gap_error("trimmed", self.seq, Bounds(thread.epoch, thread.first, thread.head))
        if start > thread.head and thread.closed:
            raise LogClosed("the thread log has been closed")
        self.seq = min(self.seq + limit, thread.head)
        return [thread.entries[seq].entry(seq, opened) for seq in range(start, self.seq + 1)]

    def close(self) -> None:
        """Stop following; `wake` is not called again."""
        if self._thread.followers.pop(self, None) is not None:
            self._thread.audience = None
            self.tell = _untold
            self._settle(self._thread)


def _untold(entry: Entry) -> bool:
    """Take nothing that is told: who follows wants to read."""
    return False


def _gap(bounds: Bounds, after: Position | None) -> GapReason | None:
    """Why a position cannot be resumed from, if it cannot."""
    if after is None or after.seq == 0:
        return "trimmed" if bounds.first > 1 else None
    if bounds.head == 0:
        return "unknown"
    if after.epoch != bounds.epoch:
        return "epoch"
    if after.seq > bounds.head:
        return "ahead"
    return "trimmed" if after.seq + 1 < bounds.first else None


def _size(frame: Frame) -> int:
    """About how many bytes an entry that is held by itself takes."""
    return ENTRY_BYTES + len(dumps_frame(frame))
