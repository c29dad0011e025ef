"""Redis as the log and its registry talk to it: what may pass is tried again, within limits."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import (
    AskError,
    ClusterDownError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from langgraph_ws.errors import LogClosed, LogFailed, LogUnavailable
from langgraph_ws.log.redis_cluster import Cluster, close_quietly, slot_of
from langgraph_ws.log.redis_link import Link
from langgraph_ws.log.redis_pool import COMMAND_S, Address

__all__ = ["PAUSES_S", "Server", "number", "some_at_once", "text"]

PAUSES_S = (0.02, 0.05, 0.1, 0.2, 0.5)
"""Between attempts to reach Redis; the last again and again."""
_AT_ONCE = 8
_TRANSIENT = (
    RedisConnectionError,
    RedisTimeoutError,
    ReadOnlyError,
    ClusterDownError,
    AskError,
    TryAgainError,
)
"""What may pass: Redis restarts, loads its data, does not answer in time, another becomes the
master, or keys are on their way from one node of a cluster to another."""
_REFUSED_FOR_NOW = re.compile("(^|: -)(READONLY|NOREPLICAS|BUSY) ")
"""The same where redis-py has no class for it: too few replicas follow, a script of somebody else
is running; and within a script, whose errors Redis 6.2 wraps in its own."""


class Server:
    """Redis, with what may pass tried again: everything that is sent can be sent twice.

    Args:
        url: Where Redis is.
        patience: Seconds that it may be away before what needs it fails.
        connections: Connections at once, beside those of `blocking`; in a cluster, to each node.

    Attributes:
        is_cluster: Whether a command reaches the keys of one slot only.

    Raises:
        ConfigurationError: The URL is none.
    """

    def __init__(self, url: str, patience: float, connections: int) -> None:
        self._address = Address(url)
        self._patience = patience
        self._cluster: Cluster | None = None
        if self._address.nodes:
            self._cluster = Cluster(self._address, connections)
        else:
            self._link = Link(self._address.client(connections, COMMAND_S))
        self.is_cluster = self._cluster is not None
        self._away_since: float | None = None
        self._away: set[int] = set()  # the slots whose node has not answered since
        self._closed = False

    @property
    def away_s(self) -> float:
        """For how many seconds Redis has not answered at all; 0: it answers."""
        if self._away_since is None:
            return 0.0
        return max(asyncio.get_running_loop().time() - self._away_since, 0.001)

    @property
    def is_whole(self) -> bool:
        """Whether all that was asked for lately has answered."""
        return not self._away

    async def ping(self, key: str | bytes) -> None:
        """See whether Redis answers; in a cluster, the node that has a key.

        Raises:
            LogUnavailable: It does not.
        """
        await self.call(key, lambda link: link.redis.ping())

    async def close(self) -> None:
        """Let go of the connections, once what was begun is done, and make no others."""
        self._closed = True
        await (self._link if self._cluster is None else self._cluster).close()
        await self._address.close()

    async def blocking(self, key: str | bytes, seconds: float) -> Redis:
        """A connection for commands on a key that may wait so long.

        Its loss is an error: who gets it can learn what Redis holds now, and be told if another
        Redis may answer later.

        Raises:
            LogFailed: There is none to be had.
        """

        async def connect(link: Link) -> Redis:
            redis = self._address.reader(seconds + COMMAND_S, link.node)
            try:
                await redis.xlen(key)  # so that it is connected, and to whom has the key
            except BaseException:
                await close_quietly(redis)
                raise
            return redis

        connection: Redis = await self.call(key, connect, COMMAND_S)
        return connection

    async def run(self, script: str, keys: Sequence[bytes], *arguments: Any) -> Any:
        """Run a script."""
        return await self.call(keys[0], lambda link: link.evaluate(script, keys, arguments))

    async def call(
        self, key: str | bytes, command: Callable[[Link], Any], patience: float | None = None
    ) -> Any:
        """Do something with the Redis that has a key, again and again while it is away.

        Raises:
            LogUnavailable: It stayed away for too long.
            LogFailed: It refused.
            LogClosed: The connections were let go of.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (self._patience if patience is None else patience)
        pauses: Iterator[float] = iter(PAUSES_S)
        pause = 0.0
        slot = 0 if self._cluster is None else slot_of(key)
        while True:
            if self._closed:
                raise LogClosed("the thread log has been closed")
            try:
                if self._cluster is None:
                    reply = await command(self._link)
                else:
                    reply = await self._cluster.at(slot, command)
            except RedisError as error:
                if isinstance(error, AskError) and not self.is_cluster:
                    raise LogFailed("Redis is a cluster, whose URL is redis+cluster://…") from error
                if not _may_pass(error):
                    raise LogFailed(f"Redis refused: {error}") from error
                self._away_since = self._away_since or loop.time()
                self._away.add(slot)
                pause = next(pauses, pause)
                if loop.time() + pause > deadline:
                    raise LogUnavailable(f"Redis is away: {error}") from error
                await asyncio.sleep(pause)
                with contextlib.suppress(RedisError, OSError):  # the next attempt will tell
                    await self._look_anew(error)
            else:
                if self._away:
                    self._away_since = None
                    self._away.discard(slot)
                return reply

    async def _look_anew(self, error: RedisError) -> None:
        """See where Redis is now."""
        if self._cluster is not None:
            if not isinstance(error, TryAgainError):
                await self._cluster.learn()
        elif isinstance(error, ResponseError):  # its address may lead to another by now
            pool = self._link.redis.connection_pool
            await pool.disconnect(inuse_connections=False)


def _may_pass(error: RedisError) -> bool:
    return isinstance(error, _TRANSIENT) or bool(_REFUSED_FOR_NOW.search(str(error)))


async def some_at_once(works: Iterable[Awaitable[object]]) -> None:
    """Do all of them, a few at a time; the first error is raised when all are done."""
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(work: Awaitable[object]) -> None:
        async with gate:
            await work

    results = await asyncio.gather(*map(one, works), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result


def text(value: Any) -> str:
    """A text as Redis returns it."""
    return value.decode() if isinstance(value, bytes) else str(value)


def number(value: Any) -> int:
    """A number as a script returns it.

    Raises:
        LogFailed: It is none.
    """
    try:
        return int(value)
    except (TypeError, ValueError):
        raise LogFailed(f"expected a number from Redis, got {value!r}") from None
