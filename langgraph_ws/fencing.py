"""A graph whose checkpoints only the holder of a lease may write.

Checkpointers have no fencing: a process that was stopped for a while and goes on overwrites the
newest checkpoint, and repeats side effects (langgraph 1.2.22). The check comes before each write,
so it narrows the window and does not close it; it closes with the lease's time to spare. It comes
after each write, too: if the lease has run out meanwhile, another process may have begun without
what was written, and the next step is not for this one to begin.

Nor do checkpointers save in the order in which they are asked to. `AsyncPostgresSaver` turns the
writes of a task into bytes in a thread before it queues for its connection
(langgraph-checkpoint-postgres 3.2), so the next checkpoint can overtake them; a process that is
killed in between leaves a step whose results are nowhere, though the next one builds on them. Here
a checkpoint waits for the writes that were begun before it.
"""

from __future__ import annotations

import asyncio
import copy
from typing import Any

from langgraph.checkpoint.base import BaseCheckpointSaver

from langgraph_ws.errors import LeaseLost
from langgraph_ws.graphs import Graph
from langgraph_ws.log.registry import Lease

__all__ = ["fenced"]

_WRITES = ("put", "put_writes", "delete_thread")


def fenced(graph: Graph, lease: Lease) -> Graph:
    """The graph, writing its checkpoints under the lease; the user's own objects stay as they are.

    Its subgraphs do so too, unless they were compiled with a checkpointer of their own.
    """
    saver = getattr(graph, "checkpointer", None)
    if not isinstance(saver, BaseCheckpointSaver):
        return graph
    guarded = copy.copy(saver)
    guarded.__class__ = _fenced_class(type(saver), lease)
    twin = copy.copy(graph)
    twin.checkpointer = guarded
    return twin


def _fenced_class(kind: type[Any], lease: Lease) -> type[Any]:
    """The class of a saver that works as this one, in order and as long as the lease is held."""
    members: dict[str, Any] = {"__module__": kind.__module__, "__slots__": ()}
    for name in _WRITES:
        members[name] = _guarded(getattr(kind, name), lease)
        members[f"a{name}"] = _guarded_async(getattr(kind, f"a{name}"), lease)
    begun: set[asyncio.Future[None]] = set()
    members["aput_writes"] = _noted(members["aput_writes"], begun)
    members["aput"] = _after(members["aput"], begun)
    return type(f"Fenced{kind.__name__}", (kind,), members)


def _guarded(function: Any, lease: Lease) -> Any:
    def write(self: Any, *arguments: Any, **named: Any) -> Any:
        _check(lease)
        result = function(self, *arguments, **named)
        _check(lease)
        return result

    return write


def _guarded_async(function: Any, lease: Lease) -> Any:
    async def write(self: Any, *arguments: Any, **named: Any) -> Any:
        _check(lease)
        result = await function(self, *arguments, **named)
        _check(lease)
        return result

    return write


def _noted(function: Any, begun: set[asyncio.Future[None]]) -> Any:
    async def write(self: Any, *arguments: Any, **named: Any) -> Any:
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        begun.add(ended)
        try:
            return await function(self, *arguments, **named)
        finally:
            begun.discard(ended)
            ended.set_result(None)

    return write


def _after(function: Any, begun: set[asyncio.Future[None]]) -> Any:
    async def write(self: Any, *arguments: Any, **named: Any) -> Any:
        if begun:
            await asyncio.wait(begun)
        return await function(self, *arguments, **named)

    return write


def _check(lease: Lease) -> None:
    if not lease.is_held:
        raise LeaseLost(f"run {lease.ticket.run_id} may be carried by another process by now")
