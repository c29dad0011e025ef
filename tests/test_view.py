"""What the frames of a thread add up to."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langgraph_ws.frames import (
    BlockDelta,
    BlockFinished,
    BlockStarted,
    Custom,
    Frame,
    InterruptAnswered,
    Interrupted,
    MessageFinished,
    MessageStarted,
    RolledBack,
    RunFinished,
    RunStarted,
    Source,
    Sources,
)
from langgraph_ws.view import OpenBlock, ThreadView
from tests.log_suite import flat, histories


def view_of(*frames: Frame, run_id: str = "r") -> ThreadView:
    view = ThreadView()
    for frame in frames:
        view.apply(run_id, frame)
    return view


def delta(text: str, index: int = 0, message_id: str = "m") -> BlockDelta:
    return BlockDelta(message_id=message_id, index=index, kind="text", text=text, offset=0)


MESSAGE = MessageStarted(message_id="m", node="model")
TEXT = BlockStarted(message_id="m", index=0, kind="text")
CALL = BlockStarted(message_id="m", index=1, kind="tool_call", tool_call_id="c", name="search")


def test_an_empty_view_has_no_latest_run() -> None:
    assert ThreadView().latest is None
    assert ThreadView().runs == {}


def test_runs_are_kept_in_the_order_they_began() -> None:
    view = ThreadView()
    first = RunStarted(thread_id="t", run_id="r1", graph="g")
    view.apply("r1", first)
    view.apply("r1", RunFinished(status="completed"))
    view.apply("r2", RunStarted(thread_id="t", run_id="r2", graph="g"))
    assert list(view.runs) == ["r1", "r2"]
    assert view.runs["r1"].started is first
    assert view.runs["r1"].status == "completed"
    assert view.latest is view.runs["r2"]
    assert view.runs["r2"].status is None


def test_the_text_of_an_open_message_grows_block_by_block() -> None:
    view = view_of(MESSAGE, TEXT, delta("he"), delta("llo"), CALL, delta('{"q":', 1))
    message = view.runs["r"].open["m"]
    assert message.started is MESSAGE
    assert message.blocks[0].text == "hello"
    assert message.blocks[0].block is None
    call = message.blocks[1]
    assert (call.kind, call.tool_call_id, call.name) == ("tool_call", "c", "search")
    assert call.text == '{"q":'


def test_two_open_messages_do_not_mix() -> None:
    view = view_of(
        MESSAGE,
        TEXT,
        MessageStarted(message_id="n"),
        BlockStarted(message_id="n", index=0, kind="text"),
        delta("a"),
        delta("1", message_id="n"),
        delta("b"),
        delta("2", message_id="n"),
    )
    texts = {name: message.blocks[0].text for name, message in view.runs["r"].open.items()}
    assert texts == {"m": "ab", "n": "12"}


def test_a_finished_block_carries_the_whole() -> None:
    block = {"type": "text", "text": "hello"}
    finished = BlockFinished(message_id="m", index=0, kind="text", block=block)
    assert view_of(MESSAGE, TEXT, finished).runs["r"].open["m"].blocks[0].block == block
    media = BlockFinished(message_id="m", index=3, kind="media", block={"type": "image"})
    blocks = view_of(MESSAGE, media).runs["r"].open["m"].blocks
    assert blocks == {3: OpenBlock("media", block={"type": "image"})}


def test_a_finished_message_is_open_no_more() -> None:
    finished = MessageFinished(message_id="m")
    run = view_of(MESSAGE, TEXT, finished).runs["r"]
    assert run.open == {}
    assert run.messages == [finished]


def test_a_message_that_ends_under_another_id_closes_the_one_it_was_streamed_under() -> None:
    run = view_of(MESSAGE, TEXT, MessageFinished(message_id="final", streamed_id="m")).runs["r"]
    assert run.open == {}
    assert [message.message_id for message in run.messages] == ["final"]


@pytest.mark.parametrize(
    "frame",
    [
        delta("x"),
        TEXT,
        BlockFinished(message_id="m", index=0, kind="text", block={}),
        Custom(name="progress", data=1),
    ],
)
def test_what_belongs_to_no_open_message_changes_nothing(frame: Frame) -> None:
    assert view_of(frame) == view_of(Custom(name="other", data=2))


def test_a_delta_of_a_block_that_never_started_changes_nothing() -> None:
    assert view_of(MESSAGE, delta("x", 5)) == view_of(MESSAGE)


def test_the_newest_sources_hold() -> None:
    one, two = Source(id="1"), Source(id="2")
    view = view_of(Sources(sources=(one,), added=1), Sources(sources=(one, two), added=1))
    assert view.runs["r"].sources == (one, two)


def test_interrupts_are_pending_until_they_are_answered() -> None:
    asks = [Interrupted(interrupt_id=name, value=name) for name in "abc"]
    view = view_of(*asks, RunFinished(status="interrupted"))
    assert list(view.interrupts.values()) == asks
    view.apply("r2", InterruptAnswered(interrupt_ids=("a", "unknown")))
    assert list(view.interrupts) == ["b", "c"]
    view.apply("r2", InterruptAnswered(interrupt_ids=("b", "c"), superseded=True))
    assert view.interrupts == {}


def test_nothing_is_open_after_the_end_of_a_run() -> None:
    run = view_of(MESSAGE, TEXT, delta("x"), RunFinished(status="cancelled")).runs["r"]
    assert run.open == {}
    assert run.status == "cancelled"


def test_a_run_that_was_rolled_back_is_gone() -> None:
    view = view_of(MessageFinished(message_id="m"), run_id="r1")
    view.apply("r2", RolledBack(run_id="r1"))
    view.apply("r2", RolledBack(run_id="never was"))
    assert list(view.runs) == ["r2"]


@given(histories(), st.data())
def test_a_copy_is_equal_and_stays_as_it_is(history: object, data: st.DataObject) -> None:
    frames = flat(history)  # type: ignore[arg-type]  # given() cannot tell the type of a composite
    split = data.draw(st.integers(0, len(frames)))
    view = ThreadView()
    for run_id, frame in frames[:split]:
        view.apply(run_id, frame)
    copy = view.copy()
    assert copy == view.copy()
    plain = dataclasses.asdict(copy)
    for run_id, frame in frames[split:]:
        view.apply(run_id, frame)
    assert dataclasses.asdict(copy) == plain
    for run_id, frame in frames[split:]:  # and it can be folded on
        copy.apply(run_id, frame)
    assert copy.copy() == view.copy()
