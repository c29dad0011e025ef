"""The tap: whether it can be had, what it leaves alone, and what happens when it cannot be.

That it gives the frames that the public stream gives is what `test_mapping` runs twice for.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGenerationChunk
from langgraph.config import get_stream_writer
from langgraph.graph import MessagesState

from langgraph_ws import ChatMapper, tap
from langgraph_ws.frames import (
    BlockDelta,
    BlockFinished,
    BlockStarted,
    Custom,
    Frame,
    MessageFinished,
    RunFailed,
    RunFinished,
    StepFinished,
)
from langgraph_ws.mapping import Mapper, Part, on
from langgraph_ws.messages import Block, MessageBuilder
from langgraph_ws.streaming import Execution, MapperError, prepare_run
from langgraph_ws.tap import Tap, available, can_tap
from langgraph_ws.testing import Reply, ScriptedModel, record
from tests.graphs import HELLO, Anything, chat, line, nested, says
from tests.serving import serving
from tests.tapped import Frames, record_tapped
from tests.test_aiohttp import over
from tests.test_runs import only


class Quiet(Mapper):
    """Hears no messages."""

    @on("custom")
    def nothing(self, part: Part) -> None:
        """Makes no frame of it."""


async def test_this_langgraph_can_be_heard() -> None:
    assert await available()
    assert can_tap(chat("x"))
    assert not can_tap(object())


@pytest.mark.parametrize(
    ("what", "changed", "said"),
    [
        ("_MISSING", ImportError("no StreamProtocol"), "no StreamProtocol"),
        ("_EXPECTED", ["values 0"], "a run on trial told"),
        ("_PARAMETERS", {**tap._PARAMETERS, "StreamProtocol": ("other",)}, "takes no other"),
        ("copy", None, "a run on trial failed"),
    ],
)
async def test_what_is_not_as_expected_is_said_once(
    what: str,
    changed: Any,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(tap, what, changed)
    assert not await available()
    assert said in caplog.text
    assert "through its public stream" in caplog.text


async def test_runs_go_the_public_way_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tap, "_MISSING", ImportError("elsewhere"))

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("a tap was made")

    monkeypatch.setattr(Tap, "__init__", never)
    async with serving(chat("Hello.")) as site:
        await site.attachment.start(thread_id="t", messages=[{"role": "user", "content": "hi"}])
        await over(site, "t")


async def test_the_graph_and_its_config_stay_as_they_are() -> None:
    graph = nested(1, says(AIMessage("x", id="1")))
    config = {"configurable": {"mine": 1}, "callbacks": []}
    before = dict(vars(graph))
    await record_tapped(graph, HELLO, config)
    assert dict(vars(graph)) == before
    assert config == {"configurable": {"mine": 1}, "callbacks": []}


async def test_tokens_and_custom_data_of_a_node_keep_their_order() -> None:
    model = ScriptedModel([Reply(text="abcdef", chunk_chars=1)])

    async def node(state: MessagesState) -> dict[str, Any]:
        writer = get_stream_writer()
        async for chunk in model.astream("x"):
            writer({"name": "after", "payload": chunk.text})
        return {"messages": []}

    frames = await record_tapped(line(("node", node)), HELLO)
    order = [
        frame.text if isinstance(frame, BlockDelta) else f"<{frame.data}>"
        for frame in frames
        if isinstance(frame, BlockDelta | Custom) and (isinstance(frame, BlockDelta) or frame.data)
    ]
    assert order == [item for letter in "abcdef" for item in (letter, f"<{letter}>")]


async def test_a_mapper_that_fails_stops_the_graph_and_spares_the_node() -> None:
    seen: list[str] = []

    async def node(state: Anything) -> Anything:
        try:
            get_stream_writer()("boom")
            seen.append("the node went on")
            await asyncio.sleep(30)
        finally:
            seen.append("and was stopped")
        return {}

    class Failing(ChatMapper):
        def on_custom(self, part: Part) -> list[Frame]:
            raise ValueError("in the mapper")

    frames = await record_tapped(line(("node", node), state=Anything), {"value": 1}, mapper=Failing)
    assert seen == ["the node went on", "and was stopped"]
    [failed] = [frame for frame in frames if isinstance(frame, RunFailed)]
    assert failed.code == "mapper_failed"
    assert frames[-1] == RunFinished(status="failed")


async def test_what_a_graph_raises_when_it_is_stopped_hides_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def node(state: Anything) -> Anything:
        try:
            get_stream_writer()("boom")
            await asyncio.sleep(30)
        finally:
            raise RuntimeError("while cleaning up")

    class Failing(ChatMapper):
        def on_custom(self, part: Part) -> list[Frame]:
            raise ValueError("in the mapper")

    frames = await record_tapped(line(("node", node), state=Anything), {"value": 1}, mapper=Failing)
    [failed] = [frame for frame in frames if isinstance(frame, RunFailed)]
    assert failed.code == "mapper_failed"
    assert "in the mapper" in caplog.text


@pytest.mark.parametrize("where", ["mapper", "outlet"])
@pytest.mark.parametrize("fails", [False, True])
async def test_what_fails_after_the_graph_has_ended_is_told(
    where: str, fails: bool, caplog: pytest.LogCaptureFixture
) -> None:
    over = asyncio.Event()

    class Full(Frames):
        crowded = True

        async def room(self) -> None:
            await over.wait()
            await asyncio.sleep(0.01)
            if where == "outlet":
                raise OSError("no room")

    class Failing(ChatMapper):
        def on_custom(self, part: Part) -> list[Frame]:
            raise ValueError("in the mapper")

    async def node(state: Anything) -> Anything:
        get_stream_writer()("x")
        over.set()
        if fails:
            raise RuntimeError("in the node")
        return {}

    graph = line(("node", node), state=Anything)
    config, run = prepare_run(graph, {"value": 1}, None)
    execution = Execution(graph, {"value": 1}, config, run=run, mapper=Failing(), tapped=True)
    with pytest.raises((MapperError, OSError), match="no room" if where == "outlet" else "mapper"):
        await execution.drive(Full())
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    assert ("in the node" in caplog.text) == fails


@pytest.mark.parametrize("tapped", [True, False])
@pytest.mark.parametrize("modes", [[], ["messages"]])
async def test_models_stream_only_for_those_who_hear_messages(
    modes: list[str], tapped: bool
) -> None:
    streamed: list[str] = []

    class Model(GenericFakeChatModel):
        def _stream(self, *arguments: Any, **named: Any) -> Any:
            streamed.append("x")
            return super()._stream(*arguments, **named)

    model = Model(messages=iter(["hello"]))

    async def node(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke("hi")]}

    graph = line(("node", node))
    config, run = prepare_run(graph, HELLO, None)
    execution = Execution(graph, HELLO, config, run=run, mapper=Quiet(), modes=modes, tapped=tapped)
    await execution.drive(Frames())
    assert len(streamed) == len(modes)


class Merging(Frames):
    """An outlet in which everything waits, so that what goes on with a text is merged."""

    def add_text(self, text: str, block: Block) -> None:
        """Put it behind the last delta."""
        last = self.all[-1]
        assert isinstance(last, BlockDelta), last
        assert (last.message_id, last.index) == (block.message_id, block.index)
        self.all[-1] = replace(last, text=last.text + text)


class Pieces(GenericFakeChatModel):
    """Streams these chunks."""

    messages: Any = ()
    chunks: list[dict[str, Any]]

    async def _astream(self, *arguments: Any, **named: Any) -> AsyncIterator[ChatGenerationChunk]:
        for chunk in self.chunks:
            yield ChatGenerationChunk(message=AIMessageChunk(**chunk))


def merged(frames: Sequence[Frame]) -> list[Frame]:
    """The frames, those of one text that follow one another as one, without what differs."""
    outlet: list[Frame] = []
    for frame in frames:
        last = outlet[-1] if outlet else None
        if (
            isinstance(frame, BlockDelta)
            and isinstance(last, BlockDelta)
            and (last.message_id, last.index) == (frame.message_id, frame.index)
        ):
            assert frame.offset == last.offset + len(last.text)
            outlet[-1] = replace(last, text=last.text + frame.text)
        elif isinstance(frame, BlockStarted | BlockDelta | BlockFinished):
            outlet.append(frame)
    return [replace(frame, message_id="m", task_id=None) for frame in outlet]


USAGE = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}


def texts(*pieces: str | dict[str, Any]) -> list[dict[str, Any]]:
    """Chunks: a text, or what it has besides."""
    return [{"content": piece} if isinstance(piece, str) else piece for piece in pieces]


TEXTS = [
    texts("a", "b", "", "c", "d"),
    texts("a", {"content": [{"type": "text", "text": "b", "index": 0}]}, "c", "d"),
    texts("a", {"content": "b", "additional_kwargs": {"reasoning_content": "hm"}}, "c", "d"),
    texts("a", {"content": "b", "tool_call_chunks": [tool_call_chunk(name="f", index=0)]}, "c"),
    texts("a", {"content": "b", "usage_metadata": USAGE}, "c\ud800"),
    texts("a", {"content": "b", "response_metadata": {"model_name": "x"}}, "c"),
    texts("a", "b", {"content": "c", "chunk_position": "last"}),
]


@pytest.mark.parametrize("outlet", [Frames, Merging])
@pytest.mark.parametrize("chunks", TEXTS)
async def test_text_that_goes_on_is_the_same_past_the_mapper(
    chunks: list[dict[str, Any]], outlet: type[Frames]
) -> None:
    model = Pieces(chunks=chunks)

    async def node(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke("hi")]}

    graph = line(("node", node))
    public = await record(graph, HELLO)
    tapped = await record_tapped(graph, HELLO, outlet=outlet())
    assert merged(tapped) == merged(public)
    [said], [told] = only(tapped, MessageFinished), only(public, MessageFinished)
    assert (said.content, said.usage, said.metadata) == (told.content, told.usage, told.metadata)
    if outlet is Merging and chunks is TEXTS[0]:
        assert [delta.text for delta in only(tapped, BlockDelta)] == ["ab", "cd"]


async def test_what_fails_past_the_mapper_fails_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def grow(*_: Any) -> None:
        raise KeyError("on purpose")

    monkeypatch.setattr(MessageBuilder, "grow", grow)
    model = Pieces(chunks=texts("a", "b", "c"))

    async def node(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke("hi")]}

    frames = await record_tapped(line(("node", node)), HELLO)
    assert [failed.code for failed in only(frames, RunFailed)] == ["mapper_failed"]
    assert [delta.text for delta in only(frames, BlockDelta)] == ["a"]


@pytest.mark.parametrize("shown", ["", "*"])
async def test_what_is_not_to_be_streamed_is_not_heard_under_the_id_of_what_is(shown: str) -> None:
    """A model that passes on, or hides, what another says to it, with the ids of its chunks."""

    class Passing(Pieces):
        async def _astream(
            self, *arguments: Any, **named: Any
        ) -> AsyncIterator[ChatGenerationChunk]:
            async for chunk in model.astream("hi", {"tags": ["nostream"]}):
                if chunk.content:
                    said = shown or chunk.content
                    yield ChatGenerationChunk(message=AIMessageChunk(said, id=chunk.id))

    model = Pieces(chunks=[{"content": text, "id": "the same"} for text in "abcd"])

    async def node(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await Passing(chunks=[]).ainvoke("hi")]}

    graph = line(("node", node))
    for frames in (await record_tapped(graph, HELLO), await record(graph, HELLO)):
        assert "".join(it.text for it in only(frames, BlockDelta)) == (shown * 4 or "abcd")


async def test_who_maps_messages_otherwise_is_given_each_of_them() -> None:
    class Loud(ChatMapper):
        def on_messages(self, part: Part) -> list[Frame]:
            seen.append(part["data"][0].content)
            return super().on_messages(part)

    class Counting(ChatMapper):
        def map(self, part: Part) -> Iterable[Frame]:
            if part["type"] == "messages":
                seen.append(part["data"][0].content)
            return super().map(part)

    def heard(part: Part) -> None:
        seen.append(part["data"][0].content)

    async def node(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke("hi")]}

    model = Pieces(chunks=[{"content": text} for text in "abc"])
    for mapper in (Loud, Counting, ChatMapper.extend({"messages": heard})):
        seen: list[str] = []
        await record_tapped(line(("node", node)), HELLO, mapper=mapper, outlet=Merging())
        assert seen[:3] == ["a", "b", "c"]


async def test_an_outlet_that_fails_stops_the_graph() -> None:
    class Full(Frames):
        def __init__(self) -> None:
            super().__init__()
            self.put = self._put  # type: ignore[assignment]

        def _put(self, frame: Frame) -> None:
            if isinstance(frame, Custom):
                raise OSError("no room")

    async def node(state: Anything) -> Anything:
        get_stream_writer()("x")
        await asyncio.sleep(30)
        return {}

    graph = line(("node", node), state=Anything)
    config, run = prepare_run(graph, {"value": 1}, None)
    execution = Execution(graph, {"value": 1}, config, run=run, mapper=ChatMapper(), tapped=True)
    with pytest.raises(OSError, match="no room"):
        await execution.drive(Full())


async def test_an_outlet_that_takes_no_more_text_stops_the_graph() -> None:
    class Full(Frames):
        def add_text(self, text: str, block: Block) -> None:
            raise OSError("no room")

    model = Pieces(chunks=texts("a", "b", "c"))

    async def node(state: MessagesState) -> dict[str, Any]:
        try:
            return {"messages": [await model.ainvoke("hi")]}
        finally:
            ended.append(True)

    ended: list[bool] = []
    graph = line(("node", node))
    config, run = prepare_run(graph, HELLO, None)
    execution = Execution(graph, HELLO, config, run=run, mapper=ChatMapper(), tapped=True)
    with pytest.raises(OSError, match="no room"):
        await execution.drive(outlet := Full())
    assert [delta.text for delta in only(outlet.all, BlockDelta)] == ["a"]
    assert ended == [True]


async def test_a_crowded_outlet_makes_what_comes_wait_and_loses_nothing() -> None:
    class Narrow(Frames):
        waited = 0

        @property
        def crowded(self) -> bool:  # type: ignore[override]
            return len(self.all) % 3 == 0 and self.waited < len(self.all)

        async def room(self) -> None:
            self.waited += 1
            await asyncio.sleep(0)

    async def node(state: Anything) -> Anything:
        for number in range(50):
            get_stream_writer()({"name": "n", "payload": number})
        return {}

    graph = line(("node", node), state=Anything)
    config, run = prepare_run(graph, {"value": 1}, None)
    execution = Execution(graph, {"value": 1}, config, run=run, mapper=ChatMapper(), tapped=True)
    outlet = Narrow()
    await execution.drive(outlet)
    assert [f.data for f in outlet.all if isinstance(f, Custom)] == list(range(50))
    assert outlet.waited


async def test_what_a_thread_says_after_the_end_is_dropped_and_counted() -> None:
    heard: list[Part] = []
    listener = Tap(chat("x"), ("custom",), heard.append, lambda _: False)
    listener._hear(((), "custom", 1))
    thread = threading.Thread(target=listener._hear, args=(((), "custom", 2),))
    thread.start()
    thread.join()
    await asyncio.sleep(0)
    assert [part["data"] for part in heard] == [1, 2]
    listener.close()
    listener._hear(((), "custom", 3))
    assert len(heard) == 2
    assert listener.dropped == 1


def test_a_thread_that_outlives_the_loop_is_counted_too() -> None:
    made: list[Tap] = []

    async def listen() -> None:
        made.append(Tap(chat("x"), ("custom",), lambda _: None, lambda _: False))

    asyncio.run(listen())
    thread = threading.Thread(target=made[0]._hear, args=(((), "custom", 1),))
    thread.start()
    thread.join()
    assert made[0].dropped == 1


@pytest.mark.parametrize("tapped", [True, False])
async def test_a_run_that_is_cancelled_cancels_its_node_and_message(
    tapped: bool, caplog: pytest.LogCaptureFixture
) -> None:
    model = ScriptedModel([Reply(text="one two", chunk_chars=4)])
    spoke = asyncio.Event()

    class Listening(Frames):
        def put(self, frame: Frame) -> None:
            self.all.append(frame)
            if type(frame) is BlockDelta:
                spoke.set()

    async def speak(state: MessagesState) -> dict[str, Any]:
        async for _ in model.astream("x"):
            await asyncio.Event().wait()
        return {}

    graph = line(("speak", speak))
    prepared, run = prepare_run(graph, HELLO, None)
    execution = Execution(graph, HELLO, prepared, run=run, mapper=ChatMapper(), tapped=tapped)
    outlet = Listening()
    driving = asyncio.create_task(execution.drive(outlet))
    await spoke.wait()
    driving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await driving
    frames = [*outlet.all, *execution.end(asyncio.CancelledError())]
    [message] = [frame for frame in frames if type(frame) is MessageFinished]
    [step] = [frame for frame in frames if type(frame) is StepFinished]
    assert (message.status, step.status) == ("cancelled", "cancelled")
    assert frames[-1] == RunFinished(status="cancelled")
    assert "failed" not in caplog.text
