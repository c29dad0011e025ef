"""What reads, for the followed threads of a process, what others write in Redis."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from redis.asyncio import Redis
from redis.exceptions import MovedError, RedisError

from langgraph_ws.errors import LogFailed
from langgraph_ws.log import Position
from langgraph_ws.log.redis_cluster import close_quietly
from langgraph_ws.log.redis_pool import COMMAND_S
from langgraph_ws.log.redis_server import PAUSES_S, Server, some_at_once, text
from langgraph_ws.log.redis_thread import LocalThread, is_of, stamp_of, stream_entry

__all__ = ["Reader", "Readers"]

logger = logging.getLogger(__name__)

_BLOCK_S = 2.0
"""How long a reader waits for news before it looks whether the logs are still the same."""
_READ_AT_ONCE = 256
_WAKE_KEPT_S = 3_600


class Readers:
    """One reader for all threads; in a cluster, where who waits names one slot, one for each.

    Args:
        server: Redis.
        check: Sees whether a followed log is still the same.
        wake: The key that wakes the reader of a shard.
        bell: The key that all processes share.
    """

    def __init__(
        self,
        server: Server,
        check: Callable[[LocalThread], Any],
        *,
        wake: Callable[[str], str],
        bell: str,
    ) -> None:
        self._server = server
        self._check = check
        self._wake = wake
        self._bell = bell
        self._readers: dict[str, Reader] = {}
        self._closed = False

    async def listen(self, hear: Callable[[Mapping[bytes, bytes]], None]) -> None:
        """Hear the bell from now on."""
        await self._of(self._bell).listen(self._bell, hear)

    def add(self, thread: LocalThread) -> None:
        """Read a thread as long as it is followed here and written elsewhere."""
        if not self._closed:
            self._of(thread.stream).add(thread)

    async def close(self) -> None:
        """Read nothing any more."""
        self._closed = True
        await asyncio.gather(*(reader.close() for reader in self._readers.values()))

    def _of(self, key: str) -> Reader:
        shard = _shard_of(key if self._server.is_cluster else self._bell)
        if shard not in self._readers:
            self._readers[shard] = Reader(self._server, self._check, self._wake(shard))
        return self._readers[shard]


class Reader:
    """Reads what others write, for threads whose keys it may name together.

    It reads from explicit positions (`$` is evaluated anew at each call, and skips what came
    between), and is woken by a key of its own when there is one thread more. It also hears the
    bell that all processes share, if it is told to.
    """

    def __init__(self, server: Server, check: Callable[[LocalThread], Any], wake: str) -> None:
        self._server = server
        self._check = check
        self._wake = wake
        self._bell = ""
        self._hear: Callable[[Mapping[bytes, bytes]], None] | None = None
        self._threads: dict[str, LocalThread] = {}
        self._task: asyncio.Task[None] | None = None
        self._woken = self._heard = "0-0"
        self._reading: set[str] = set()
        self._ringing: asyncio.Task[None] | None = None
        self._closed = False

    async def listen(self, bell: str, hear: Callable[[Mapping[bytes, bytes]], None]) -> None:
        """Hear a bell from now on."""
        last = await self._server.call(bell, lambda link: link.redis.xrevrange(bell, count=1))
        self._heard = text(last[0][0]) if last else "0-0"
        self._bell, self._hear = bell, hear
        self._begin()

    def add(self, thread: LocalThread) -> None:
        """Read a thread as long as it is followed here and written elsewhere."""
        self._threads[thread.stream] = thread
        if not self._begin() and thread.is_remote and thread.stream not in self._reading:
            self._call()

    def _begin(self) -> bool:
        if self._task is not None and not self._task.done():
            return False
        self._task = asyncio.create_task(self._read(), name="redis reader")
        return True

    async def close(self) -> None:
        """Read nothing any more."""
        self._closed = True
        if self._task is None:
            return
        self._call()
        done, _ = await asyncio.wait({self._task}, timeout=COMMAND_S)
        if not done:
            self._task.cancel()
        await asyncio.wait({self._task, *([self._ringing] if self._ringing else [])})

    def _call(self) -> None:
        """Have the reader look again which threads there are."""
        if self._ringing is None:
            self._ringing = asyncio.create_task(self._ring())

    async def _ring(self) -> None:
        try:
            await self._server.call(
                self._wake,
                lambda link: link.redis.xadd(self._wake, {"w": ""}, maxlen=4, approximate=False),
                0,
            )
            await self._server.call(
                self._wake, lambda link: link.redis.expire(self._wake, _WAKE_KEPT_S), 0
            )
        except LogFailed as error:  # the reader looks of its own accord before long
            logger.debug("the reader of the log could not be woken: %s", error)

    async def _read(self) -> None:
        # Who comes while the connection is closed finds the task running: it looks once more, and
        # nothing comes between the last look and its end.
        while not self._closed and self._followed():
            await self._read_on()

    async def _read_on(self) -> None:
        """Read until nobody is followed any more."""
        redis: Redis | None = None
        loop = asyncio.get_running_loop()
        checked = 0.0
        try:
            while not self._closed and self._followed():
                try:
                    if redis is None:
                        # Another Redis may answer from now on, with less in it: what is known is
                        # compared when it is connected, and before anything is read from it.
                        redis = await self._server.blocking(self._wake, _BLOCK_S)
                        checked = float("-inf")
                    if loop.time() - checked >= _BLOCK_S:
                        await self._check_all()
                        checked = loop.time()
                    await self._read_once(redis)
                except (RedisError, LogFailed) as error:
                    if not self._closed and not isinstance(error, MovedError):
                        logger.warning("the log in Redis cannot be read: %s", error)
                        await asyncio.sleep(PAUSES_S[-1])
                    if redis is not None:
                        await close_quietly(redis)
                        redis = None
                except Exception:
                    logger.exception("what was read from Redis could not be shown")
                    await asyncio.sleep(PAUSES_S[-1])
        finally:
            if redis is not None:
                await close_quietly(redis)

    def _followed(self) -> bool:
        self._threads = {
            stream: thread for stream, thread in self._threads.items() if thread.followers
        }
        return self._hear is not None or bool(self._threads)

    async def _read_once(self, redis: Redis) -> None:
        remote = {stream: t for stream, t in self._threads.items() if t.is_remote}
        self._reading, self._ringing = set(remote), None
        streams: Any = {self._wake: self._woken}
        if self._hear is not None:
            streams[self._bell] = self._heard
        heads = {stream: Position(thread.epoch, thread.head) for stream, thread in remote.items()}
        streams |= {stream: f"{at.seq}-{stamp_of(at.epoch)}" for stream, at in heads.items()}
        reply = await redis.xread(streams, count=_READ_AT_ONCE, block=int(_BLOCK_S * 1000))
        for stream, entries in cast("Any", reply) or ():
            name = text(stream)
            if name == self._wake:
                self._woken = text(entries[-1][0])
            elif name == self._bell and self._hear is not None:
                self._heard = text(entries[-1][0])
                for _, news in entries:
                    self._hear(news)
            elif (thread := self._threads.get(name)) is not None:
                await self._take(thread, heads[name], entries)

    async def _take(self, thread: LocalThread, after: Position, found: Sequence[Any]) -> None:
        """Take what was read of a thread, unless it is read from elsewhere by now."""
        if thread.epoch != after.epoch or thread.head < after.seq:
            return
        stamp = stamp_of(after.epoch)
        if all(is_of(stamp, name) for name, _ in found):
            self._show(thread, found)
        else:
            await self._check(thread)
            if thread.epoch == after.epoch:
                logger.error("the log of %r is corrupt: it has entries of another", thread.key)
                thread.corrupt = True
                thread.wake()

    def _show(self, thread: LocalThread, found: Sequence[Any]) -> None:
        try:
            entries = [stream_entry(name, fields) for name, fields in found]
        except LogFailed:
            logger.exception("the log of %r is corrupt", thread.key)
            thread.corrupt = True
            thread.wake()
            return
        if entries[0].seq > thread.head + 1:
            thread.skip_to(entries[0].seq)
        thread.behind = False
        if thread.push(entries):
            thread.wake()

    async def _check_all(self) -> None:
        await some_at_once(map(self._check, list(self._threads.values())))


def _shard_of(key: str) -> str:
    """What keys have in common that are in the same slot."""
    return key[key.index("{") + 1 : key.index("}")]
