"""What ChatMapper makes of real graphs, and how mappers are written."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from contextlib import suppress
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.callbacks import adispatch_custom_event, dispatch_custom_event
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    ChatMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.tools import InjectedToolCallId, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_stream_writer
from langgraph.func import entrypoint, task
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import InjectedState, ToolNode, ToolRuntime
from langgraph.types import Command, RetryPolicy, Send, interrupt
from pydantic import BaseModel

from langgraph_ws.errors import ConfigurationError
from langgraph_ws.frames import (
    BlockDelta,
    BlockFinished,
    BlockStarted,
    CheckpointSaved,
    Custom,
    Frame,
    Interrupted,
    MessageFinished,
    MessageStarted,
    RunFailed,
    RunFinished,
    RunResult,
    StateSnapshot,
    StateUpdated,
    StepFinished,
    StepStarted,
    SubgraphFinished,
    SubgraphStarted,
    ToolDelta,
    ToolFinished,
    ToolStarted,
)
from langgraph_ws.mapping import ChatMapper, Mapper, check_mapper, on
from langgraph_ws.testing import Reply, ScriptedModel, call, record
from tests.graphs import (
    HELLO,
    Anything,
    agent,
    ask,
    chat,
    fan,
    line,
    model_node,
    nested,
    says,
    thread,
)
from tests.tapped import record_tapped


def of(frames: list[Frame], *kinds: type[Any]) -> list[Any]:
    return [frame for frame in frames if isinstance(frame, kinds)]


def names(frames: list[Frame]) -> list[str]:
    return [type(frame).__name__ for frame in frames]


def texts(frames: list[Frame]) -> list[str]:
    """The text of each finished message."""
    return [
        "".join(block.get("text", "") for block in message.content)
        for message in of(frames, MessageFinished)
    ]


def check_stream(frames: list[Frame]) -> None:
    """What holds of every run: pairs, offsets, and finished frames that carry the whole."""
    written: dict[tuple[str, int], str] = defaultdict(str)
    blocks: dict[str, dict[int, Any]] = defaultdict(dict)
    open_messages: set[str] = set()
    open_tools: set[str] = set()
    open_steps: set[str] = set()
    for frame in frames:
        match frame:
            case MessageStarted():
                open_messages.add(frame.message_id)
            case BlockStarted():
                assert frame.message_id in open_messages
                assert frame.index == len(blocks[frame.message_id])
                blocks[frame.message_id][frame.index] = None
            case BlockDelta():
                key = (frame.message_id, frame.index)
                assert frame.index in blocks[frame.message_id]
                assert blocks[frame.message_id][frame.index] is None
                assert frame.text
                assert frame.offset == len(written[key])
                written[key] += frame.text
            case BlockFinished():
                assert blocks[frame.message_id][frame.index] is None
                blocks[frame.message_id][frame.index] = frame.block
                check_block(frame.block, written[frame.message_id, frame.index])
            case MessageFinished():
                streamed = frame.streamed_id or frame.message_id
                open_messages.remove(streamed)
                if frame.status == "finished":
                    assert list(frame.content) == list(blocks[streamed].values())
            case ToolStarted():
                assert frame.tool_call_id not in open_tools
                open_tools.add(frame.tool_call_id)
            case ToolFinished():
                open_tools.remove(frame.tool_call_id)
            case StepStarted():
                open_steps.add(frame.task_id)
            case StepFinished():
                open_steps.discard(frame.task_id)
            case _:
                pass
    assert not open_messages
    assert not open_steps
    assert isinstance(frames[-1], RunFinished)
    if frames[-1].status != "interrupted":
        assert not open_tools


def check_block(block: dict[str, Any], written: str) -> None:
    if block["type"] == "tool_call":
        assert block["args"] == (json.loads(written) if written else {})
    elif block["type"] == "invalid_tool_call":
        assert block["args"] == written
    elif block["type"] in ("text", "reasoning"):
        assert block[block["type"]] == written


@pytest.fixture(autouse=True, params=["public", "tapped"])
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test hears the graph both ways: a tap gives the same frames as the public stream."""
    if request.param == "tapped":
        monkeypatch.setitem(globals(), "record", record_tapped)


async def run(graph: Any, given: Any = HELLO, config: Any = None, **options: Any) -> list[Frame]:
    frames = await record(graph, given, config, **options)
    check_stream(frames)
    return frames


@tool
def look(q: str) -> str:
    """Look something up."""
    if q == "bad":
        raise ValueError("the password is hunter2")
    return f"found {q}"


# Messages.


async def test_a_streamed_message() -> None:
    frames = await run(chat(Reply(text="Hello there", chunk_chars=6, usage=(3, 2))))
    assert names(frames) == [
        "RunStarted",
        "StepStarted",
        "MessageStarted",
        "BlockStarted",
        "BlockDelta",
        "BlockDelta",
        "BlockFinished",
        "MessageFinished",
        "StepFinished",
        "RunResult",
        "RunFinished",
    ]
    assert [delta.text for delta in of(frames, BlockDelta)] == ["Hello ", "there"]
    (message,) = of(frames, MessageFinished)
    assert (message.role, message.node, message.namespace) == ("assistant", "model", ())
    assert message.content == ({"type": "text", "text": "Hello there"},)
    assert message.metadata == {"model_name": "scripted", "finish_reason": "stop"}
    assert message.usage == {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5}
    (started,) = of(frames, StepStarted)
    assert {delta.task_id for delta in of(frames, BlockDelta)} == {started.task_id}
    (result,) = of(frames, RunResult)
    assert (result.text, result.message_id) == ("Hello there", message.message_id)
    assert frames[-1] == RunFinished(status="completed")


async def test_two_nodes_that_stream_at_once_are_told_apart() -> None:
    replies = [Reply(text=word * 5, chunk_chars=1) for word in ("a", "b")]
    graph = fan(("left", model_node(replies[0])), ("right", model_node(replies[1])))
    frames = await run(graph)
    order = [delta.node for delta in of(frames, BlockDelta)]
    assert order != sorted(order), "the two did not stream at once"
    assert {m.node: m.content[0]["text"] for m in of(frames, MessageFinished)} == {
        "left": "aaaaa",
        "right": "bbbbb",
    }


async def test_send_runs_one_node_many_times_at_once() -> None:
    async def worker(state: dict[str, Any]) -> dict[str, Any]:
        model = ScriptedModel([Reply(text=f"worker {state['n']}", chunk_chars=1)])
        return {"messages": [await model.ainvoke("go")]}

    builder = StateGraph(MessagesState)
    builder.add_node("worker", worker)
    builder.add_conditional_edges(START, lambda _: [Send("worker", {"n": n}) for n in range(3)])
    frames = await run(builder.compile())
    assert sorted(texts(frames)) == ["worker 0", "worker 1", "worker 2"]
    assert len({message.task_id for message in of(frames, MessageFinished)}) == 3
    assert len(of(frames, StepStarted)) == len(of(frames, StepFinished)) == 3


async def test_reasoning_ends_when_the_text_begins() -> None:
    frames = await run(chat(Reply(reasoning="hmm, well", text="Yes.")))
    blocks = of(frames, BlockStarted, BlockFinished)
    assert [(type(b).__name__, b.kind) for b in blocks] == [
        ("BlockStarted", "reasoning"),
        ("BlockFinished", "reasoning"),
        ("BlockStarted", "text"),
        ("BlockFinished", "text"),
    ]
    assert of(frames, MessageFinished)[0].content == (
        {"type": "reasoning", "reasoning": "hmm, well"},
        {"type": "text", "text": "Yes."},
    )


async def test_parallel_tool_calls_interleave() -> None:
    calls = [call("look", "c1", q="one"), call("look", "c2", q="two")]
    frames = await run(chat(Reply(text="Let me see.", tool_calls=calls)))
    deltas = [delta.index for delta in of(frames, BlockDelta) if delta.kind == "tool_call"]
    assert deltas != sorted(deltas), "the calls did not interleave"
    assert of(frames, MessageFinished)[0].content == (
        {"type": "text", "text": "Let me see."},
        {"type": "tool_call", "id": "c1", "name": "look", "args": {"q": "one"}},
        {"type": "tool_call", "id": "c2", "name": "look", "args": {"q": "two"}},
    )
    starts = [b for b in of(frames, BlockStarted) if b.kind == "tool_call"]
    assert [(b.tool_call_id, b.name) for b in starts] == [("c1", "look"), ("c2", "look")]


async def test_everything_in_one_chunk_with_the_finish_reason() -> None:
    reply = Reply(text="Done", tool_calls=[call("look", q="x"), call("see")], whole=True)
    frames = await run(chat(reply))
    (message,) = of(frames, MessageFinished)
    assert [block["type"] for block in message.content] == ["text", "tool_call", "tool_call"]
    assert message.content[2]["args"] == {}
    assert message.metadata["finish_reason"] == "tool_calls"


async def test_a_model_that_cannot_stream() -> None:
    graph = chat(
        Reply(reasoning="hm", text="All at once", tool_calls=[call("look", q="x")], usage=(1, 1)),
        disable_streaming=True,
    )
    frames = await run(graph)
    (message,) = of(frames, MessageFinished)
    assert [block["type"] for block in message.content] == ["reasoning", "text", "tool_call"]
    assert [delta.text for delta in of(frames, BlockDelta)] == ["hm", "All at once", '{"q":"x"}']
    assert of(frames, RunResult)[0].usage["total_tokens"] == 2


async def test_citations_and_media() -> None:
    citation = {"type": "citation", "url": "http://x.org", "title": "X", "cited_text": "so"}
    frames = await run(chat(Reply(text="It is so.", citations=[citation])))
    (message,) = of(frames, MessageFinished)
    assert message.citations == (citation,)
    assert message.content[0]["citations"] == [citation]
    image = {"type": "image", "base64": "AAAA", "mime_type": "image/png"}
    said = AIMessage([{"type": "text", "text": "see"}, image, "end"])
    frames = await run(line(("draw", says(said))))
    started = [(b.index, b.kind) for b in of(frames, BlockStarted)]
    assert started == [(0, "text"), (1, "media"), (2, "text")]
    assert of(frames, MessageFinished)[0].content[1:] == (image, {"type": "text", "text": "end"})


async def test_a_node_that_writes_messages_itself() -> None:
    graph = line(
        (
            "write",
            says(
                AIMessage("from me", id="m1"),
                HumanMessage("as the user", id="m2", name="Ada"),
                SystemMessage("secret instructions", id="m3"),
                ChatMessage(role="assistant", content="in another class", id="m4"),
            ),
        ),
        ("again", says(AIMessage("changed", id="m1"), RemoveMessage(id="m2"))),
    )
    frames = await run(graph)
    shown = [(m.message_id, m.role, m.name) for m in of(frames, MessageFinished)]
    assert shown == [
        ("m1", "assistant", None),
        ("m2", "user", "Ada"),
        ("m4", "assistant", None),
    ]


async def test_roles_that_leave_can_be_chosen() -> None:
    graph = line(("write", says(SystemMessage("s"), HumanMessage("u"), AIMessage("a"))))
    frames = await run(graph, mapper=ChatMapper.extend(roles=["system"]))
    assert texts(frames) == ["s"]


async def test_a_streamed_message_under_its_final_id() -> None:
    async def node(state: Any) -> dict[str, Any]:
        answer = await ScriptedModel(["Hello there"]).ainvoke("hi")
        return {"messages": [AIMessage(answer.content, id="final")]}

    frames = await run(line(("model", node)))
    (started,), (message,) = of(frames, MessageStarted), of(frames, MessageFinished)
    assert message.message_id == "final"
    assert message.streamed_id == started.message_id
    assert of(frames, RunResult)[0].message_id == "final"


async def test_two_streamed_messages_under_their_final_ids() -> None:
    async def node(state: Any) -> dict[str, Any]:
        model = ScriptedModel(["one", "two"])
        first, second = await model.ainvoke("hi"), await model.ainvoke("hi")
        both = [AIMessage(first.content, id="f1"), AIMessage(second.content, id="f2")]
        return {"messages": [*both, AIMessage("three", id="f3")]}

    frames = await run(line(("model", node)))
    finished = of(frames, MessageFinished)
    assert texts(frames) == ["one", "two", "three"]
    # The first had to end when the second began; its other id comes too late and is not shown.
    assert finished[0].streamed_id is None
    assert (finished[1].message_id, finished[2].message_id) == ("f2", "f3")


async def test_the_same_text_in_another_task_is_another_message() -> None:
    frames = await run(line(("model", model_node("same")), ("echo", says(AIMessage("same")))))
    assert texts(frames) == ["same", "same"]


async def test_only_some_nodes_speak() -> None:
    graph = line(("plan", model_node("hidden")), ("talk", model_node("shown")))
    frames = await run(graph, mapper=ChatMapper.extend(text_nodes=["talk"]))
    assert texts(frames) == ["shown"]
    assert of(frames, RunResult)[0].text == "shown"
    inner = nested(2, model_node("deep"))
    assert texts(await run(inner, mapper=ChatMapper.extend(text_nodes={"leaf"}))) == ["deep"]


async def test_tags() -> None:
    def graph() -> Any:
        return line(
            ("a", model_node("inner", tags=["inner"])),
            ("b", model_node("outer", tags=["outer"])),
            ("c", model_node("silent", tags=["nostream"])),
            ("d", model_node("plain")),
        )

    assert texts(await run(graph(), mapper=ChatMapper.extend(include_tags=["outer"]))) == ["outer"]
    shown = texts(await run(graph(), mapper=ChatMapper.extend(exclude_tags=["inner"])))
    assert shown[0] == "outer"
    assert "inner" not in shown
    # What a silent model says is not streamed; that its node writes it down is another matter.
    deltas = of(await run(graph()), BlockDelta)
    assert [d.text for d in deltas if d.node == "c"] == ["silent"]
    assert len([d for d in deltas if d.node == "a"]) > 1


async def test_what_is_hidden_does_not_leave_under_another_id() -> None:
    async def node(state: Any) -> dict[str, Any]:
        model = ScriptedModel(["hidden"]).with_config(tags=["inner"])
        answer = await model.ainvoke("hi")
        return {"messages": [AIMessage(answer.content)]}

    frames = await run(line(("model", node)), mapper=ChatMapper.extend(exclude_tags=["inner"]))
    assert not of(frames, MessageStarted, BlockDelta, MessageFinished)


async def test_usage_is_summed_over_the_run() -> None:
    graph = line(
        ("a", model_node(Reply(text="x", usage=(1, 2)))),
        ("b", model_node(Reply(text="y", usage=(10, 20)))),
    )
    frames = await run(graph)
    assert of(frames, RunResult)[0].usage == {
        "input_tokens": 11,
        "output_tokens": 22,
        "total_tokens": 33,
    }


async def test_a_model_that_fails_midway() -> None:
    reply = Reply(text="Hello there", error=ValueError("secret"), error_after=2)
    frames = await run(chat(reply))
    (message,) = of(frames, MessageFinished)
    assert message.status == "failed"
    assert message.content == ({"type": "text", "text": "Hello th"},)
    assert of(frames, StepFinished)[0].status == "failed"
    assert frames[-1] == RunFinished(status="failed")
    assert "secret" not in str(frames)


async def test_a_tool_call_that_was_cut_off_is_not_lost() -> None:
    calls = [call("look", "c1", q="a long question")]
    reply = Reply(tool_calls=calls, error=ValueError(), error_after=3)
    (message,) = of(await run(chat(reply)), MessageFinished)
    (block,) = message.content
    assert (block["type"], block["id"], block["args"]) == ("invalid_tool_call", "c1", '{"q": "a')


async def test_a_node_that_is_retried_tells_both_tries() -> None:
    replies = [Reply(text="first try", error=ValueError(), error_after=1), Reply(text="second")]
    node = model_node(*replies)
    builder = StateGraph(MessagesState)
    policy = RetryPolicy(initial_interval=0.001, max_attempts=2, retry_on=ValueError)
    builder.add_node("model", node, retry_policy=policy)
    builder.add_edge(START, "model")
    frames = await run(builder.compile())
    assert texts(frames) == ["firs", "second"]
    assert of(frames, RunResult)[0].text == "second"


# Chunks, one by one.


def feed(
    *parts: Any, mapper: Mapper | None = None, node: str = "n", task: str = "t"
) -> list[Frame]:
    """Frames of chunks (a dict stands for the fields of one), to the end of the run."""
    mapper = mapper or ChatMapper()
    metadata = {"langgraph_node": node, "langgraph_checkpoint_ns": f"{node}:{task}"}
    frames: list[Frame] = []
    for part in parts:
        chunk = (
            AIMessageChunk(**{"id": "m", "content": "", **part}) if isinstance(part, dict) else part
        )
        frames += mapper.map({"type": "messages", "ns": (), "data": (chunk, metadata)})
    frames += mapper.finish()
    check_stream([*frames, RunFinished(status="completed")])
    return frames


def piece(
    args: str | None, index: int | None = None, call_id: str | None = None, name: str | None = None
) -> dict[str, Any]:
    chunk = {"name": name, "args": args, "id": call_id, "index": index, "type": "tool_call_chunk"}
    return {"tool_call_chunks": [chunk]}


def content(frames: list[Frame]) -> tuple[dict[str, Any], ...]:
    (message,) = of(frames, MessageFinished)
    result: tuple[dict[str, Any], ...] = message.content
    return result


def test_empty_chunks_make_no_frames() -> None:
    frames = feed(
        {}, {"content": "hi"}, {"content": ""}, {"content": []}, {"chunk_position": "last"}
    )
    assert len(of(frames, BlockDelta)) == 1


def test_pieces_of_a_call_without_id_or_index_go_on_with_the_last() -> None:
    frames = feed(piece('{"a"', None, "c1", "look"), piece(": 1}"), piece("{}", None, "c2", "see"))
    assert [block["args"] for block in content(frames)] == [{"a": 1}, {}]


def test_pieces_of_a_call_by_id() -> None:
    frames = feed(
        piece('{"a"', None, "c1", "one"),
        piece("{", None, "c2", "two"),
        piece(": 1}", None, "c1"),
        piece("}", None, "c2"),
    )
    assert [block["args"] for block in content(frames)] == [{"a": 1}, {}]


def test_calls_that_are_all_numbered_zero() -> None:
    frames = feed(piece('{"a":1}', 0, "c1", "one"), piece('{"b":2}', 0, "c2", "two"))
    assert [(b["id"], b["args"]) for b in content(frames)] == [("c1", {"a": 1}), ("c2", {"b": 2})]


def test_an_id_and_a_name_that_come_late_or_in_pieces() -> None:
    frames = feed(piece("", 0, None, "lo"), piece("{", 0, "c1", "ok"), piece("}", 0, "c1", None))
    assert content(frames) == ({"type": "tool_call", "id": "c1", "name": "look", "args": {}},)


@pytest.mark.parametrize(("args", "told"), [("{", "not JSON"), ("[1]", "not a JSON object")])
def test_arguments_that_are_no_object_are_reported(args: str, told: str) -> None:
    (block,) = content(feed(piece(args, 0, "c1", "look")))
    assert (block["type"], block["args"]) == ("invalid_tool_call", args)
    assert told in block["error"]


def test_arguments_that_a_model_gives_as_an_object() -> None:
    block = {"type": "tool_call", "id": "c1", "name": "look", "args": {"q": 1}}
    told = {"output_version": "v1"}
    assert content(feed({"content": [block], "response_metadata": told})) == (block,)


def test_whole_invalid_calls() -> None:
    wrong = {"id": "c", "name": "look", "args": "{", "error": "x", "type": "invalid_tool_call"}
    (block,) = content(feed(AIMessage("", id="m", invalid_tool_calls=[wrong])))
    assert (block["type"], block["args"]) == ("invalid_tool_call", "{")


def test_reasoning_beside_the_content() -> None:
    frames = feed(
        {"additional_kwargs": {"reasoning_content": "hm"}},
        {"content": "a"},
        {"additional_kwargs": {"reasoning_content": "well"}},
        {"content": "b"},
    )
    assert [(b["type"], b.get("text") or b.get("reasoning")) for b in content(frames)] == [
        ("reasoning", "hm"),
        ("text", "a"),
        ("reasoning", "well"),
        ("text", "b"),
    ]


def test_numbered_blocks_keep_apart_and_get_our_numbers() -> None:
    frames = feed(
        {"content": [{"type": "text", "text": "a", "index": 7}]},
        {"content": [{"type": "text", "text": "b", "index": 9}]},
        {
            "content": [
                {"type": "text", "text": "c", "index": 7},
                {"type": "reasoning", "index": 10},
            ]
        },
    )
    assert [(d.index, d.text, d.offset) for d in of(frames, BlockDelta)] == [
        (0, "a", 0),
        (1, "b", 0),
        (0, "c", 1),
    ]


def test_media_in_pieces_is_put_together() -> None:
    frames = feed(
        {"content": [{"type": "audio", "base64": "AA", "index": 1}]},
        {"content": [{"type": "audio", "base64": "BB", "index": 1}]},
        {"content": [{"type": "image", "url": "http://x"}, {"type": "image", "url": "http://y"}]},
    )
    assert [block.get("base64") or block["url"] for block in content(frames)] == [
        "AABB",
        "http://x",
        "http://y",
    ]


def test_a_block_that_its_translator_does_not_understand() -> None:
    strange = {"type": "reasoning", "summary": 7}
    frames = feed({"content": ["text", strange], "response_metadata": {"model_provider": "openai"}})
    assert content(frames)[0] == {"type": "text", "text": "text"}


def test_usage_after_the_last_chunk_still_counts() -> None:
    usage = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
    frames = feed({"content": "x", "chunk_position": "last"}, {"usage_metadata": usage})
    assert of(frames, MessageFinished)[0].usage == usage


def test_chunks_of_a_message_that_has_ended_are_dropped() -> None:
    late = AIMessageChunk("late", id="m")
    frames = feed({"content": "x", "chunk_position": "last"}, AIMessage("y", id="o"), late)
    assert texts(frames) == ["x", "y"]


def test_a_message_that_comes_again_is_shown_once() -> None:
    whole = AIMessage("x", id="m")
    assert texts(feed(whole, whole)) == ["x"]
    assert texts(feed({"content": "x"}, whole)) == ["x"]


def test_chunks_of_a_class_of_its_own() -> None:
    class Own(AIMessageChunk):
        pass

    assert texts(feed(Own("a", id="m"), Own("b", id="m"))) == ["ab"]


def test_messages_of_a_remote_graph_are_json() -> None:
    told = [
        AIMessageChunk("a", id="m").model_dump(),
        AIMessageChunk("b", id="m").model_dump(),
        AIMessage("whole", id="w").model_dump(),
        {"type": "nonsense"},
    ]
    mapper = ChatMapper()
    parts = [{"type": "messages", "ns": [], "data": (data, {})} for data in told]
    frames = [frame for part in parts for frame in mapper.map(part)] + mapper.finish()
    assert sorted(texts(frames)) == ["ab", "whole"]


def test_lone_surrogates_do_not_leave() -> None:
    (delta,) = of(feed({"content": "a\ud800b"}), BlockDelta)
    assert delta.text == "a?b"


words = st.text(max_size=12)


@st.composite
def messages_in_pieces(draw: st.DrawFn) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Messages, and their chunks in some order that keeps each message in order."""
    whole: dict[str, Any] = {}
    queues = []
    for number in range(draw(st.integers(1, 3))):
        text, args = draw(words), json.dumps({"a": draw(words)})
        calls = draw(st.integers(0, 2))
        whole[f"m{number}"] = (text, [args] * calls)
        chunks = [{"id": f"m{number}", "content": part} for part in cut(draw, text)]
        for index in range(calls):
            pieces = cut(draw, args)
            chunks.append({"id": f"m{number}", **piece("", index, f"c{index}", "look")})
            chunks += [{"id": f"m{number}", **piece(part, index)} for part in pieces]
        if draw(st.booleans()):
            chunks.append({"id": f"m{number}", "chunk_position": "last"})
        queues.append([{"id": f"m{number}"}, *chunks])
    mixed = []
    while queues := [queue for queue in queues if queue]:
        mixed.append(draw(st.sampled_from(queues)).pop(0))
    return whole, mixed


def cut(draw: st.DrawFn, text: str) -> list[str]:
    places = sorted(draw(st.lists(st.integers(0, len(text)), max_size=4)))
    return [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]


@given(messages_in_pieces())
def test_however_messages_are_cut_and_mixed_they_come_out_whole(
    made: tuple[dict[str, Any], list[dict[str, Any]]],
) -> None:
    whole, chunks = made
    mapper = ChatMapper()
    frames: list[Frame] = []
    for chunk in chunks:
        metadata = {"langgraph_node": "n", "langgraph_checkpoint_ns": f"n:task-of-{chunk['id']}"}
        data = (AIMessageChunk(**{"content": "", **chunk}), metadata)
        frames += mapper.map({"type": "messages", "ns": (), "data": data})
    frames += mapper.finish()
    check_stream([*frames, RunFinished(status="completed")])
    assert {m.message_id for m in of(frames, MessageFinished)} == set(whole)
    for message in of(frames, MessageFinished):
        text, calls = whole[message.message_id]
        assert "".join(b["text"] for b in message.content if b["type"] == "text") == text
        assert [b["args"] for b in message.content if b["type"] == "tool_call"] == [
            json.loads(args) for args in calls
        ]


# Tools.


async def test_an_agent_with_tools() -> None:
    calls = [call("look", "c1", q="x"), call("look", "c2", q="y")]
    frames = await run(agent([look], Reply(text="wait", tool_calls=calls), "done"))
    assert texts(frames) == ["wait", "done"]
    started = {t.tool_call_id: t for t in of(frames, ToolStarted)}
    ended = {t.tool_call_id: t for t in of(frames, ToolFinished)}
    assert started["c1"].input == {"q": "x"}
    assert (ended["c1"].name, ended["c1"].status) == ("look", "success")
    assert [ended[c].content for c in ("c1", "c2")] == ["found x", "found y"]
    assert names(frames).index("MessageFinished") < names(frames).index("ToolStarted")


async def test_a_tool_that_fails_tells_only_what_the_developer_wrote() -> None:
    graph = agent(
        [look],
        Reply(tool_calls=[call("look", "c1", q="bad")]),
        "sorry",
        handle_tool_errors="Could not look.",
    )
    frames = await run(graph)
    (ended,) = of(frames, ToolFinished)
    assert (ended.status, ended.content) == ("error", "Could not look.")
    assert ended.message_id
    assert "hunter2" not in str(frames)


async def test_a_tool_that_fails_and_takes_the_run_with_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    graph = agent([look], Reply(tool_calls=[call("look", "c1", q="bad")]), handle_tool_errors=False)
    frames = await run(graph)
    (ended,) = of(frames, ToolFinished)
    assert (ended.status, ended.content) == ("error", "The tool failed.")
    assert "hunter2" not in str(frames)
    assert ended.error_id
    assert f"the tool 'look' failed (error_id={ended.error_id})" in caplog.text
    (failed,) = of(frames, RunFailed)
    assert failed.error_id in caplog.text
    assert caplog.text.count("Traceback") == 1


async def test_a_tool_whose_failure_a_node_swallows_ends_with_its_step() -> None:
    async def node(state: Any) -> None:
        with suppress(ValueError):
            await look.ainvoke({"q": "bad"})

    frames = await run(line(("swallows", node), ("next", says())))
    (ended,) = of(frames, ToolFinished)
    assert (ended.status, ended.content) == ("error", "The tool failed.")
    assert frames.index(ended) < frames.index(of(frames, StepFinished)[0])


async def test_a_tool_that_returns_a_command() -> None:
    @tool
    def move(call_id: Annotated[str, InjectedToolCallId]) -> Command[Any]:
        """Move on."""
        return Command(update={"messages": [ToolMessage("moved", tool_call_id=call_id)]})

    frames = await run(agent([move], Reply(tool_calls=[call("move", "c1")]), "done"))
    (ended,) = of(frames, ToolFinished)
    assert (ended.status, ended.content) == ("success", "moved")


async def test_a_command_shows_nothing_of_the_state() -> None:
    @tool
    def move() -> Any:
        """Move on."""
        return Command(update={"secret": 1})

    async def node(state: Any) -> None:
        await move.ainvoke({})

    (ended,) = of(await run(line(("n", node))), ToolFinished)
    assert ended.content is None


async def test_a_tool_that_streams_and_gets_the_state() -> None:
    @tool
    def stream(q: str, state: Annotated[Any, InjectedState], runtime: ToolRuntime) -> str:
        """Stream."""
        runtime.emit_output_delta({"part": q})
        return "end"

    frames = await run(agent([stream], Reply(tool_calls=[call("stream", "c1", q="x")]), "done"))
    assert of(frames, ToolStarted)[0].input == {"q": "x"}
    assert [(d.tool_call_id, d.name, d.delta) for d in of(frames, ToolDelta)] == [
        ("c1", "stream", {"part": "x"})
    ]


async def test_a_tool_that_a_node_calls_itself() -> None:
    async def node(state: Any) -> dict[str, Any]:
        answer = await ScriptedModel(["thinking"]).ainvoke("hi")
        await look.ainvoke({"q": "x"})
        return {"messages": [answer]}

    frames = await run(line(("n", node)))
    order = [n for n in names(frames) if n in ("MessageFinished", "ToolStarted", "ToolFinished")]
    assert order == ["MessageFinished", "ToolStarted", "ToolFinished"]
    assert of(frames, ToolFinished)[0].content == "found x"


async def test_tools_that_two_nodes_call_themselves_at_once() -> None:
    def node(call_id: str) -> Any:
        async def run_both(state: Any) -> dict[str, Any]:
            tool_call = call("look", call_id, q=call_id)
            answer = await ScriptedModel([Reply(tool_calls=[tool_call])]).ainvoke("hi")
            return {"messages": [answer, await look.ainvoke(tool_call)]}

        return run_both

    frames = await run(fan(("a", node("c1")), ("b", node("c2"))))
    order = [
        (type(f).__name__, f.content[0]["id"] if isinstance(f, MessageFinished) else f.tool_call_id)
        for f in of(frames, MessageFinished, ToolStarted)
    ]
    for call_id in ("c1", "c2"):
        assert order.index(("MessageFinished", call_id)) < order.index(("ToolStarted", call_id))


async def test_a_tool_message_of_a_tool_that_nobody_saw() -> None:
    message = ToolMessage("by hand", tool_call_id="c9", name="hand", artifact={"n": {1}})
    frames = await run(line(("n", says(message))))
    (started,), (ended,) = of(frames, ToolStarted), of(frames, ToolFinished)
    assert (started.name, started.input) == ("hand", None)
    assert (ended.content, ended.artifact) == ("by hand", {"n": [1]})


async def test_parallel_tools_of_which_one_fails_late() -> None:
    @tool
    async def slow(q: str) -> str:
        """Take its time."""
        await asyncio.sleep(0.01)
        return q

    def route(state: Any) -> list[Send]:
        calls = [call("look", "c1", q="bad"), call("slow", "c2", q="y")]
        return [Send("tools", [tool_call]) for tool_call in calls]

    builder = StateGraph(MessagesState)
    builder.add_node("tools", ToolNode([look, slow], handle_tool_errors="No luck."))
    builder.add_conditional_edges(START, route, ["tools"])
    frames = await run(builder.compile())
    assert {t.tool_call_id: t.content for t in of(frames, ToolFinished)} == {
        "c1": "No luck.",
        "c2": "y",
    }


async def test_a_tool_that_is_retried_ends_once_for_each_try() -> None:
    tries = iter(["bad", "good"])

    async def node(state: Any) -> None:
        await look.ainvoke(
            {"type": "tool_call", "id": "c1", "name": "look", "args": {"q": next(tries)}}
        )

    builder = StateGraph(MessagesState)
    policy = RetryPolicy(initial_interval=0.001, max_attempts=2, retry_on=ValueError)
    builder.add_node("n", node, retry_policy=policy)
    builder.add_edge(START, "n")
    frames = await run(builder.compile())
    assert [(t.status, t.content) for t in of(frames, ToolFinished)] == [
        ("error", "The tool failed."),
        ("success", "found good"),
    ]


async def test_an_interrupt_in_a_tool_leaves_the_tool_open() -> None:
    @tool
    def confirm() -> str:
        """Ask."""
        return str(interrupt("sure?"))

    graph = agent(
        [confirm], Reply(tool_calls=[call("confirm", "c1")]), "done", saver=InMemorySaver()
    )
    frames = await run(graph, config=thread())
    assert of(frames, ToolStarted)
    assert not of(frames, ToolFinished)
    assert of(frames, Interrupted)[0].value == "sure?"
    frames = await run(graph, Command(resume="yes"), thread())
    assert [t.content for t in of(frames, ToolFinished)] == ["yes"]
    assert texts(frames) == ["done"]


# Tasks: steps, subgraphs, interrupts.


async def test_subgraphs_three_deep() -> None:
    frames = await run(nested(3, model_node("deep")))
    started, ended = of(frames, SubgraphStarted), of(frames, SubgraphFinished)
    assert [s.graph for s in started] == ["level1", "level2", "level3"]
    assert [len(s.namespace) for s in started] == [1, 2, 3]
    assert [s.namespace for s in ended] == [s.namespace for s in reversed(started)]
    assert {s.status for s in ended} == {"finished"}
    (message,) = of(frames, MessageFinished)
    assert (message.node, message.namespace) == ("leaf", started[-1].namespace)
    order = [n for n in names(frames) if n.startswith(("Subgraph", "Step"))]
    assert order == (
        ["StepStarted", "SubgraphStarted"] * 3
        + ["StepStarted", "StepFinished"]
        + ["SubgraphFinished", "StepFinished"] * 3
    )


async def test_one_task_that_runs_a_subgraph_twice() -> None:
    inner = line(("leaf", model_node("one", "two")))

    async def node(state: Any) -> dict[str, Any]:
        await inner.ainvoke(state)
        result: dict[str, Any] = await inner.ainvoke(state)
        return result

    frames = await run(line(("outer", node)))
    assert texts(frames) == ["one", "two"]
    assert [s.graph for s in of(frames, SubgraphStarted)] == ["outer", "outer"]
    assert len({s.namespace for s in of(frames, SubgraphFinished)}) == 2
    leaves = {s.task_id for s in of(frames, StepStarted) if s.node == "leaf"}
    assert {m.task_id for m in of(frames, MessageFinished)} == leaves


async def test_a_subgraph_that_keeps_its_own_history() -> None:
    builder = StateGraph(MessagesState)
    builder.add_node("leaf", model_node("hello"))
    builder.add_edge(START, "leaf")
    graph = line(("outer", builder.compile(checkpointer=True)), saver=InMemorySaver())
    frames = await run(graph, config=thread())
    (started,), (ended,) = of(frames, SubgraphStarted), of(frames, SubgraphFinished)
    assert started.graph == ended.graph == "outer"
    assert texts(frames) == ["hello"]


async def test_a_subgraph_that_a_tool_runs_names_its_call() -> None:
    inner = line(("leaf", model_node("from inside")))

    @tool
    async def research() -> str:
        """Run a graph."""
        return str((await inner.ainvoke(HELLO))["messages"][-1].content)

    frames = await run(agent([research], Reply(tool_calls=[call("research", "c1")]), "done"))
    (started,) = of(frames, SubgraphStarted)
    assert started.tool_call_id == "c1"


async def test_a_node_that_fails_deep_inside(caplog: pytest.LogCaptureFixture) -> None:
    def leaf(state: Any) -> None:
        raise ValueError("the password is hunter2")

    frames = await run(nested(2, leaf))
    assert "hunter2" not in str(frames)
    steps, (failed,) = of(frames, StepFinished), of(frames, RunFailed)
    assert [s.status for s in steps] == ["failed"] * 3
    assert {s.status for s in of(frames, SubgraphFinished)} == {"failed"}
    # One error, one id, one traceback, however many tasks it passed through.
    assert {s.error_id for s in steps} == {failed.error_id}
    assert caplog.text.count("Traceback") == 1
    assert "hunter2" in caplog.text


async def test_siblings_of_a_failing_node_are_closed() -> None:
    async def fails(state: Any) -> None:
        await asyncio.sleep(0)
        raise ValueError

    slow = model_node(Reply(text="never ends", delay=0.2, chunk_chars=1))
    frames = await run(fan(("slow", slow), ("fails", fails)))
    assert {s.node: s.status for s in of(frames, StepFinished)} == {
        "slow": "failed",
        "fails": "failed",
    }


async def test_interrupts_are_told_once_each() -> None:
    sub = line(("inner", ask({"deep": 1})))
    graph = fan(("outer", sub), ("other", ask("shallow")), saver=InMemorySaver())
    frames = await run(graph, config=thread())
    told = {i.node: i for i in of(frames, Interrupted)}
    assert set(told) == {"inner", "other"}
    assert sorted(i.ordinal for i in told.values()) == [0, 1]
    assert len(told["inner"].namespace) == 1
    assert told["inner"].value == {"deep": 1}
    assert {s.status for s in of(frames, StepFinished, SubgraphFinished)} == {"interrupted"}
    assert frames[-1] == RunFinished(status="interrupted")
    assert not of(frames, RunResult)
    answers = {i.interrupt_id: i.node for i in told.values()}
    frames = await run(graph, Command(resume=answers), thread())
    assert sorted(texts(frames)) == ["got inner", "got other"]
    assert frames[-1] == RunFinished(status="completed")


async def test_an_interrupt_tells_what_answer_it_expects() -> None:
    class Answer(BaseModel):
        ok: bool

    def node(state: Any) -> None:
        interrupt("ok?", response_schema=Answer)

    def other(state: Any) -> None:
        interrupt("ok?", response_schema={"type": "boolean"})

    for function, expected in ((node, "object"), (other, "boolean")):
        graph = line(("n", function), saver=InMemorySaver())
        (told,) = of(await run(graph, config=thread()), Interrupted)
        assert told.response_schema["type"] == expected


def test_the_schema_of_an_answer_may_be_a_class() -> None:
    class Answer(BaseModel):
        ok: bool

    interrupts = [{"id": "i", "value": 1, "response_schema": Answer}]
    data = {"id": "t", "name": "n", "error": None, "result": {}, "interrupts": interrupts}
    frames = list(ChatMapper().map({"type": "tasks", "ns": (), "data": data}))
    assert of(frames, Interrupted)[0].response_schema["properties"]["ok"]["type"] == "boolean"


async def test_the_functional_api() -> None:
    @task
    async def write(text: str) -> AIMessage:
        get_stream_writer()({"type": "progress", "text": text})
        return AIMessage(text)

    @entrypoint(checkpointer=InMemorySaver())
    async def flow(text: str) -> str:
        await write(text)
        return f"{text} {interrupt('more?')}"

    frames = await run(flow, "hello", thread(), expose_output=True)
    assert not of(frames, SubgraphStarted)
    (custom,), (message,) = of(frames, Custom), of(frames, MessageFinished)
    assert (custom.name, custom.namespace) == ("progress", ())
    assert (message.node, message.namespace) == ("write", ())
    assert of(frames, Interrupted)[0].node == "flow"
    frames = await run(flow, Command(resume="!"), thread(), expose_output=True)
    assert of(frames, RunResult)[0].output == "hello !"


async def test_checkpoints_tell_ids_and_nothing_else() -> None:
    frames = await run(line(("a", says()), ("b", says()), saver=InMemorySaver()), config=thread())
    saved = of(frames, CheckpointSaved)
    assert [c.step for c in saved] == [-1, 0, 1, 2]
    assert [c.source for c in saved] == ["input", "loop", "loop", "loop"]
    assert [c.parent_id for c in saved] == [None, *(c.checkpoint_id for c in saved[:-1])]
    assert of(frames, RunResult)[0].checkpoint_id == saved[-1].checkpoint_id


async def test_durations_are_told() -> None:
    async def node(state: Any) -> None:
        await asyncio.sleep(0.02)

    (step,) = of(await run(line(("n", node))), StepFinished)
    assert step.duration_ms is not None
    assert step.duration_ms >= 19


def test_a_result_whose_start_was_not_seen() -> None:
    data = {"id": "t", "name": "n", "error": None, "result": {}, "interrupts": []}
    (step,) = ChatMapper().map({"type": "tasks", "ns": (), "data": data})
    assert step == StepFinished(task_id="t", node="n")


def test_an_error_of_a_remote_graph_is_only_a_text(caplog: pytest.LogCaptureFixture) -> None:
    data = {"id": "t", "name": "n", "error": "secret", "result": {}}
    (step,) = ChatMapper().map({"type": "tasks", "ns": (), "data": data})
    assert isinstance(step, StepFinished)
    assert step.status == "failed"
    assert "secret" not in str(step)
    assert f"the node 'n' failed (error_id={step.error_id}): 'secret'" in caplog.text


# What the application says.


@pytest.mark.parametrize(
    ("written", "name", "data"),
    [
        ({"name": "chart", "payload": {"n": {1}}}, "chart", {"n": [1]}),
        ({"type": "progress", "done": 3}, "progress", {"type": "progress", "done": 3}),
        ({"name": "no payload"}, "custom", {"name": "no payload"}),
        ("text", "custom", "text"),
        (b"raw", "custom", "cmF3"),
    ],
)
async def test_what_a_node_writes(written: Any, name: str, data: Any) -> None:
    frames = await run(line(("n", lambda state: get_stream_writer()(written))))
    assert of(frames, Custom) == [Custom(name=name, data=data, node="n")]


async def test_custom_events_of_async_and_sync_nodes() -> None:
    async def one(state: Any) -> None:
        await adispatch_custom_event("one", {"n": 1})

    def two(state: Any) -> None:
        dispatch_custom_event("two", {"n": 2})

    frames = await run(line(("one", one), ("two", two)))
    assert [(c.name, c.data, c.node) for c in of(frames, Custom)] == [
        ("one", {"n": 1}, "one"),
        ("two", {"n": 2}, "two"),
    ]


async def test_a_custom_event_of_a_task_belongs_to_the_graph_of_its_caller() -> None:
    @task
    async def inner() -> None:
        await adispatch_custom_event("inner", 1)

    @task
    async def outer() -> None:
        await inner()

    @entrypoint()
    async def flow(value: int) -> None:
        await outer()

    (custom,) = of(await run(flow, 1), Custom)
    assert (custom.node, custom.namespace) == ("inner", ())
    parts: list[Any] = []
    await run(flow, 1, mapper=ChatMapper.extend({"custom_event": parts.append}))
    assert [part["ns"] for part in parts] == [()]


async def test_only_some_custom_events_leave() -> None:
    def node(state: Any) -> None:
        dispatch_custom_event("shown", 1)
        dispatch_custom_event("hidden", 2)
        get_stream_writer()({"name": "written", "payload": 3})

    graph = line(("n", node))
    frames = await run(graph, mapper=ChatMapper.extend(custom_events=["shown"]))
    assert [c.name for c in of(frames, Custom)] == ["shown"]
    assert not of(await run(graph, mapper=ChatMapper.extend(custom_events=())), Custom)


async def test_the_node_of_a_custom_part_is_told_only_when_it_is_sure() -> None:
    async def node(state: Any) -> None:
        await asyncio.sleep(0)
        get_stream_writer()("x")

    frames = await run(fan(("a", node), ("b", node)))
    assert of(frames, Custom)[0].node is None


# State.


async def test_the_state_leaves_only_when_it_is_asked_for() -> None:
    graph = line(("n", lambda state: {"value": b"x"}), state=Anything)
    assert not of(await run(graph, {"value": 1}), StateUpdated, StateSnapshot)
    frames = await run(graph, {"value": 1}, mapper=ChatMapper.extend(state=True))
    assert of(frames, StateUpdated) == [StateUpdated(node="n", values={"value": "eA=="})]
    assert of(frames, StateSnapshot)[-1].values["value"] == "eA=="


async def test_the_state_of_subgraphs_is_told_where_they_stand() -> None:
    frames = await run(nested(1, says(AIMessage("x"))), mapper=ChatMapper.extend(state=True))
    assert [len(u.namespace) for u in of(frames, StateUpdated)] == [1, 0]
    inner = of(frames, StateUpdated)[0].namespace
    assert [s.namespace for s in of(frames, StateSnapshot)] == [(), inner, inner, ()]


def test_parts_are_asked_for_only_when_something_needs_them() -> None:
    assert not ChatMapper.modes & {"updates", "values"}
    assert not ChatMapper.events
    assert {"updates", "values"} <= ChatMapper.extend(state=True).modes
    with_sources = ChatMapper.extend(sources="documents").modes
    assert "updates" in with_sources
    assert "values" not in with_sources


# History.


def test_history_shows_what_clients_may_see() -> None:
    said = [
        SystemMessage("secret", id="0"),
        HumanMessage("hi", id="1"),
        AIMessage("look", id="2", tool_calls=[call("look", "c1", q="x")]),
        ToolMessage("found", id="3", tool_call_id="c1", name="look"),
        AIMessage([{"type": "text", "text": "done"}], id="4"),
        AIMessage("no id"),
        "no message",
    ]
    shown = ChatMapper.history({"messages": said})
    assert [(m.message_id, m.role) for m in shown] == [
        ("1", "user"),
        ("2", "assistant"),
        ("3", "tool"),
        ("4", "assistant"),
    ]
    assert shown[1].content[1] == {
        "type": "tool_call",
        "id": "c1",
        "name": "look",
        "args": {"q": "x"},
    }
    assert shown[2].metadata == {"tool_call_id": "c1"}

    class State(BaseModel):
        messages: list[Any]

    assert ChatMapper.history(State(messages=said)) == ChatMapper.history(said) == shown


@pytest.mark.parametrize("values", [None, {}, "text", {"messages": "text"}, object()])
def test_history_of_a_state_without_messages(values: Any) -> None:
    assert list(ChatMapper.history(values)) == []
    assert list(Mapper.history(values)) == []


def test_history_leaves_out_what_may_have_been_hidden() -> None:
    said = [HumanMessage("hi", id="1"), AIMessage("plan", id="2")]
    for options in ({"text_nodes": ["talk"]}, {"include_tags": ["a"]}, {"exclude_tags": ["a"]}):
        shown = ChatMapper.extend(**options).history(said)
        assert [m.role for m in shown] == ["user"]


# Mappers of one's own.


async def test_a_handler_replaces_the_inherited_one() -> None:
    class Shouting(ChatMapper):
        @on("custom")
        def on_custom(self, part: Any) -> Any:
            yield Custom(name="loud", data=part["data"].upper())

    frames = await run(line(("n", lambda state: get_stream_writer()("hey"))), mapper=Shouting)
    assert of(frames, Custom) == [Custom(name="loud", data="HEY")]


async def test_super_adds_to_the_inherited_one() -> None:
    class Both(ChatMapper):
        def __init__(self) -> None:
            super().__init__()
            self.count = 0

        def on_custom(self, part: Any) -> list[Frame]:
            self.count += 1
            return [*super().on_custom(part), Custom(name="count", data=self.count)]

    def node(state: Any) -> None:
        get_stream_writer()("a")
        get_stream_writer()("b")

    frames = await run(line(("n", node)), mapper=Both)
    assert [(c.name, c.data) for c in of(frames, Custom)] == [
        ("custom", "a"),
        ("count", 1),
        ("custom", "b"),
        ("count", 2),
    ]


async def test_extend_with_a_function() -> None:
    def progress(part: Any) -> Frame:
        return Custom(name="progress", data=part["data"])

    mapper = ChatMapper.extend({"custom": progress}, text_nodes=[])
    frames = await run(
        line(("n", lambda state: get_stream_writer()(1)), ("m", model_node("x"))), mapper=mapper
    )
    assert of(frames, Custom) == [Custom(name="progress", data=1)]
    assert texts(frames) == []
    assert of(await run(chat("x")), MessageFinished), "the class itself stays as it was"


async def test_a_mapper_from_nothing() -> None:
    class Steps(Mapper):
        @on("updates", "values")
        def seen(self, part: Any) -> Any:
            return Custom(name=part["type"], data=list(part["data"]))

        def start(self, run: Any) -> Any:
            yield Custom(name="start", data=run.graph)

        def finish(self) -> Any:
            yield Custom(name="finish", data=None)

    frames = await run(line(("n", says(AIMessage("x")))), mapper=Steps)
    seen = [c.name for c in of(frames, Custom)]
    assert seen == ["start", "values", "updates", "values", "finish"]
    assert of(frames, RunResult)[0].text == ""
    assert list(Mapper().fail("failed")) == list(Mapper().finish()) == []
    assert list(Mapper().map({"type": "custom", "ns": (), "data": 1})) == []


@pytest.mark.parametrize(
    ("made", "frames"),
    [
        (lambda: None, 0),
        (lambda: Custom(name="a", data=1), 1),
        (lambda: [Custom(name="a", data=1)], 1),
        (lambda: (Custom(name="a", data=1),) * 2, 2),
        (lambda: (Custom(name="a", data=n) for n in range(3)), 3),
        (list, 0),
    ],
    ids=["nothing", "frame", "list", "tuple", "generator", "empty"],
)
def test_what_a_handler_may_return(made: Any, frames: int) -> None:
    mapper = ChatMapper.extend({"custom": lambda part: made()})()
    assert len(list(mapper.map({"type": "custom", "ns": (), "data": 1}))) == frames


@pytest.mark.parametrize("made", ["text", 7, {"a": 1}, ["text"], (7,)], ids=repr)
def test_what_a_handler_may_not_return(made: Any) -> None:
    mapper = ChatMapper.extend({"custom": lambda part: made})()
    with pytest.raises(TypeError, match=r"the handler of 'custom' returned \w+; expected nothing"):
        list(mapper.map({"type": "custom", "ns": (), "data": 1}))


def test_a_handler_of_an_event_under_the_name_of_an_inherited_method() -> None:
    class Mine(ChatMapper):
        @on("on_retriever_end")
        def on_retriever(self, event: Any) -> Frame:  # type: ignore[override]
            return Custom(name="mine", data=None)

    assert Mine.events == {"on_retriever_end"}
    part = {"type": "retriever", "ns": (), "data": {"documents": []}}
    assert list(Mine().map(part)) == []
    assert of(list(Mine().map({"event": "on_retriever_end", "data": {}})), Custom)


def test_a_handler_of_custom_events_replaces_the_inherited_one() -> None:
    mapper = ChatMapper.extend({"on_custom_event": lambda event: None})
    assert "custom_event" not in mapper.modes
    both = mapper.extend({"custom_event": lambda part: None})
    assert "custom_event" in both.modes
    assert "on_custom_event" in both.events


@pytest.mark.parametrize("name", ["costum", "on_nothing", "", 7, None])
def test_unknown_names_are_refused(name: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"expected one of .*custom.*on_tool_end"):
        on(name)
    with pytest.raises(ConfigurationError, match="expected one of"):
        ChatMapper.extend({name: lambda part: None})


def test_mistakes_in_writing_a_mapper_are_refused() -> None:
    async def slow(part: Any) -> None: ...

    async def slowly(part: Any) -> Any:
        yield None

    with pytest.raises(ConfigurationError, match="at least one"):
        on()
    with pytest.raises(ConfigurationError, match="expected one of"):
        on(lambda self, part: None)  # type: ignore[arg-type]
    for function in (slow, slowly):
        with pytest.raises(ConfigurationError, match="not async"):
            on("custom")(function)
        with pytest.raises(ConfigurationError, match="not async"):
            ChatMapper.extend({"custom": function})
    with pytest.raises(ConfigurationError, match="expected a function"):
        ChatMapper.extend({"custom": "text"})  # type: ignore[dict-item]
    with pytest.raises(ConfigurationError, match="two handlers of 'custom'"):

        class Twice(Mapper):
            @on("custom")
            def one(self, part: Any) -> None: ...

            @on("custom", "tasks")
            def two(self, part: Any) -> None: ...


@pytest.mark.parametrize(
    "option",
    [
        {"text_nodes": "talk"},
        {"text_nodes": [1]},
        {"include_tags": None},
        {"exclude_tags": "a"},
        {"custom_events": "a"},
        {"roles": ["tool"]},
        {"roles": "user"},
        {"sources": 7},
        {"sources": ""},
        {"snippet_chars": -1},
        {"snippet_chars": True},
        {"state": 1},
        {"nonsense": 1},
    ],
    ids=str,
)
def test_wrong_options_are_refused_by_name(option: dict[str, Any]) -> None:
    (name,) = option
    with pytest.raises(ConfigurationError, match=f"^{name}: "):
        ChatMapper.extend(**option)


def test_options_of_a_class_are_checked_too() -> None:
    with pytest.raises(ConfigurationError, match="roles: expected"):
        type("Wrong", (ChatMapper,), {"roles": "user"})
    with pytest.raises(ConfigurationError, match="nonsense: Mapper knows no options"):
        Mapper.extend(nonsense=1)


@pytest.mark.parametrize("value", [ChatMapper(), None, "ChatMapper", dict])
def test_only_mapper_classes_are_mappers(value: Any) -> None:
    assert check_mapper(ChatMapper) is ChatMapper
    with pytest.raises(ConfigurationError, match="expected a class derived from Mapper"):
        check_mapper(value)


def test_what_is_open_is_closed_as_cancelled() -> None:
    mapper = ChatMapper()
    metadata = {"langgraph_node": "n", "langgraph_checkpoint_ns": "n:t"}
    started = {"id": "t", "name": "n", "input": {}}
    inner = {"id": "u", "name": "m", "input": {}}
    tool_started = {"event": "tool-started", "tool_call_id": "c", "tool_name": "look"}
    frames = [
        *mapper.map({"type": "tasks", "ns": (), "data": started}),
        *mapper.map({"type": "tasks", "ns": (), "data": started}),
        *mapper.map({"type": "tasks", "ns": ("n:t",), "data": inner}),
        *mapper.map({"type": "tools", "ns": (), "data": tool_started}),
        *mapper.map({"type": "tools", "ns": (), "data": tool_started | {"tool_call_id": "d"}}),
        *mapper.map(
            {"type": "messages", "ns": (), "data": (AIMessageChunk("half a", id="m"), metadata)}
        ),
        *mapper.fail("cancelled"),
    ]
    check_stream([*frames, RunFinished(status="cancelled")])
    (message,) = of(frames, MessageFinished)
    assert (message.status, message.content[0]["text"]) == ("cancelled", "half a")
    assert {t.content for t in of(frames, ToolFinished)} == {"The tool was cancelled."}
    assert [s.status for s in of(frames, StepFinished, SubgraphFinished)] == ["cancelled"] * 3
    assert not mapper.fail("cancelled")


def test_a_call_that_was_cut_off_is_not_whole_even_when_it_looks_so() -> None:
    mapper = ChatMapper()
    chunk = AIMessageChunk(**{"id": "m", "content": "", **piece("{}", 0, "c1", "look")})
    mapper.map({"type": "messages", "ns": (), "data": (chunk, {})})
    (message,) = of(list(mapper.fail("failed")), MessageFinished)
    (block,) = message.content
    assert (block["type"], block["error"]) == (
        "invalid_tool_call",
        "the message was not finished",
    )


def test_strange_parts_make_no_frames() -> None:
    mapper = ChatMapper()
    unknown = {"event": "tool-output-delta", "tool_call_id": "?", "delta": 1}
    assert mapper.map({"type": "tools", "ns": (), "data": unknown}) == []
    assert mapper.map({"type": "checkpoints", "ns": (), "data": {"config": None}}) == []
    message = (RemoveMessage(id="m"), {})
    assert mapper.map({"type": "messages", "ns": (), "data": message}) == []
    assert mapper.result() == RunResult()
