"""One Redis, and the scripts that are sent to it: those that come together go together."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Iterable, Sequence
from functools import cache
from hashlib import sha1
from typing import Any, TypeAlias, cast

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from langgraph_ws.log.redis_pool import Node

__all__ = ["Link"]

_Sent: TypeAlias = tuple[tuple[Any, ...], asyncio.Future[Any]]
"""A command, and who waits for the reply."""

_CANCELLED = "what sends to Redis was cancelled"
_PIPELINED = 64
"""Scripts that are sent at once, at most."""


class Link:
    """A Redis, and the scripts that are on their way to it.

    Args:
        redis: A client, which closes with it.
        node: Which node of a cluster it is.
    """

    def __init__(self, redis: Redis, node: Node | None = None) -> None:
        self.redis = redis
        self.node = node
        self._waiting: list[_Sent] = []
        self._sender: asyncio.Task[None] | None = None

    async def evaluate(self, script: str, keys: Sequence[bytes], arguments: Sequence[Any]) -> Any:
        """Run a script."""
        try:
            return await self._send("EVALSHA", _name_of(script), len(keys), *keys, *arguments)
        except NoScriptError:  # it is new to this Redis, or was forgotten
            return await self._send("EVAL", script, len(keys), *keys, *arguments)

    def asking(self) -> Link:
        """The same for what is about to be moved to this node of a cluster."""
        return _Asking(_AskingRedis(connection_pool=self.redis.connection_pool), self.node)

    async def close(self) -> None:
        """Let go of the connections, once what was begun is done."""
        if self._sender is not None:
            await asyncio.wait({self._sender})
        await self.redis.aclose()

    def _send(self, *command: Any) -> Awaitable[Any]:
        """Send a command, together with those that come while others are on their way."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        self._waiting.append((command, answer))
        if self._sender is None or self._sender.done():
            self._sender = loop.create_task(self._send_all())
            self._sender.add_done_callback(self._end)
        return answer

    async def _send_all(self) -> None:
        while batch := self._waiting[:_PIPELINED]:
            del self._waiting[:_PIPELINED]
            try:
                await self._exchange(batch)
            except Exception as error:
                _fail(batch, error)
            except BaseException:
                _fail(batch, RedisConnectionError(_CANCELLED))
                raise

    def _end(self, sender: asyncio.Task[None]) -> None:
        """Leave nobody waiting for a task that was cancelled."""
        if self._sender is sender:
            left, self._waiting, self._sender = self._waiting, [], None
            _fail(left, RedisConnectionError(_CANCELLED))

    async def _exchange(self, batch: Sequence[_Sent]) -> None:
        """Send commands, and give to each the reply, or the error, that it gets.

        redis-py's own pipeline (8.1) sets a timer for each reply and calls a dozen functions for
        each command: that was a fifth of what a token costs with the log in Redis.
        """
        loop = asyncio.get_running_loop()
        pool: Any = self.redis.connection_pool
        connection: AbstractConnection = await pool.get_connection()
        try:
            commands = connection.pack_commands([command for command, _ in batch])
            await connection.send_packed_command(commands)
            patience = connection.socket_timeout
            async with asyncio.timeout(patience) as timer:
                heard = loop.time()
                for sent in batch:
                    try:
                        reply = await connection.read_response(timeout=math.inf)
                    except ResponseError as error:
                        _fail([sent], error)
                    else:
                        if not sent[1].done():  # else nobody waits any more
                            sent[1].set_result(reply)
                    now = loop.time()
                    if patience is not None and now - heard > patience / 8:
                        heard = now
                        timer.reschedule(now + patience)
        except BaseException as error:
            await connection.disconnect(nowait=True)  # replies may still come
            if isinstance(error, TimeoutError):
                raise RedisTimeoutError("Redis does not answer") from None
            raise
        finally:
            await pool.release(connection)


def _fail(sent: Iterable[_Sent], error: Exception) -> None:
    """Tell who still waits for a reply that there is none."""
    for _, answer in sent:
        if not answer.done():
            answer.set_exception(error)


class _Asking(Link):
    """A node that is about to get the slot of what is sent to it."""

    def _send(self, *command: Any) -> Awaitable[Any]:
        return cast("Awaitable[Any]", cast("Any", self.redis).execute_command(*command))


class _AskingRedis(Redis):
    """Says before each command, on the same connection, that another node has sent it here."""

    async def execute_command(self, *command: Any, **options: Any) -> Any:
        pipeline = self.pipeline(transaction=False)
        pipeline.execute_command("ASKING")
        pipeline.execute_command(*command, **options)
        _, reply = await pipeline.execute(raise_on_error=False)
        if isinstance(reply, Exception):
            raise reply
        return reply


@cache
def _name_of(script: str) -> str:
    """What Redis calls a script."""
    return sha1(script.encode(), usedforsecurity=False).hexdigest()
