"""Explores the interleavings of operations: they wait at gates, and one at a time goes on.

An operation is a task that stops before and after each thing it waits for. Where several could go
on, the explorer chooses: depth-first over all choices, and where these are too many, at random (the
same at each run). Two steps that touch nothing in common come out the same in either order, so one
order is enough (sleep sets, Godefroid 1996).

A schedule is told when something fails in it; `INTERLEAVING="a b a …"` in the environment has the
tests follow only that one. `INTERLEAVINGS=all` has them try many more, for as long as that takes.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple

__all__ = ["THOROUGHLY", "Explored", "Gates", "Operation", "at_gates", "explore"]

THOROUGHLY = os.environ.get("INTERLEAVINGS") == "all"
_STUCK_S = 10.0
"""How long nothing may happen while operations are not done."""
_STEPS = 5_000
_gates: ContextVar[Gates | None] = ContextVar("gates", default=None)


Steps = Mapping[str, str]
"""What each operation that could go on would touch next: its home, or what all share."""


class Operation(NamedTuple):
    """What is done, and where: operations of one home share what is in its memory."""

    home: str
    work: Callable[[], Awaitable[Any]]


@dataclass(eq=False)
class _Actor:
    """A task; `step`: what it would do next, while it is at a gate; `away`: it does it."""

    name: str
    home: str
    task: asyncio.Task[Any]
    step: str | None = None
    away: bool = False
    gate: asyncio.Future[None] | None = None


class Redundant(Exception):
    """What comes has been seen in another order."""


class Gates:
    """Where the operations of one schedule wait.

    Args:
        choose: Chooses who goes on, of those that could.
        adopts: Whether the tasks that operations start wait at gates, too.

    Attributes:
        schedule: Who has gone on, in order.
        outcomes: What came of each operation, in the order in which they were given: what it
            returned, or what it raised.
        shared: The first and the last step of each operation that touched what is shared.
        cancelled: The operations that were cancelled by another.
    """

    def __init__(self, choose: Callable[[Steps], str], *, adopts: bool = False) -> None:
        self.schedule: list[str] = []
        self.outcomes: dict[str, Any] = {}
        self.shared: dict[str, tuple[int, int]] = {}
        self.cancelled: set[str] = set()
        self._choose = choose
        self._adopts = adopts
        self._actors: dict[asyncio.Task[Any], _Actor] = {}
        self._changed = asyncio.Event()
        self._open = False

    @contextmanager
    def passing(self) -> Iterator[None]:
        """Let the tasks that are started now pass every gate, until operations are run."""
        before, self._open = _gates.set(self), True
        try:
            yield
        finally:
            _gates.reset(before)

    async def run(self, operations: Mapping[str, Operation]) -> None:
        """Carry out operations until all are done and nobody waits at a gate."""
        before, self._open = _gates.set(self), False
        try:
            for name, (home, work) in operations.items():
                task = asyncio.create_task(self._carry(name, work), name=name)
                self._actors[task] = _Actor(name, home, task)
                self.outcomes[name] = None
        finally:
            _gates.reset(before)
        mains = list(self._actors)
        try:
            await self._go_on(mains)
        finally:
            self._open = True
            for task, actor in list(self._actors.items()):
                if task in mains:
                    task.cancel()
                else:
                    self._let(actor)
            await asyncio.gather(*mains, return_exceptions=True)

    def cancel(self, name: str) -> None:
        """Cancel an operation."""
        for actor in self._actors.values():
            if actor.name == name and actor.task.cancel():
                self.cancelled.add(name)

    async def _go_on(self, mains: Sequence[asyncio.Task[Any]]) -> None:
        for _ in range(_STEPS):
            await self._settle()
            steps = {a.name: a.step for a in self._actors.values() if a.step is not None}
            if not steps:
                if all(task.done() for task in mains):
                    return
                await self._wait_for_timers()
                continue
            name = self._choose(steps)
            [actor] = [actor for actor in self._actors.values() if actor.name == name]
            if steps[name] != actor.home:
                first, _ = self.shared.get(name, (len(self.schedule), 0))
                self.shared[name] = first, len(self.schedule)
            self.schedule.append(name)
            self._let(actor)
        raise AssertionError("there is no end to it")

    async def _carry(self, name: str, work: Callable[[], Awaitable[Any]]) -> None:
        try:
            await self.reach(None)
            self.outcomes[name] = await work()
        except asyncio.CancelledError as error:
            self.outcomes[name] = error
        except Exception as error:
            self.outcomes[name] = error
        finally:
            self._changed.set()

    async def _settle(self) -> None:
        """Wait until everybody is at a gate, done, or waits for another."""
        ready: Any = asyncio.get_running_loop()._ready  # type: ignore[attr-defined]
        while True:
            await asyncio.sleep(0)
            if ready:
                continue
            if not any(actor.away and not actor.task.done() for actor in self._actors.values()):
                return
            self._changed.clear()
            await self._changed.wait()

    async def _wait_for_timers(self) -> None:
        self._changed.clear()
        try:
            async with asyncio.timeout(_STUCK_S):
                await self._changed.wait()
        except TimeoutError:
            blocked = [a.name for a in self._actors.values() if not a.task.done()]
            raise AssertionError(f"{blocked} wait for each other") from None

    def _let(self, actor: _Actor) -> None:
        if actor.gate is not None and not actor.gate.done():
            actor.away = actor.step is not None and actor.step != actor.home
            actor.gate.set_result(None)
        actor.step = None

    async def reach(self, what: str | None) -> None:
        """Wait at a gate, before something is done with `what`; None: with what is at home."""
        actor = self.actor()
        if actor is None or self._open:
            return
        actor.away = False
        actor.step = what or actor.home
        actor.gate = asyncio.get_running_loop().create_future()
        self._changed.set()
        try:
            await actor.gate
        finally:
            actor.step = actor.gate = None

    def actor(self) -> _Actor | None:
        """The task that asks; None: it does not wait at gates."""
        task = asyncio.current_task()
        assert task is not None
        if task not in self._actors and self._adopts and not self._open:
            coroutine: Any = task.get_coro()
            name = f"{coroutine.__qualname__}:{len(self._actors)}"
            self._actors[task] = _Actor(name, "here", task)
            task.add_done_callback(lambda _: self._changed.set())
        return self._actors.get(task)


@asynccontextmanager
async def at_gates(what: str) -> AsyncIterator[None]:
    """Do something with `what`, and wait at a gate before and after, within an operation."""
    gates = _gates.get()
    if gates is None or (actor := gates.actor()) is None or actor.away:
        yield
        return
    await gates.reach(what)
    try:
        yield
    finally:
        await gates.reach(None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Explored:
    """How many schedules there were, and whether they are all that differ."""

    schedules: int
    is_all: bool


@dataclass(slots=True)
class _Node:
    """A choice: what could go on, what need not be tried (any more), and what was chosen."""

    steps: dict[str, str]
    asleep: dict[str, str]
    chosen: str
    tried: dict[str, str] = field(default_factory=dict)

    @property
    def left(self) -> list[str]:
        return [name for name in self.steps if name not in self.asleep | self.tried]


class _DepthFirst:
    """Chooses what has not been chosen before, last choice first."""

    def __init__(self) -> None:
        self._path: list[_Node] = []
        self._depth = 0

    def begin(self) -> None:
        self._depth = 0

    def choose(self, steps: Steps) -> str:
        node = self._path[self._depth] if self._depth < len(self._path) else None
        if node is None or node.steps != steps:  # a timer was early or late
            del self._path[self._depth :]
            node = self._node(dict(steps))
            self._path.append(node)
        self._depth += 1
        return node.chosen

    def _node(self, steps: dict[str, str]) -> _Node:
        asleep: dict[str, str] = {}
        if self._path:
            parent = self._path[-1]
            done = parent.steps[parent.chosen]
            asleep = {
                name: step
                for name, step in (parent.asleep | parent.tried).items()
                if name != parent.chosen and step != done and name in steps
            }
        node = _Node(steps, asleep, "")
        if not node.left:
            raise Redundant
        node.chosen = node.left[0]
        return node

    def next(self) -> bool:
        """Go on to the next schedule; whether there is one."""
        while self._path:
            node = self._path[-1]
            node.tried[node.chosen] = node.steps[node.chosen]
            if node.left:
                node.chosen = node.left[0]
                return True
            self._path.pop()
        return False


def _at_random(chance: random.Random) -> Callable[[Steps], str]:
    """Chooses by priorities that change now and then, so that some get far ahead of others."""
    ranks: dict[str, float] = {}

    def choose(steps: Steps) -> str:
        for name in steps:
            if name not in ranks or chance.random() < 0.2:
                ranks[name] = chance.random()
        return max(steps, key=lambda name: ranks[name])

    return choose


def _following(schedule: Sequence[str]) -> Callable[[Steps], str]:
    left = list(schedule)

    def choose(steps: Steps) -> str:
        while left:
            if (name := left.pop(0)) in steps:
                return name
        return next(iter(steps))

    return choose


async def explore(
    name: str,
    carry_out: Callable[[Gates], Awaitable[None]],
    *,
    most: int,
    at_random: int = 0,
    adopts: bool = False,
) -> Explored:
    """Carry out operations in every order that makes a difference, and look what comes of it.

    Args:
        name: What is explored; what is done at random depends on it alone.
        carry_out: Carries the operations out with `Gates.run`, and looks.
        most: Schedules that are tried depth-first, at most.
        at_random: Schedules that are tried at random when there are more.
        adopts: Whether the tasks that operations start wait at gates, too.
    """
    if (given := os.environ.get("INTERLEAVING")) is not None:
        await _try(name, carry_out, Gates(_following(given.split()), adopts=adopts))
        return Explored(schedules=1, is_all=False)
    depth_first = _DepthFirst()
    count, more = 0, True
    while more and count < most:
        depth_first.begin()
        count += await _try(name, carry_out, Gates(depth_first.choose, adopts=adopts))
        more = depth_first.next()
    if more:
        for seed in range(at_random):
            choose = _at_random(random.Random(f"{name} {seed}"))
            count += await _try(f"{name}, seed {seed}", carry_out, Gates(choose, adopts=adopts))
    return Explored(schedules=count, is_all=not more)


async def _try(name: str, carry_out: Callable[[Gates], Awaitable[None]], gates: Gates) -> bool:
    """Follow a schedule; whether it was one of its own."""
    try:
        await carry_out(gates)
    except Redundant:
        return False
    except BaseException as error:
        error.add_note(f'{name}: INTERLEAVING="{" ".join(gates.schedule)}"')
        raise
    return True
