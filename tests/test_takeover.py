"""Taking over: what becomes of a run whose process is cut off, stops, or goes away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command, interrupt

from langgraph_ws import current_run
from langgraph_ws.commands import ANONYMOUS, Identity, StartRun
from langgraph_ws.current import RUN_KEY
from langgraph_ws.errors import LeaseLost, LogFailed, LogUnavailable, RequestError
from langgraph_ws.fencing import fenced
from langgraph_ws.frames import (
    AttemptStarted,
    BlockDelta,
    Frame,
    Interrupted,
    MessageFinished,
    RunFailed,
    RunResult,
    RunStarted,
    StepFinished,
    StepStarted,
)
from langgraph_ws.log import redis_registry
from langgraph_ws.log.redis import RedisThreadLog
from langgraph_ws.log.registry import Lease, Ticket
from langgraph_ws.mapping import ChatMapper
from langgraph_ws.run import CancelledRun
from langgraph_ws.runs import Runs
from langgraph_ws.streaming import Execution
from langgraph_ws.takeover import Story, can_be_taken_over, take_over
from langgraph_ws.testing import Reply, ScriptedModel
from langgraph_ws.turns import checkpoint_id
from langgraph_ws.view import RunView, ThreadView
from tests.servers import RedisServer, redis_server
from tests.test_metrics import Recorded
from tests.test_runs import frames_of, graph_of, only, say, status_of, turn

_prefixes = count()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


Start = Callable[..., Any]


@pytest.fixture
async def start(server: RedisServer) -> AsyncIterator[Start]:
    """Starts servers that share a log, as processes do."""
    prefix = f"p{next(_prefixes)}"
    servers: list[Runs] = []

    async def start(graph: Any, **options: Any) -> Runs:
        lease = options.pop("lease", 0.5)
        runs = Runs(graph, log=RedisThreadLog(server.url, prefix=prefix, lease=lease), **options)
        await runs.begin()
        servers.append(runs)
        return runs

    yield start
    for runs in servers:
        await runs.end()


def cut_off(runs: Runs) -> None:
    """From now on the server reaches Redis no more."""

    async def fail(*_: Any) -> Any:
        raise LogUnavailable("cut off")

    runs.log._server.call = fail  # type: ignore[attr-defined]


def refuse(runs: Runs, *kinds: type[Any]) -> None:
    """From now on Redis takes no frames of these kinds from the server."""
    write: Any = runs.log._append  # type: ignore[attr-defined]

    async def write_some(script: str, thread: str, run_id: str, frames: Any, *more: Any) -> Any:
        if any(isinstance(frame, kinds) for frame in frames):
            raise LogFailed("Redis refused")
        return await write(script, thread, run_id, frames, *more)

    runs.log._append = write_some  # type: ignore[attr-defined]


def ends(metrics: Recorded) -> list[tuple[str, str]]:
    """The runs that have ended, and how."""
    return [(run.run_id, status) for run, status, _ in metrics.calls.get("run_finished", ())]


class Steps:
    """Two nodes, over a saver in a file; each says who runs it, and waits for its gate."""

    def __init__(self, directory: Path, *, memory: bool = False, saver: bool = True) -> None:
        self.path = str(directory / "db")
        self.gates = {"one": asyncio.Event(), "two": asyncio.Event()}
        self.entered = {"one": asyncio.Event(), "two": asyncio.Event()}
        self.ran: list[tuple[str, int, str]] = []
        self._saver = saver

    def node(self, name: str) -> Any:
        async def run(state: MessagesState) -> dict[str, Any]:
            here = current_run()
            self.ran.append((name, here.attempt, here.task_id))
            self.entered[name].set()
            await self.gates[name].wait()
            return {"messages": [AIMessage(f"{name} by {here.run_id}")]}

        run.__name__ = name
        return run

    @asynccontextmanager
    async def graph(self, identity: Identity) -> AsyncIterator[Any]:
        nodes = [self.node("one"), self.node("two")]
        if not self._saver:
            yield graph_of(*nodes)
            return
        async with AsyncSqliteSaver.from_conn_string(self.path) as saver:
            yield graph_of(*nodes, saver=saver)

    def open_all(self) -> None:
        for gate in self.gates.values():
            gate.set()


async def test_a_run_that_is_cut_off_goes_on_elsewhere(tmp_path: Path, start: Start) -> None:
    steps = Steps(tmp_path)
    here, there = await start(steps.graph), await start(steps.graph)
    await here.start(ANONYMOUS, turn(thread_id="t", run_id="r"))
    steps.gates["one"].set()
    await steps.entered["two"].wait()
    steps.entered["two"].clear()
    async for entry in there.entries(run_id="r"):
        if isinstance(entry.frame, StepStarted) and entry.frame.node == "two":
            break
    cut_off(here)
    await steps.entered["two"].wait()
    steps.gates["two"].set()
    frames = await frames_of(there, "r")
    assert status_of(frames) == "completed"
    assert only(frames, RunResult)[0].text == "two by r"
    [attempt] = only(frames, AttemptStarted)
    assert attempt.attempt == 2
    assert [(name, number) for name, number, _ in steps.ran] == [("one", 1), ("two", 1), ("two", 2)]
    assert steps.ran[1][2] == steps.ran[2][2] == attempt.rerun_task_ids[0]
    assert [frame.node for frame in only(frames, StepStarted)] == ["one", "two", "two"]
    assert [frame.node for frame in only(frames, StepFinished)] == ["one", "two"]
    assert len(only(frames, RunStarted)) == 1
    snapshot = await there.snapshot(ANONYMOUS, "t")
    texts = [message.content[0]["text"] for message in snapshot.messages]
    assert texts == ["hi", "one by r", "two by r"]
    saved = await there.info(ANONYMOUS, "t", None)
    assert saved.status == "completed"


async def test_what_was_being_said_is_closed_before_another_goes_on(
    tmp_path: Path, start: Start
) -> None:
    gate, half = asyncio.Event(), asyncio.Event()

    async def speak(state: MessagesState) -> dict[str, Any]:
        model = ScriptedModel([Reply(text="once more", chunk_chars=5)])
        async for _ in model.astream(state["messages"]):
            half.set()
            await gate.wait()
        return {"messages": [AIMessage("said")]}

    @asynccontextmanager
    async def graph(identity: Identity) -> AsyncIterator[Any]:
        async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "db")) as saver:
            yield graph_of(speak, saver=saver)

    here, there = await start(graph), await start(graph)
    await here.start(ANONYMOUS, turn(thread_id="t", run_id="r"))
    async for entry in there.entries(run_id="r"):
        if isinstance(entry.frame, BlockDelta):
            break
    half.clear()
    cut_off(here)
    await half.wait()
    gate.set()
    frames = await frames_of(there, "r")
    closed = only(frames, MessageFinished)[0]
    assert (closed.status, closed.content[0]["text"]) == ("cancelled", "once ")
    assert isinstance(frames[frames.index(closed) + 1], AttemptStarted)
    messages = (await there.snapshot(ANONYMOUS, "t")).messages
    assert "once " not in [message.content[0]["text"] for message in messages]


async def test_a_drained_server_hands_its_runs_over(tmp_path: Path, start: Start) -> None:
    steps = Steps(tmp_path)
    metrics = Recorded(), Recorded()
    here, there = [await start(steps.graph, lease=60.0, metrics=each) for each in metrics]
    await here.start(ANONYMOUS, turn(thread_id="t", run_id="r"))
    await here.start(ANONYMOUS, turn(thread_id="t", run_id="next"))
    await steps.entered["one"].wait()
    draining = asyncio.create_task(here.drain(10))
    steps.open_all()
    await draining
    frames = await frames_of(there, "r")
    assert status_of(frames) == "completed"
    assert [(name, number) for name, number, _ in steps.ran[:2]] == [("one", 1), ("two", 2)]
    assert only(frames, AttemptStarted)[0].rerun_task_ids == tuple(
        task for name, _, task in steps.ran[:2] if name == "two"
    )
    assert status_of(await frames_of(there, "next")) == "completed"
    await metrics[1].until(lambda: len(ends(metrics[1])) == 2)
    assert ends(metrics[0]) == [("r", "drained")]
    assert ends(metrics[1]) == [("r", "completed"), ("next", "completed")]


async def test_what_a_server_is_asked_on_its_way_out_is_done_elsewhere(
    tmp_path: Path, start: Start
) -> None:
    steps = Steps(tmp_path)
    steps.open_all()
    here, there = await start(steps.graph, lease=60.0), await start(steps.graph, lease=60.0)
    await here.drain(0)
    info = await here.start(ANONYMOUS, turn(thread_id="t", run_id="r"))
    assert (info.run_id, info.thread_id) == ("r", "t")
    frames = await frames_of(there, "r")
    assert status_of(frames) == "completed"
    assert not only(frames, AttemptStarted)


async def test_what_cannot_be_continued_is_lost_promptly(tmp_path: Path, start: Start) -> None:
    steps = Steps(tmp_path, saver=False)
    metrics = Recorded(), Recorded()
    here, there = [await start(steps.graph, metrics=each) for each in metrics]
    await here.start(ANONYMOUS, turn(thread_id="t", run_id="r"))
    await steps.entered["one"].wait()
    cut_off(here)
    frames = await asyncio.wait_for(frames_of(there, "r"), 5)
    assert status_of(frames) == "lost"
    for each in metrics:
        await each.until(lambda each=each: ends(each) == [("r", "lost")])  # type: ignore[misc]
    [failed] = only(frames, RunFailed)
    assert (failed.code, failed.retryable) == ("lost", False)
    steps.open_all()


async def test_a_run_whose_holders_all_disappear_is_given_up(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_registry, "_PAUSES_S", (0.0, 0.1))
    steps = Steps(tmp_path)
    servers = [await start(steps.graph) for _ in range(4)]
    await servers[0].start(ANONYMOUS, turn(thread_id="t", run_id="r"))
    for attempt in (1, 2, 3):
        async with asyncio.timeout(10):
            while len(steps.ran) < attempt:
                await steps.entered["one"].wait()
                steps.entered["one"].clear()
        [holder] = [runs for runs in servers if runs._live]
        cut_off(holder)
        servers.remove(holder)
    frames = await asyncio.wait_for(frames_of(servers[0], "r"), 10)
    assert status_of(frames) == "lost"
    assert [frame.attempt for frame in only(frames, AttemptStarted)] == [2, 3]
    assert only(frames, RunFailed)[0].retryable
    steps.open_all()


@pytest.mark.parametrize("kind", [RunStarted, StepStarted, MessageFinished, RunResult])
async def test_what_cannot_be_stored_ends_the_run(
    tmp_path: Path, start: Start, kind: type[Frame]
) -> None:
    steps = Steps(tmp_path)
    steps.open_all()
    here, there = await start(steps.graph, lease=60.0), await start(steps.graph, lease=60.0)
    for runs in (here, there):
        refuse(runs, kind)
    if kind is RunStarted:
        with pytest.raises(RequestError, match="could not be stored") as refused:
            await here.start(ANONYMOUS, turn(thread_id="t", run_id="r"))
        assert refused.value.code == "log_failed"
        return
    await here.start(ANONYMOUS, turn(thread_id="t", run_id="r"))
    frames = await asyncio.wait_for(frames_of(there, "r"), 10)
    assert status_of(frames) == "failed"
    [failed] = only(frames, RunFailed)
    assert (failed.code, failed.retryable) == ("log_failed", True)
    assert not only(frames, AttemptStarted)


async def test_a_run_that_cannot_be_ended_counts_as_a_crash(tmp_path: Path, start: Start) -> None:
    steps = Steps(tmp_path)
    here, there = await start(steps.graph, lease=60.0), await start(steps.graph, lease=60.0)
    steps.open_all()
    refuse(here, RunResult, RunFailed)
    taken: list[Lease] = []
    take = there.take

    def note(lease: Lease) -> None:
        taken.append(lease)
        take(lease)

    there.take = note  # type: ignore[method-assign]
    await here.start(ANONYMOUS, turn(thread_id="t", run_id="r"))
    frames = await asyncio.wait_for(frames_of(there, "r"), 10)
    assert status_of(frames) == "completed"
    assert [lease.crashes for lease in taken] == [1]


async def test_a_cancellation_reaches_whoever_takes_over(tmp_path: Path, start: Start) -> None:
    steps = Steps(tmp_path)
    here = await start(steps.graph)
    await here.start(ANONYMOUS, turn(thread_id="t", run_id="r"))
    await steps.entered["one"].wait()
    cut_off(here)
    told: list[CancelledRun] = []

    async def on_cancel(run: CancelledRun) -> None:
        told.append(run)

    metrics = Recorded()
    there = await start(steps.graph, on_cancel=on_cancel, metrics=metrics)
    assert (await there.cancel(ANONYMOUS, "t", None)).status == "running"
    frames = await frames_of(there, "r")
    assert status_of(frames) == "cancelled"
    assert not only(frames, AttemptStarted)
    assert [run.run_id for run in told] == ["r"]
    await metrics.until(lambda: ends(metrics) == [("r", "cancelled")])
    steps.open_all()


async def test_any_server_sees_cancels_answers_and_supersedes(tmp_path: Path, start: Start) -> None:
    gate, entered = asyncio.Event(), asyncio.Event()

    async def hold(state: MessagesState) -> dict[str, Any]:
        entered.set()
        await gate.wait()
        return {}

    def ask(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage(f"got {interrupt('sure?')}")]}

    graph = graph_of(hold, ask, saver=InMemorySaver())
    here, there = await start(graph), await start(graph)
    await here.start(ANONYMOUS, turn(thread_id="t", run_id="a"))
    again = await there.start(ANONYMOUS, turn(thread_id="t", run_id="a"))
    assert (again.run_id, again.status) == ("a", "running")
    await entered.wait()
    assert (await there.start(ANONYMOUS, turn(thread_id="t", run_id="b"))).place == 1
    assert (await here.info(ANONYMOUS, None, "b")).place == 1
    assert (await here.cancel(ANONYMOUS, None, "b")).status == "queued"
    assert status_of(await frames_of(there, "b")) == "cancelled"
    second = turn("two", thread_id="t", run_id="c", multitask_strategy="rollback")
    entries = there.entries(run_id="a")
    await anext(entries)  # who comes when it has been rolled back finds nothing of it
    assert (await there.start(ANONYMOUS, second)).status == "queued"
    gate.set()
    assert status_of([entry.frame async for entry in entries]) == "cancelled"
    frames = await frames_of(there, "c")
    assert status_of(frames) == "interrupted"
    answer = StartRun(kind="answer", thread_id="t", answer="yes", run_id="d")
    await there.start(ANONYMOUS, answer)
    frames = await frames_of(here, "d")
    assert only(frames, RunResult)[0].text == "got yes"
    snapshot = await here.snapshot(ANONYMOUS, "t")
    assert [m.content[0]["text"] for m in snapshot.messages] == ["two", "got yes"]
    entered.clear()
    gate.clear()
    await here.start(ANONYMOUS, turn(thread_id="t", run_id="e"))
    await entered.wait()
    await there.cancel(ANONYMOUS, "t", None)
    assert status_of(await frames_of(here, "e")) == "cancelled"


async def test_a_run_is_cancelled_when_nobody_follows_it_anywhere(
    tmp_path: Path, start: Start
) -> None:
    steps = Steps(tmp_path)
    options: dict[str, Any] = {"on_disconnect": "cancel"}
    here, there = await start(steps.graph, **options), await start(steps.graph, **options)
    await here.start(ANONYMOUS, turn(thread_id="t", run_id="r"))
    for runs in (here, there):
        runs.joined(ANONYMOUS, "t")
    await steps.entered["one"].wait()
    await asyncio.sleep(0.3)  # longer than it is told again
    here.left(ANONYMOUS, "t", dropped=True)
    await asyncio.sleep(0.3)
    assert (await there.info(ANONYMOUS, None, "r")).status == "running"
    there.left(ANONYMOUS, "t", dropped=True)
    assert status_of(await frames_of(there, "r")) == "cancelled"
    steps.open_all()


async def test_a_process_that_was_stopped_writes_no_checkpoint(tmp_path: Path) -> None:
    clock = [0.0]
    ticket = Ticket(run="/r", thread="t", thread_id="t", graph="g", work=None)
    lease = Lease(ticket=ticket, fence=1, deadline=5.0, clock=lambda: clock[0])
    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "db")) as saver:
        graph = graph_of(say, saver=saver)
        guarded = fenced(graph, lease)
        config = {"configurable": {"thread_id": "t"}}
        given = {"messages": [HumanMessage("hi")]}
        await guarded.ainvoke(given, config)
        before = await graph.aget_state(config)
        clock[0] = 6.0
        with pytest.raises(LeaseLost):
            await guarded.ainvoke(given, config)
        assert (await guarded.aget_state(config)).config == before.config
        assert graph.checkpointer is saver
        assert isinstance(guarded.checkpointer, AsyncSqliteSaver)
        await graph.ainvoke(given, config)
    assert fenced(graph_of(say), lease).checkpointer is None


async def test_no_step_begins_when_the_lease_ran_out_while_the_last_was_saved() -> None:
    clock, begun = [0.0], []
    ticket = Ticket(run="/r", thread="t", thread_id="t", graph="g", work=None)
    lease = Lease(ticket=ticket, fence=1, deadline=5.0, clock=lambda: clock[0])

    class Slow(InMemorySaver):
        async def aput(self, *arguments: Any, **named: Any) -> Any:
            saved = await super().aput(*arguments, **named)
            clock[0] += 2.0
            return saved

    async def node(state: MessagesState) -> dict[str, Any]:
        begun.append(clock[0])
        return {}

    builder = StateGraph(MessagesState).add_sequence([("one", node), ("two", node)])
    guarded = fenced(builder.add_edge(START, "one").compile(checkpointer=Slow()), lease)
    config = {"configurable": {"thread_id": "t"}}
    with pytest.raises(LeaseLost):
        await guarded.ainvoke({"messages": []}, config, durability="sync")
    assert begun == [4.0]


async def test_a_checkpoint_is_saved_after_the_writes_that_it_builds_on() -> None:
    ticket = Ticket(run="/r", thread="t", thread_id="t", graph="g", work=None)
    lease = Lease(ticket=ticket, fence=1, deadline=5.0, clock=lambda: 0.0)
    saved = []

    class Slow(InMemorySaver):
        async def aput_writes(self, *arguments: Any, **named: Any) -> None:
            await asyncio.sleep(0.05)
            await super().aput_writes(*arguments, **named)
            saved.append("writes")

        async def aput(self, *arguments: Any, **named: Any) -> Any:
            saved.append(arguments[2]["step"])
            return await super().aput(*arguments, **named)

    async def node(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage("hello")]}

    graph = graph_of(node, saver=Slow())
    config = {"configurable": {"thread_id": "t"}}
    await graph.ainvoke({"messages": []}, config, durability="sync")
    assert saved == [-1, 0, 1, "writes", "writes"]  # so it is without the lease
    saved.clear()
    await fenced(graph, lease).ainvoke({"messages": []}, config, durability="sync")
    assert saved == [2, "writes", 3, "writes", 4]


def test_checkpoints_that_no_other_process_sees_are_nothing_to_go_on_from() -> None:
    assert not can_be_taken_over(graph_of(say))
    assert not can_be_taken_over(graph_of(say, saver=InMemorySaver()))


def test_there_is_no_current_run_elsewhere() -> None:
    with pytest.raises(RuntimeError):
        current_run()


async def test_nodes_of_graphs_that_are_not_served_have_no_current_run() -> None:
    async def node(state: MessagesState) -> dict[str, Any]:
        with pytest.raises(RuntimeError, match="served"):
            current_run()
        return {}

    await graph_of(node).ainvoke({"messages": []})


# --- what is said again -----------------------------------------------------------------------


def config_of(run_id: str) -> Any:
    return {"configurable": {"thread_id": "t", RUN_KEY: run_id}}


def begun(run_id: str, base: str | None = None) -> RunView:
    """A run that has said nothing yet."""
    return RunView(run_id, RunStarted(thread_id="t", run_id=run_id, graph="g", checkpoint_id=base))


async def saved(graph: Any, config: Any, task_id: str) -> bool:
    """Whether the result of a task is saved."""
    state = await graph.aget_state(config)
    return any(task.id == task_id and task.result is not None for task in state.tasks)


async def interrupted_story(
    graph: Any, config: Any, last: tuple[type[StepStarted | StepFinished], str], missing: int
) -> tuple[RunView, Story]:
    """The log of a run that was cut off after a frame of a node, without so many of its last."""
    started = RunStarted(thread_id="t", run_id="r", graph="g")
    execution = Execution(
        graph,
        {"messages": [HumanMessage("hi")]},
        config,
        run=started,
        mapper=ChatMapper(),
        durability="sync",
    )
    frames: list[Frame] = [started]
    async for frame in execution.frames():
        frames.append(frame)
        if isinstance(frame, last[0]) and frame.node == last[1]:
            while isinstance(frame, StepFinished) and not await saved(  # noqa: ASYNC110
                graph, config, frame.task_id
            ):
                await asyncio.sleep(0)
            break
    view, story = RunView("r", started), Story()
    thread = ThreadView({"r": view})
    for frame in frames[: len(frames) - missing]:
        thread.apply("r", frame)
        story.note(frame)
    return view, story


@pytest.mark.parametrize("shape", ["line", "nested", "fan"])
@pytest.mark.parametrize("missing", range(9))
async def test_what_the_log_lacks_of_a_saved_result_is_said_again(missing: int, shape: str) -> None:
    async def one(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage("first", id="m1")]}

    async def two(state: MessagesState) -> dict[str, Any]:
        await asyncio.Event().wait()
        return {}

    if shape == "nested":
        builder = StateGraph(MessagesState).add_node("sub", graph_of(one, two))
        graph = builder.add_edge(START, "sub").compile(checkpointer=InMemorySaver())
    elif shape == "fan":
        builder = StateGraph(MessagesState).add_node(one).add_node(two)
        builder.add_edge(START, "one").add_edge(START, "two")
        graph = builder.compile(checkpointer=InMemorySaver())
    else:
        graph = graph_of(one, two, saver=InMemorySaver())
    config = config_of("r")
    # Of two at once, the result of one is saved before the checkpoint that has it.
    last = (StepFinished, "one") if shape == "fan" else (StepStarted, "two")
    run, story = await interrupted_story(graph, config, last, missing)
    found = await take_over(graph, config, run, story, resumes=False)
    assert found.how == "continue"
    mapper = ChatMapper()
    mapper.resume(found.resumption.said, found.resumption.sources)
    again = [frame for part in found.resumption.again for frame in mapper.map(part)]
    void = set(found.rerun)
    said = [m for m in run.messages if m.task_id not in void] + only(again, MessageFinished)
    assert [message.content[0]["text"] for message in said] == ["first"]
    ended = story.ended | {frame.task_id for frame in only(again, StepFinished)}
    assert len(ended) == 1
    assert mapper.result().text == "first"


async def test_an_interrupt_that_was_saved_and_not_logged_is_announced() -> None:
    def ask(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage(f"got {interrupt('sure?')}")]}

    graph = graph_of(ask, saver=InMemorySaver())
    config = config_of("r")
    await graph.ainvoke({"messages": [HumanMessage("hi")]}, config)
    found = await take_over(graph, config, begun("r"), Story(), resumes=False)
    assert found.how == "interrupted"
    assert [frame.value for frame in found.frames] == ["sure?"]
    assert isinstance(found.frames[0], Interrupted)


# --- where to go on from ------------------------------------------------------------------------


async def test_a_fork_that_saved_nothing_begins_again_where_it_began() -> None:
    graph = graph_of(say, saver=InMemorySaver())
    for number in (1, 2):
        given = {"messages": [HumanMessage(f"turn {number}")]}
        await graph.ainvoke(given, config_of(f"old {number}"))
        if number == 1:
            base = checkpoint_id(await graph.aget_state(config_of("r")))
    fork = begun("r", base)
    found = await take_over(graph, config_of("r"), fork, Story(), resumes=False)
    assert (found.how, found.base) == ("restart", base)
    config = config_of("r")
    config["configurable"]["checkpoint_id"] = base
    await graph.ainvoke({"messages": [HumanMessage("instead")]}, config)
    found = await take_over(graph, config_of("r"), fork, Story(), resumes=False)
    assert found.how == "continue"


async def test_an_answer_to_an_older_checkpoint_is_given_there_again() -> None:
    def ask(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage(f"got {interrupt('sure?')}")]}

    graph = graph_of(ask, saver=InMemorySaver())
    await graph.ainvoke({"messages": [HumanMessage("hi")]}, config_of("old"))
    asked = await graph.aget_state(config_of("old"))
    await graph.ainvoke(Command(resume="yes"), config_of("older answer"))
    base = checkpoint_id(asked)
    found = await take_over(graph, config_of("r"), begun("r", base), Story(), resumes=True)
    assert (found.how, found.base) == ("restart", base)
    assert [frame.interrupt_id for frame in found.frames] == [asked.interrupts[0].id]


@pytest.mark.parametrize("stop", [{"interrupt_before": ["two"]}, {"interrupt_after": ["one"]}])
@pytest.mark.parametrize("everywhere", [False, True])
async def test_a_breakpoint_holds_after_a_take_over(stop: dict[str, Any], everywhere: bool) -> None:
    gate = asyncio.Event()
    gate.set()

    async def one(state: MessagesState) -> dict[str, Any]:
        await gate.wait()
        return {"messages": [AIMessage("one")]}

    async def two(state: MessagesState) -> dict[str, Any]:
        await gate.wait()
        return {"messages": [AIMessage("two")]}

    if everywhere:
        stop = dict.fromkeys(stop, "*")
    graph = graph_of(one, two, saver=InMemorySaver(), **stop)
    await graph.ainvoke({"messages": [HumanMessage("hi")]}, config_of("r"))
    found = await take_over(graph, config_of("r"), begun("r"), Story(), resumes=False)
    assert found.how == "interrupted"
    base = checkpoint_id(await graph.aget_state(config_of("r")))
    found = await take_over(graph, config_of("s"), begun("s", base), Story(), resumes=True)
    assert found.how == "restart"
    # One that is told the checkpoint goes on from a copy of it.
    gate.clear()
    config = config_of("s")
    config["configurable"]["checkpoint_id"] = base
    again = asyncio.create_task(graph.ainvoke(None, config))
    async with asyncio.timeout(5):
        while checkpoint_id(await graph.aget_state(config_of("s"))) == base:  # noqa: ASYNC110
            await asyncio.sleep(0)
    again.cancel()
    await asyncio.wait({again})
    found = await take_over(graph, config_of("s"), begun("s", base), Story(), resumes=True)
    assert found.how == "continue"
