"""Runs of real graphs: how they end, how they are stopped, and what each kind of graph takes."""

from __future__ import annotations

import asyncio
import threading
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

import pytest
from langchain_core.callbacks import (
    AsyncCallbackManager,
    BaseCallbackHandler,
    adispatch_custom_event,
    dispatch_custom_event,
)
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langchain_core.messages.ai import add_usage
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.errors import GraphDrained
from langgraph.func import entrypoint
from langgraph.graph import StateGraph, add_messages
from langgraph.prebuilt import create_react_agent
from langgraph.pregel.remote import RemoteGraph
from langgraph.runtime import Runtime
from langgraph.types import Command
from pydantic import BaseModel

from langgraph_ws.errors import ConfigurationError, LogClosed, LogFailed
from langgraph_ws.frames import (
    BlockDelta,
    CheckpointSaved,
    Custom,
    Frame,
    MessageFinished,
    RunFailed,
    RunFinished,
    RunResult,
    RunStarted,
    Sources,
    StateUpdated,
    StepFinished,
    StepStarted,
    SubgraphFinished,
    ToolFinished,
)
from langgraph_ws.mapping import ChatMapper, Mapper, on
from langgraph_ws.streaming import (
    Execution,
    check_graph,
    graph_options,
    input_messages,
    stream_frames,
)
from langgraph_ws.testing import Reply, ScriptedModel, call, record
from tests.graphs import (
    HELLO,
    Anything,
    Shelf,
    agent,
    asking,
    chat,
    line,
    model_node,
    nested,
    says,
    thread,
)


def of(frames: list[Frame], *kinds: type[Any]) -> list[Any]:
    return [frame for frame in frames if isinstance(frame, kinds)]


def execution(graph: Any, given: Any = HELLO, config: Any = None, **options: Any) -> Execution:
    run = RunStarted(thread_id="1", run_id="r", graph="g")
    mapper = options.pop("mapper", ChatMapper)()
    return Execution(graph, given, config or thread(), run=run, mapper=mapper, **options)


async def drive(run: Execution) -> tuple[list[Frame], BaseException | None]:
    frames: list[Frame] = []
    try:
        async for frame in run.frames():
            frames += [frame]
    except Exception as error:
        return frames, error
    return frames, None


class Gate:
    """A node that says that it has begun, and then waits until it is stopped."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.stopped = asyncio.Event()

    async def __call__(self, state: Any) -> None:
        self.begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.stopped.set()


# Ends.


async def test_a_run_from_start_to_end() -> None:
    frames = await record(chat("Hello"), HELLO, thread("t", run_id=UUID(int=7)))
    first, result, last = frames[0], frames[-2], frames[-1]
    assert isinstance(first, RunStarted)
    assert (first.thread_id, first.run_id, first.graph) == ("t", str(UUID(int=7)), "LangGraph")
    assert first.messages[0]["content"] == "hello"
    assert isinstance(result, RunResult)
    assert (result.text, result.output) == ("Hello", None)
    assert last == RunFinished(status="completed")


async def test_a_thread_and_a_run_get_ids() -> None:
    graph = line(("n", says()), saver=InMemorySaver())
    config: dict[str, Any] = {}
    started = of(await record(graph, HELLO, config), RunStarted)
    started += of(await record(graph, HELLO), RunStarted)
    assert len({s.thread_id for s in started}) == len({s.run_id for s in started}) == 2
    assert config == {}


async def test_the_output_leaves_only_where_it_is_exposed() -> None:
    graph = line(("n", lambda state: {"value": {1}}), state=Anything)
    (result,) = of(await record(graph, {"value": 0}, expose_output=True), RunResult)
    assert result.output["value"] == [1]
    (result,) = of(await record(graph, {"value": 0}), RunResult)
    assert result.output is None


async def test_a_node_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    def node(state: Any) -> None:
        raise ValueError("the password is hunter2")

    frames = await record(line(("n", node)), HELLO)
    (failed,) = of(frames, RunFailed)
    assert (failed.code, failed.message) == ("graph_failed", "The graph failed.")
    assert not failed.retryable
    assert frames[-2:] == [failed, RunFinished(status="failed")]
    assert failed.error_id in caplog.text
    assert "hunter2" in caplog.text
    assert not of(frames, RunResult)
    (failed,) = of(await record(line(("n", node)), HELLO, debug=True), RunFailed)
    assert failed.message == "ValueError: the password is hunter2"


async def test_a_failed_run_can_be_continued_from_its_checkpoint() -> None:
    fails = iter([True, False])

    def node(state: Any) -> dict[str, Any]:
        if next(fails):
            raise ValueError
        return {"messages": [AIMessage("at last")]}

    graph = line(("first", says()), ("second", node), saver=InMemorySaver())
    frames = await record(graph, HELLO, thread())
    assert of(frames, RunFailed)[0].retryable
    frames = await record(graph, None, thread())
    assert [step.node for step in of(frames, StepStarted)] == ["second"]
    assert of(frames, RunResult)[0].text == "at last"


async def test_the_recursion_limit() -> None:
    builder = StateGraph(Anything)
    builder.add_node("again", lambda state: None)
    builder.add_edge("__start__", "again").add_edge("again", "again")
    frames = await record(builder.compile(), {"value": 1}, {"recursion_limit": 3})
    (failed,) = of(frames, RunFailed)
    assert failed.code == "recursion_limit"
    assert failed.message == "The graph took more steps than it may."


async def test_nothing_to_continue(caplog: pytest.LogCaptureFixture) -> None:
    graph = line(("n", says()), saver=InMemorySaver())
    (failed,) = of(await record(graph, None, thread()), RunFailed)
    assert (failed.code, failed.error_id, failed.retryable) == ("nothing_to_continue", None, False)
    assert not caplog.records


@pytest.mark.parametrize("when", ["start", "map", "finish", "result"])
async def test_a_mapper_that_fails(when: str, caplog: pytest.LogCaptureFixture) -> None:
    def explode(self: Any, *parts: Any) -> Any:
        raise ValueError("in the mapper")

    gate = Gate()
    mapper = type("Failing", (ChatMapper,), {when: explode})
    graph = line(("gate", gate)) if when == "map" else line(("n", says(AIMessage("x"))))
    frames = await record(graph, HELLO, mapper=mapper)
    (failed,) = of(frames, RunFailed)
    assert (failed.code, failed.retryable) == ("mapper_failed", False)
    assert failed.error_id in caplog.text
    assert "ValueError: in the mapper" in caplog.text
    assert "in the mapper" not in str(frames)
    assert frames[-1] == RunFinished(status="failed")


async def test_a_mapper_that_fails_midway_stops_the_graph() -> None:
    gate = Gate()

    def progress(part: Any) -> Any:
        yield Custom(name="one", data=1)
        raise ValueError("in the handler")

    async def node(state: Any) -> None:
        await adispatch_custom_event("x", 1)
        await gate(state)

    builder = StateGraph(Anything)
    builder.add_node("gate", gate).add_node("node", node)
    builder.add_edge("__start__", "gate").add_edge("__start__", "node")
    mapper = ChatMapper.extend({"on_custom_event": progress})
    frames = await record(builder.compile(), {"value": 1}, mapper=mapper)
    assert of(frames, Custom) == [Custom(name="one", data=1)]
    assert of(frames, RunFailed)[0].code == "mapper_failed"
    assert of(frames, StepFinished)
    assert gate.stopped.is_set()


def cannot_close(mapper: ChatMapper, status: Any) -> Any:
    raise ValueError("still in the mapper")


def says_a_number(mapper: ChatMapper, status: Any) -> Any:
    number: Any = 5
    yield BlockDelta(message_id="m", index=0, kind="text", text=number, offset=0)


@pytest.mark.parametrize(
    ("close", "reason"),
    [(cannot_close, "still in the mapper"), (says_a_number, "expected a str, got int")],
)
async def test_a_mapper_that_cannot_even_close(
    close: Any, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(ChatMapper):
        fail = close

    frames = await record(line(("n", lambda state: 1 / 0)), HELLO, mapper=Failing)
    assert of(frames, RunFailed)[0].code == "graph_failed"
    assert frames[-1] == RunFinished(status="failed")
    assert not of(frames, BlockDelta)
    assert reason in caplog.text


@pytest.mark.parametrize(
    ("error", "code"), [(LogFailed(), "log_failed"), (LogClosed(), "log_failed")]
)
async def test_a_run_that_the_log_could_not_take(error: Exception, code: str) -> None:
    run = execution(line(("n", says()), saver=InMemorySaver()))
    failed, finished = run.end(error)
    assert isinstance(failed, RunFailed)
    assert (failed.code, failed.retryable) == (code, True)
    assert finished == RunFinished(status="failed")


async def test_the_end_is_told_once() -> None:
    run = execution(line(("n", says())))
    await drive(run)
    assert of(run.end(None), RunFinished) == [RunFinished(status="completed")]
    assert run.end(None) == run.end(ValueError()) == run.end(asyncio.CancelledError()) == []


async def test_an_interrupt_ends_the_run_as_interrupted() -> None:
    graph = asking()
    assert (await record(graph, HELLO, thread()))[-1] == RunFinished(status="interrupted")
    frames = await record(graph, Command(resume="yes"), thread())
    assert frames[-1] == RunFinished(status="completed")


async def test_a_static_breakpoint_ends_the_run_as_interrupted() -> None:
    graph = line(("a", says()), ("b", says()), saver=InMemorySaver(), interrupt_before=["b"])
    frames = await record(graph, HELLO, thread())
    assert frames[-1] == RunFinished(status="interrupted")
    assert not of(frames, RunResult)
    frames = await record(graph, None, thread())
    assert [step.node for step in of(frames, StepStarted)] == ["b"]
    assert frames[-1] == RunFinished(status="completed")


async def test_an_interrupt_that_a_node_swallowed_is_none() -> None:
    inner = asking()

    async def node(state: Any) -> dict[str, Any]:
        await inner.ainvoke(HELLO, thread("other"))
        return {"messages": [AIMessage("went on")]}

    frames = await record(line(("n", node), saver=InMemorySaver()), HELLO, thread())
    assert frames[-1] == RunFinished(status="completed")


@pytest.mark.parametrize("saver", [None, InMemorySaver()], ids=["without", "with"])
async def test_drain(saver: Any) -> None:
    runs: list[Execution] = []

    def first(state: Any) -> None:
        runs[0].drain()

    graph = line(("first", first), ("second", says(AIMessage("x"))), saver=saver)
    runs.append(execution(graph))
    frames, error = await drive(runs[0])
    assert [step.node for step in of(frames, StepFinished)] == ["first"]
    (failed,) = of(ended := runs[0].end(error), RunFailed)
    assert (failed.code, failed.retryable) == ("drained", saver is not None)
    assert ended[-1] == RunFinished(status="drained")
    if saver is not None:
        frames = await record(graph, None, thread())
        assert [step.node for step in of(frames, StepStarted)] == ["second"]


async def test_a_drain_in_mid_step_closes_what_was_going_on() -> None:
    run = execution(chat(Reply(text="a long answer", delay=0.01, chunk_chars=1)))
    frames: list[Frame] = []
    async with aclosing(run.frames()) as stream:
        async for frame in stream:
            frames.append(frame)
            if isinstance(frame, BlockDelta):
                break
    frames += run.end(GraphDrained())
    assert of(frames, MessageFinished)[0].status == "cancelled"
    assert of(frames, StepFinished)[0].status == "cancelled"
    assert frames[-1] == RunFinished(status="drained")


async def test_drain_in_a_subgraph_closes_the_steps_around_it() -> None:
    runs: list[Execution] = []

    def leaf(state: Any) -> None:
        runs[0].drain()

    inner = line(("leaf", leaf), ("rest", says(AIMessage("x"))))
    runs.append(execution(line(("outer", inner), saver=InMemorySaver())))
    frames, error = await drive(runs[0])
    frames += runs[0].end(error)
    assert {s.task_id for s in of(frames, StepStarted)} == {
        s.task_id for s in of(frames, StepFinished)
    }
    assert len(of(frames, SubgraphFinished)) == 1
    assert frames[-1] == RunFinished(status="drained")


# Stops.


@pytest.mark.parametrize("depth", [0, 3])
@pytest.mark.parametrize("events", [False, True], ids=["astream", "astream_events"])
async def test_cancelling_stops_the_graph_and_its_subgraphs(depth: int, events: bool) -> None:
    gate = Gate()
    mapper = ChatMapper.extend({"on_tool_end": lambda event: None}) if events else ChatMapper
    run = execution(nested(depth, gate), mapper=mapper)
    frames: list[Frame] = []

    async def consume() -> None:
        async for frame in run.frames():
            frames.append(frame)

    task = asyncio.create_task(consume())
    await gate.begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert gate.stopped.is_set()
    frames += run.end(asyncio.CancelledError())
    started, ended = of(frames, StepStarted), of(frames, StepFinished)
    assert [step.task_id for step in ended] == [step.task_id for step in reversed(started)]
    assert {step.status for step in of(frames, StepFinished)} == {"cancelled"}
    assert frames[-1] == RunFinished(status="cancelled")
    assert not of(frames, RunFailed, RunResult)
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize("events", [False, True], ids=["astream", "astream_events"])
async def test_closing_the_generator_stops_the_graph(events: bool) -> None:
    gate = Gate()
    mapper = ChatMapper.extend({"on_tool_end": lambda event: None}) if events else ChatMapper
    frames = stream_frames(nested(2, gate), HELLO, mapper=mapper)
    async with aclosing(frames):
        async for frame in frames:
            if isinstance(frame, StepStarted) and frame.node == "leaf":
                await gate.begun.wait()
                break
    assert gate.stopped.is_set()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_message_that_was_cut_off_by_a_cancel_is_closed() -> None:
    run = execution(chat(Reply(text="a long answer", delay=0.01, chunk_chars=1)))
    frames: list[Frame] = []
    async with aclosing(run.frames()) as stream:
        async for frame in stream:
            frames.append(frame)
            if len(of(frames, BlockDelta)) == 3:
                break
    frames += run.end(asyncio.CancelledError())
    (message,) = of(frames, MessageFinished)
    assert (message.status, message.content[0]["text"]) == ("cancelled", "a l")


async def test_what_a_thread_says_after_the_end_is_dropped_and_counted() -> None:
    begun, go_on, done = threading.Event(), threading.Event(), threading.Event()

    def node(state: Any) -> None:
        begun.set()
        go_on.wait(10)
        dispatch_custom_event("late", 1)
        done.set()

    run = execution(line(("n", node)))
    frames: list[Frame] = []

    async def consume() -> None:
        async for frame in run.frames():
            frames.append(frame)

    task = asyncio.create_task(consume())
    await asyncio.to_thread(begun.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    frames += run.end(asyncio.CancelledError())
    go_on.set()
    await asyncio.to_thread(done.wait, 10)
    await asyncio.sleep(0)
    assert run.dropped == 1
    assert not of(frames, Custom)


def test_what_is_said_after_the_loop_is_closed_is_dropped_and_counted() -> None:
    configs: list[RunnableConfig] = []

    async def whole() -> Execution:
        run = execution(line(("n", lambda state, config: configs.append(config))))
        await drive(run)
        return run

    run = asyncio.run(whole())
    dispatch_custom_event("late", 1, config=configs[0])
    assert run.dropped == 1


# Events.


async def test_stream_modes_and_events_in_one_mapper() -> None:
    seen: list[str] = []

    class Both(ChatMapper):
        @on("on_chat_model_stream", "on_tool_end", "on_retriever_end", "on_custom_event")
        def seen(self, event: Any) -> Frame:
            seen.append(event["event"])
            return Custom(name=event["event"], data=event["name"])

    @tool
    def look() -> str:
        """Look."""
        return "found"

    async def find(state: Any) -> None:
        await Shelf(documents=[Document("text")]).ainvoke("x")
        await adispatch_custom_event("mine", {"n": 1})

    inner = agent([look], Reply(tool_calls=[call("look", "c1")]), Reply(text="done", chunk_chars=1))
    graph = line(("find", find), ("agent", inner), saver=InMemorySaver())
    frames = await record(graph, HELLO, thread(), mapper=Both)
    assert set(seen) == {
        "on_chat_model_stream",
        "on_tool_end",
        "on_retriever_end",
        "on_custom_event",
    }
    assert Custom(name="on_custom_event", data="mine") in frames
    plain = await record(graph, HELLO, thread("2"))
    kinds = [type(frame) for frame in frames if not isinstance(frame, Custom)]
    assert sorted(map(str, kinds)) == sorted(
        str(type(frame)) for frame in plain if not isinstance(frame, Custom)
    )
    assert of(frames, RunResult)[0].text == "done"
    assert of(frames, Sources)


async def test_events_of_an_interrupted_graph_leave_no_marks_in_the_state() -> None:
    mapper = ChatMapper.extend({"on_tool_end": lambda event: None})
    run = execution(asking(), mapper=mapper)
    _, error = await drive(run)
    assert run.end(error) == [RunFinished(status="interrupted")]
    assert list(run.values) == ["messages"]


# What an execution knows.


async def test_the_newest_state_and_checkpoint() -> None:
    graph = nested(1, says(AIMessage("x")), saver=InMemorySaver())
    run = execution(graph)
    assert (run.values, run.checkpoint_id, run.next) == (None, None, ())
    frames, _ = await drive(run)
    state = await graph.aget_state(thread())
    assert run.checkpoint_id == state.config["configurable"]["checkpoint_id"]
    assert [m.content for m in run.values["messages"]] == ["hello", "x"]
    assert run.next == ()
    assert of(frames, CheckpointSaved)


async def test_the_newest_state_is_that_of_the_root_when_a_subgraph_fails() -> None:
    def fails(state: Any) -> None:
        raise ValueError

    inner = line(("first", says(AIMessage("inner"))), ("fails", fails))
    run = execution(line(("outer", inner), saver=InMemorySaver()))
    frames, error = await drive(run)
    assert isinstance(error, ValueError)
    assert [m.content for m in run.values["messages"]] == ["hello"]
    assert run.next == ("outer",)
    at_root = [saved.checkpoint_id for saved in of(frames, CheckpointSaved) if not saved.namespace]
    assert run.checkpoint_id == at_root[-1]


async def test_more_modes_for_a_protocol() -> None:
    class Quiet(Mapper):
        @on("updates")
        def updates(self, part: Any) -> Frame:
            return StateUpdated(node="x", values=list(part["data"]))

    frames, _ = await drive(execution(line(("n", says())), mapper=Quiet, modes=["custom"]))
    assert frames == [StateUpdated(node="x", values=["n"])]


async def test_durability_is_given_only_to_graphs_that_save() -> None:
    for saver in (None, InMemorySaver()):
        for durability in ("sync", "async", "exit"):
            graph = line(("n", says()), saver=saver)
            frames = await record(graph, HELLO, thread(), durability=durability)
            assert frames[-1] == RunFinished(status="completed")


async def test_an_interrupt_with_checkpoints_only_at_the_exit() -> None:
    frames = await record(asking(), HELLO, thread(), durability="exit")
    assert frames[-1] == RunFinished(status="interrupted")


class Spy(BaseCallbackHandler):
    def __init__(self) -> None:
        self.heard: list[str] = []

    def on_retriever_end(self, documents: Any, **kwargs: Any) -> None:
        self.heard.append("retriever")


@pytest.mark.parametrize("managed", [False, True], ids=["list", "manager"])
async def test_callbacks_of_the_user_stay_as_they_are(managed: bool) -> None:
    async def node(state: Any) -> None:
        await Shelf(documents=[Document("x")]).ainvoke("x")

    spy = Spy()
    callbacks: Any = [spy]
    if managed:
        callbacks = AsyncCallbackManager([])
        callbacks.add_handler(spy)
    frames = await record(line(("n", node)), HELLO, {"callbacks": callbacks})
    assert spy.heard == ["retriever"]
    assert of(frames, Sources)
    assert (callbacks.handlers if managed else callbacks) == [spy]


async def test_a_mapper_that_needs_no_callbacks_gets_none() -> None:
    frames = await record(
        line(("n", lambda state: dispatch_custom_event("x", 1))), HELLO, mapper=Mapper
    )
    assert [type(frame).__name__ for frame in frames] == ["RunStarted", "RunResult", "RunFinished"]
    run = execution(line(("n", says())), mapper=Mapper)
    assert run.dropped == 0


# Kinds of graphs.


@dataclass
class DataState:
    messages: Annotated[list[AnyMessage], add_messages] = field(default_factory=list)


class ModelState(BaseModel):
    messages: Annotated[list[AnyMessage], add_messages] = []


@pytest.mark.parametrize("state", [DataState, ModelState])
@pytest.mark.parametrize("saver", [None, InMemorySaver()], ids=["without", "with"])
async def test_states_of_all_kinds(state: Any, saver: Any) -> None:
    graph = line(("n", lambda state: {"messages": [AIMessage("typed")]}), state=state, saver=saver)
    given = state(messages=[HumanMessage("hi")])
    frames = await record(graph, given, thread(state.__name__), expose_output=True)
    assert of(frames, RunStarted)[0].messages[0]["content"] == "hi"
    (result,) = of(frames, RunResult)
    assert result.text == "typed"
    assert [m["content"] for m in result.output["messages"]] == ["hi", "typed"]


async def test_a_graph_with_a_context() -> None:
    @dataclass
    class Context:
        name: str

    async def node(state: Any, runtime: Runtime[Context]) -> dict[str, Any]:
        return {"messages": [AIMessage(f"hello {runtime.context.name}")]}

    graph = line(("n", node), context=Context)
    with_events = ChatMapper.extend({"on_tool_end": lambda event: None})
    for context in (Context("Ada"), {"name": "Ada"}):
        for mapper in (ChatMapper, with_events):
            frames = await record(graph, HELLO, context=context, mapper=mapper)
            assert of(frames, RunResult)[0].text == "hello Ada"


@pytest.mark.filterwarnings("ignore::langgraph.warnings.LangGraphDeprecatedSinceV10")
@pytest.mark.parametrize("version", ["v1", "v2"])
async def test_a_prebuilt_agent(version: Any) -> None:
    @tool
    def look(q: str) -> str:
        """Look."""
        return f"found {q}"

    calls = [call("look", "c1", q="x"), call("look", "c2", q="y")]
    model = ScriptedModel([Reply(text="wait", tool_calls=calls), "done"])
    graph = create_react_agent(model, [look], version=version, checkpointer=InMemorySaver())
    frames = await record(graph, HELLO, thread())
    assert {t.tool_call_id: t.content for t in of(frames, ToolFinished)} == {
        "c1": "found x",
        "c2": "found y",
    }
    assert of(frames, RunResult)[0].text == "done"


async def test_a_state_that_json_cannot_hold() -> None:
    class Unknown:
        pass

    value = {
        "bytes": b"\xff",
        "when": datetime(2026, 1, 2, tzinfo=UTC),
        "id": UUID(int=1),
        "nan": float("nan"),
        "model": ModelState(),
        "set": {1},
        "unknown": Unknown(),
    }
    graph = line(("n", lambda state: {"value": value}), state=Anything)
    mapper = ChatMapper.extend(state=True)
    frames = await record(graph, {"value": 1}, mapper=mapper, expose_output=True)
    (result,) = of(frames, RunResult)
    assert result.output["value"] == {
        "bytes": "/w==",
        "when": "2026-01-02T00:00:00+00:00",
        "id": str(UUID(int=1)),
        "nan": None,
        "model": {"messages": []},
        "set": [1],
        "unknown": {"type": f"{__name__}.{Unknown.__qualname__}"},
    }
    assert of(frames, StateUpdated)[0].values == {"value": result.output["value"]}


def test_what_each_graph_can_be_asked_for() -> None:
    def told(graph: Any) -> tuple[bool, bool, bool]:
        options = graph_options(graph)
        return options.checkpointer, options.durability, options.control

    @entrypoint(checkpointer=InMemorySaver())
    def flow(value: int) -> int:
        return value

    assert told(line(("n", says()))) == (False, False, True)
    assert told(line(("n", says()), saver=False)) == (False, False, True)
    assert told(line(("n", says()), saver=InMemorySaver())) == (True, True, True)
    assert told(flow) == (True, True, True)
    assert told(RemoteGraph("agent", url="http://localhost:1")) == (True, False, False)


async def test_a_remote_graph() -> None:
    class Remote(RemoteGraph):
        async def astream(self, *given: Any, **options: Any) -> Any:  # type: ignore[override]
            assert set(options) == {"stream_mode", "subgraphs", "version"}
            told = {"id": "t", "name": "n"}
            said = AIMessage("from afar", id="m").model_dump()
            yield {"type": "tasks", "ns": (), "data": {**told, "input": {}}}
            yield {"type": "messages", "ns": (), "data": (said, {"langgraph_node": "n"})}
            yield {"type": "tasks", "ns": (), "data": {**told, "result": {}, "interrupts": []}}

    run = execution(Remote("agent", url="http://localhost:1"), durability="sync")
    run.drain()
    frames, error = await drive(run)
    assert of(run.end(error), RunResult)[0].text == "from afar"
    assert len(of(frames, StepFinished)) == 1


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (StateGraph(Anything), r"got StateGraph \(call \.compile\(\) on it\)"),
        (lambda state: state, "got function"),
        (None, "got NoneType"),
    ],
)
async def test_what_is_no_graph_is_refused(value: Any, told: str) -> None:
    with pytest.raises(ConfigurationError, match=f"graph: expected a compiled graph, {told}"):
        check_graph(value)
    with pytest.raises(ConfigurationError, match="graph: expected"):
        await record(value, HELLO)
    with pytest.raises(ConfigurationError, match="mapper: expected"):
        await record(chat("x"), HELLO, mapper=value)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"messages": [("user", "hi")]}, ["hi"]),
        ({"messages": "hi"}, ["hi"]),
        ({"messages": [HumanMessage("a"), {"role": "user", "content": "b"}]}, ["a", "b"]),
        ([HumanMessage("a")], ["a"]),
        (ModelState(messages=[HumanMessage("a")]), ["a"]),
        ({"messages": []}, []),
        ({"messages": [{"what": 1}]}, []),
        ({"messages": [7]}, []),
        ({"other": 1}, []),
        (None, []),
        ("text", []),
        (Command(resume="x"), []),
    ],
    ids=repr,
)
def test_the_messages_of_an_input(given: Any, told: list[str]) -> None:
    assert [message["content"] for message in input_messages(given)] == told


# The scripted model.


async def test_the_scripted_model_plays_its_answers_by_turns() -> None:
    graph = line(("a", model_node("one", AIMessage("two"))), ("b", model_node("three")))
    for expected in (["one", "three"], ["two", "three"], ["one", "three"]):
        frames = await record(graph, HELLO)
        assert [m.content[0]["text"] for m in of(frames, MessageFinished)] == expected


async def test_the_scripted_model_streams_from_a_thread_too() -> None:
    model = ScriptedModel([Reply(text="Hello there", delay=0.001, usage=(1, 1))])
    node = RunnableLambda(lambda state: {"messages": [model.invoke(state["messages"])]})
    frames = await record(line(("n", node)), HELLO)
    assert len(of(frames, BlockDelta)) == 3
    assert of(frames, RunResult)[0].usage["total_tokens"] == 2


async def test_the_scripted_model_without_a_graph() -> None:
    reply = Reply(text="Hello", tool_calls=[call("look", q="x")], usage=(1, 2))
    model = ScriptedModel([reply, reply, AIMessage("end", usage_metadata=add_usage(None, None))])
    for message in (model.invoke("hi"), await model.ainvoke("hi")):
        assert message.text == "Hello"
        assert message.tool_calls == [call("look", q="x")]
        assert message.usage_metadata is not None
        assert message.usage_metadata["total_tokens"] == 3
    assert "".join([chunk.text async for chunk in model.astream("hi")]) == "end"
    assert "".join(chunk.text for chunk in model.bind_tools([]).stream("hi")) == "Hello"
