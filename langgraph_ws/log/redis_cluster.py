"""A Redis Cluster: which of its nodes has what, as the nodes say.

redis-py has a client for clusters, which is not used. In it (8.1), a node that does not answer
holds up what all others are asked, who needs one connection more than there may be gets an error,
one `CLUSTERDOWN` closes the connections to all nodes, and `ASKING` may go through another
connection than what it stands for.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

from redis.asyncio import Redis
from redis.crc import key_slot
from redis.exceptions import AskError, ClusterDownError, MovedError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError

from langgraph_ws.log.redis_link import Link
from langgraph_ws.log.redis_pool import COMMAND_S, Address, Node

__all__ = ["Cluster", "close_quietly", "slot_of"]

T = TypeVar("T")

_HOPS = 5
"""How often a command follows where a node sends it."""
_ANSWERS_S = 0.3
"""How long all nodes have to say what they know; later, the first that answers is enough."""
_REST_S = 0.05, 0.5
"""How long nothing is asked after they have said something new, and at most if they do not."""

View = list[tuple[int, int, list[Node]]]
"""What one node says: first and last slot, their master, and its replicas."""


class Cluster:
    """The nodes of a cluster, each with connections of its own.

    Args:
        address: Where some of the nodes are.
        connections: To each of them, at once.
    """

    def __init__(self, address: Address, connections: int) -> None:
        self._address = address
        self._connections = connections
        self._links: dict[Node, Link] = {}
        self._masters: dict[int, Node] = {}  # of the slots that are in use
        self._views: list[View] = []
        self._nodes = {*address.nodes}  # all that are known
        self._trouble = ""  # why a node did not say what it knows
        self._said: set[tuple[int, int, Node]] = set()  # which masters are in the views
        self._uses: Counter[Link] = Counter()  # how many commands are under way on each
        self._questions: dict[Node, asyncio.Task[View]] = {}
        self._learning: asyncio.Task[None] | None = None
        self._rest = _REST_S[0]
        self._rested = float("-inf")  # when they may be asked again
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False

    async def at(self, slot: int, command: Callable[[Link], Awaitable[T]]) -> T:
        """Do something at the node that has a slot, or at whom that sends it to."""
        node = self._masters.get(slot) or await self._find(slot)
        asking = False
        for _ in range(_HOPS):
            try:
                return await self._do(node, command, asking=asking)
            except AskError as error:  # or MovedError, which is one
                node = error.host or node[0], error.port
                asking = not isinstance(error, MovedError)
                if not asking:
                    self._masters[slot] = node
                    if node not in self._masters_in_views(slot):
                        self._rest_less()
        return await self._do(node, command, asking=asking)

    async def learn(self) -> None:
        """Ask the nodes who has what now."""
        if self._learning is None:
            now = asyncio.get_running_loop().time()
            if self._closed or now < self._rested:
                return
            if now > self._rested + 2 * _REST_S[1]:  # nobody has wanted to know for long
                self._rest = _REST_S[0]
            self._learning = asyncio.create_task(self._ask_all(), name="redis cluster")
        await asyncio.shield(self._learning)

    async def close(self) -> None:
        """Let go of the connections, once what was begun is done, and make no others."""
        self._closed = True
        tasks: list[asyncio.Task[Any]] = [*self._questions.values(), *self._closing]
        if self._learning is not None:
            tasks.append(self._learning)
        if tasks:
            await asyncio.wait(tasks)
        for link in {*self._links.values(), *self._uses}:
            await _quietly(link.close)

    async def _find(self, slot: int) -> Node:
        if not self._views:
            await self.learn()
        found = Counter(self._masters_in_views(slot))
        if not found:
            raise ClusterDownError(self._trouble or f"no node of the cluster has slot {slot}")
        [(node, _)] = found.most_common(1)
        return self._masters.setdefault(slot, node)

    def _masters_in_views(self, slot: int) -> list[Node]:
        """The master of a slot, as each node has said."""
        return [
            nodes[0] for view in self._views for first, last, nodes in view if first <= slot <= last
        ]

    async def _do(self, node: Node, command: Callable[[Link], Awaitable[T]], *, asking: bool) -> T:
        """Do something at a node, which keeps its connections until it is done."""
        link = self._link(node)
        self._uses[link] += 1
        try:
            return await command(link.asking() if asking else link)
        finally:
            self._uses[link] -= 1
            if not self._uses[link]:
                del self._uses[link]
                if self._links.get(node) is not link:
                    self._let_go(link)

    def _link(self, node: Node) -> Link:
        link = self._links.get(node)
        if link is None:
            if self._closed:
                raise RedisConnectionError("the connections to the cluster were let go of")
            client = self._address.client(self._connections, COMMAND_S, node)
            link = self._links[node] = Link(client, node)
        return link

    async def _ask_all(self) -> None:
        """Learn from those that answer soon, or from the first that does."""
        for node in self._nodes | set(self._masters.values()):
            if node not in self._questions:
                self._begin_to_ask(node)
        try:
            waiting = set(self._questions.values())
            done, _ = await asyncio.wait(waiting, timeout=_ANSWERS_S)
            while not (views := [view for task in done if (view := _answer(task))]) and waiting:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            self._rest = min(2 * self._rest, _REST_S[1])
            if views:
                self._take(views)
        finally:
            # Jitter, so that processes do not all ask at the same time.
            rest = self._rest * random.uniform(0.8, 1.0)  # noqa: S311
            self._rested = asyncio.get_running_loop().time() + rest
            self._learning = None

    def _rest_less(self) -> None:
        """There is something new to learn."""
        self._rest = _REST_S[0]
        soon = asyncio.get_running_loop().time() + self._rest
        self._rested = min(self._rested, soon)

    def _begin_to_ask(self, node: Node) -> None:
        task = asyncio.create_task(self._ask(node), name="redis cluster")
        self._questions[node] = task
        task.add_done_callback(lambda _: self._questions.pop(node))

    async def _ask(self, node: Node) -> View:
        """Which slots a node knows to be where; nothing, if it does not answer."""
        redis: Any = self._address.reader(COMMAND_S, node)
        try:
            return _view(await redis.execute_command("CLUSTER", "SLOTS"), node)
        except (RedisError, OSError, ValueError, TypeError) as error:
            self._trouble = str(error)
            return []
        finally:
            await close_quietly(redis)

    def _take(self, views: list[View]) -> None:
        self._views, self._trouble = views, ""
        self._masters.clear()
        said = {(first, last, nodes[0]) for view in views for first, last, nodes in view}
        if said != self._said:
            self._said, self._rest = said, _REST_S[0]
        known = {node for view in views for _, _, nodes in view for node in nodes}
        self._nodes = {*self._address.nodes, *known}
        for node in self._links.keys() - known:  # one that returns gets another link
            link = self._links.pop(node)
            if link not in self._uses:
                self._let_go(link)

    def _let_go(self, link: Link) -> None:
        """Close a link on which nothing is under way, or only what nobody waits for."""
        task = asyncio.create_task(_quietly(link.close), name="redis cluster")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


async def close_quietly(redis: Redis) -> None:
    """Close a client; its connection is given up even where redis-py (8.1) raises.

    It disconnects in tasks: a cancellation that met them before they had begun left the connection
    open.
    """
    closing = asyncio.create_task(_quietly(redis.aclose), name="redis closing")
    try:
        await asyncio.wait({closing})
    finally:
        await asyncio.wait({closing})


async def _quietly(close: Callable[[], Awaitable[None]]) -> None:
    with contextlib.suppress(RedisError, OSError):
        await close()


def _answer(task: asyncio.Task[View]) -> View:
    """What came of a question; nothing, if it failed."""
    return [] if task.cancelled() or task.exception() is not None else task.result()


def slot_of(key: str | bytes) -> int:
    """The slot of a key."""
    return key_slot(key.encode() if isinstance(key, str) else key)


def _view(reply: Iterable[Any], asked: Node) -> View:
    """What a node has said; an address without a host is at the one that was asked."""
    return [
        (
            int(first),
            int(last),
            [(host.decode() if host else asked[0], int(port)) for host, port, *_ in nodes],
        )
        for first, last, *nodes in reply
    ]
