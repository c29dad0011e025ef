"""Redis as the log and its registry talk to it: what may pass is tried again, within limits."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any, cast

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import (
    MasterDownError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import TimeoutError as RedisTimeoutError

from langgraph_ws.errors import LogClosed, LogFailed, LogUnavailable
from langgraph_ws.log.redis_pool import COMMAND_S, Address

__all__ = ["PAUSES_S", "Server", "number", "some_at_once", "text"]

PAUSES_S = (0.02, 0.05, 0.1, 0.2, 0.5)
"""Between attempts to reach Redis; the last again and again."""
_AT_ONCE = 8
_PIPELINED = 64
"""Scripts that are sent at once, at most."""
_TRANSIENT = (RedisConnectionError, RedisTimeoutError, ReadOnlyError, MasterDownError)
"""What may pass: Redis restarts, loads its data, does not answer in time, or another becomes the
master."""
_REFUSED_FOR_NOW = re.compile("(^|: -)(READONLY|NOREPLICAS|BUSY) ")
"""The same where redis-py has no class for it: too few replicas follow, a script of somebody else
is running; and within a script, whose errors Redis 6.2 wraps in its own."""


class Server:
    """Redis, with what may pass tried again: everything that is sent can be sent twice.

    Args:
        url: Where Redis is.
        patience: Seconds that it may be away before what needs it fails.
        connections: Connections at once, beside those of `blocking`.

    Raises:
        ConfigurationError: The URL is none.
    """

    def __init__(self, url: str, patience: float, connections: int) -> None:
        self._address = Address(url)
        self._patience = patience
        self._redis = self._address.client(connections, COMMAND_S)
        self._scripts: dict[str, str] = {}
        self._waiting: list[tuple[tuple[Any, ...], asyncio.Future[Any]]] = []
        self._sender: asyncio.Task[None] | None = None
        self._away_since: float | None = None
        self._closed = False

    @property
    def away_s(self) -> float:
        """For how many seconds Redis has not answered; 0: it answers."""
        if self._away_since is None:
            return 0.0
        return max(asyncio.get_running_loop().time() - self._away_since, 0.001)

    async def ping(self) -> None:
        """See whether Redis answers.

        Raises:
            LogUnavailable: It does not.
        """
        await self.call(lambda redis: redis.ping())

    async def close(self) -> None:
        """Let go of the connections, once what was begun is done, and make no others."""
        self._closed = True
        if self._sender is not None:
            await asyncio.wait({self._sender})
        await self._redis.aclose()
        await self._address.close()

    def blocking(self, seconds: float) -> Redis:
        """A client of one connection whose commands may wait so long; its loss is an error."""
        return self._address.reader(seconds + COMMAND_S)

    async def run(self, script: str, keys: Sequence[bytes], *arguments: Any) -> Any:
        """Run a script."""
        return await self.call(lambda redis: self._evaluate(redis, script, keys, arguments))

    async def _evaluate(
        self, redis: Redis, script: str, keys: Sequence[bytes], arguments: Sequence[Any]
    ) -> Any:
        sha = self._scripts.get(script)
        if sha is not None:
            try:
                return await self._send("EVALSHA", sha, len(keys), *keys, *arguments)
            except NoScriptError:  # Redis was restarted
                pass
        self._scripts[script] = await cast("Any", redis.script_load(script))
        return await self._send("EVALSHA", self._scripts[script], len(keys), *keys, *arguments)

    def _send(self, *command: Any) -> asyncio.Future[Any]:
        """Send a command, together with those that come while others are on their way."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        self._waiting.append((command, answer))
        if self._sender is None:
            self._sender = loop.create_task(self._send_all())
        return answer

    async def _send_all(self) -> None:
        while batch := self._waiting[:_PIPELINED]:
            del self._waiting[:_PIPELINED]
            pipeline = self._redis.pipeline(transaction=False)
            for command, _ in batch:
                pipeline.execute_command(*command)
            replies: Sequence[Any]
            try:
                replies = await pipeline.execute(raise_on_error=False)
            except Exception as error:
                replies = [error] * len(batch)
            for (_, answer), reply in zip(batch, replies, strict=True):
                if answer.done():  # nobody waits any more
                    continue
                if isinstance(reply, Exception):
                    answer.set_exception(reply)
                else:
                    answer.set_result(reply)
        self._sender = None

    async def call(self, command: Callable[[Redis], Any], patience: float | None = None) -> Any:
        """Do something with Redis, again and again while it is away.

        Raises:
            LogUnavailable: It stayed away for too long.
            LogFailed: It refused.
            LogClosed: The connections were let go of.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (self._patience if patience is None else patience)
        pauses: Iterator[float] = iter(PAUSES_S)
        pause = 0.0
        while True:
            if self._closed:
                raise LogClosed("the thread log has been closed")
            try:
                reply = await command(self._redis)
            except RedisError as error:
                if not _may_pass(error):
                    raise LogFailed(f"Redis refused: {error}") from error
                self._away_since = self._away_since or loop.time()
                pause = next(pauses, pause)
                if loop.time() + pause > deadline:
                    raise LogUnavailable(f"Redis is away: {error}") from error
                if isinstance(error, ResponseError):  # its address may lead to another by now
                    pool = self._redis.connection_pool
                    await pool.disconnect(inuse_connections=False)
                await asyncio.sleep(pause)
            else:
                self._away_since = None
                return reply


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
