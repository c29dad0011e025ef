"""Runs that are started, cancelled, answered, followed and drained at the same time.

Every task that runs here stops before and after each call of the log and of its registry.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import MessagesState
from langgraph.types import interrupt

from langgraph_ws import runs as runs_module
from langgraph_ws.commands import ANONYMOUS, MultitaskStrategy, RunInfo, StartRun
from langgraph_ws.errors import RequestError
from langgraph_ws.frames import (
    BlockDelta,
    Frame,
    MessageFinished,
    RolledBack,
    RunFinished,
    RunStarted,
)
from langgraph_ws.log import Entry, ThreadLog
from langgraph_ws.log.memory import MemoryThreadLog
from langgraph_ws.log.redis import RedisThreadLog
from langgraph_ws.log.redis_server import Server
from langgraph_ws.runs import Runs
from langgraph_ws.testing import ScriptedModel
from tests.interleave import THOROUGHLY, Gates, Operation, at_gates, explore
from tests.log_suite import ALL, folded, nothing
from tests.servers import RedisServer, redis_server
from tests.test_metrics import Recorded
from tests.test_runs import graph_of, turn

_prefixes = count()
_OF_LOG = ("append", "follow", "bounds", "view", "start_of", "result_of")
_OF_REGISTRY = ("finish", "release", "withdraw", "stop", "live", "where")
"""Without `admit` and `orphans`: what is taken, and that nothing more is, is decided at once."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


MakeLog = Callable[[str], ThreadLog]
"""Makes a log, given what it is called; those of one name are the same to their users."""


@pytest.fixture(params=["memory", "redis"])
def new_log(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> MakeLog:
    """Makes logs at whose calls everybody waits at gates, for as long as it takes."""
    monkeypatch.setattr(runs_module, "_SETTLE_S", 30.0)
    monkeypatch.setattr(runs_module, "_ASKED_S", 30.0)
    if request.param == "redis":
        call = Server.call

        async def gated(self: Server, *arguments: Any, **options: Any) -> Any:
            async with at_gates("redis"):
                return await call(self, *arguments, **options)

        monkeypatch.setattr(Server, "call", gated)
        url = request.getfixturevalue("server").url
        return lambda name: RedisThreadLog(url, prefix=name)
    return lambda _: with_gates(MemoryThreadLog())


def with_gates(log: MemoryThreadLog) -> ThreadLog:
    """The log, with gates before and after each of its calls and those of its registry."""

    def gate(target: Any, name: str) -> None:
        call = getattr(target, name)

        async def gated(*arguments: Any, **options: Any) -> Any:
            async with at_gates("log"):
                return await call(*arguments, **options)

        setattr(target, name, gated)

    for name in _OF_LOG:
        gate(log, name)
    for name in _OF_REGISTRY:
        gate(log.registry(), name)
    return log


def text_of(message: MessageFinished) -> str:
    return "".join(block.get("text", "") for block in message.content)


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not is_so():  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0)


@dataclass
class Scene:
    """A server with a thread `t`, and what clients were told.

    Attributes:
        held: The first run waits within its node until this is set.
    """

    runs: Runs
    metrics: Recorded
    graph: Any
    held: asyncio.Event
    told: dict[str, list[RunInfo]] = field(default_factory=dict)
    refused: dict[str, list[str]] = field(default_factory=dict)
    cancelled: set[str | None] = field(default_factory=set)
    drained: bool = False

    async def start(self, run_id: str, text: str = "hi", **how: Any) -> None:
        await self.send(turn(text, thread_id="t", run_id=run_id, **how))

    async def answer(self, run_id: str) -> None:
        await self.send(StartRun(kind="answer", thread_id="t", run_id=run_id, answer="yes"))

    async def send(self, request: StartRun) -> None:
        assert request.run_id is not None
        try:
            info = await self.runs.start(ANONYMOUS, request)
        except RequestError as error:
            self.refused.setdefault(request.run_id, []).append(error.code)
        else:
            self.told.setdefault(request.run_id, []).append(info)

    async def cancel(self, run_id: str | None = None) -> None:
        try:
            info = await self.runs.cancel(ANONYMOUS, "t", run_id)
        except RequestError as error:
            assert error.code == "not_found"
        else:
            self.cancelled.add(info.run_id)

    async def drain(self) -> None:
        self.drained = True
        await self.runs.drain(0)

    async def let_go(self) -> None:
        self.held.set()

    async def attach(self) -> None:
        """Follow the thread from what it looks like now."""
        snapshot = await self.runs.snapshot(ANONYMOUS, "t")
        texts = {
            open_.started.message_id: "".join(b.text for b in open_.blocks.values())
            for open_ in snapshot.open
        }
        known = {message.message_id: text_of(message) for message in snapshot.messages}
        wake = asyncio.Event()
        follower = await self.runs.follow(ANONYMOUS, "t", snapshot.position, wake.set)
        position = snapshot.position.seq
        try:
            for _ in range(3):
                for entry in follower.read(ALL):
                    position += 1
                    assert entry.seq == position
                    match entry.frame:
                        case BlockDelta():
                            texts[entry.frame.message_id] = (
                                texts.get(entry.frame.message_id, "") + entry.frame.text
                            )
                        case MessageFinished() if entry.frame.status == "finished":
                            name = entry.frame.streamed_id or entry.frame.message_id
                            whole = text_of(entry.frame)
                            assert texts.get(name, whole) == whole
                            message_id = entry.frame.message_id
                            assert known.setdefault(message_id, whole) == whole
                        case _:
                            pass
                async with at_gates("log"):
                    pass
        finally:
            follower.close()

    # -- what holds afterwards -----------------------------------------------------------------

    async def check(self, gates: Gates) -> None:
        for outcome in gates.outcomes.values():
            if isinstance(outcome, BaseException):
                raise outcome
        runs = self.runs
        await until(lambda: self.cancelled.isdisjoint(run.run_id for run in runs._live.values()))
        self.held.set()
        await until(lambda: not runs._live and not runs._tasks)
        live = await self._live()
        async with asyncio.timeout(10):
            while live and self.drained:  # another server goes on
                await asyncio.sleep(0.01)
                live = await self._live()
        entries = await self._entries()
        assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
        _, view = await self.runs.log.view("t")
        assert view == folded((entry.run_id, entry.frame) for entry in entries)
        starts = self._count(entries, RunStarted)
        ends = self._count(entries, RunFinished)
        waits = bool(view.interrupts)
        for run, infos in self.told.items():
            assert infos
            assert ends.get(run, 0) + live.count(run) == 1, run
            assert starts.get(run, 0) <= 1
        if not waits:
            assert not live
        void = {e.frame.run_id for e in entries if isinstance(e.frame, RolledBack)}
        for run in self.refused.keys() - void:
            if run not in self.told:
                assert run not in starts
                assert run not in ends
                assert run not in live
        assert set(starts) | set(ends) <= set(self.told) | void | {"first"}
        for run, last in self._last(entries).items():
            assert isinstance(last, RunFinished), run
        begun = self.metrics.calls.get("run_started", [])
        ended = self.metrics.calls.get("run_finished", [])
        assert len(begun) == len(ended)
        await self._check_texts(entries)

    async def _live(self) -> list[str]:
        return [s.ticket.run_id for s in await self.runs.log.registry().live("t")]

    async def _entries(self) -> list[Entry]:
        follower = await self.runs.log.follow("t", None, nothing)
        entries = follower.read(ALL)
        follower.close()
        return entries

    def _count(self, entries: list[Entry], kind: type[Any]) -> dict[str, int]:
        found: dict[str, int] = {}
        for entry in entries:
            if isinstance(entry.frame, kind):
                found[entry.run_id] = found.get(entry.run_id, 0) + 1
        return found

    def _last(self, entries: list[Entry]) -> dict[str, Frame]:
        return {entry.run_id: entry.frame for entry in entries}

    async def _check_texts(self, entries: list[Entry]) -> None:
        """What was said is what is saved."""
        config: Any = {"configurable": {"thread_id": "t"}}
        state = await self.graph.aget_state(config)
        saved = {m.id: m.text for m in state.values.get("messages", [])}
        texts: dict[str, str] = {}
        finished: dict[str, str] = {}
        for entry in entries:
            match entry.frame:
                case BlockDelta():
                    name = entry.frame.message_id
                    texts[name] = texts.get(name, "") + entry.frame.text
                case MessageFinished() if entry.frame.status == "finished":
                    name = entry.frame.message_id
                    finished[name] = text_of(entry.frame)
                    assert texts.get(entry.frame.streamed_id or name, "") in ("", finished[name])
                case _:
                    pass
        for name in saved.keys() & finished.keys():
            assert saved[name] == finished[name]


def scene_graph(held: asyncio.Event, saver: InMemorySaver) -> Any:
    """A model that says something, and asks back when it is told `ask`."""
    model = ScriptedModel(["Hello there"] * 9)

    async def hold(state: MessagesState) -> dict[str, Any]:
        async with at_gates("log"):
            pass
        if state["messages"][-1].text == "hold":
            await held.wait()
        return {}

    async def talk(state: MessagesState) -> dict[str, Any]:
        if state["messages"][-1].text == "ask":
            return {"messages": [AIMessage(f"got {interrupt('sure?')}")]}
        return {"messages": [await model.ainvoke(state["messages"])]}

    return graph_of(hold, talk, saver=saver)


@asynccontextmanager
async def scene(
    new_log: MakeLog, gates: Gates, first: str | None, *, drains: bool
) -> AsyncIterator[Scene]:
    held, saver, metrics = asyncio.Event(), InMemorySaver(), Recorded()
    graph = scene_graph(held, saver)
    prefix = f"p{next(_prefixes)}"
    runs = Runs(graph, log=new_log(prefix), metrics=metrics, merge_window=0.0)
    await runs.begin()
    other = Runs(graph, log=new_log(prefix)) if drains and runs.log.registry().is_shared else None
    if other is not None:
        await other.begin()
    made = Scene(runs, metrics, graph, held)
    try:
        if first is not None:
            with gates.passing():
                await made.start("first", first)
                if first == "ask":
                    await until(lambda: not runs._live)
        yield made
    finally:
        held.set()
        await runs.end()
        if other is not None:
            await other.end()


Work = Callable[[Scene], Awaitable[None]]


def starts(run_id: str, strategy: MultitaskStrategy = "enqueue", text: str = "hi") -> Work:
    return lambda scene: scene.start(run_id, text, multitask_strategy=strategy)


def cancels(run_id: str | None = None) -> Work:
    return lambda scene: scene.cancel(run_id)


SCENES: dict[str, tuple[str | None, dict[str, Work]]] = {
    "start, start again": (None, {"start": starts("a"), "again": starts("a")}),
    "start, enqueue": (None, {"start": starts("a"), "other": starts("b")}),
    "start, reject": (None, {"start": starts("a"), "other": starts("b", "reject")}),
    "start, interrupt": (None, {"start": starts("a"), "other": starts("b", "interrupt")}),
    "start, rollback": (None, {"start": starts("a"), "other": starts("b", "rollback")}),
    "start, cancel": (None, {"start": starts("a"), "cancel": cancels()}),
    "start, cancel by id": (None, {"start": starts("a"), "cancel": cancels("a")}),
    "start what waits, cancel": (
        None,
        {"start": starts("a", text="hold"), "cancel": cancels()},
    ),
    "cancel, cancel": ("hold", {"one": cancels(), "two": cancels("first")}),
    "cancel, end": ("hold", {"cancel": cancels(), "end": Scene.let_go}),
    "supersede, end": ("hold", {"start": starts("a", "interrupt"), "end": Scene.let_go}),
    "roll back, end": ("hold", {"start": starts("a", "rollback"), "end": Scene.let_go}),
    "enqueue, end": ("hold", {"start": starts("a"), "end": Scene.let_go}),
    "supersede twice": (
        "hold",
        {"one": starts("a", "interrupt"), "two": starts("b", "interrupt")},
    ),
    "enqueue, supersede, end": (
        "hold",
        {"one": starts("a"), "two": starts("b", "interrupt"), "end": Scene.let_go},
    ),
    "enqueue, cancel, end": (
        "hold",
        {"start": starts("a"), "cancel": cancels("a"), "end": Scene.let_go},
    ),
    "enqueue, enqueue again, cancel": (
        "hold",
        {"start": starts("a"), "again": starts("a"), "cancel": cancels("a")},
    ),
    "answer, cancel": ("ask", {"answer": lambda s: s.answer("a"), "cancel": cancels()}),
    "answer, cancel by id": ("ask", {"answer": lambda s: s.answer("a"), "cancel": cancels("a")}),
    "answer, answer": (
        "ask",
        {"one": lambda s: s.answer("a"), "two": lambda s: s.answer("b")},
    ),
    "answer, answer again": (
        "ask",
        {"one": lambda s: s.answer("a"), "two": lambda s: s.answer("a")},
    ),
    "answer, next turn": ("ask", {"answer": lambda s: s.answer("a"), "next": starts("b")}),
    "start, drain": (None, {"start": starts("a"), "drain": Scene.drain}),
    "enqueue, drain": ("hold", {"start": starts("a"), "drain": Scene.drain}),
    "cancel, drain": ("hold", {"cancel": cancels(), "drain": Scene.drain}),
    "start, attach": (None, {"start": starts("a"), "attach": Scene.attach}),
    "end, attach": ("hold", {"end": Scene.let_go, "attach": Scene.attach}),
    "start, attach, cancel": (
        None,
        {"start": starts("a"), "attach": Scene.attach, "cancel": cancels()},
    ),
}


MOST = {"memory": (1, 5), "redis": (1, 2)}


@pytest.mark.parametrize("name", SCENES)
async def test_at_once(name: str, new_log: MakeLog, request: pytest.FixtureRequest) -> None:
    first, works = SCENES[name]
    drains = Scene.drain in works.values()

    async def carry_out(gates: Gates) -> None:
        async with scene(new_log, gates, first, drains=drains) as made:
            await gates.run(
                {key: Operation("here", partial(work, made)) for key, work in works.items()}
            )
            await made.check(gates)

    most, at_random = (40, 160) if THOROUGHLY else MOST[request.node.callspec.params["new_log"]]
    found = await explore(name, carry_out, most=most, at_random=at_random, adopts=True)
    assert found.schedules > 1
