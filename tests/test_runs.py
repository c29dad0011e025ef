"""Runs: what starting, answering, continuing, cancelling and draining do to a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from operator import add
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.config import get_stream_writer
from langgraph.func import entrypoint
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import interrupt

from langgraph_ws.commands import ANONYMOUS, Identity, StartRun
from langgraph_ws.errors import ConfigurationError, RequestError
from langgraph_ws.frames import (
    BlockDelta,
    CheckpointSaved,
    Custom,
    Frame,
    InterruptAnswered,
    Interrupted,
    MessageFinished,
    RolledBack,
    RunFailed,
    RunFinished,
    RunResult,
    RunStarted,
    StepFinished,
    StepStarted,
)
from langgraph_ws.limits import Limits
from langgraph_ws.log import Position, Retention, ThreadLog
from langgraph_ws.log.memory import MemoryThreadLog
from langgraph_ws.log.registry import Standing, Ticket
from langgraph_ws.run import CancelledRun
from langgraph_ws.runs import Runs
from langgraph_ws.testing import Reply, ScriptedModel

ALICE = Identity(id="alice")
BOB = Identity(id="bob")


new_log: Callable[..., ThreadLog] = MemoryThreadLog
"""Makes the log of a server; the same tests run over every log."""


@asynccontextmanager
async def serving(graph: Any, **options: Any) -> AsyncIterator[Runs]:
    options.setdefault("log", new_log())
    runs = Runs(graph, **options)
    await runs.begin()
    try:
        yield runs
    finally:
        await runs.end()


def turn(text: str = "hi", **fields: Any) -> StartRun:
    return StartRun(messages=({"role": "user", "content": text},), **fields)


async def frames_of(runs: Runs, run_id: str, identity: Identity = ANONYMOUS) -> list[Frame]:
    return [entry.frame async for entry in runs.entries(identity, run_id=run_id)]


async def run(runs: Runs, request: StartRun, identity: Identity = ANONYMOUS) -> list[Frame]:
    info = await runs.start(identity, request)
    assert info.run_id is not None
    return await frames_of(runs, info.run_id, identity)


def status_of(frames: list[Frame]) -> str:
    last = frames[-1]
    assert isinstance(last, RunFinished)
    assert sum(isinstance(frame, RunFinished) for frame in frames) == 1
    return last.status


def only(frames: list[Frame], kind: type[Any]) -> list[Any]:
    return [frame for frame in frames if isinstance(frame, kind)]


def failure(frames: list[Frame]) -> RunFailed:
    [failed] = only(frames, RunFailed)
    assert isinstance(failed, RunFailed)
    return failed


async def until(runs: Runs, run_id: str, kind: type[Any], identity: Identity = ANONYMOUS) -> None:
    """Wait for the first frame of a kind."""
    async for entry in runs.entries(identity, run_id=run_id):
        if isinstance(entry.frame, kind):
            return
    raise AssertionError(f"the run ended without a {kind.__name__}")


def graph_of(*nodes: Callable[..., Any], saver: Any = None, **options: Any) -> Any:
    """A graph of nodes one after the other."""
    builder = StateGraph(MessagesState)
    before = START
    for node in nodes:
        builder.add_node(node.__name__, node)
        builder.add_edge(before, node.__name__)
        before = node.__name__
    return builder.compile(checkpointer=saver, **options)


def say(state: MessagesState) -> dict[str, Any]:
    return {"messages": [AIMessage(f"You said {state['messages'][-1].text}")]}


def ask(state: MessagesState) -> dict[str, Any]:
    return {"messages": [AIMessage(f"Answer: {interrupt('sure?')}")]}


class Gate:
    """A graph with one node that says that it is in, and waits until it is let out."""

    def __init__(self, saver: Any = None) -> None:
        self.entered = asyncio.Event()
        self.open = asyncio.Event()
        self.cleaned = False
        self.graph = graph_of(self.wait, say, saver=saver)

    async def wait(self, state: MessagesState) -> dict[str, Any]:
        self.entered.set()
        try:
            await self.open.wait()
        finally:
            await asyncio.sleep(0)
            self.cleaned = True
        return {}


# -- one run ------------------------------------------------------------------------------------


async def test_a_run_is_logged_from_its_start_to_its_end() -> None:
    async with serving(graph_of(say)) as runs:
        info = await runs.start(ANONYMOUS, turn(run_id="r"))
        assert info.status in ("running", "completed")
        assert info.start == Position(info.position.epoch, 0)
        frames = await frames_of(runs, "r")
    started = frames[0]
    assert isinstance(started, RunStarted)
    assert (started.thread_id, started.run_id, started.graph) == (info.thread_id, "r", "LangGraph")
    assert started.messages[0]["content"] == [{"type": "text", "text": "hi"}]
    assert started.messages[0]["message_id"]
    result = frames[-2]
    assert isinstance(result, RunResult)
    assert result.text == "You said hi"
    assert status_of(frames) == "completed"


async def test_the_next_turn_goes_on_with_the_thread() -> None:
    async with serving(graph_of(say, saver=InMemorySaver())) as runs:
        await run(runs, turn("one", thread_id="t"))
        await run(runs, turn("two", thread_id="t"))
        snapshot = await runs.snapshot(ANONYMOUS, "t")
    texts = [message.content[0]["text"] for message in snapshot.messages]
    assert texts == ["one", "You said one", "two", "You said two"]


async def test_a_graph_without_messages_takes_any_input() -> None:
    class Number(TypedDict):
        value: int

    builder = StateGraph(Number)
    builder.add_node("double", lambda state: {"value": state["value"] * 2})
    builder.add_edge(START, "double")
    async with serving(builder.compile(), expose_output=True) as runs:
        frames = await run(runs, StartRun(input={"value": 21}))
        assert only(frames, RunResult)[0].output == {"value": 42}
        with pytest.raises(RequestError, match="has no") as refused:
            await runs.start(ANONYMOUS, turn())
    assert refused.value.code == "invalid_field"


async def test_the_functional_api_takes_any_input() -> None:
    @entrypoint()
    async def double(value: int) -> int:
        return value * 2

    async with serving(double, expose_output=True) as runs:
        frames = await run(runs, StartRun(input=21))
    assert only(frames, RunResult)[0].output == 42


async def test_messages_that_langchain_cannot_read_are_refused() -> None:
    async with serving(graph_of(say)) as runs:
        with pytest.raises(RequestError, match="expected a message"):
            await runs.start(ANONYMOUS, StartRun(messages=({"role": "tool", "content": "x"},)))


async def test_entries_of_a_thread_go_on_with_later_runs() -> None:
    async with serving(graph_of(say)) as runs:
        await run(runs, turn(thread_id="t", run_id="a"))
        ended = []
        task = asyncio.create_task(runs.start(ANONYMOUS, turn(thread_id="t", run_id="b")))
        async for entry in runs.entries(thread_id="t"):
            if isinstance(entry.frame, RunFinished):
                ended.append(entry.run_id)
                if len(ended) == 2:
                    break
        await task
    assert ended == ["a", "b"]


async def test_a_failing_node_ends_the_run_and_the_thread_can_go_on() -> None:
    broken = True

    def work(state: MessagesState) -> dict[str, Any]:
        if broken:
            raise RuntimeError("secret")
        return {"messages": [AIMessage("done")]}

    async with serving(graph_of(work, saver=InMemorySaver())) as runs:
        frames = await run(runs, turn(thread_id="t"))
        assert status_of(frames) == "failed"
        assert failure(frames).code == "graph_failed"
        assert failure(frames).retryable
        assert "secret" not in repr(frames)
        broken = False
        frames = await run(runs, StartRun(kind="continue", thread_id="t"))
        assert status_of(frames) == "completed"
        with pytest.raises(RequestError) as refused:
            await runs.start(ANONYMOUS, StartRun(kind="continue", thread_id="t"))
    assert refused.value.code == "nothing_to_continue"


# -- cancel -------------------------------------------------------------------------------------


async def test_cancelled_is_reported_after_the_task_has_ended() -> None:
    gate = Gate(InMemorySaver())
    async with serving(gate.graph) as runs:
        await runs.start(ANONYMOUS, turn(thread_id="t", run_id="r"))
        await gate.entered.wait()
        info = await runs.cancel(ANONYMOUS, None, "r")
        assert info.status == "running"
        frames = await frames_of(runs, "r")
        assert status_of(frames) == "cancelled"
        assert gate.cleaned
        with pytest.raises(RequestError) as refused:
            await runs.cancel(ANONYMOUS, "t", None)
        assert refused.value.code == "not_found"
        gate.open.set()
        frames = await run(runs, StartRun(kind="continue", thread_id="t"))
    assert status_of(frames) == "completed"


async def test_cancel_stops_subgraphs_and_closes_open_messages() -> None:
    stopped = asyncio.Event()
    model = ScriptedModel([Reply(text="one two three", chunk_chars=4)])

    async def inner(state: MessagesState) -> dict[str, Any]:
        async for _ in model.astream("x"):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                stopped.set()
                raise
        return {}

    outer = StateGraph(MessagesState).add_node("sub", graph_of(inner)).add_edge(START, "sub")
    told: list[CancelledRun] = []

    async def on_cancel(cancelled: CancelledRun) -> None:
        told.append(cancelled)
        text = cancelled.messages[0].content[0]["text"]
        message = AIMessage(text, id=cancelled.messages[0].message_id)
        await cancelled.graph.aupdate_state(cancelled.config, {"messages": [message]})

    graph = outer.compile(checkpointer=InMemorySaver())
    async with serving(graph, on_cancel=on_cancel) as runs:
        await runs.start(ANONYMOUS, turn(thread_id="t", run_id="r"))
        await until(runs, "r", BlockDelta)
        await runs.cancel(ANONYMOUS, "t", None)
        frames = await frames_of(runs, "r")
        assert status_of(frames) == "cancelled"
        assert stopped.is_set()
        [message] = only(frames, MessageFinished)
        assert message.status == "cancelled"
        assert message.content[0]["text"] == "one "
        assert told[0].run_id == "r"
        snapshot = await runs.snapshot(ANONYMOUS, "t")
    assert [part.content[0]["text"] for part in snapshot.messages] == ["hi", "one "]


async def test_a_failing_on_cancel_does_not_keep_the_run_from_ending(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def on_cancel(cancelled: CancelledRun) -> None:
        raise RuntimeError("no")

    gate = Gate()
    async with serving(gate.graph, on_cancel=on_cancel) as runs:
        await runs.start(ANONYMOUS, turn(run_id="r"))
        await gate.entered.wait()
        await runs.cancel(ANONYMOUS, None, "r")
        assert status_of(await frames_of(runs, "r")) == "cancelled"
    assert "on_cancel failed for run r" in caplog.text


async def test_what_a_sync_node_writes_after_the_cancel_is_dropped() -> None:
    entered, leave, left = threading.Event(), threading.Event(), threading.Event()

    def stubborn(state: MessagesState) -> dict[str, Any]:
        writer = get_stream_writer()
        writer({"type": "before"})
        entered.set()
        leave.wait(10)
        writer({"type": "after"})
        left.set()
        return {}

    async with serving(graph_of(stubborn)) as runs:
        await runs.start(ANONYMOUS, turn(run_id="r", thread_id="t"))
        await until(runs, "r", Custom)
        await runs.cancel(ANONYMOUS, None, "r")
        frames = await frames_of(runs, "r")
        leave.set()
        await asyncio.to_thread(left.wait, 10)
        position, _ = await runs.log.view("t")
    assert [frame.name for frame in only(frames, Custom)] == ["before"]
    assert status_of(frames) == "cancelled"
    assert position.seq == len(frames)


async def test_a_run_can_be_cancelled_while_it_is_being_prepared() -> None:
    opening, may_open = asyncio.Event(), asyncio.Event()

    async def factory(identity: Identity) -> Any:
        opening.set()
        await may_open.wait()
        return graph_of(say)

    async with serving(factory) as runs:
        start = asyncio.create_task(runs.start(ANONYMOUS, turn(run_id="r")))
        await opening.wait()
        await runs.cancel(ANONYMOUS, None, "r")
        may_open.set()
        await start
        frames = await frames_of(runs, "r")
    assert status_of(frames) == "cancelled"
    assert not only(frames, StepStarted)


# -- interrupts ---------------------------------------------------------------------------------


def two_questions(saver: Any = None) -> Any:
    """A graph that asks two questions at once, one of them in a subgraph."""

    class State(TypedDict):
        answers: Annotated[list[str], add]

    def left(state: State) -> dict[str, Any]:
        return {"answers": [f"left {interrupt('left?')}"]}

    def right(state: State) -> dict[str, Any]:
        return {"answers": [f"right {interrupt('right?')}"]}

    inner = StateGraph(State).add_node("right", right).add_edge(START, "right").compile()
    builder = StateGraph(State).add_node("left", left).add_node("sub", inner)
    builder.add_edge(START, "left").add_edge(START, "sub")
    return builder.compile(checkpointer=saver or InMemorySaver())


async def test_interrupts_are_announced_and_answered_by_id() -> None:
    async with serving(two_questions(), expose_output=True) as runs:
        frames = await run(runs, StartRun(input={"answers": []}, thread_id="t"))
        assert status_of(frames) == "interrupted"
        asked = {frame.value: frame for frame in only(frames, Interrupted)}
        assert set(asked) == {"left?", "right?"}
        assert asked["left?"].namespace == ()
        assert asked["right?"].namespace[0].startswith("sub:")
        assert {frame.ordinal for frame in asked.values()} == {0, 1}
        info = await runs.info(ANONYMOUS, "t", None)
        assert info.status == "interrupted"
        assert {waiting.value for waiting in info.interrupts} == {"left?", "right?"}

        def answer(**fields: Any) -> StartRun:
            return StartRun(kind="answer", thread_id="t", **fields)

        with pytest.raises(RequestError) as ambiguous:
            await runs.start(ANONYMOUS, answer(answer="yes"))
        assert ambiguous.value.code == "ambiguous_interrupt"
        with pytest.raises(RequestError, match="0" * 32) as stale:
            answers = {asked["left?"].interrupt_id: "x", "0" * 32: "y"}
            await runs.start(ANONYMOUS, answer(answers=answers))
        assert stale.value.code == "stale_interrupt"

        frames = await run(runs, answer(answers={asked["left?"].interrupt_id: "L"}))
        [answered] = only(frames, InterruptAnswered)
        assert answered.interrupt_ids == (asked["left?"].interrupt_id,)
        assert not answered.superseded
        assert [frame.value for frame in only(frames, Interrupted)] == ["right?"]
        frames = await run(runs, answer(answer="R"))
        assert status_of(frames) == "completed"
        assert sorted(only(frames, RunResult)[0].output["answers"]) == ["left L", "right R"]
        with pytest.raises(RequestError) as late:
            await runs.start(ANONYMOUS, answer(answer="again"))
    assert late.value.code == "stale_interrupt"


async def test_an_answer_may_not_change_the_state_unless_that_is_allowed() -> None:
    def request(**fields: Any) -> StartRun:
        return StartRun(kind="answer", thread_id="t", answer="yes", **fields)

    saver = InMemorySaver()
    async with serving(graph_of(ask, say, saver=saver)) as runs:
        await run(runs, turn(thread_id="t"))
        for fields in ({"update": {"messages": []}}, {"goto": ("say",)}):
            with pytest.raises(RequestError) as refused:
                await runs.start(ANONYMOUS, request(**fields))
            assert refused.value.code == "forbidden"
    async with serving(graph_of(ask, say, saver=saver), allow_state_updates=True) as runs:
        update = {"messages": [HumanMessage("added")]}
        frames = await run(runs, request(update=update))
        assert status_of(frames) == "completed"
        snapshot = await runs.snapshot(ANONYMOUS, "t")
    assert "added" in [message.content[0]["text"] for message in snapshot.messages]


async def test_a_new_turn_supersedes_what_was_waiting() -> None:
    async with serving(graph_of(ask, saver=InMemorySaver())) as runs:
        frames = await run(runs, turn(thread_id="t"))
        [asked] = only(frames, Interrupted)
        frames = await run(runs, turn("never mind", thread_id="t"))
        [answered] = only(frames, InterruptAnswered)
        assert answered.superseded
        assert answered.interrupt_ids == (asked.interrupt_id,)
        info = await runs.info(ANONYMOUS, "t", None)
    assert [waiting.interrupt_id for waiting in info.interrupts] == [
        only(frames, Interrupted)[0].interrupt_id
    ]


async def test_an_answer_to_a_busy_thread_is_stale() -> None:
    gate = Gate(InMemorySaver())
    async with serving(gate.graph) as runs:
        await runs.start(ANONYMOUS, turn(thread_id="t", run_id="r"))
        with pytest.raises(RequestError) as stale:
            await runs.start(ANONYMOUS, StartRun(kind="answer", thread_id="t", answer=1))
        assert stale.value.code == "stale_interrupt"
        with pytest.raises(RequestError) as busy:
            await runs.start(ANONYMOUS, StartRun(kind="continue", thread_id="t"))
        assert busy.value.code == "thread_busy"


async def test_a_breakpoint_interrupts_and_is_continued() -> None:
    async with serving(graph_of(say, ask, saver=InMemorySaver(), interrupt_before=["ask"])) as runs:
        frames = await run(runs, turn(thread_id="t"))
        assert status_of(frames) == "interrupted"
        assert not only(frames, Interrupted)
        frames = await run(runs, StartRun(kind="continue", thread_id="t"))
    assert [frame.value for frame in only(frames, Interrupted)] == ["sure?"]


async def test_without_a_checkpointer_there_is_nothing_to_go_on_from() -> None:
    async with serving(graph_of(say)) as runs:
        for request in (
            StartRun(kind="answer", thread_id="t", answer=1),
            StartRun(kind="continue", thread_id="t"),
            turn(thread_id="t", checkpoint_id="c"),
        ):
            with pytest.raises(RequestError) as refused:
                await runs.start(ANONYMOUS, request)
            assert refused.value.code == "no_checkpointer"
        assert status_of(await run(runs, turn(thread_id="t"))) == "completed"


async def test_edit_and_fork_start_from_a_checkpoint() -> None:
    async with serving(graph_of(say, saver=InMemorySaver())) as runs:
        await run(runs, turn("one", thread_id="t"))
        frames = await run(runs, turn("two", thread_id="t"))
        started = frames[0]
        assert isinstance(started, RunStarted)
        fork = turn("other", thread_id="t", checkpoint_id=started.checkpoint_id)
        assert status_of(await run(runs, fork)) == "completed"
        snapshot = await runs.snapshot(ANONYMOUS, "t")
        texts = [message.content[0]["text"] for message in snapshot.messages]
        assert texts == ["one", "You said one", "other", "You said other"]
        before_node = only(frames, CheckpointSaved)[-2].checkpoint_id
        again = StartRun(kind="continue", thread_id="t", checkpoint_id=before_node)
        assert only(await run(runs, again), RunResult)[0].text == "You said two"
        with pytest.raises(RequestError) as refused:
            await runs.start(ANONYMOUS, turn(thread_id="t", checkpoint_id="nowhere"))
    assert refused.value.code == "no_checkpoint"


# -- several runs on one thread -----------------------------------------------------------------


async def test_reject_refuses_a_second_run() -> None:
    gate = Gate()
    async with serving(gate.graph, multitask_strategy="reject") as runs:
        await runs.start(ANONYMOUS, turn(thread_id="t", run_id="a"))
        with pytest.raises(RequestError) as refused:
            await runs.start(ANONYMOUS, turn(thread_id="t"))
        assert refused.value.code == "thread_busy"
        assert refused.value.retryable
        gate.open.set()
        assert status_of(await frames_of(runs, "a")) == "completed"


async def test_enqueued_runs_have_a_place_and_run_in_order() -> None:
    gate = Gate()
    limits = Limits(queued_runs_per_thread=3)
    async with serving(gate.graph, limits=limits) as runs:
        await runs.start(ANONYMOUS, turn(thread_id="t", run_id="a"))
        places = [
            (await runs.start(ANONYMOUS, turn(thread_id="t", run_id=name))).place for name in "bcd"
        ]
        assert places == [1, 2, 3]
        with pytest.raises(RequestError, match="too many runs wait"):
            await runs.start(ANONYMOUS, turn(thread_id="t"))
        info = await runs.cancel(ANONYMOUS, "t", "c")
        assert info.status == "queued"
        assert (await runs.info(ANONYMOUS, None, "d")).place == 2
        assert status_of(await frames_of(runs, "c")) == "cancelled"
        gate.open.set()
        assert status_of(await frames_of(runs, "d")) == "completed"
        started = []
        async for entry in runs.entries(thread_id="t"):
            if isinstance(entry.frame, RunStarted):
                started.append(entry.run_id)
            if entry.run_id == "d":
                break
    assert started == ["a", "b", "d"]


async def test_the_queue_waits_while_the_thread_is_interrupted() -> None:
    gate = asyncio.Event()

    async def hold(state: MessagesState) -> dict[str, Any]:
        await gate.wait()
        return {}

    def once(state: MessagesState) -> dict[str, Any]:
        if state["messages"][-1].text == "ask":
            return ask(state)
        return say(state)

    async with serving(graph_of(hold, once, saver=InMemorySaver())) as runs:
        await runs.start(ANONYMOUS, turn("ask", thread_id="t", run_id="a"))
        await runs.start(ANONYMOUS, turn("tell", thread_id="t", run_id="b"))
        gate.set()
        assert status_of(await frames_of(runs, "a")) == "interrupted"
        assert (await runs.info(ANONYMOUS, None, "b")).status == "queued"
        answer = StartRun(kind="answer", thread_id="t", answer="yes", run_id="c")
        assert status_of(await run(runs, answer)) == "completed"
        frames = await frames_of(runs, "b")
    assert only(frames, RunResult)[0].text == "You said tell"


async def test_interrupt_cancels_the_active_run_first() -> None:
    gate = Gate(InMemorySaver())
    async with serving(gate.graph) as runs:
        await runs.start(ANONYMOUS, turn("one", thread_id="t", run_id="a"))
        await gate.entered.wait()
        request = turn("two", thread_id="t", run_id="b", multitask_strategy="interrupt")
        info = await runs.start(ANONYMOUS, request)
        gate.open.set()
        assert (info.status, info.place) == ("queued", 1)
        assert status_of(await frames_of(runs, "a")) == "cancelled"
        frames = await frames_of(runs, "b")
        assert not only(frames, RolledBack)
        snapshot = await runs.snapshot(ANONYMOUS, "t")
    texts = [message.content[0]["text"] for message in snapshot.messages]
    assert texts == ["one", "two", "You said two"]


async def test_of_several_that_supersede_the_last_one_runs() -> None:
    gate = Gate(InMemorySaver())
    async with serving(gate.graph, multitask_strategy="interrupt") as runs:
        for name in "abc":
            await runs.start(ANONYMOUS, turn(name, thread_id="t", run_id=name))
        gate.open.set()
        ends = [status_of(await frames_of(runs, name)) for name in "abc"]
        assert ends == ["cancelled", "cancelled", "completed"]
        snapshot = await runs.snapshot(ANONYMOUS, "t")
    assert snapshot.messages[-1].content[0]["text"] == "You said c"


@pytest.mark.parametrize("earlier", [False, True])
async def test_rollback_goes_back_to_before_the_superseded_run(earlier: bool) -> None:
    gate = Gate(InMemorySaver())
    async with serving(gate.graph, multitask_strategy="rollback") as runs:
        if earlier:
            gate.open.set()
            await run(runs, turn("zero", thread_id="t"))
            gate.open.clear()
            gate.entered.clear()
        await runs.start(ANONYMOUS, turn("one", thread_id="t", run_id="a"))
        await gate.entered.wait()
        await runs.start(ANONYMOUS, turn("two", thread_id="t", run_id="b"))
        gate.open.set()
        frames = await frames_of(runs, "b")
        assert [frame.run_id for frame in only(frames, RolledBack)] == ["a"]
        assert status_of(frames) == "completed"
        snapshot = await runs.snapshot(ANONYMOUS, "t")
    texts = [message.content[0]["text"] for message in snapshot.messages]
    before = ["zero", "You said zero"] if earlier else []
    assert texts == [*before, "two", "You said two"]


async def test_rollback_without_a_checkpointer_is_interrupt() -> None:
    gate = Gate()
    async with serving(gate.graph, multitask_strategy="rollback") as runs:
        await runs.start(ANONYMOUS, turn("one", thread_id="t", run_id="a"))
        await gate.entered.wait()
        await runs.start(ANONYMOUS, turn("two", thread_id="t", run_id="b"))
        gate.open.set()
        assert status_of(await frames_of(runs, "a")) == "cancelled"
        frames = await frames_of(runs, "b")
    assert not only(frames, RolledBack)
    assert status_of(frames) == "completed"


async def test_a_queued_run_that_turns_out_impossible_fails_in_the_log() -> None:
    gate = Gate(InMemorySaver())
    async with serving(gate.graph) as runs:
        await runs.start(ANONYMOUS, turn(thread_id="t", run_id="a"))
        await runs.start(ANONYMOUS, turn(thread_id="t", run_id="b", checkpoint_id="nowhere"))
        gate.open.set()
        frames = await frames_of(runs, "b")
    assert failure(frames).code == "no_checkpoint"
    assert status_of(frames) == "failed"


# -- idempotency --------------------------------------------------------------------------------


async def test_starting_again_follows_the_run_that_exists() -> None:
    gate = Gate()
    async with serving(gate.graph) as runs:
        infos = await asyncio.gather(
            *(runs.start(ANONYMOUS, turn(run_id="r", thread_id="t")) for _ in range(5))
        )
        await gate.entered.wait()
        assert {(info.thread_id, info.run_id, info.start) for info in infos} == {
            ("t", "r", infos[0].start)
        }
        assert (await runs.start(ANONYMOUS, turn(run_id="r"))).thread_id == "t"
        gate.open.set()
        frames = await frames_of(runs, "r")
        assert len(only(frames, RunStarted)) == 1
        again = await runs.start(ANONYMOUS, turn(run_id="r"))
        assert again.status == "completed"
        assert again.position.seq == len(frames)
        with pytest.raises(RequestError) as refused:
            await runs.start(ANONYMOUS, turn(run_id="r", thread_id="other"))
    assert refused.value.code == "conflict"


async def test_a_run_whose_first_entries_are_gone_is_followed_all_the_same() -> None:
    open_, spoke = asyncio.Event(), asyncio.Event()

    async def talk(state: MessagesState) -> dict[str, Any]:
        for number in range(100):
            get_stream_writer()({"type": "tick", "number": number})
            await asyncio.sleep(0)
        spoke.set()
        await open_.wait()
        return {}

    async with serving(graph_of(talk), log=new_log(Retention(entries=20))) as runs:
        await runs.start(ANONYMOUS, turn(thread_id="t", run_id="r"))
        await spoke.wait()
        async with asyncio.timeout(5):
            while (await runs.log.bounds("t")).first == 1:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.01)
            infos = [
                await runs.start(ANONYMOUS, turn(thread_id="t", run_id="r")),
                await runs.info(ANONYMOUS, None, "r"),
                await runs.info(ANONYMOUS, "t", None),
                await runs.cancel(ANONYMOUS, None, "r"),
            ]
        assert [(info.run_id, info.status) for info in infos] == [("r", "running")] * 4
        assert [info.start for info in infos] == [None] * 4
        open_.set()


async def test_a_run_that_was_cancelled_in_the_queue_ends_once_though_it_is_started_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def nowhere(run: str) -> None:
        """Where it is to be found, as asked before it was started for the first time."""

    gate = Gate()
    async with serving(gate.graph) as runs:
        await runs.start(ANONYMOUS, turn(thread_id="t", run_id="a"))
        await runs.start(ANONYMOUS, turn(thread_id="t", run_id="b"))
        await runs.cancel(ANONYMOUS, None, "b")
        with monkeypatch.context() as patched:
            patched.setattr(runs.log.registry(), "where", nowhere)
            again = await runs.start(ANONYMOUS, turn(thread_id="t", run_id="b"))
        assert again.status == "cancelled"
        await runs.start(ANONYMOUS, turn(thread_id="t", run_id="c"))
        gate.open.set()
        assert status_of(await frames_of(runs, "c")) == "completed"
        follower = await runs.follow(ANONYMOUS, "t", None, lambda: None)
        frames = [entry.frame for entry in follower.read(1_000) if entry.run_id == "b"]
        follower.close()
    assert frames == [RunFinished(status="cancelled")]


async def test_a_refused_run_id_can_be_used_again() -> None:
    async with serving(graph_of(say, saver=InMemorySaver())) as runs:
        impossible = StartRun(kind="continue", thread_id="t", run_id="r")
        results = await asyncio.gather(
            *(runs.start(ANONYMOUS, impossible) for _ in range(2)), return_exceptions=True
        )
        assert [type(result) for result in results] == [RequestError, RequestError]
        assert status_of(await run(runs, turn(thread_id="t", run_id="r"))) == "completed"


# -- who may see what ---------------------------------------------------------------------------


async def test_a_run_that_is_gone_meanwhile_is_not_among_those_of_its_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with serving(graph_of(say)) as runs:
        await run(runs, turn(thread_id="t", run_id="r"))
        ticket = Ticket(run="/gone", thread="t", thread_id="t", graph="g", work=None)

        async def live(thread: str) -> tuple[Standing, ...]:
            return (Standing(ticket=ticket),)

        monkeypatch.setattr(runs.log.registry(), "live", live)
        assert [info.run_id for info in await runs.of_thread(ANONYMOUS, "t")] == ["r"]


async def test_identities_have_threads_and_runs_of_their_own() -> None:
    saver = InMemorySaver()
    async with serving(graph_of(say, saver=saver)) as runs:
        await run(runs, turn("mine", thread_id="t", run_id="r"), ALICE)
        assert (await runs.info(BOB, "t", None)).status == "idle"
        assert (await runs.snapshot(BOB, "t")).messages == ()
        for thread_id in (None, "t"):
            with pytest.raises(RequestError) as refused:
                await runs.info(BOB, thread_id, "r")
            assert refused.value.code == "not_found"
        frames = await run(runs, turn("his", thread_id="t", run_id="r"), BOB)
        assert status_of(frames) == "completed"
        snapshot = await runs.snapshot(ALICE, "t")
    assert [message.content[0]["text"] for message in snapshot.messages] == [
        "mine",
        "You said mine",
    ]
    assert {config["configurable"]["thread_id"] for config, *_ in saver.list(None)} == {
        "alice/t",
        "bob/t",
    }


async def test_identities_and_threads_cannot_be_confused() -> None:
    async with serving(graph_of(say)) as runs:
        pairs = [("a", "t"), ("a/b", "t"), ("", "a"), ("a", "b"), ("", "t")]
        keys = {runs.key(Identity(id=identity), thread) for identity, thread in pairs}
    assert len(keys) == len(pairs)


async def test_thread_key_shares_threads_and_may_refuse() -> None:
    def shared(identity: Identity, thread_id: str) -> str:
        if identity.id == "eve":
            raise PermissionError
        return thread_id

    async with serving(graph_of(say), thread_key=shared) as runs:
        await run(runs, turn("ours", thread_id="t", run_id="r"), ALICE)
        assert (await runs.info(BOB, "t", None)).run_id == "r"
        assert (await runs.info(BOB, "t", "r")).status == "completed"
        with pytest.raises(RequestError) as refused:
            await runs.start(Identity(id="eve"), turn(thread_id="t"))
    assert refused.value.code == "not_found"


async def test_only_allowed_options_reach_the_graph_and_the_identity_wins() -> None:
    seen: dict[str, Any] = {}

    def look(state: MessagesState, config: RunnableConfig) -> dict[str, Any]:
        seen.update(config["configurable"])
        return {}

    async with serving(
        graph_of(look),
        allowed_options=("model", "user", "thread_id"),
        config={"configurable": {"model": "default", "tenant": "acme"}, "tags": ["mine"]},
    ) as runs:
        options = {"model": "big", "user": "mallory", "thread_id": "stolen", "secret": 1}
        identity = Identity(id="alice", config={"user": "alice"})
        await run(runs, turn(thread_id="t", options=options), identity)
    assert (seen["model"], seen["user"], seen["tenant"]) == ("big", "alice", "acme")
    assert seen["thread_id"] == "alice/t"
    assert "secret" not in seen


async def test_allowed_options_reach_the_context_of_a_graph_that_has_one() -> None:
    @dataclass
    class Context:
        language: str = "en"

    def speak(state: MessagesState, runtime: Runtime[Context]) -> dict[str, Any]:
        return {"messages": [AIMessage(runtime.context.language)]}

    builder = StateGraph(MessagesState, context_schema=Context)
    builder.add_node("speak", speak)
    builder.add_edge(START, "speak")
    async with serving(builder.compile(), allowed_options=("language",)) as runs:
        options = {"language": "fr", "other": 1}
        assert only(await run(runs, turn(options=options)), RunResult)[0].text == "fr"
        assert only(await run(runs, turn()), RunResult)[0].text == "en"


# -- graphs -------------------------------------------------------------------------------------


def named(text: str, saver: Any = None) -> Any:
    def answer(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage(text)]}

    return graph_of(answer, saver=saver)


async def test_a_mapping_serves_graphs_by_name() -> None:
    saver = InMemorySaver()
    graphs = {"one": named("1", saver), "two": named("2", saver)}
    async with serving(graphs) as runs:
        assert only(await run(runs, turn()), RunResult)[0].text == "1"
        frames = await run(runs, turn(graph="two", thread_id="t"))
        assert only(frames, RunResult)[0].text == "2"
        frames = await run(runs, turn(thread_id="t"))
        assert only(frames, RunResult)[0].text == "2", "a thread stays with its graph"
        with pytest.raises(RequestError) as refused:
            await runs.start(ANONYMOUS, turn(graph="three"))
        assert refused.value.code == "unknown_graph"
    async with serving(graphs) as runs:
        frames = await run(runs, turn(thread_id="t"))
    assert only(frames, RunResult)[0].text == "2", "also when the process has forgotten it"


async def test_a_factory_makes_the_graph_for_the_identity(tmp_path: Path) -> None:
    @asynccontextmanager
    async def stored(identity: Identity) -> AsyncIterator[Any]:
        async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "threads.db")) as saver:
            yield named(f"for {identity.id}", saver)

    async def awaited(identity: Identity) -> Any:
        return named(f"for {identity.id}")

    def plain(identity: Identity) -> Any:
        return named(f"for {identity.id}")

    for factory in (stored, awaited, plain):
        async with serving(factory) as runs:
            frames = await run(runs, turn(thread_id="t"), ALICE)
            assert only(frames, RunResult)[0].text == "for alice"
            assert frames[0].graph == factory.__name__  # type: ignore[union-attr]
    async with serving({"only": stored}) as runs:
        snapshot = await runs.snapshot(ALICE, "t")
    assert [message.content[0]["text"] for message in snapshot.messages] == ["hi", "for alice"]


async def test_a_factory_that_fails_is_answered_with_an_id(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(identity: Identity) -> Any:
        raise RuntimeError("secret")

    def wrong(identity: Identity) -> Any:
        return StateGraph(MessagesState)

    for factory in (broken, wrong):
        async with serving(factory) as runs:
            with pytest.raises(RequestError) as refused:
                await runs.start(ANONYMOUS, turn())
        assert refused.value.code == "internal_error"
        assert "secret" not in refused.value.message
        assert refused.value.error_id is not None
        assert refused.value.error_id in caplog.text


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        (StateGraph(MessagesState), "call .compile()"),
        ({}, "at least one"),
        ({"a": StateGraph(MessagesState)}, "graph 'a'"),
        ({1: None}, "names that are strings"),
        (42, "expected a compiled graph"),
        (None, "expected a compiled graph"),
    ],
)
def test_what_is_no_graph_is_refused(graph: Any, expected: str) -> None:
    with pytest.raises(ConfigurationError, match="graph") as refused:
        Runs(graph, log=MemoryThreadLog())
    assert expected in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("multitask_strategy", "wait"),
        ("on_disconnect", "stop"),
        ("durability", "never"),
        ("allowed_options", "model"),
        ("allowed_options", [5]),
        ("allowed_options", 5),
        ("config", 5),
        ("config", {"configurable": 5}),
        ("metrics", 5),
        ("mapper", object()),
    ],
)
def test_wrong_options_are_named(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=name):
        Runs(graph_of(say), log=MemoryThreadLog(), **{name: value})


# -- limits -------------------------------------------------------------------------------------


async def test_runs_are_limited_in_all_and_for_each_identity() -> None:
    gate = Gate()
    async with serving(gate.graph, limits=Limits(runs=3, runs_per_identity=2)) as runs:
        await runs.start(ALICE, turn())
        await runs.start(ALICE, turn())
        with pytest.raises(RequestError) as refused:
            await runs.start(ALICE, turn())
        assert refused.value.code == "limit_exceeded"
        await runs.start(BOB, turn())
        with pytest.raises(RequestError) as refused:
            await runs.start(Identity(id="carol"), turn())
        assert refused.value.code == "overloaded"
        assert refused.value.retryable


async def test_a_full_log_takes_no_new_runs() -> None:
    gate = Gate()
    log = MemoryThreadLog(Retention(total_bytes=10))
    async with serving(gate.graph, log=log) as runs:
        await runs.start(ANONYMOUS, turn())
        with pytest.raises(RequestError) as refused:
            await runs.start(ANONYMOUS, turn())
    assert refused.value.code == "overloaded"


class StuckLog(MemoryThreadLog):
    """A log that stops taking frames after the first ones, as one whose server hangs does."""

    def __init__(self, answers: Callable[[], Any]) -> None:
        super().__init__()
        self.appends = 0
        self.answers = answers

    async def append(
        self, thread: str, run_id: str, frames: Any, *, fence: int | None = None
    ) -> Position:
        self.appends += 1
        if self.appends == 2:
            await self.answers()
        return await super().append(thread, run_id, frames, fence=fence)


async def test_a_run_that_outruns_the_log_is_stopped() -> None:
    release = asyncio.Event()

    async def chatter(state: MessagesState) -> dict[str, Any]:
        writer = get_stream_writer()
        try:
            for number in count():
                writer({"type": "tick", "number": number})
                if number % 100 == 0:
                    await asyncio.sleep(0)
        finally:
            release.set()
        return {}

    log = StuckLog(release.wait)
    async with serving(graph_of(chatter), log=log, limits=Limits(pending_frames=500)) as runs:
        await runs.start(ANONYMOUS, turn(run_id="r"))
        frames = await frames_of(runs, "r")
    assert failure(frames).code == "log_failed"
    assert len(only(frames, Custom)) <= 600


async def test_a_log_that_fails_ends_the_run_and_nothing_else() -> None:
    async def fail() -> None:
        raise OSError("disk full")

    async def slow(state: MessagesState) -> dict[str, Any]:
        await asyncio.Event().wait()
        return {}

    async with serving(graph_of(slow), log=StuckLog(fail)) as runs:
        await runs.start(ANONYMOUS, turn(run_id="r"))
        frames = await frames_of(runs, "r")
        assert failure(frames).code == "log_failed"
        assert status_of(frames) == "failed"
        assert (await runs.info(ANONYMOUS, None, "r")).status == "failed"


async def test_a_run_whose_last_words_could_not_be_stored_has_failed() -> None:
    class Picky(MemoryThreadLog):
        async def append(
            self, thread: str, run_id: str, frames: Any, *, fence: int | None = None
        ) -> Position:
            if only(frames, StepFinished):
                await asyncio.sleep(0.05)  # by then the graph has ended
                raise OSError("disk full")
            return await super().append(thread, run_id, frames, fence=fence)

    async with serving(graph_of(say), log=Picky()) as runs:
        frames = await run(runs, turn())
    assert failure(frames).code == "log_failed"
    assert not only(frames, RunResult)


async def test_a_burst_within_one_step_is_not_mistaken_for_a_slow_log() -> None:
    def burst(state: MessagesState) -> dict[str, Any]:
        writer = get_stream_writer()
        for number in range(5_000):
            writer({"type": "tick", "number": number})
        return {}

    async with serving(graph_of(burst), limits=Limits(pending_frames=1_000)) as runs:
        frames = await run(runs, turn())
    assert [frame.data["number"] for frame in only(frames, Custom)] == list(range(5_000))


# -- viewers ------------------------------------------------------------------------------------


async def test_a_run_goes_on_when_everybody_has_left() -> None:
    gate = Gate()
    async with serving(gate.graph) as runs:
        await runs.start(ANONYMOUS, turn(thread_id="t", run_id="r"))
        runs.joined(ANONYMOUS, "t")
        runs.left(ANONYMOUS, "t", dropped=True)
        gate.open.set()
        assert status_of(await frames_of(runs, "r")) == "completed"


async def test_on_disconnect_cancel_ends_what_nobody_follows() -> None:
    gate = Gate()
    async with serving(gate.graph, on_disconnect="cancel") as runs:
        await runs.start(ANONYMOUS, turn(thread_id="t", run_id="a"))
        await runs.start(ANONYMOUS, turn(thread_id="t", run_id="b"))
        await gate.entered.wait()
        runs.joined(ANONYMOUS, "t")
        runs.joined(ANONYMOUS, "t")
        runs.left(ANONYMOUS, "t", dropped=True)
        runs.left(ANONYMOUS, "t", dropped=False)
        await asyncio.sleep(0.01)
        assert (await runs.info(ANONYMOUS, None, "a")).status == "running", "it only detached"
        runs.joined(ANONYMOUS, "t")
        runs.left(ANONYMOUS, "t", dropped=True)
        assert status_of(await frames_of(runs, "a")) == "cancelled"
        assert status_of(await frames_of(runs, "b")) == "cancelled"


async def test_who_comes_back_within_the_grace_finds_the_run_alive() -> None:
    gate = Gate()
    async with serving(gate.graph, on_disconnect="cancel", disconnect_grace=0.05) as runs:
        await runs.start(ANONYMOUS, turn(thread_id="t", run_id="r"))
        await gate.entered.wait()
        runs.joined(ANONYMOUS, "t")
        runs.left(ANONYMOUS, "t", dropped=True)
        runs.joined(ANONYMOUS, "t")
        await asyncio.sleep(0.1)
        gate.open.set()
        assert status_of(await frames_of(runs, "r")) == "completed"


# -- drain --------------------------------------------------------------------------------------


async def test_drain_stops_at_the_next_superstep_and_the_run_can_be_continued() -> None:
    saver = InMemorySaver()
    gate = Gate(saver)
    async with serving(gate.graph) as runs:
        await runs.start(ANONYMOUS, turn(thread_id="t", run_id="a"))
        await gate.entered.wait()
        await runs.start(ANONYMOUS, turn(thread_id="t", run_id="b"))
        drain = asyncio.create_task(runs.drain(10))
        await asyncio.sleep(0)
        with pytest.raises(RequestError) as refused:
            await runs.start(ANONYMOUS, turn())
        assert refused.value.code == "draining"
        gate.open.set()
        await drain
        frames = await frames_of(runs, "a")
        assert status_of(frames) == "drained"
        assert failure(frames).code == "drained"
        assert failure(frames).retryable
        assert [frame.node for frame in only(frames, StepStarted)] == ["wait"]
        assert status_of(await frames_of(runs, "b")) == "drained"
    async with serving(gate.graph) as runs:
        frames = await run(runs, StartRun(kind="continue", thread_id="t"))
    assert only(frames, RunResult)[0].text == "You said hi"


async def test_a_run_that_does_not_come_to_a_superstep_is_stopped_in_time() -> None:
    gate = Gate()
    async with serving(gate.graph) as runs:
        await runs.start(ANONYMOUS, turn(run_id="r"))
        await gate.entered.wait()
        await asyncio.wait_for(runs.drain(0.05), 5)
        frames = await frames_of(runs, "r")
    assert status_of(frames) == "drained"
    assert not failure(frames).retryable, "there is no checkpointer"
    assert gate.cleaned


# -- snapshots ----------------------------------------------------------------------------------


async def test_a_snapshot_holds_the_text_so_far() -> None:
    model = ScriptedModel([Reply(text="one two three", chunk_chars=4)])
    half, go_on = asyncio.Event(), asyncio.Event()

    async def stream(state: MessagesState) -> dict[str, Any]:
        message: AnyMessage | None = None
        async for chunk in model.astream("x"):
            message = chunk if message is None else message + chunk  # type: ignore[assignment]
            if "two" in message.text:
                half.set()
                await go_on.wait()
        return {"messages": [message]}

    async with serving(graph_of(stream)) as runs:
        await runs.start(ANONYMOUS, turn(thread_id="t", run_id="r"))
        await half.wait()
        snapshot = await runs.snapshot(ANONYMOUS, "t")
        while not any("two" in block.text for m in snapshot.open for block in m.blocks.values()):
            await asyncio.sleep(0.001)  # pieces wait for each other
            snapshot = await runs.snapshot(ANONYMOUS, "t")
        assert (snapshot.run_id, snapshot.status) == ("r", "running")
        assert [message.role for message in snapshot.messages] == ["user"]
        [message] = snapshot.open
        assert message.started.node == "stream"
        assert message.blocks[0].text == "one two "
        go_on.set()
        await frames_of(runs, "r")
        snapshot = await runs.snapshot(ANONYMOUS, "t")
    assert snapshot.open == ()
    assert [message.content[0]["text"] for message in snapshot.messages] == ["hi", "one two three"]


async def test_a_process_that_has_forgotten_the_thread_reads_it_from_the_checkpointer() -> None:
    graph = graph_of(ask, saver=InMemorySaver())
    async with serving(graph) as runs:
        frames = await run(runs, turn(thread_id="t"))
        [asked] = only(frames, Interrupted)
    async with serving(graph) as runs:
        info = await runs.info(ANONYMOUS, "t", None)
        assert (info.status, info.run_id) == ("interrupted", None)
        snapshot = await runs.snapshot(ANONYMOUS, "t")
        for interrupts in (info.interrupts, snapshot.interrupts):
            assert [waiting.interrupt_id for waiting in interrupts] == [asked.interrupt_id]
        assert [message.role for message in snapshot.messages] == ["user"]
        assert snapshot.values is None
        frames = await run(runs, StartRun(kind="answer", thread_id="t", answer="yes"))
        assert only(frames, RunResult)[0].text == "Answer: yes"


async def test_a_snapshot_shows_the_state_only_where_it_is_exposed() -> None:
    async with serving(graph_of(say, saver=InMemorySaver()), expose_state=True) as runs:
        await run(runs, turn(thread_id="t"))
        snapshot = await runs.snapshot(ANONYMOUS, "t")
    assert [message["content"] for message in snapshot.values["messages"]] == ["hi", "You said hi"]


# -- what goes wrong at the end -----------------------------------------------------------------


class Slow:
    """A graph whose only node takes its time to end when it is cancelled."""

    def __init__(self, seconds: float, saver: Any = None) -> None:
        self.entered = asyncio.Event()
        self.cleaned = False
        self._seconds = seconds
        self.graph = graph_of(self.linger, say, saver=saver)

    async def linger(self, state: MessagesState) -> dict[str, Any]:
        self.entered.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(self._seconds)
            self.cleaned = True
        return {}


async def test_a_second_cancel_does_not_end_the_run_before_its_node() -> None:
    slow = Slow(0.1)
    async with serving(slow.graph) as runs:
        await runs.start(ANONYMOUS, turn(run_id="r"))
        await slow.entered.wait()
        for _ in range(3):
            await runs.cancel(ANONYMOUS, None, "r")
            await asyncio.sleep(0.01)
        assert status_of(await frames_of(runs, "r")) == "cancelled"
        assert slow.cleaned


async def test_a_graph_that_ignores_the_cancellation_does_not_keep_the_server(
    caplog: pytest.LogCaptureFixture,
) -> None:
    slow = Slow(4.0)
    async with serving(slow.graph) as runs:
        await runs.start(ANONYMOUS, turn(run_id="r"))
        await slow.entered.wait()
        await runs.drain(0)
        assert not slow.cleaned
        assert status_of(await frames_of(runs, "r")) == "drained"
    assert "ignores that it was stopped" in caplog.text
    while not slow.cleaned:  # noqa: ASYNC110  # it leaves no task behind in the end
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.05)


async def test_a_node_that_swallows_the_cancellation_can_be_continued_from() -> None:
    slow = Slow(0.0, InMemorySaver())
    async with serving(slow.graph) as runs:
        await runs.start(ANONYMOUS, turn(thread_id="t", run_id="r"))
        await slow.entered.wait()
        await runs.cancel(ANONYMOUS, None, "r")
        await frames_of(runs, "r")
        frames = await run(runs, StartRun(kind="continue", thread_id="t"))
    assert status_of(frames) == "completed"


async def test_a_factory_that_fails_on_its_way_out_adds_no_second_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @asynccontextmanager
    async def leaky(identity: Identity) -> AsyncIterator[Any]:
        yield graph_of(say)
        raise OSError("the connection broke")

    async with serving(leaky) as runs:
        frames = await run(runs, turn(thread_id="t"))
        assert status_of(frames) == "completed"
        await asyncio.sleep(0.01)
        position, _ = await runs.log.view("t")
        assert position.seq == len(frames)
    assert "the connection broke" in caplog.text


async def test_steps_that_were_done_before_are_finished() -> None:
    async with serving(two_questions(), expose_output=True) as runs:
        frames = await run(runs, StartRun(input={"answers": []}, thread_id="t"))
        for _ in range(2):
            [first, *_] = (await runs.info(ANONYMOUS, "t", None)).interrupts
            answers = {first.interrupt_id: "x"}
            frames = await run(runs, StartRun(kind="answer", thread_id="t", answers=answers))
    assert status_of(frames) == "completed"
    assert {frame.status for frame in only(frames, StepFinished)} == {"finished"}


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"thread_id": "a/b"}, "thread_id"),
        ({"thread_id": 5}, "thread_id"),
        ({"run_id": ""}, "run_id"),
    ],
)
async def test_ids_are_checked_wherever_they_come_from(fields: dict[str, Any], field: str) -> None:
    async with serving(graph_of(say)) as runs:
        with pytest.raises(RequestError, match="1 to 128") as refused:
            await runs.start(ANONYMOUS, turn(**fields))
        assert refused.value.code == "invalid_field"


async def test_an_unknown_strategy_is_refused_and_the_active_run_goes_on() -> None:
    gate = Gate()
    async with serving(gate.graph) as runs:
        await runs.start(ANONYMOUS, turn(thread_id="t", run_id="r"))
        strategy: Any = "zz"
        with pytest.raises(RequestError, match="expected one of enqueue"):
            await runs.start(ANONYMOUS, turn(thread_id="t", multitask_strategy=strategy))
        gate.open.set()
        assert status_of(await frames_of(runs, "r")) == "completed"
