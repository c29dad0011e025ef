"""The thread log in Redis, for many processes: any of them follows what any of them writes.

Redis holds the entries; a process holds, of the threads that are followed in it, those that its
followers have yet to read. What it writes itself it shows them at once; what others write comes
through one reader for all of them, with one connection, however many sockets there are; in a
cluster, through one for each slot that they are spread over.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, cast
from zlib import crc32

from langgraph_ws.codec import dumps_frame
from langgraph_ws.errors import (
    ConfigurationError,
    GapReason,
    LeaseLost,
    LogClosed,
    LogFailed,
)
from langgraph_ws.frames import Frame, RunFinished
from langgraph_ws.log import (
    TERMINAL,
    Bounds,
    Entry,
    Follower,
    Health,
    LogSize,
    Position,
    Retention,
    ThreadLog,
    epoch_began,
    gap_error,
    new_epoch,
)
from langgraph_ws.log import scripts as lua
from langgraph_ws.log.fold import Fold
from langgraph_ws.log.redis_pool import COMMAND_S
from langgraph_ws.log.redis_reader import Readers
from langgraph_ws.log.redis_registry import RedisRegistry
from langgraph_ws.log.redis_server import Server, number, text
from langgraph_ws.log.redis_thread import (
    LocalFollower,
    LocalThread,
    Reply,
    Written,
    entry_of,
    is_of,
    stamp_of,
    stream_entry,
)
from langgraph_ws.view import ThreadView

__all__ = ["RedisThreadLog"]

logger = logging.getLogger(__name__)

_SHARDS = 16
_DOWN = 3
"""After how many times its patience nobody waits for Redis any longer."""
_READ_AT_ONCE = 1_024
_TRIES = 5
"""How often what was read in several steps is read anew, because the log has moved on meanwhile."""
_FOLDS = 256
"""Threads whose fold is kept in the process though nothing happens to them."""


class RedisThreadLog(ThreadLog):
    """A thread log in Redis, or in Valkey, which all processes of an application share.

    Redis has to keep what it is given: switch its append-only file on, and set `maxmemory-policy`
    to `noeviction`. Routes that serve different graphs need prefixes of their own.

    Args:
        url: Where Redis is: `redis://`, `rediss://` or `unix://`, as redis-py takes it; or
            `redis+sentinel://host:port,host:port/name/db` (`rediss+…`), where sentinels at these
            addresses know the master by this name. User and password are those of Redis; those of
            the sentinels are `sentinel_username` and `sentinel_password` in the query. Or
            `redis+cluster://host:port,host:port` (`rediss+…`), where some nodes of a cluster are.
        retention: How much is kept; `total_bytes` bounds what this process has written.
        prefix: What every key begins with.
        lease: Seconds after which a run is taken over whose process does not answer any more.
        patience: Seconds that Redis may be away before what needs it fails; after three times as
            long, clients are sent away to come back later.
        connections: Connections of this process at once, beside the one that reads; in a cluster
            to each node, beside up to 16 that read.
        clock: The time in seconds since the Unix epoch; None: that of Redis.

    Raises:
        ConfigurationError: An argument is not what it may be.
    """

    def __init__(
        self,
        url: str,
        *,
        retention: Retention | None = None,
        prefix: str = "langgraph-ws",
        lease: float = 15.0,
        patience: float = 10.0,
        connections: int = 16,
        clock: Callable[[], float] | None = None,
    ) -> None:
        for name, value in {"lease": lease, "patience": patience}.items():
            if not value > 0:
                raise ConfigurationError(f"{name}: expected seconds above 0, got {value!r}")
        if not prefix or any(mark in prefix for mark in "{} \n"):
            raise ConfigurationError(f"prefix: expected a name without braces, got {prefix!r}")
        self._retention = retention or Retention()
        self._prefix = prefix
        self._clock = clock
        self._patience = patience
        limits = self._retention
        self._limits = (
            b"%d" % (limits.finished_s * 1000),
            b"%d" % (limits.known_s * 1000),
            b"%d" % limits.entries,
            b"%d" % limits.thread_bytes,
        )
        self._server = Server(url, patience, connections)
        owner = secrets.token_hex(8)
        self._bell = f"{prefix}:{{0}}:bell"
        self._ringing: set[asyncio.Task[None]] = set()
        self._reader = Readers(
            self._server,
            self._check,
            wake=lambda shard: f"{prefix}:{{{shard}}}:wake:{owner}",
            bell=self._bell,
        )
        self._writer = owner
        self._writes = 0
        self._registry = RedisRegistry(
            self,
            prefix=prefix,
            shards=_SHARDS,
            is_cluster=self._server.is_cluster,
            owner=owner,
            lease=lease,
            keep_s=limits.known_s,
        )
        self._threads: OrderedDict[str, LocalThread] = OrderedDict()
        self._crowd = _FOLDS
        self._written = Written()
        self._unused_epoch = ""
        self._no_epoch = new_epoch((clock or time.time)())
        self._closed = False

    async def start(self) -> None:
        """Make sure that Redis answers.

        Raises:
            LogFailed: It does not.
            LogClosed: The log has been closed.
        """
        self._check_open()
        await self._server.ping(self._bell)

    async def close(self) -> None:
        """End every follower and let go of the connections."""
        if self._closed:
            return
        self._closed = True
        for thread in self._threads.values():
            thread.closed = True
            thread.wake()
        await self._reader.close()
        if self._ringing:
            await asyncio.wait(self._ringing, timeout=COMMAND_S)
        await self._server.close()
        if self._ringing:
            await asyncio.wait(self._ringing)
        self._threads.clear()

    def registry(self) -> RedisRegistry:
        """The registry of the runs that write to the log."""
        return self._registry

    async def append(
        self, thread: str, run_id: str, frames: Sequence[Frame], *, fence: int | None = None
    ) -> Position:
        """Write frames to the end of the log; when it returns, every follower may see them."""
        self._check_open()
        if not frames:
            bounds = await self.bounds(thread)
            return Position(bounds.epoch, bounds.head)
        position, _ = await self._append(lua.APPEND, thread, run_id, frames, fence)
        return position

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
        local = self._local(thread)
        try:
            async with local.loading:
                seq = await self._resume(local, after, rewind=rewind)
                follower = LocalFollower(local, seq, self._settle_followers)
                local.followers[follower] = wake
        finally:
            self._settle_followers(local)
        self._reader.add(local)
        return follower

    async def bounds(self, thread: str) -> Bounds:
        """What is held of a thread (first 1 and head 0 of a thread that nobody knows)."""
        bounds, _, _ = await self._look(thread, "")
        return bounds

    async def view(self, thread: str) -> tuple[Position, ThreadView]:
        """What the frames so far add up to, and the position it stands for; a copy to keep."""
        fold, epoch = await self._folded(self._local(thread))
        return Position(epoch, fold.seq), fold.view.copy()

    async def start_of(self, thread: str, run_id: str) -> Position | None:
        """The position before the first entry of a run; None when that is not held (any more)."""
        bounds, start, _ = await self._look(thread, run_id)
        return None if start < 0 else Position(bounds.epoch, start)

    async def result_of(self, thread: str, run_id: str) -> tuple[Entry, ...]:
        """The terminal entries of a run that ended, in order; empty when nobody knows them."""
        _, _, results = await self._look(thread, run_id)
        entries = []
        for seq, result in results:
            time_ms, _, frame = (result or b"").partition(b" ")
            entries.append(entry_of(seq, run_id.encode(), time_ms, frame))
        return tuple(entries)

    def has_room(self) -> bool:
        """Whether new runs may begin (False: the limit of all threads is used up)."""
        return not self._closed and self._written.total < self._retention.total_bytes

    def size(self) -> LogSize:
        """How much is held in this process."""
        followed = [thread for thread in self._threads.values() if thread.followers]
        entries = sum(len(thread.entries) for thread in followed)
        folds = sum(thread.fold.size for thread in self._threads.values() if thread.fold)
        return LogSize(len(followed), entries, folds + sum(thread.size for thread in followed))

    def health(self) -> Health:
        """Whether Redis answers: all of it, some, or none for too long."""
        if self._server.away_s >= _DOWN * self._patience:
            return "down"
        return "ok" if self._server.is_whole else "degraded"

    # -- for the registry (see `Store`) -------------------------------------------------------

    async def run(self, script: str, thread: str, *arguments: Any) -> Any:
        """Run a script on the keys of a thread."""
        return await self._run(script, thread, *arguments)

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
        self._check_open()
        _, rest = await self._append(script, thread, run_id, frames, fence, *more)
        return rest

    async def command(self, key: str, *arguments: Any) -> Any:
        """Run a command on a key of no thread."""
        return await self._server.call(
            key, lambda link: cast("Any", link.redis).execute_command(*arguments)
        )

    def fold_of(self, thread: str) -> Fold | None:
        """What this process knows of a thread."""
        local = self._threads.get(thread)
        return None if local is None else local.fold

    def new_epoch(self) -> str:
        """A name for an epoch that begins now."""
        return new_epoch((self._clock or time.time)())

    def _epoch_to_begin(self) -> str:
        """The same for a write, which seldom begins one: the last that was not needed will do."""
        now = int((self._clock or time.time)())
        if epoch_began(self._unused_epoch) != now:
            self._unused_epoch = new_epoch(now)
        return self._unused_epoch

    async def listen(self, hear: Callable[[Mapping[bytes, bytes]], None]) -> None:
        """Begin to hear the bell."""
        await self._reader.listen(hear)

    def ring(self, **news: str) -> None:
        """Ring the bell in every process, before long."""
        task = asyncio.create_task(self._ring(news), name="redis bell")
        self._ringing.add(task)
        task.add_done_callback(self._ringing.discard)

    async def _ring(self, news: Mapping[str, str]) -> None:
        try:
            await self.command(
                self._bell, "XADD", self._bell, "MAXLEN", 1000, "*", *chain(*news.items())
            )
        except (LogFailed, LogClosed) as error:  # all that it is rung for is written down, too
            logger.warning("the bell in Redis could not be rung: %s", error)

    def let_go(self, thread: str) -> None:
        """The thread is written elsewhere from now on."""
        self._written.forget(thread)
        local = self._threads.get(thread)
        if local is not None and local.writer:
            local.writer = False
            if local.followers:
                self._reader.add(local)

    # -- scripts ----------------------------------------------------------------------------

    def _keys(self, thread: str) -> list[bytes]:
        slot = f"{self._prefix}:{{{crc32(thread.encode()) % _SHARDS}}}"
        names = ("meta", "log", "results", "fold", "own", "queue", "viewers")
        keys = [*(f"{slot}:{thread}:{name}" for name in names), f"{slot}:leases"]
        return [key.encode() for key in keys]

    async def _run(self, script: str, thread: str, *arguments: Any) -> Any:
        now = b"" if self._clock is None else int(self._clock() * 1000)
        local = self._threads.get(thread)
        keys = self._keys(thread) if local is None else local.keys
        return await self._server.run(script, keys, now, *self._limits, *arguments)

    async def _append(
        self,
        script: str,
        thread: str,
        run_id: str,
        frames: Sequence[Frame],
        fence: int | None,
        *more: Any,
    ) -> tuple[Position, list[Any]]:
        """Run a script that writes; the position of the last frame, and what else it returns."""
        local = self._local(thread)
        arguments = ["" if fence is None else fence, *self._write(run_id, frames), *more]
        async with local.writing:
            known, epoch = local.known, self._epoch_to_begin()
            if not known.epoch:  # likely to begin one
                self._unused_epoch = ""
            reply = await self._run(script, thread, epoch, *known, *arguments)
            if reply[0] == b"GONE" and fence is not None:
                await self._registry.restore(thread, fence)
                reply = await self._run(script, thread, epoch, *known, *arguments)
            if reply[0] in (b"FENCED", b"GONE"):
                self.let_go(thread)
                raise LeaseLost(f"the thread {thread!r} is held by another process")
            if reply[0] != b"OK" or not frames:
                return Position("", 0), reply[1:] if reply[0] == b"OK" else reply
            written = Reply.of(reply[1:9])
            if written.epoch == self._unused_epoch:
                self._unused_epoch = ""
            position = self._wrote(local, run_id, frames, written)
            await self._settle(local)
        await self._fit()
        return position, reply[9:]

    def _write(self, run_id: str, frames: Sequence[Frame]) -> list[Any]:
        """The arguments of a write that can be sent again without doing it twice."""
        self._writes += 1
        kinds = "".join(map(_kind, frames))
        return [run_id, f"{self._writer}:{self._writes}", kinds, *map(dumps_frame, frames)]

    async def _look(self, thread: str, run_id: str) -> tuple[Bounds, int, list[Any]]:
        reply = await self._run(lua.LOOK, thread, run_id)
        if not reply:
            return Bounds(self._no_epoch, 1, 0), -1, []
        epoch, first, head, start, results = reply
        bounds = Bounds(text(epoch), number(first), number(head))
        if (local := self._threads.get(thread)) is not None:
            local.trim(bounds)
        return bounds, number(start), results

    def _check_open(self) -> None:
        if self._closed:
            raise LogClosed("the thread log has been closed")

    # -- what this process holds of a thread ------------------------------------------------

    def _local(self, key: str) -> LocalThread:
        local = self._threads.get(key)
        if local is None:
            if len(self._threads) >= self._crowd:
                self._let_go_of_idle()
            local = self._threads[key] = LocalThread(key, self._keys(key))
        self._threads.move_to_end(key)
        return local

    def _let_go_of_idle(self) -> None:
        """Forget threads that nothing happens to, those used longest ago first."""
        for thread in list(self._threads.values()):
            if len(self._threads) < _FOLDS:
                break
            if thread.is_idle:
                del self._threads[thread.key]
        self._crowd = max(_FOLDS, 2 * len(self._threads))

    def _settle_followers(self, thread: LocalThread) -> None:
        if not thread.followers and not thread.loading.locked():
            thread.let_go()

    def _wrote(
        self, local: LocalThread, run_id: str, frames: Sequence[Frame], written: Reply
    ) -> Position:
        """Show followers what was written, and fold it in."""
        local.in_epoch(written.epoch)
        local.writer = not any(isinstance(frame, RunFinished) for frame in frames)
        first = written.last - len(frames) + 1
        entries = [
            Entry(first + index, run_id, written.time_ms, frame)
            for index, frame in enumerate(frames)
        ]
        local.folded(entries, self._retention.thread_bytes)
        news = local.push(entries)
        local.trim(Bounds(written.epoch, written.first, written.head))
        if news:
            local.wake()
        if local.followers and (not local.writer or local.head < written.head):
            self._reader.add(local)
        ended = None if local.writer else written.time_ms / 1000
        self._written.note(local.key, written.bytes, run_id, ended)
        local.hidden = written.hidden, written.first - 1 - written.folded
        return Position(written.epoch, written.last)

    async def _settle(self, local: LocalThread) -> None:
        """Store the fold when a run has ended, or much is held for want of one."""
        hidden_bytes, hidden = local.hidden
        limits = self._retention
        much = hidden_bytes > limits.thread_bytes // 8 or hidden > max(64, limits.entries // 8)
        if not much and local.writer:
            return
        try:
            fold, epoch = await self._folded(local)
            await self._run(lua.STORE_FOLD, local.key, epoch, fold.seq, fold.dump())
        except LogClosed:  # the entries are written
            return
        except LogFailed:  # the next one stores it
            logger.exception("the fold of %r could not be stored", local.key)

    async def _folded(self, local: LocalThread) -> tuple[Fold, str]:
        """The fold of a thread as it is now, and its epoch."""
        async with local.folding:
            for _ in range(_TRIES):
                known = Position(local.epoch, local.fold.seq) if local.fold else Position("", 0)
                reply = await self._run(lua.VIEW, local.key, *known)
                if not reply:
                    return Fold(self._retention.thread_bytes), self._no_epoch
                epoch, head, runs, stored = reply
                local.in_epoch(text(epoch))
                if known.epoch == local.epoch and known.seq > number(head):
                    local.go_back(number(head))
                    continue
                if stored:
                    local.fold = self._stored(local, stored)
                if local.fold is None:
                    local.fold = Fold(self._retention.thread_bytes)
                fold = local.fold
                if fold.seq <= number(head):
                    fold.forget({text(run) for run in runs})
                if await self._fold_on(local, number(head)):
                    return fold, local.epoch
                local.fold = None
        raise LogFailed(f"the log of {local.key!r} in Redis has holes")

    def _stored(self, local: LocalThread, stored: bytes) -> Fold:
        try:
            return Fold.load(stored, self._retention.thread_bytes)
        except ValueError as error:
            raise LogFailed(f"the fold of {local.key!r} in Redis is corrupt: {error}") from error

    async def _fold_on(self, local: LocalThread, head: int) -> bool:
        """Fold in what Redis has up to the head; whether it has all of it."""
        fold, limit = local.fold, self._retention.thread_bytes
        while fold is not None and fold.seq < head:
            entries = await self._read(local, fold.seq + 1, head)
            if not entries or local.fold is not fold:
                return False
            before = fold.seq
            local.folded(entries, limit)
            if fold.seq == before:
                return False
        return fold is not None

    async def _read(self, local: LocalThread, first: int, last: int) -> list[Entry]:
        stamp = stamp_of(local.epoch)
        found = await self._server.call(
            local.stream,
            lambda link: link.redis.xrange(
                local.stream, f"{first}-{stamp}", f"{last}-{stamp}", count=_READ_AT_ONCE
            ),
        )
        return [stream_entry(name, fields) for name, fields in found if is_of(stamp, name)]

    async def _resume(self, local: LocalThread, after: Position | None, *, rewind: bool) -> int:
        """Have what comes after a position in the process; the `seq` after which to read.

        Raises:
            GapError: The position cannot be resumed from.
        """
        epoch, seq = after or ("", 0)
        for _ in range(_TRIES):
            reply = await self._run(
                lua.FOLLOW, local.key, self.new_epoch(), epoch, seq, "1" if rewind else "0"
            )
            if reply[0] == b"GAP":
                _, reason, now, first, head = reply
                raise gap_error(
                    cast("GapReason", text(reason)),
                    seq,
                    Bounds(text(now), number(first), number(head)),
                )
            _, now, first, head, time_ms, start = reply
            self._check_open()
            bounds = Bounds(text(now), number(first), number(head))
            if await self._load(local, bounds, number(start)):
                if local.head == bounds.head:
                    local.time_ms = number(time_ms)
                return number(start)
        raise gap_error("trimmed", seq, local.bounds)

    async def _load(self, local: LocalThread, bounds: Bounds, start: int) -> bool:
        """Have the entries after `start` in the process; False: the log has moved on meanwhile."""
        local.in_epoch(bounds.epoch)
        if not local.followers:
            local.begin(start)
        local.trim(bounds)
        losses = local.losses
        older: list[Entry] = []
        while (missing := start + 1 + len(older)) < local.base:
            found = await self._read(local, missing, local.base - 1)
            if not found or found[0].seq != missing:
                return False
            older += found
        if local.losses > losses or local.first > start + 1:
            return False
        local.prepend(older)
        while local.head < bounds.head:
            found = await self._read(local, local.head + 1, bounds.head)
            if local.losses > losses:
                return False
            if local.push(found):
                local.wake()
            elif local.head < bounds.head:
                return False
        return local.first <= start + 1

    async def _check(self, local: LocalThread) -> None:
        """See whether a followed log is still the same."""
        known, time_ms = Position(local.epoch, local.head), local.time_ms
        reply = await self._run(lua.CHECK, local.key, known.seq)
        if not reply:
            local.in_epoch("")
            return
        epoch, *numbers = reply
        first, head, logged_ms = map(number, numbers)
        local.in_epoch(text(epoch))
        if local.epoch != known.epoch:
            return
        if head < known.seq or 0 < time_ms != logged_ms > 0:
            local.go_back(head)
        local.trim(Bounds(local.epoch, first, local.head))
        local.behind = local.head < head

    async def _fit(self) -> None:
        """Drop what is over the limit of all threads, oldest end first."""
        written = self._written
        written.expire((self._clock or time.time)() - self._retention.finished_s)
        while written.ended and written.total >= self._retention.total_bytes:
            _, key, run_id = written.ended[0]
            try:
                left = number(await self._run(lua.DROP, key, run_id))
            except (LogFailed, LogClosed) as error:  # the entries are written; the next drops it
                logger.warning("a run that ended could not be dropped: %s", error)
                return
            written.dropped(key, run_id, left)


def _kind(frame: Frame) -> str:
    if isinstance(frame, RunFinished):
        return "e"
    return "t" if isinstance(frame, TERMINAL) else "d"
